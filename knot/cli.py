"""The command line: ``knot serve [DIR]``."""

from __future__ import annotations

if __name__ == "__main__":
    from knot.__main__ import main as start

    start()  # which imports this file by its name, once signals are handled, and exits

import atexit
import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from pwd import struct_passwd
from socket import AF_INET6, socket
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from knot.build import Sites, guard, open_sites
from knot.config import (
    Address,
    Config,
    File,
    Host,
    Network,
    Option,
    Pair,
    Rate,
    Seconds,
    Size,
    Text,
    Workers,
    doubts,
    load_config,
)
from knot.files.paths import grants
from knot.limits import Limits
from knot.models import MODELS
from knot.models.server import Server
from knot.monitor.access_log import FORMATS, AccessLog
from knot.process import listeners as sockets
from knot.process import sandbox, spawn, starting, worker
from knot.process.listeners import Listeners
from knot.process.safe_paths import open_to_append, place_to_append
from knot.process.signals import Signals
from knot.reload import Reload, Served, Settings, speaks_tls

if TYPE_CHECKING:
    from knot.monitor.metrics import Counter
    from knot.tls import Certificates

OWN_FILES: Final = 1024
"""Descriptors for what is no connection: the cache has 256, transfers of files hold others."""

LEAST_FILES: Final = 64
"""Descriptors without which a process that serves one site does not begin: half of them are its
own, half are connections."""

FILES_OF_A_WORKER: Final = 8
"""Those of its supervisor, beside sockets: of one that serves, and of the next."""

STDOUT: Final = 1

MAX_FD: Final = 2**31 - 1

REOPEN: Final[int] = signal.SIGUSR1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="knot-httpd")
def main() -> None:
    """Knot: a static-file web server written in Tame."""
    spawn.clean_import_path()


SHORTEST_LOOK: Final = 0.1
"""Seconds between two."""

DEFAULTS: Final = Limits()

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    settings.setdefault("show_default", not settings.get("multiple"))
    return click.option(*names, cls=Option, **settings)


