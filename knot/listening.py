"""From settings to listening sockets: opened here, inherited, or given by a service manager.

A socket that cannot be opened ends the process with a sentence that says what to do.  How sockets
listen is in `knot.process.listeners`.
"""

from __future__ import annotations

import atexit
import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pwd import struct_passwd
from socket import AF_INET6, socket
from typing import NamedTuple

import click

from knot.process import starting
from knot.process.addresses import EVERY_6
from knot.process.listeners import (
    Listeners,
    inherited,
    listen_again,
    listen_everywhere,
    port_of,
)
from knot.process.systemd import activated
from knot.process.unix_sockets import listen_at
from knot.process.worker import WorkerHandoff
from knot.settings import Listening


class Opened(NamedTuple):
    """The sockets of one process."""

    site: Sequence[socket]
    redirects: Sequence[socket] = ()
    """For clients that are sent to the site by HTTPS."""
    admin: Sequence[socket] = ()


class Group(NamedTuple):
    """The sockets of one worker."""

    site: Sequence[socket]
    redirects: Sequence[socket]


@contextmanager
def opened(listening: Listening, user: struct_passwd | None) -> Iterator[Opened]:
    """The sockets of the only process."""
    with ExitStack() as undo:
        site = undo.enter_context(closing(open_site(listening, user)))
        redirects = undo.enter_context(closing(open_redirects(listening, site)))
        yield Opened(site, redirects, undo.enter_context(closing(open_admin(listening))))


@contextmanager
def opened_for_workers(
    listening: Listening, user: struct_passwd | None, workers: int
) -> Iterator[tuple[list[Group], Sequence[socket]]]:
    """The sockets of each worker, and those of the supervisor's admin address."""
    with ExitStack() as undo:

        def closed(found: Listeners) -> Listeners:
            return undo.enter_context(closing(found))

        site = open_site(listening, user, shared=True)
        closed(site)
        redirects = closed(open_redirects(listening, site, shared=True))
        groups = [Group(site, redirects)]
        for _ in range(1, workers):
            own = closed(open_again(site)) if site.can_be_opened_again else site
            groups.append(Group(own, closed(open_again(redirects))))
        yield groups, closed(open_admin(listening))


@contextmanager
def handed_over(handoff: WorkerHandoff) -> Iterator[Opened]:
    """The sockets of a worker, which its supervisor has opened."""
    with (
        closing(Listeners(map(inherited, handoff.listeners))) as site,
        closing(Listeners(map(inherited, handoff.redirects))) as redirects,
    ):
        yield Opened(site, redirects)


class SiteListeners(Listeners):
    can_be_opened_again = False
    """Whether each worker can have sockets of its own at the same addresses."""


def open_site(
    listening: Listening, user: struct_passwd | None, *, shared: bool = False
) -> SiteListeners:
    path, fd = listening.unix, listening.fd
    try:
        if path is not None:
            return SiteListeners([open_path(path, user)])
        given = activated() if fd is None else [inherited(fd)]
    except OSError as error:
        where = path or ("the sockets of systemd" if fd is None else f"the socket {fd}")
        sys.exit(f"knot: cannot listen on {where}: {error.strerror or error}")
    except ValueError as error:
        sys.exit(f"knot: {error}")
    if given:
        return SiteListeners(given)
    found = SiteListeners(
        open_addresses(
            listening.host, listening.port, "--port",
            shared=shared or listening.share_port, joining=listening.share_port,
        )
    )  # fmt: skip
    found.can_be_opened_again = True
    return found


def open_path(path: str, user: struct_passwd | None) -> socket:
    """A socket whose path is removed, however the process ends."""
    with starting.Uninterrupted():
        listener = listen_at(path, user)
        starting.cleanup.append(listener.close)
        atexit.register(listener.close)
    return listener


def open_redirects(
    listening: Listening, site: Sequence[socket], *, shared: bool = False
) -> Listeners:
    """The sockets for clients that are sent to those of the site."""
    if listening.redirect_http is None:
        return Listeners()
    if listening.https_port is None and port_of(site) is None:
        sys.exit("knot: --redirect-http sends clients to a port: name it with --https-port")
    host, port = listening.redirect_http
    return open_addresses(
        [host], port, "--redirect-http",
        shared=shared or listening.share_port, joining=listening.share_port,
    )  # fmt: skip


def open_admin(listening: Listening) -> Listeners:
    if listening.admin is None:
        return Listeners()
    host, port = listening.admin
    return open_addresses([host], port, "--admin")


def open_addresses(
    hosts: Sequence[str], port: int, option: str, *, shared: bool = False, joining: bool = False
) -> Listeners:
    """Sockets at the addresses that `option` gives."""
    try:
        found = listen_everywhere(hosts, port, shared=shared, joining=joining)
    except OSError as error:
        sys.exit(
            f"knot: cannot listen on {error.filename}: {error.strerror};"
            f" {remedy(error, option, port)}"
        )
    if EVERY_6 in hosts and all(each.family != AF_INET6 for each in found):
        click.echo("knot: this system has no IPv6: :: means every IPv4 address", err=True)
    return Listeners(found)


def open_again(listeners: Sequence[socket]) -> Listeners:
    """As many more sockets at the same addresses, for another worker."""
    try:
        return Listeners(listen_again(listeners))
    except OSError as error:
        sys.exit(f"knot: cannot open a socket for each worker: {error.strerror}")


def remedy(error: OSError, option: str, port: int) -> str:
    """What to do when a socket cannot listen where `option` says."""
    if error.errno == errno.EADDRINUSE:
        share = "" if option == "--admin" else ", or share it with another Knot by --share-port"
        return f"stop the program that listens there, choose another port with {option}{share}"
    if error.errno == errno.EACCES:
        example = 8000 + port % 1000
        value = example if option == "--port" else f"127.0.0.1:{example}"
        return f"ports below 1024 need a privilege: choose another, such as {option} {value}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files with ulimit -n, or use fewer workers"
    if error.errno == errno.EAFNOSUPPORT:
        return "give an IPv4 address, such as 127.0.0.1, or 0.0.0.0 for all of them"
    if error.errno == errno.EINVAL and str(error.filename).startswith("[fe80"):
        return "a link-local address needs its interface, such as fe80::1%eth0"
    where = "--host" if option == "--port" else option
    return f"give {where} an address of this machine, such as 127.0.0.1, or :: for all of them"
