"""SIGHUP to a single process: the configuration is read again, and served in place.

Command line, environment and ``knot.toml`` are read as at the start, and all that they say is
opened before anything changes; an error changes nothing.  Requests that were read before are
answered as before, and what only they need is closed with the last of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import click

from knot.build import Served, guard, open_served
from knot.models.server import Server
from knot.process.systemd import notify
from knot.settings import Listening, Process, Settings, SiteSettings, Tls, validate

if TYPE_CHECKING:
    from knot.monitor.metrics import Counter

Part = TypeVar("Part", Listening, Process, SiteSettings, Tls)

log = logging.getLogger("knot")


class Reload:
    """What a server serves, and how to serve something else."""

    def __init__(
        self,
        server: Server,
        served: Served,
        *,
        read: Callable[[], Settings],
        https_port: int | None,
    ) -> None:
        """`read` reads the settings again, and `https_port` is as for `guard`."""
        self.server = server
        self.served = served
        self.counter: Counter | None = None
        self.confined_to: Sequence[str | bytes] | None = None
        """Directories that the sandbox leaves readable, if there is one."""
        self._read = read
        self._https_port = https_port
        guard(server, served.sites, served.settings, https_port)
        served.sites.watch(server)

    def __call__(self) -> None:
        """Serve what the configuration says now, unless something is wrong with it."""
        if self.server.stopping:
            return
        notify("RELOADING=1", f"MONOTONIC_USEC={int(monotonic() * 1e6)}")
        try:
            self._reload()
        except click.ClickException as error:
            self._refuse(error, error.format_message())
        except (ValueError, ImportError) as error:
            self._refuse(error, str(error))
        except OSError as error:
            self._refuse(error, f"{error.filename or 'a file'}: {error.strerror}")
        except SystemExit as error:
            self._refuse(error, str(error.code).removeprefix("knot: "))
        except Exception:
            log.exception("the configuration cannot be read again, because of a bug in Knot")
        notify("READY=1")

    def reopen(self) -> None:
        """Continue the access log in a new file of the same name."""
        path = self.served.settings.logging.log_file
        if self.served.log is not None and path is not None:
            self.served.log.reopen(path)

    def close(self) -> None:
        """Nothing is served any more."""
        self.served.sites.close()
        if self.served.log is not None:
            self.served.log.close()

    def _reload(self) -> None:
        before = self.served
        settings, lasting = keep_fixed(self._read(), before.settings)
        validate(settings)
        served = open_served(settings, before)
        try:
            self._check_sandbox(served)
            new = Server(served.sites[""].responder, served.limits, served.log)
            guard(new, served.sites, settings, self._https_port, before.sites)
            served.sites.watch(new)
        except Exception:
            served.sites.retire()
            if served.log is not before.log:
                leave_log(served)
            raise
        self._adopt(new, served)
        if lasting:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in lasting)
            log.warning("%s cannot change while Knot runs: restart it; the rest is in use", names)

    def _adopt(self, new: Server, served: Served) -> None:
        """Serve that from now on."""
        before = self.served
        self.server.adopt(new)
        before.sites.retire()
        if self.counter is not None:
            self.counter.go_on([hosted.site for hosted in served.sites.values()])
        if before.certificates is not None and served.certificates is not None:
            before.certificates.adopt(served.certificates)
            served = served._replace(certificates=before.certificates)
        self.served = served
        if served.log is before.log:
            self.reopen()
        else:
            leave_log(before)

    def _check_sandbox(self, served: Served) -> None:
        """Raises `ValueError` for what the sandbox of this process does not let it read."""
        if self.confined_to is None:
            return
        for hosted in served.sites.values():
            root = os.path.realpath(os.fsencode(hosted.site.directory))
            if hosted.site.follow_symlinks:
                raise ValueError(
                    "--follow-symlinks cannot be used in the sandbox that this process is in:"
                    " restart Knot"
                )
            if not any(is_below(root, os.fsencode(left)) for left in self.confined_to):
                raise ValueError(f"{os.fsdecode(root)} is outside the sandbox: restart Knot")

    def _refuse(self, error: BaseException, why: str) -> None:
        hint = ""
        user = self.served.settings.process.user
        if self.confined_to is not None and is_forbidden(error):
            hint = "; the sandbox of this process may forbid it: restart Knot"
        elif user is not None and is_forbidden(error):
            hint = f"; the user {user} must be able to read it"
        log.error("the configuration is unchanged: %s%s", why, hint)


def leave_log(served: Served) -> None:
    """Close the access log once nothing is written to it any more."""
    if served.log is not None:
        served.log.leave(closes=served.settings.logging.log_file is not None)


def keep_fixed(new: Settings, old: Settings) -> tuple[Settings, list[str]]:
    """The `new` settings as far as a running process can take them, and the options that it
    cannot: those of its sockets, those of the process itself, and, where HTTPS begins or ends,
    those of TLS."""
    lasting = [
        *differing(new.listening, old.listening),
        *differing(new.process, old.process),
    ]
    kept = replace(new, listening=old.listening, process=old.process)
    if new.speaks_tls == old.speaks_tls:
        return kept, lasting
    site = replace(new.site, cert=old.site.cert, key=old.site.key)
    lasting += [*differing(new.site, site), *differing(new.tls, old.tls)]
    hosts = new.hosts
    if not old.speaks_tls:
        hosts = {host: replace(own, cert=(), key=()) for host, own in hosts.items()}
    return replace(kept, site=site, tls=old.tls, hosts=hosts), lasting


def differing(new: Part, old: Part) -> Iterator[str]:
    """The options whose values are not the same."""
    for each in fields(new):
        if getattr(new, each.name) != getattr(old, each.name):
            yield each.name


def is_below(path: bytes, directory: bytes) -> bool:
    directory = os.path.realpath(directory)
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def is_forbidden(error: BaseException | None) -> bool:
    """Whether a missing right is the cause."""
    while error is not None:
        if isinstance(error, PermissionError):
            return True
        error = error.__context__
    return False