class Serve(click.Command):
    """A command that can read again what it was told."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)

    def read_again(self, ctx: click.Context) -> Settings:
        """The settings as they would be at a start now.  Raises `click.ClickException`."""
        found = self.make_context(ctx.info_name, list(ctx.meta[__name__]), ctx.parent).params
        return Settings(found.pop("directory"), found.pop("config"), found)


@main.command(cls=Serve, context_settings={"auto_envvar_prefix": "KNOT", "max_content_width": 100})
@click.argument("directory", metavar="[DIR]", default=".", envvar="KNOT_DIRECTORY", type=File())
@option(
    "--host",
    multiple=True,
    default=("127.0.0.1",),
    type=Host(),
    show_default=True,
    help="Address or name to listen on; several may be given. 0.0.0.0 is every IPv4 address, and"
    " :: every address.",
)
@option("--port", default=8000, type=click.IntRange(0, 65535), help="0 takes one that is free.")
@option(
    "--share-port",
    is_flag=True,
    show_default=False,
    help="Share the port with other instances of Knot that have this option or --workers.",
)
@option(
    "--unix",
    type=File(),
    default=None,
    show_default=False,
    help="Path to listen at, instead of an address.",
)
@option(
    "--fd",
    type=click.IntRange(0, MAX_FD),
    default=None,
    show_default=False,
    help="Descriptor of a socket that listens already; one of systemd's is taken by itself.",
)
@option(
    "--workers",
    type=Workers(),
    default=None,
    show_default=False,
    help="Processes that share the port, or auto for one on each CPU that may be used (affinity and"
    " quota of cgroups); SIGHUP renews them.",
)
@option(
    "--worker-memory",
    type=Size(),
    default=None,
    show_default=False,
    help="Resident memory beyond which a worker is replaced.",
)
@option(
    "--admin",
    type=Address(),
    default=None,
    show_default=False,
    help="Address for /metrics, /blocked, /health and /ready.",
)
@option(
    "--cert",
    multiple=True,
    type=File(),
    help="Certificate chain (PEM) to speak HTTPS; several are told apart by their names.",
)
@option(
    "--key",
    multiple=True,
    type=File(),
    help="Its private key, if that stands in a file of its own; as many as --cert.",
)
@option(
    "--tls-self-signed",
    is_flag=True,
    show_default=False,
    help="Speak HTTPS with a certificate that is made here, for development.",
)
@option(
    "--redirect-http",
    type=Address(),
    default=None,
    show_default=False,
    help="Address whose HTTP clients are sent to HTTPS, as 0.0.0.0:80, or :80 for every address.",
)
@option(
    "--https-port",
    type=click.IntRange(1, 65535),
    default=None,
    show_default=False,
    help="Port to which they are sent, if clients see another than --port.",
)
@option(
    "--hsts",
    type=Seconds(),
    default=None,
    show_default=False,
    help="Time for which browsers are to use HTTPS only, as 31536000.",
)
@option(
    "--user",
    default=None,
    show_default=False,
    help="User to become once the port is open.",
)
@option(
    "--sandbox/--no-sandbox",
    default=True,
    help="Give up all that serving DIR does not need, where the kernel has Landlock.",
)
@option("--open", is_flag=True, show_default=False, help="Open it in a browser.")
@option(
    "--listing/--no-listing",
    default=None,
    help="List directories without an index.html.  [default: on a terminal]",
)
@option("--hidden", is_flag=True, show_default=False, help="Serve names that begin with a dot.")
@option(
    "--follow-symlinks",
    is_flag=True,
    show_default=False,
    help="Let symbolic links lead out of DIR.",
)
@option(
    "--clean-urls",
    is_flag=True,
    show_default=False,
    help="Serve about.html as /about, and redirect /about.html and /about/ there.",
)
@option(
    "--spa",
    is_flag=True,
    show_default=False,
    help="Serve /index.html for paths without a file, unless they end in a suffix.",
)
@option(
    "--mime",
    multiple=True,
    type=Pair("SUFFIX", "TYPE"),
    help="Media type of a suffix or of a whole file name, as wasm=application/wasm.",
)
@option(
    "--cache-control",
    multiple=True,
    type=Pair("GLOB", "VALUE"),
    help="Cache-Control for files, as 'assets/*=max-age=31536000'; the first that fits.",
)
@option("--header", multiple=True, type=Text(), help="A field for every answer.")
@option("--cors", is_flag=True, show_default=False, help="Let scripts of every site read it.")
@option("--cache-size", default="64M", type=Size(), help="Memory for files.")
@option(
    "--shared-tags",
    is_flag=True,
    show_default=False,
    help="Make the ETag of a large file of its size and modification time alone, for several"
    " machines with the same files; trusts that new content has another size or time.",
)
@option(
    "--head-timeout",
    default=DEFAULTS.head,
    type=Seconds(),
    help="Time for a client to send a whole request.",
)
@option(
    "--keep-alive",
    default=DEFAULTS.keep_alive,
    type=Seconds(),
    help="Time between requests.",
)
@option(
    "--send-timeout",
    default=DEFAULTS.send,
    type=Seconds(),
    help="Time in which a client takes nothing of its answer.",
)
@option(
    "--max-requests",
    default=DEFAULTS.requests,
    type=click.IntRange(1),
    help="Requests on one connection.",
)
@option(
    "--max-connections",
    default=DEFAULTS.connections,
    type=click.IntRange(1),
    help="Connections at once.",
)
@option(
    "--auth",
    type=File(),
    default=None,
    show_default=False,
    help="File of names and passwords, made by htpasswd -B, of which clients have to know one.",
)
@option(
    "--allow",
    multiple=True,
    type=Network(),
    help="Network whose clients are served, as 10.0.0.0/8, and no others.",
)
@option(
    "--deny", multiple=True, type=Network(), help="Network whose clients are not; before --allow."
)
@option(
    "--max-rate",
    type=Rate(),
    default=None,
    show_default=False,
    help="Requests per second of one client; after a rest, those of 10 seconds at once.",
)
@option(
    "--max-connections-per-client",
    type=click.IntRange(1),
    default=None,
    show_default=False,
    help="Connections of one client at once.",
)
@option(
    "--trust",
    multiple=True,
    type=Network(),
    help="Network of proxies, or unix, that may say who the client is, by X-Forwarded-For.",
)
@option(
    "--proxy-protocol",
    is_flag=True,
    show_default=False,
    help="Those proxies begin each connection with a PROXY header.",
)
@option(
    "--grace",
    default=10,
    type=Seconds(),
    help="Time to finish what is under way at the end.",
)
@option(
    "--log",
    type=click.Choice(["off", *FORMATS]),
    default=None,
    help="Access log.  [default: short on a terminal, else off]",
)
@option(
    "--log-file",
    type=File(),
    default=None,
    show_default=False,
    help="Where to; standard output by default.",
)
@option(
    "--model",
    default="events",
    type=click.Choice(MODELS),
    help="How it waits: docs/models.md.",
)
@option(
    "--threads",
    default=None,
    type=click.IntRange(1),
    show_default=False,
    help="With --model threads: so many that take turns, not one for each connection.",
)
@option(
    "--config",
    type=click.Path(),
    default=None,
    callback=load_config,
    is_eager=True,
    show_default=False,
    help="File with these options.  [default: knot.toml, if there is one]",
)
def serve(directory: str, config: Config, **options: Any) -> None:
    """Serve the files in DIR, by default those in the current directory.

    Every option may also stand in knot.toml, as port = 8080, or in the environment, as
    KNOT_PORT=8080.
    """
    spawn.set_right()
    served = (own["directory"] for own in config.hosts.values() if "directory" in own)
    spawn.clean_import_path(directory, *served)
    check(options)
    post = worker.post()
    check_open_files(options, config, post)
    if post is None:
        warn_of_environment()
    else:
        sandbox.end_with_parent(signal.SIGTERM)
    if options["workers"] is not None and post is None:
        look_after_workers(directory, options)
    else:
        serve_here(Settings(directory, config, options), post)


@main.command(context_settings={"auto_envvar_prefix": "KNOT_TOP", "max_content_width": 100})
@click.argument("address", metavar="[URL or HOST:PORT]", default="127.0.0.1:9090")
@option(
    "--interval",
    default=1,
    type=Seconds(),
    help="Time between two looks.",
)
@option("--once", is_flag=True, show_default=False, help="Print one page, for scripts.")
def top(address: str, interval: float, once: bool) -> None:
    """Show what the server with that --admin address does, until q or Ctrl-C."""
    try:
        from knot.monitor import top as screen
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "knot":
            raise
        sys.exit("knot: top needs rich and prometheus-client: pip install 'knot[top]'")
    try:
        url = screen.parse_address(address)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if interval < SHORTEST_LOOK:
        raise click.UsageError(f"--interval is {SHORTEST_LOOK:g} at least")
    try:
        (screen.once if once else screen.run)(url, interval)
    except screen.UnreachableError as error:
        sys.exit(f"knot: {error}")


def warn_of_environment() -> None:
    """Of variables that look like options."""
    context = click.get_current_context()
    names = [param.name for param in context.command.params if param.name is not None]
    prefix = f"{context.auto_envvar_prefix}_"
    others = {} if context.command is top else {"KNOT_TOP_"}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(tuple(others))
    }
    for text in doubts(prefix, names, environment):
        click.echo(f"knot: {text}", err=True)


def check(options: dict[str, Any]) -> None:
    """Raises `click.UsageError` for options that do not go together."""
    if options["threads"] is not None and options["model"] != "threads":
        raise click.UsageError("--threads needs --model threads")
    if options["worker_memory"] is not None and options["workers"] is None:
        raise click.UsageError("--worker-memory needs --workers")
    certs, keys = options["cert"], options["key"]
    if keys and len(keys) != len(certs):
        raise click.UsageError(
            f"{len(certs)} --cert and {len(keys)} --key: name a key for each, or none if the keys"
            " stand in the files of the certificates"
        )
    if certs and options["tls_self_signed"]:
        raise click.UsageError("--cert and --tls-self-signed are two certificates: choose one")
    for name in ("redirect_http", "hsts"):
        if options[name] is not None and not speaks_tls(options):
            raise click.UsageError(f"--{name.replace('_', '-')} needs --cert")
    if options["unix"] is not None and options["fd"] is not None:
        raise click.UsageError("--unix and --fd are two places to listen: choose one")
    https = options["https_port"]
    if https is not None and options["redirect_http"] is None:
        raise click.UsageError("--https-port needs --redirect-http")
    if options["redirect_http"] is not None and options["unix"] is not None and https is None:
        raise click.UsageError(
            "--redirect-http sends clients to a port, and --unix has none: name it by --https-port"
        )
    if options["share_port"] and (options["unix"] is not None or options["fd"] is not None):
        raise click.UsageError("--share-port needs a port, and --unix and --fd have none")
    if options["proxy_protocol"] and not options["trust"]:
        raise click.UsageError("--proxy-protocol needs --trust, with the networks of the proxies")
    if options["unix"] is not None:
        check_clients_of_path(options)
    if options["admin"] is not None and find_spec("prometheus_client") is None:
        sys.exit("knot: --admin needs prometheus-client: pip install 'knot[metrics]'")
    if options["model"] != "events":  # others shut the socket, whosever it is, and know no Tame
        for name in ("workers", "fd", "admin"):
            if options[name] is not None:
                raise click.UsageError(f"--{name} needs --model events")
        if options["proxy_protocol"]:
            raise click.UsageError("--proxy-protocol needs --model events")
        if speaks_tls(options):
            raise click.UsageError("HTTPS needs --model events")


def check_clients_of_path(options: dict[str, Any]) -> None:
    """They have no addresses: all are one client, unless somebody says who each is."""
    trusted = "unix" in options["trust"]
    introduced = trusted and options["proxy_protocol"]
    for name, told, need in (
        ("max_rate", trusted, "--trust unix"),
        ("max_connections_per_client", introduced, "--trust unix and --proxy-protocol"),
    ):
        if options[name] is not None and not told:
            raise click.UsageError(
                f"--{name.replace('_', '-')} at --unix needs {need}: its clients have no addresses"
            )


def look_after_workers(directory: str, options: dict[str, Any]) -> None:
    """Be the supervisor: the workers read the options themselves, again after SIGHUP."""
    from knot.process.supervisor import supervise

    if options["tls_self_signed"]:
        make_certificate(options)  # once, and not in every worker
    with ExitStack() as undo:

        def closed(opened: Listeners) -> Listeners:
            return undo.enter_context(closing(opened))

        given, own = open_listeners(options)
        listeners = closed(given)
        redirects = closed(open_redirects(options, listeners))
        groups = [(listeners, redirects)]
        for _ in range(1, options["workers"]):
            others = closed(open_again(listeners)) if own else listeners
            groups.append((others, closed(open_again(redirects))))
        if options["open"]:
            open_browser(sockets.shown(listeners[0], scheme(options)))
        admin = closed(open_admin(options))
        started = supervise(
            groups,
            grace=options["grace"],
            most_memory=options["worker_memory"],
            began=partial(say_so, directory, listeners, options, admin),
            admin=admin,
        )
    if not started:
        sys.exit(1)


def serve_here(settings: Settings, post: worker.WorkerHandoff | None) -> None:
    """Serve in this process: the only one, or one of the workers."""
    directory, _, options = settings
    interactive = sys.stdout is not None and sys.stdout.isatty()
    model = load_model(options["model"])
    pool = {} if options["threads"] is None else {"pool": options["threads"]}
    try:
        served = open_served(interactive, settings, says=is_first(post))
        user = account(options)
    except ValueError as error:
        sys.exit(f"knot: {error}")
    with (
        closing(
            open_listeners(options)[0] if post is None else inherit(post.listeners)
        ) as listeners,
        closing(
            open_redirects(options, listeners) if post is None else inherit(post.redirects)
        ) as redirects,
        closing(open_admin(options if post is None else {})) as admin,
    ):
        server = model.Server(served.sites[""].responder, served.limits, served.log, **pool)
        https_port = options["https_port"] or sockets.port_of(listeners)
        port = https_port if redirects else None
        guard(server, served.sites, options, port)
        served.sites.watch(server)
        certificates = served.certificates
        secure = (
            {} if certificates is None else {"certificates": certificates, "redirects": redirects}
        )
        context = click.get_current_context()
        assert isinstance(context.command, Serve)
        reload = Reload(
            server,
            served,
            read=partial(context.command.read_again, context),
            check=check,
            open=partial(open_served, interactive),
            guard=partial(guard, https_port=port),
        )
        signals = Signals({REOPEN: reload.reopen})
        if post is None:
            signals.add(signal.SIGHUP, partial(reload_or_stop, reload, signals, interactive))
        signals.install()
        server.began = partial(set_out, directory, listeners, admin, reload, user, post)
        del served  # which lasts until the next reload, and no longer
        gc.collect()
        gc.freeze()  # what the modules hold need not be looked at again
        gc.set_threshold(
            20_000
        )  # nothing here makes cycles; 10,000 clients at once are 8,000 looks
        grace = options["grace"]
        try:
            cut = model.run(listeners, server, signals, grace, **secure)
        finally:
            server.ended()
        signals.close()
        if cut:
            connections_were = "connection was" if cut == 1 else "connections were"
            click.echo(f"Stopped; {cut} {connections_were} cut after {grace:g} s", err=True)
    reload.close()


def open_served(
    interactive: bool, settings: Settings, before: Served | None = None, *, says: bool = True
) -> Served:
    """What these settings say, ready to be served: at the start, and again at each reload, which
    takes over from the one `before` what need not change.  Warnings are for a process that `says`
    what is true of all workers.

    Raises `ValueError` for what cannot be served.
    """
    directory, config, options = settings
    certificates = load_certificates(config, options)
    if certificates is not None:
        certificates.warn(says)
    sites = open_sites(
        directory, config, options, interactive, None if before is None else before.sites
    )
    limits = Limits(
        head=options["head_timeout"],
        keep_alive=options["keep_alive"],
        send=options["send_timeout"],
        requests=options["max_requests"],
        connections=connections(options["max_connections"], says),
    )
    form = log_form(options, interactive)
    if before is not None and before.log_form == form:
        log = before.log
    else:
        log = open_access_log(form, interactive, account(options))
    return Served(settings, sites, limits, form, log, certificates)


def reload_or_stop(reload: Reload, signals: Signals, interactive: bool) -> None:
    """A terminal that is closed sends SIGHUP, too: what was started there ends with it."""
    if interactive and not os.isatty(STDOUT):
        signals.tell(signal.SIGTERM)
    else:
        reload()


def set_out(
    directory: str,
    listeners: Sequence[socket],
    admin: Sequence[socket],
    reload: Reload,
    user: struct_passwd | None,
    post: worker.WorkerHandoff | None,
) -> None:
    """Clients are served from now on: give up what that does not need, and say so."""
    served = reload.served
    options, config, sites = served.settings.options, served.settings.config, served.sites
    if user is not None:
        sandbox.become(user)
    if options["open"] and post is None:
        open_browser(sockets.shown(listeners[0], scheme(options)))
    if post is not None:
        answer_supervisor(reload.server, sites, post)
    elif admin:
        reload.counter = count(reload.server, sites, admin)
    if options["sandbox"] and not any(place.site.follow_symlinks for place in sites.values()):
        places: dict[str | bytes, int] = {}
        for path, place_of, right in (
            (options["log_file"], place_to_append, sandbox.WRITE),
            (options["unix"], directory_of, sandbox.REMOVE),
        ):
            writable = None if path is None else place_of(path)
            if writable is not None:
                places[writable] = places.get(writable, 0) | right
        followed = [path for place in sites.values() for path in place.paths]
        followed += [] if served.certificates is None else served.certificates.files
        if config.file is not None and post is None:
            followed.append(config.file)  # to be read again
        for path in followed:
            for where in grants(path):
                places[where] = places.get(where, 0) | sandbox.READ
        if sandbox.confine(places):
            reload.confined_to = [where for where, right in places.items() if right & sandbox.READ]
    if post is None:
        say_so(directory, listeners, options, admin)
        if sandbox.is_watched():
            reload.server.on_sweep = partial(sandbox.notify, sandbox.ALIVE)
        sandbox.notify("READY=1")
    else:
        post.is_ready()


def count(server: Server, sites: Sites, admin: Sequence[socket]) -> Counter:
    """Count what the server does, for its admin address."""
    from knot.monitor.admin import AdminApp, SingleProcess, serve_admin
    from knot.monitor.metrics import Counter

    counter = Counter(server, [place.site for place in sites.values()])
    answers = AdminApp(SingleProcess(server, counter))
    for listener in admin:
        serve_admin(listener, answers)
    return counter


def answer_supervisor(server: Server, sites: Sites, post: worker.WorkerHandoff) -> None:
    """Show it that the loop turns, and tell it what it wants to know for its admin address."""
    from knot.process import control

    answers: dict[bytes, Callable[[], str]] = {control.BEAT: str}
    if post.counts >= 0:
        from knot.monitor import blocked, metrics

        counter = metrics.Counter(server, [place.site for place in sites.values()])
        shared = metrics.Shared(post.counts)

        def write() -> str:
            shared.write(counter.read())
            return ""

        metrics.report(counter, shared)
        server.ended = write
        for place in sites.values():
            place.site.changed.append(write)
        answers[control.COUNT] = write
        answers[control.WAITING] = partial(blocked.listing, f"worker {os.getpid()}")
    control.serve_control(post.supervisor, answers)


def say_so(
    directory: str, listeners: Sequence[socket], options: dict[str, Any], admin: Sequence[socket]
) -> None:
    workers = options["workers"]
    addresses = in_words([sockets.shown(listener, scheme(options)) for listener in listeners])
    by = f", {workers} worker{'' if workers == 1 else 's'}" if workers else ""
    line = f"Serving {directory} at {addresses}{by} (Ctrl-C stops)\n"
    if admin:
        line += f"Metrics at {in_words([f'{sockets.shown(each)}/metrics' for each in admin])}\n"
    if options["tls_self_signed"]:
        from knot.self_signed import authority

        line += f"Clients that are to trust it need {authority(options['host'])}\n"
    sys.stdout.buffer.write(os.fsencode(line))  # a name of any bytes
    sys.stdout.flush()


def in_words(items: Sequence[str]) -> str:
    """What they are, as a list in a sentence."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def scheme(options: dict[str, Any]) -> str:
    return "https" if speaks_tls(options) else "http"


