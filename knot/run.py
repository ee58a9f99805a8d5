"""Starts what the settings say: one process that serves, or a supervisor with its workers.

Read it from `start`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pwd import struct_passwd
from socket import socket
from typing import TYPE_CHECKING, Any, Final

import click

from knot.build import (
    STDOUT,
    Served,
    Sites,
    account,
    make_certificate,
    open_files,
    open_served,
)
from knot.files.paths import grants
from knot.listening import Opened, handed_over, opened, opened_for_workers
from knot.models.server import Server
from knot.process import privileges, sandbox, spawn, systemd
from knot.process.listeners import port_of, shown
from knot.process.safe_paths import place_to_append
from knot.process.signals import Signals
from knot.process.worker import WorkerHandoff
from knot.reload import Reload
from knot.settings import Settings

if TYPE_CHECKING:
    from knot.monitor.metrics import Counter
    from knot.process.worker_process import Monitor

MIN_FILES: Final = 64
"""Descriptors without which a process that serves one site does not start: half of them are its
own, half are connections."""

FILES_OF_A_WORKER: Final = 8
"""Descriptors of the supervisor for each worker, beside sockets: for this one and the next."""

REOPEN: Final[int] = signal.SIGUSR1


def start(settings: Settings, read: Callable[[], Settings], handoff: WorkerHandoff | None) -> None:
    """Serve until a signal.  `read` reads the settings again, and a worker has a `handoff`."""
    try:
        check_machine(settings, handoff)
    except ValueError as error:
        sys.exit(f"knot: {error}")
    if handoff is not None:
        spawn.end_with_parent(signal.SIGTERM)
        serve(settings, read, handoff)
    elif settings.process.workers is not None:
        supervise_workers(settings, settings.process.workers)
    else:
        serve(settings, read)


# -- what the machine needs ----------------------------------------------------------------------


def check_machine(settings: Settings, handoff: WorkerHandoff | None = None) -> None:
    """Raises `ValueError` if a library is missing or a limit of the system is too low.

    What is missing is not always reported later: a module that cannot be opened seems not to be
    installed.
    """
    if settings.listening.admin is not None and find_spec("prometheus_client") is None:
        raise ValueError("--admin needs prometheus-client: pip install 'knot-httpd[metrics]'")
    least = files_needed(settings, is_worker=handoff is not None)
    if open_files() < least:
        raise ValueError(
            f"the system allows {open_files()} open files, and this needs {least}: raise it"
            " with ulimit -n, or LimitNOFILE= of a systemd unit"
        )


def files_needed(settings: Settings, *, is_worker: bool) -> int:
    least = MIN_FILES + len(settings.hosts)
    workers, listening = settings.process.workers, settings.listening
    if workers is None or is_worker:
        return least
    addresses = 2 * len(listening.host) + 2 * (listening.redirect_http is not None)
    return max(least, MIN_FILES + workers * (FILES_OF_A_WORKER + addresses))


def load_model(name: str) -> Any:
    """The module of a concurrency model; each imports only what it needs.  Raises `ValueError`."""
    try:
        module = import_module(f"knot.models.{name}")
    except ImportError as error:
        if error.name != "gevent":
            raise
        raise ValueError(
            "the model greenlets needs gevent: pip install 'knot-httpd[greenlets]'"
        ) from None
    if name == "events":
        from tame.drivers import DRIVERS

        driver = os.environ.get("TAME_DRIVER") or DRIVERS[0]
        if driver not in DRIVERS:
            raise ValueError(f"TAME_DRIVER is {driver}: it can be {', '.join(DRIVERS)}")
    return module


# -- several processes ---------------------------------------------------------------------------


def supervise_workers(settings: Settings, workers: int) -> None:
    """Be the supervisor.  The workers read the settings themselves, and again after SIGHUP."""
    from knot.process.supervisor import supervise

    try:
        user = account(settings)
        if settings.tls.tls_self_signed:
            make_certificate(settings.listening.host)  # once, and not in every worker
    except ValueError as error:
        sys.exit(f"knot: {error}")
    with opened_for_workers(settings.listening, user, workers) as (groups, admin):
        site = groups[0].site
        if settings.open:
            open_browser(shown(site[0], settings.scheme))
        started = supervise(
            groups,
            grace=settings.process.grace,
            max_memory=settings.process.worker_memory,
            began=partial(announce, settings, site, admin),
            monitor=watch_workers(admin) if admin else None,
        )
    if not started:
        sys.exit(1)


def watch_workers(admin: Sequence[socket]) -> Monitor:
    """What the supervisor's admin address shows of the workers."""
    from knot.monitor.admin import serve_admin
    from knot.monitor.sources import Workers

    return Workers(partial(serve_admin, admin))


