"""SIGHUP to a single process: the configuration is read again, and served in place.

Command line, environment and ``knot.toml`` are read as at the start, and all that they say is
opened before anything changes; an error changes nothing.  Requests that were read before are
answered as before, and what only they need is closed with the last of them: nothing else refers to
it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from knot.build import Sites
from knot.config import Config
from knot.limits import Limits
from knot.models.server import Server
from knot.monitor.access_log import AccessLog
from knot.process.sandbox import notify

if TYPE_CHECKING:
    from knot.monitor.metrics import Counter
    from knot.tls import Certificates

FIXED: Final = (
    "host", "port", "unix", "fd", "workers", "worker_memory", "admin", "redirect_http", "user",
    "sandbox", "model", "threads", "grace", "share_port", "https_port",
)  # fmt: skip
"""Options of the process and its sockets, which last as long as it does."""

OF_TLS: Final = ("cert", "key", "tls_self_signed", "hsts")
"""Options that a port needs which speaks HTTPS, or which does not."""

log = logging.getLogger("knot")


class Settings(NamedTuple):
    """What the command line, the environment and the file say together."""

    directory: str
    config: Config
    options: dict[str, Any]


class Served(NamedTuple):
    """What `settings` say, ready to be served."""

    settings: Settings
    sites: Sites
    limits: Limits
    log_form: tuple[str, str | None]
    """Format and file of the access log."""
    log: AccessLog | None
    certificates: Certificates | None


class Reload:
    """What a server serves, and how to serve something else."""

    def __init__(
        self,
        server: Server,
        served: Served,
        *,
        read: Callable[[], Settings],
        check: Callable[[dict[str, Any]], object],
        open: Callable[[Settings, Served], Served],
        guard: Callable[..., object],
    ) -> None:
        """`read` reads the settings again, `check` refuses options that do not go together, `open`
        opens what they say, and `guard` puts gates in front of it."""
        self.server = server
        self.served = served
        self.counter: Counter | None = None
        self.confined_to: Sequence[str | bytes] | None = None
        """Directories that the sandbox leaves, if there is one."""
        self._read = read
        self._check = check
        self._open = open
        self._guard = guard

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
            log.exception("the configuration cannot be read again, by an error that is Knot's own")
        notify("READY=1")

    def reopen(self) -> None:
        """Go on with the access log in a new file of the same name."""
        _, path = self.served.log_form
        if self.served.log is not None and path is not None:
            self.served.log.reopen(path)

    def close(self) -> None:
        """Nothing is served any more."""
        for place in self.served.sites.values():
            place.site.close()
        if self.served.log is not None:
            self.served.log.close()

    def _reload(self) -> None:
        before = self.served
        settings, lasting = keep_fixed(self._read(), before.settings)
        self._check(settings.options)
        served = self._open(settings, before)
        try:
            self._look_at_sandbox(served)
            new = Server(served.sites[""].responder, served.limits, served.log)
            self._guard(new, served.sites, settings.options, before=before.sites)
            served.sites.watch(new)
        except Exception:
            served.sites.retire()
            if served.log is not None and served.log is not before.log:
                served.log.leave(closes=served.log_form[1] is not None)
            raise
        self.server.adopt(new)
        before.sites.retire()
        if self.counter is not None:
            self.counter.go_on([place.site for place in served.sites.values()])
        if before.certificates is not None and served.certificates is not None:
            before.certificates.adopt(served.certificates)
            served = served._replace(certificates=before.certificates)
        self.served = served
        if served.log is before.log:
            self.reopen()
        elif before.log is not None:
            before.log.leave(closes=before.log_form[1] is not None)
        if lasting:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in lasting)
            log.warning("%s cannot change while Knot runs: restart it; the rest is in use", names)

    def _look_at_sandbox(self, served: Served) -> None:
        """Raises `ValueError` for what the sandbox of this process does not let it read."""
        if self.confined_to is None:
            return
        for place in served.sites.values():
            root = os.path.realpath(os.fsencode(place.site.directory))
            if place.site.follow_symlinks:
                raise ValueError(
                    "--follow-symlinks does not go together with the sandbox that this process is"
                    " in: restart Knot"
                )
            if not any(is_below(root, os.fsencode(left)) for left in self.confined_to):
                raise ValueError(f"{os.fsdecode(root)} is outside the sandbox: restart Knot")

    def _refuse(self, error: BaseException, why: str) -> None:
        hint = ""
        if self.confined_to is not None and is_forbidden(error):
            hint = "; the sandbox of this process may forbid it: restart Knot"
        elif self.served.settings.options["user"] is not None and is_forbidden(error):
            hint = f"; the user {self.served.settings.options['user']} has to be able to read it"
        log.error("the configuration stays as it was: %s%s", why, hint)


def keep_fixed(new: Settings, old: Settings) -> tuple[Settings, list[str]]:
    """The `new` settings as far as a running process can take them, and the options that it
    cannot."""
    options, hosts = dict(new.options), new.config.hosts
    lasting = [name for name in FIXED if options.get(name) != old.options.get(name)]
    if speaks_tls(options) != speaks_tls(old.options):
        lasting += [name for name in OF_TLS if options[name] != old.options[name]]
        if not speaks_tls(old.options):
            hosts = {
                host: {name: value for name, value in own.items() if name not in OF_TLS}
                for host, own in hosts.items()
            }
    options.update((name, old.options[name]) for name in lasting)
    return Settings(new.directory, new.config._replace(hosts=hosts), options), lasting


def speaks_tls(options: dict[str, Any]) -> bool:
    return bool(options["cert"]) or options["tls_self_signed"]


def is_below(path: bytes, directory: bytes) -> bool:
    directory = os.path.realpath(directory)
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def is_forbidden(error: BaseException | None) -> bool:
    """Whether a right that is missing has led to it."""
    while error is not None:
        if isinstance(error, PermissionError):
            return True
        error = error.__context__
    return False