def load_certificates(config: Config, options: dict[str, Any]) -> Certificates | None:
    """Those of all hosts; None if HTTPS is not spoken.  Raises `ValueError` if they cannot be
    used."""
    pairs = list(zip_longest(options["cert"], options["key"]))
    if options["tls_self_signed"]:
        pairs = [(make_certificate(options), None)]
    for host, own in config.hosts.items():
        certs, keys = own.get("cert", ()), own.get("key", ())
        if certs and not pairs:
            raise ValueError(f"host {host} has a certificate: other hosts need --cert, too")
        if len(keys) not in (0, len(certs)):
            raise ValueError(f"host {host} has {len(certs)} cert and {len(keys)} key")
        pairs += zip_longest(certs, keys)
    if not pairs:
        return None
    from knot.tls import HTTP_1, HTTP_2, Certificates

    protocols = [HTTP_1] if find_spec("h2") is None else [HTTP_2, HTTP_1]
    try:
        return Certificates(pairs, protocols)
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from None


def make_certificate(options: dict[str, Any]) -> str:
    """The file of a certificate for this address, made if there is none yet."""
    from knot.self_signed import certificate

    try:
        return certificate(options["host"])
    except ImportError:
        sys.exit("knot: --tls-self-signed needs trustme: pip install 'knot[self-signed]'")
    except ValueError as error:
        sys.exit(f"knot: {error}")
    except OSError as error:
        sys.exit(f"knot: cannot keep a certificate in {error.filename}: {error.strerror}")


