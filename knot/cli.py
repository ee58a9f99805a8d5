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
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from pwd import struct_passwd
from socket import socket
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from knot import service, sockets, starting, workers
from knot.config import (
    Address,
    Config,
    File,
    Network,
    Pair,
    Rate,
    Seconds,
    Size,
    Text,
    Workers,
    load_config,
)
from knot.limits import Limits
from knot.log import FORMATS, AccessLog, open_log
from knot.models import MODELS
from knot.models.connection import Server
from knot.signals import Signals
from knot.sites import Sites, guard, open_sites
from knot.sockets import inherited

if TYPE_CHECKING:
    from knot.tls import Certificates

OWN_FILES: Final = 1024
"""Descriptors for what is no connection: the cache has 256, transfers of files hold others."""

STDOUT: Final = 1

REOPEN: Final[int] = signal.SIGUSR1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="knot")
def main() -> None:
    """Knot: a static-file web server written in Tame."""


SHORTEST_LOOK: Final = 0.1
"""Seconds between two."""

DEFAULTS: Final = Limits()

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    settings.setdefault("show_default", not settings.get("multiple"))
    return click.option(*names, **settings)


@main.command(context_settings={"auto_envvar_prefix": "KNOT", "max_content_width": 100})
@click.argument("directory", metavar="[DIR]", default=".", envvar="KNOT_DIRECTORY")
@option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 is every IPv4 one.")
@option("--port", default=8000, type=click.IntRange(0, 65535), help="0 takes one that is free.")
@option(
    "--unix",
    type=click.Path(),
    default=None,
    show_default=False,
    help="Path to listen at, instead of an address.",
)
@option(
    "--fd",
    type=click.IntRange(0),
    default=None,
    show_default=False,
    help="Descriptor of a socket that listens already; one of systemd's is taken by itself.",
)
@option(
    "--workers",
    type=Workers(),
    default=None,
    show_default=False,
    help="Processes that share the port, or auto for one on each core; SIGHUP renews them.",
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
    help="Address whose HTTP clients are sent to HTTPS, as 0.0.0.0:80.",
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
@option("--clean-urls", is_flag=True, show_default=False, help="Serve about.html as /about, too.")
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
    help="Media type of a suffix, as wasm=application/wasm.",
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
    type=click.Path(dir_okay=False),
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
    type=click.Path(dir_okay=False),
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
    check(options)
    post = workers.post()
    if post is not None:
        service.end_with_parent(signal.SIGTERM)
    if options["workers"] is not None and post is None:
        look_after_workers(directory, options)
    else:
        serve_here(directory, config, options, post)


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
        from knot import top as screen
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
    if options["redirect_http"] is not None and options["unix"] is not None:
        raise click.UsageError("--redirect-http sends clients to a port, and --unix has none")
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


def speaks_tls(options: dict[str, Any]) -> bool:
    return bool(options["cert"]) or options["tls_self_signed"]


def look_after_workers(directory: str, options: dict[str, Any]) -> None:
    """Be the supervisor: the workers read the options themselves, again after SIGHUP."""
    from knot.supervisor import supervise

    if options["tls_self_signed"]:
        make_certificate(options)  # once, and not in every worker
    listener, own = open_listener(options, shared=True)
    listeners = [listener] * options["workers"]
    if own:
        listeners[1:] = open_again(listener, options["host"], options["workers"] - 1)
    groups = [[listener] for listener in listeners]
    if options["redirect_http"] is not None:
        first = open_address(*options["redirect_http"], shared=True)
        others = open_again(first, options["redirect_http"][0], options["workers"] - 1)
        for group, redirect in zip(groups, [first, *others], strict=True):
            group.append(redirect)
    if options["open"]:
        open_browser(sockets.shown(listener, scheme(options)))
    with open_admin(options["admin"]) as admin:
        started = supervise(
            groups,
            grace=options["grace"],
            most_memory=options["worker_memory"],
            began=partial(say_so, directory, listener, options, admin),
            admin=admin,
        )
    if not started:
        sys.exit(1)


def serve_here(
    directory: str, config: Config, options: dict[str, Any], post: workers.Post | None
) -> None:
    """Serve in this process: the only one, or one of the workers."""
    interactive = sys.stdout is not None and sys.stdout.isatty()
    model = load_model(options["model"])
    pool = {} if options["threads"] is None else {"pool": options["threads"]}
    try:
        certificates = load_certificates(config, options)
        log = open_access_log(options, interactive)
        user = None if options["user"] is None else service.account(options["user"])
        if user is not None and options["log_file"] is not None:
            os.chown(options["log_file"], user.pw_uid, user.pw_gid)
        sites = open_sites(directory, config, options, interactive)
    except ValueError as error:
        sys.exit(f"knot: {error}")
    limits = Limits(
        head=options["head_timeout"],
        keep_alive=options["keep_alive"],
        send=options["send_timeout"],
        requests=options["max_requests"],
        connections=connections(options["max_connections"]),
    )
    with (
        closing(sites),
        open_listener(options)[0] if post is None else inherited(post.listeners[0]) as listener,
        open_other(options["redirect_http"], post) as redirect,
        open_admin(options["admin"] if post is None else None) as admin,
    ):
        server = model.Server(sites[""].responder, limits, log, **pool)
        port = None if redirect is None else listener.getsockname()[1]
        guard(server, sites, options, port)
        secure = (
            {} if certificates is None else {"certificates": certificates, "redirect": redirect}
        )
        signals = Signals(reopening(log, options["log_file"]))
        signals.install()
        server.began = partial(
            set_out, directory, listener, admin, options, server, sites, user, post, certificates
        )
        gc.collect()
        gc.freeze()  # what the modules hold need not be looked at again
        gc.set_threshold(
            20_000
        )  # nothing here makes cycles; 10,000 clients at once are 8,000 looks
        grace = options["grace"]
        try:
            cut = model.run(listener, server, signals, grace, **secure)
        finally:
            server.ended()
        signals.close()
        if cut:
            connections_were = "connection was" if cut == 1 else "connections were"
            click.echo(f"Stopped; {cut} {connections_were} cut after {grace:g} s", err=True)
    if log is not None:
        log.close()


def set_out(
    directory: str,
    listener: socket,
    admin: socket | None,
    options: dict[str, Any],
    server: Server,
    sites: Sites,
    user: struct_passwd | None,
    post: workers.Post | None,
    certificates: Certificates | None,
) -> None:
    """Clients are served from now on: give up what that does not need, and say so."""
    if user is not None:
        service.become(user)
    if options["open"] and post is None:
        open_browser(sockets.shown(listener, scheme(options)))
    if admin is not None or (post is not None and post.counts >= 0):
        count(server, sites, admin, post)
    if options["sandbox"] and not any(place.site.follow_symlinks for place in sites.values()):
        places: dict[str | bytes, int] = {place.site.root: service.READ for place in sites.values()}
        for path, right in (
            (options["log_file"], service.WRITE),
            (options["unix"], service.REMOVE),
        ):
            if path is not None:
                place = os.path.dirname(os.path.abspath(path))
                places[place] = places.get(place, 0) | right
        renewed = [] if certificates is None else certificates.directories
        for place in sites.values():
            renewed += [] if place.passwords is None else place.passwords.directories
        for where in renewed:
            places[where] = places.get(where, 0) | service.READ
        service.confine(places)
    if post is None:
        say_so(directory, listener, options, admin)
        service.notify("READY=1")
    else:
        post.is_ready()


def count(server: Server, sites: Sites, admin: socket | None, post: workers.Post | None) -> None:
    """Count what the server does, for its own admin address or for its supervisor's."""
    from knot.admin import Alone, Answers, attend
    from knot.stats import Counter

    counter = Counter(server, [place.site for place in sites.values()])
    if post is not None:
        from knot import asking, stats, waiting

        shared = stats.Shared(post.counts)

        def write() -> str:
            shared.write(counter.read())
            return ""

        stats.report(counter, shared)
        server.ended = write
        process = f"worker {os.getpid()}"
        asking.attend(
            post.supervisor,
            {asking.COUNT: write, asking.WAITING: partial(waiting.listing, process)},
        )
    else:
        assert admin is not None
        attend(admin, Answers(Alone(server, counter)))


def say_so(directory: str, listener: socket, options: dict[str, Any], admin: socket | None) -> None:
    address, workers = sockets.shown(listener, scheme(options)), options["workers"]
    by = f", {workers} worker{'' if workers == 1 else 's'}" if workers else ""
    line = f"Serving {directory} at {address}{by} (Ctrl-C stops)\n"
    if admin is not None:
        line += f"Metrics at {sockets.shown(admin)}/metrics\n"
    if options["tls_self_signed"]:
        from knot.self_signed import authority

        line += f"Clients that are to trust it need {authority(options['host'])}\n"
    sys.stdout.buffer.write(os.fsencode(line))  # a name of any bytes
    sys.stdout.flush()


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


def reopening(log: AccessLog | None, path: str | None) -> dict[int, Callable[[], object]]:
    """By its signal: the log goes on in a new file of the same name."""
    return {REOPEN: bool if log is None or path is None else partial(log.reopen, path)}


def open_access_log(options: dict[str, Any], interactive: bool) -> AccessLog | None:
    """The log that was asked for: by default the terminal shows what is going on."""
    format, path = options["log"], options["log_file"]
    if format is None:
        format = "common" if path is not None else "short" if interactive else "off"
    if format == "off":
        return None
    if path is None:
        return AccessLog(format, STDOUT, colour=interactive and "NO_COLOR" not in os.environ)
    try:
        return AccessLog(format, open_log(path))
    except OSError as error:
        sys.exit(
            f"knot: cannot write the log to {path}: {error.strerror}; choose another --log-file"
        )


def connections(wanted: int) -> int:
    """How many connections the system's limit of open files leaves room for, at most `wanted`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = max(hard - OWN_FILES, hard // 2)
    if room < wanted:
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


def open_listener(options: dict[str, Any], *, shared: bool = False) -> tuple[socket, bool]:
    """The socket that was asked for, and whether others may be opened beside it."""
    path, fd = options["unix"], options["fd"]
    try:
        if path is not None:
            with starting.Uninterrupted():
                listener = sockets.listen_at(path)
                starting.cleanup.append(listener.close)
                atexit.register(listener.close)
            return listener, False
        given = inherited(fd) if fd is not None else sockets.activated()
    except OSError as error:
        where = path if path is not None else f"the socket {fd}" if fd is not None else "its socket"
        sys.exit(f"knot: cannot listen on {where}: {error.strerror or error}")
    if given is not None:
        return given, False
    return open_address(options["host"], options["port"], shared=shared), True


def open_again(listener: socket, host: str, number: int) -> list[socket]:
    """So many sockets more that listen at the same port."""
    port = listener.getsockname()[1]
    return [open_address(host, port, shared=True) for _ in range(number)]


def open_admin(address: tuple[str, int] | None) -> AbstractContextManager[socket | None]:
    return nullcontext() if address is None else open_address(*address, shared=False)


def open_other(
    address: tuple[str, int] | None, post: workers.Post | None
) -> AbstractContextManager[socket | None]:
    """The listener of those that are sent elsewhere."""
    if address is None or post is None:
        return open_admin(address)
    return inherited(post.listeners[1])


def open_address(host: str, port: int, *, shared: bool) -> socket:
    try:
        return sockets.listen(host, port, shared=shared)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # create_server() says the address again
        sys.exit(f"knot: cannot listen on {host}:{port}: {reason}; {remedy(error, port)}")


def remedy(error: OSError, port: int) -> str:
    """What to do when a socket cannot listen."""
    if error.errno == errno.EADDRINUSE:
        return "stop the program that listens there, or choose another port with --port"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need a privilege: choose another, as --port {8000 + port % 1000}"
    return "give --host an address of this machine, as 127.0.0.1, or 0.0.0.0 for all of them"