# -- one process ---------------------------------------------------------------------------------


def serve(
    settings: Settings, read: Callable[[], Settings], handoff: WorkerHandoff | None = None
) -> None:
    """Serve in this process: the only one, or one of the workers."""
    process = settings.process
    try:
        model = load_model(process.model)
        served = open_served(settings, warns=handoff is None or handoff.number == 0)
        user = account(settings)
    except ValueError as error:
        sys.exit(f"knot: {error}")
    pool = {} if process.threads is None else {"pool": process.threads}
    server = model.Server(served.sites[""].responder, served.limits, served.log, **pool)
    with opened(settings.listening, user) if handoff is None else handed_over(handoff) as sockets:
        https_port = settings.listening.https_port or port_of(sockets.site)
        reload = Reload(
            server, served, read=read, https_port=https_port if sockets.redirects else None
        )
        del served  # which lasts until the next reload, and no longer
        server.began = partial(begin, reload, sockets, user, handoff)
        cut = run_model(model, reload, sockets, process.grace, is_worker=handoff is not None)
        if cut:
            connections_were = "connection was" if cut == 1 else "connections were"
            click.echo(f"Stopped; {cut} {connections_were} cut after {process.grace:g} s", err=True)
    reload.close()


def run_model(
    model: Any, reload: Reload, sockets: Opened, grace: float, *, is_worker: bool
) -> int | None:
    """Run the loop of the model until a signal; how many connections were cut."""
    server, certificates = reload.server, reload.served.certificates
    secure: dict[str, Any] = {}
    if certificates is not None:
        secure = {"certificates": certificates, "redirects": sockets.redirects}
    signals = Signals({REOPEN: reload.reopen})
    if not is_worker:
        on_terminal = reload.served.settings.on_terminal
        signals.add(signal.SIGHUP, partial(reload_or_stop, reload, signals, on_terminal))
    signals.install()
    spare_the_collector()
    try:
        cut: int | None = model.run(sockets.site, server, signals, grace, **secure)
    finally:
        server.ended()
    signals.close()
    return cut


