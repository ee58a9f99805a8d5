"""The settings of a server: typed, frozen, and checked for what contradicts itself.

`knot.config` makes them from the command line, the environment and ``knot.toml``.  Each field is
named for its option.  Nothing here reads anything: whether a file exists or an address is free is
found out where it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from knot.limits import Limits

Address = tuple[str, int]
"""Host and port."""

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Listening:
    """Where a process listens; it cannot change while the process runs."""

    host: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8000
    share_port: bool = False
    unix: str | None = None
    fd: int | None = None
    redirect_http: Address | None = None
    https_port: int | None = None
    admin: Address | None = None


@dataclass(frozen=True)
class Process:
    """What a process is; it cannot change while the process runs."""

    workers: int | None = None
    worker_memory: int | None = None
    user: str | None = None
    sandbox: bool = True
    model: str = "events"
    threads: int | None = None
    grace: float = 10


@dataclass(frozen=True)
class Tls:
    """Of HTTPS, what is the same for all sites."""

    tls_self_signed: bool = False
    hsts: float | None = None


@dataclass(frozen=True)
class Access:
    """Which clients are served, and how much of the server one may have."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    max_rate: float | None = None
    max_connections_per_client: int | None = None
    trust: tuple[str, ...] = ()
    proxy_protocol: bool = False


@dataclass(frozen=True)
class Logging:
    """The access log."""

    log: str = "off"
    """Its format."""
    log_file: str | None = None
    """None is standard output."""


@dataclass(frozen=True)
class SiteSettings:
    """What is served, and how: to clients that ask for one host, or for none with a table of its
    own."""

    directory: str = "."
    listing: bool = False
    hidden: bool = False
    follow_symlinks: bool = False
    clean_urls: bool = False
    spa: bool = False
    mime: Pairs = ()
    cache_control: Pairs = ()
    header: tuple[str, ...] = ()
    cors: bool = False
    auth: str | None = None
    cert: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    shared_tags: bool = False


@dataclass(frozen=True)
class Settings:
    """All of them."""

    site: SiteSettings = SiteSettings()
    """For every host without a table of its own."""
    hosts: Mapping[str, SiteSettings] = field(default_factory=dict)
    """By `knot.access.virtual_hosts.pattern`."""
    listening: Listening = Listening()
    process: Process = Process()
    tls: Tls = Tls()
    access: Access = Access()
    limits: Limits = field(default_factory=Limits)
    logging: Logging = Logging()
    cache_size: int = 64 << 20
    """Bytes of memory for files, shared by all sites."""
    open: bool = False
    """Whether to show the site in a browser."""
    file: Path | None = None
    """The ``knot.toml`` that was read."""
    on_terminal: bool = False
    """Whether standard output is a terminal: a person has started it by hand."""

    @property
    def speaks_tls(self) -> bool:
        return bool(self.site.cert) or self.tls.tls_self_signed

    @property
    def scheme(self) -> str:
        return "https" if self.speaks_tls else "http"


CONTRADICTIONS: Final[list[tuple[Callable[[Settings], object], str]]] = [
    (
        lambda it: it.process.threads is not None and it.process.model != "threads",
        "--threads needs --model threads",
    ),
    (
        lambda it: it.process.worker_memory is not None and it.process.workers is None,
        "--worker-memory needs --workers",
    ),
    (
        lambda it: it.site.cert and it.tls.tls_self_signed,
        "--cert and --tls-self-signed both name a certificate: choose one",
    ),
    (
        lambda it: it.listening.redirect_http is not None and not it.speaks_tls,
        "--redirect-http needs --cert",
    ),
    (lambda it: it.tls.hsts is not None and not it.speaks_tls, "--hsts needs --cert"),
    (
        lambda it: it.listening.unix is not None and it.listening.fd is not None,
        "--unix and --fd both say where to listen: choose one",
    ),
    (
        lambda it: it.listening.https_port is not None and it.listening.redirect_http is None,
        "--https-port needs --redirect-http",
    ),
    (
        lambda it: (
            it.listening.redirect_http is not None
            and it.listening.unix is not None
            and it.listening.https_port is None
        ),
        "--redirect-http sends clients to a port, and --unix has none: name it with --https-port",
    ),
    (
        lambda it: (
            it.listening.share_port
            and (it.listening.unix is not None or it.listening.fd is not None)
        ),
        "--share-port needs a port, and --unix and --fd have none",
    ),
    (
        lambda it: it.access.proxy_protocol and not it.access.trust,
        "--proxy-protocol needs --trust, with the networks of the proxies",
    ),
    # Clients of a Unix socket have no addresses: all are one client, unless a proxy says who each
    # is.
    (
        lambda it: (
            it.listening.unix is not None
            and it.access.max_rate is not None
            and "unix" not in it.access.trust
        ),
        "--max-rate with --unix needs --trust unix: its clients have no addresses",
    ),
    (
        lambda it: (
            it.listening.unix is not None
            and it.access.max_connections_per_client is not None
            and not ("unix" in it.access.trust and it.access.proxy_protocol)
        ),
        "--max-connections-per-client with --unix needs --trust unix and --proxy-protocol: its"
        " clients have no addresses",
    ),
    # The other models close a socket whoever owns it, and know no Tame.
    (
        lambda it: it.process.model != "events" and it.process.workers is not None,
        "--workers needs --model events",
    ),
    (
        lambda it: it.process.model != "events" and it.listening.fd is not None,
        "--fd needs --model events",
    ),
    (
        lambda it: it.process.model != "events" and it.listening.admin is not None,
        "--admin needs --model events",
    ),
    (
        lambda it: it.process.model != "events" and it.access.proxy_protocol,
        "--proxy-protocol needs --model events",
    ),
    (
        lambda it: it.process.model != "events" and it.speaks_tls,
        "HTTPS needs --model events",
    ),
]
"""Conditions under which settings do not go together, and what to say then."""


def contradictions(settings: Settings) -> Iterator[str]:
    """A sentence for each way in which the settings do not go together."""
    for holds, message in CONTRADICTIONS:
        if holds(settings):
            yield message
    yield from mismatched_keys(settings)


def mismatched_keys(settings: Settings) -> Iterator[str]:
    """Certificates without their keys, of each site."""
    for host, site in {"": settings.site, **settings.hosts}.items():
        where = f"host {host}: " if host else ""
        if len(site.key) not in (0, len(site.cert)):
            yield (
                f"{where}{len(site.cert)} --cert and {len(site.key)} --key: name a key for each"
                " certificate, or none if each key is in the file of its certificate"
            )
        if host and site.cert and not settings.speaks_tls:
            yield f"host {host} has a certificate: other hosts need --cert, too"


def validate(settings: Settings) -> None:
    """Raises `ValueError` if the settings do not go together."""
    for message in contradictions(settings):
        raise ValueError(message)