def load_model(name: str) -> Any:
    """The module; each brings only what it needs into the process."""
    try:
        module = import_module(f"knot.models.{name}")
    except ImportError as error:
        if error.name != "gevent":
            raise
        sys.exit("knot: the model greenlets needs gevent: pip install 'knot[greenlets]'")
    if name == "events":
        from tame.drivers import DRIVERS

        driver = os.environ.get("TAME_DRIVER") or DRIVERS[0]
        if driver not in DRIVERS:
            sys.exit(f"knot: TAME_DRIVER is {driver}: it can be {', '.join(DRIVERS)}")
    return module


def account(options: dict[str, Any]) -> struct_passwd | None:
    """The user that this process is to become.  Raises `ValueError`."""
    return None if options["user"] is None else sandbox.account(options["user"])


def directory_of(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


def log_form(options: dict[str, Any], interactive: bool) -> tuple[str, str | None]:
    """Format and file of the access log: by default the terminal shows what is going on."""
    format, path = options["log"], options["log_file"]
    if format is None:
        format = "common" if path is not None else "short" if interactive else "off"
    return format, path


def open_access_log(
    form: tuple[str, str | None], interactive: bool, user: struct_passwd | None
) -> AccessLog | None:
    """The log that was asked for.  Raises `ValueError`."""
    format, path = form
    if format == "off":
        return None
    if path is None:
        return AccessLog(format, STDOUT, colour=interactive and "NO_COLOR" not in os.environ)
    try:
        return AccessLog(format, open_to_append(path, user))
    except OSError as error:
        raise ValueError(
            f"cannot write the log to {path}: {error.strerror}; choose another --log-file"
        ) from None


def open_files() -> int:
    """How many this process may have, once it allows itself as many as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def check_open_files(
    options: dict[str, Any], config: Config, post: worker.WorkerHandoff | None
) -> None:
    """What is missing later is not always said: a module that cannot be opened seems not to be
    there."""
    least = LEAST_FILES + len(config.hosts)
    if post is None and options["workers"] is not None:
        addresses = 2 * len(options["host"]) + 2 * (options["redirect_http"] is not None)
        least = max(least, LEAST_FILES + options["workers"] * (FILES_OF_A_WORKER + addresses))
    if open_files() < least:
        sys.exit(
            f"knot: the system allows {open_files()} open files, and this needs {least}: raise it"
            " with ulimit -n, or LimitNOFILE= of a systemd unit"
        )


def is_first(post: worker.WorkerHandoff | None) -> bool:
    """Whether this process says what is true of all workers."""
    return post is None or post.number == 0


def connections(wanted: int, says: bool) -> int:
    """How many connections the system's limit of open files leaves room for, at most `wanted`; if
    it `says`, with a warning."""
    hard = open_files()
    room = max(hard - OWN_FILES, hard // 2)
    if room < wanted and says:
        click.echo(
            f"The system allows {hard} open files, so {room} connections at once, not {wanted};"
            " raise it with ulimit -n, or LimitNOFILE= of a systemd unit",
            err=True,
        )
    return min(room, wanted)


def open_browser(address: str) -> None:
    """On a thread: some browsers run in the terminal and return only when they are left."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def open_listeners(options: dict[str, Any]) -> tuple[Listeners, bool]:
    """The sockets that were asked for, and whether others may be opened beside them."""
    path, fd = options["unix"], options["fd"]
    try:
        if path is not None:
            with starting.Uninterrupted():
                listener = sockets.listen_at(path, account(options))
                starting.cleanup.append(listener.close)
                atexit.register(listener.close)
            return Listeners([listener]), False
        given = sockets.activated() if fd is None else [sockets.inherited(fd)]
    except OSError as error:
        where = path or ("the sockets of systemd" if fd is None else f"the socket {fd}")
        sys.exit(f"knot: cannot listen on {where}: {error.strerror or error}")
    except ValueError as error:
        sys.exit(f"knot: {error}")
    if given:
        return Listeners(given), False
    return open_addresses(options, options["host"], options["port"], "--port"), True


def open_redirects(options: dict[str, Any], listeners: Sequence[socket]) -> Listeners:
    """The sockets of those clients that are sent to `listeners`."""
    if options["redirect_http"] is None:
        return Listeners()
    if options["https_port"] is None and sockets.port_of(listeners) is None:
        sys.exit("knot: --redirect-http sends clients to a port: name it by --https-port")
    host, port = options["redirect_http"]
    return open_addresses(options, [host], port, "--redirect-http")


def open_admin(options: dict[str, Any]) -> Listeners:
    if options.get("admin") is None:
        return Listeners()
    host, port = options["admin"]
    return open_addresses({}, [host], port, "--admin")


def open_addresses(
    options: dict[str, Any], hosts: Sequence[str], port: int, option: str
) -> Listeners:
    """Sockets at addresses that `option` gives; whether to share them is in `options`."""
    joining = options.get("share_port", False)
    shared = joining or options.get("workers") is not None
    try:
        found = sockets.listen_everywhere(hosts, port, shared=shared, joining=joining)
    except OSError as error:
        sys.exit(
            f"knot: cannot listen on {error.filename}: {error.strerror};"
            f" {remedy(error, option, port)}"
        )
    if sockets.EVERY_6 in hosts and all(each.family != AF_INET6 for each in found):
        click.echo("knot: this system has no IPv6: :: is every IPv4 address", err=True)
    return Listeners(found)


def open_again(listeners: Sequence[socket]) -> Listeners:
    """As many sockets more at the same addresses, for another worker."""
    try:
        return Listeners(sockets.listen_again(listeners))
    except OSError as error:
        sys.exit(f"knot: cannot open a socket for each worker: {error.strerror}")


def inherit(fds: Sequence[int]) -> Listeners:
    """The sockets of a worker."""
    return Listeners(map(sockets.inherited, fds))


def remedy(error: OSError, option: str, port: int) -> str:
    """What to do when a socket cannot listen at what `option` says."""
    if error.errno == errno.EADDRINUSE:
        share = "" if option == "--admin" else ", or share it with another Knot by --share-port"
        return f"stop the program that listens there, choose another port with {option}{share}"
    if error.errno == errno.EACCES:
        example = 8000 + port % 1000
        value = example if option == "--port" else f"127.0.0.1:{example}"
        return f"ports below 1024 need a privilege: choose another, as {option} {value}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files with ulimit -n, or use fewer workers"
    if error.errno == errno.EAFNOSUPPORT:
        return "give an IPv4 address, as 127.0.0.1, or 0.0.0.0 for all of them"
    if error.errno == errno.EINVAL and str(error.filename).startswith("[fe80"):
        return "an address of a link needs its interface, as fe80::1%eth0"
    where = "--host" if option == "--port" else option
    return f"give {where} an address of this machine, as 127.0.0.1, or :: for all of them"