def spare_the_collector() -> None:
    """Exclude the objects that exist now from garbage collection, and collect rarely: serving makes
    no cycles, and 10,000 clients at once would cause 8,000 collections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def reload_or_stop(reload: Reload, signals: Signals, on_terminal: bool) -> None:
    """Handle SIGHUP: reload, or stop if it was sent because the terminal was closed."""
    if on_terminal and not os.isatty(STDOUT):
        signals.tell(signal.SIGTERM)
    else:
        reload()


# -- when clients are served ---------------------------------------------------------------------


def begin(
    reload: Reload, sockets: Opened, user: struct_passwd | None, handoff: WorkerHandoff | None
) -> None:
    """Clients are served from now on: drop privileges, and announce it."""
    served = reload.served
    settings, sites = served.settings, served.sites
    if user is not None:
        privileges.become(user)
    if handoff is not None:
        answer_supervisor(reload.server, sites, handoff)
    else:
        if settings.open:
            open_browser(shown(sockets.site[0], settings.scheme))
        if sockets.admin:
            reload.counter = start_metrics(reload.server, sites, sockets.admin)
    if settings.process.sandbox:
        reload.confined_to = drop_privileges(served, reads_file=handoff is None)
    if handoff is not None:
        handoff.report_ready()
        return
    announce(settings, sockets.site, sockets.admin)
    if systemd.is_watched():
        reload.server.on_sweep = partial(systemd.notify, systemd.ALIVE)
    systemd.notify("READY=1")


def drop_privileges(served: Served, *, reads_file: bool) -> Sequence[str | bytes] | None:
    """Enter the sandbox; the directories that stay readable, or None if there is no sandbox.

    Symbolic links that are followed may lead anywhere, and so leave it out.
    """
    if any(hosted.site.follow_symlinks for hosted in served.sites.values()):
        return None
    rights = rights_needed(served, reads_file=reads_file)
    if not sandbox.confine(rights):
        return None
    return [place for place, right in rights.items() if right & sandbox.READ]


def rights_needed(served: Served, *, reads_file: bool) -> dict[str | bytes, int]:
    """The rights that serving needs, by directory: to append to the log, to remove the socket, and
    to read sites, certificates and settings."""
    settings = served.settings
    rights: dict[str | bytes, int] = {}

    def allow(place: str | bytes | None, right: int) -> None:
        if place is not None:
            rights[place] = rights.get(place, 0) | right

    if settings.logging.log_file is not None:
        allow(place_to_append(settings.logging.log_file), sandbox.WRITE)
    if settings.listening.unix is not None:
        allow(os.path.dirname(os.path.abspath(settings.listening.unix)), sandbox.REMOVE)
    followed = [path for hosted in served.sites.values() for path in hosted.paths]
    if served.certificates is not None:
        followed += served.certificates.files
    if settings.file is not None and reads_file:
        followed.append(settings.file)
    for path in followed:
        for place in grants(path):
            allow(place, sandbox.READ)
    return rights


def start_metrics(server: Server, sites: Sites, admin: Sequence[socket]) -> Counter:
    """Count what the server does, and report it at its admin address."""
    from knot.monitor.admin import serve_admin
    from knot.monitor.metrics import Counter
    from knot.monitor.sources import SingleProcess

    counter = Counter(server, [hosted.site for hosted in sites.values()])
    serve_admin(admin, SingleProcess(server, counter))
    return counter


def answer_supervisor(server: Server, sites: Sites, handoff: WorkerHandoff) -> None:
    """Show the supervisor that the loop runs, and answer its questions for the admin address."""
    from knot.process import control

    answers: dict[bytes, Callable[[], str]] = {control.BEAT: str}
    if handoff.counts >= 0:
        from knot.monitor import blocked, metrics

        counter = metrics.Counter(server, [hosted.site for hosted in sites.values()])
        shared = metrics.Shared(handoff.counts)

        def write() -> str:
            shared.write(counter.read())
            return ""

        metrics.report(counter, shared)
        server.ended = write
        for hosted in sites.values():
            hosted.site.changed.append(write)
        answers[control.COUNT] = write
        answers[control.WAITING] = partial(blocked.listing, f"worker {os.getpid()}")
    control.serve_control(handoff.supervisor, answers)


def announce(settings: Settings, site: Sequence[socket], admin: Sequence[socket]) -> None:
    """Print where the site is served."""
    workers = settings.process.workers
    addresses = in_words([shown(listener, settings.scheme) for listener in site])
    by = f", {workers} worker{'' if workers == 1 else 's'}" if workers else ""
    line = f"Serving {settings.site.directory} at {addresses}{by} (Ctrl-C stops)\n"
    if admin:
        line += f"Metrics at {in_words([f'{shown(each)}/metrics' for each in admin])}\n"
    if settings.tls.tls_self_signed:
        from knot.self_signed import authority

        line += f"To trust it, clients need {authority(settings.listening.host)}\n"
    sys.stdout.buffer.write(os.fsencode(line))  # a name of any bytes
    sys.stdout.flush()


def in_words(items: Sequence[str]) -> str:
    """A list, as in a sentence."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def open_browser(address: str) -> None:
    """Open a browser, in a thread: one that runs in the terminal returns only at its end."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
