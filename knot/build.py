"""From settings to what is served: a site for each host, gates in front of them, certificates, the
access log.

What a setting means is said where its piece is.  Here the pieces are put together, and only those
that the settings ask for are imported.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from pwd import struct_passwd
from threading import Semaphore
from time import time
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from knot.access.gate import Gate
from knot.access.https_redirect import HttpsRedirect
from knot.files.compression import load_compressors
from knot.files.paths import Withheld, absolute
from knot.files.site import OPEN_FILES, Site
from knot.http.request import HOST
from knot.http.responder import FieldRules, Responder
from knot.limits import Limits
from knot.models.server import Server
from knot.monitor.access_log import AccessLog
from knot.process import privileges
from knot.process.safe_paths import open_to_append
from knot.settings import Access, Logging, Pairs, Settings, SiteSettings

if TYPE_CHECKING:
    from knot.access.gates import BasicAuth, Doorkeeper, SiteGate
    from knot.access.networks import Networks
    from knot.access.passwords import Passwords
    from knot.access.rates import Rates
    from knot.tls import Certificates

CHECKS: Final = 2
"""Passwords checked at once: each takes a core, on the threads that also wait for disks."""

PLAIN_ROOM: Final = 1 << 20
"""Bytes for answers to clients without TLS where HTTPS is spoken: they are short."""

OTHER_FILES: Final = 1024
"""Descriptors that are not connections: the cache has 256, transfers of files have others."""

STDOUT: Final = 1

SELF_SIGNED_NEEDS: Final = "--tls-self-signed needs trustme: pip install 'knot-httpd[self-signed]'"


class Served(NamedTuple):
    """What `settings` say, ready to be served."""

    settings: Settings
    sites: Sites
    limits: Limits
    log: AccessLog | None
    certificates: Certificates | None


def open_served(settings: Settings, before: Served | None = None, *, warns: bool = True) -> Served:
    """Open what the settings say: at the start, and again at each reload, which takes over from
    the one `before` what need not change.

    With `warns`, it says what is doubtful: one of several workers does so for all.  Raises
    `ValueError` for what cannot be served.
    """
    certificates = load_certificates(settings)
    if certificates is not None:
        certificates.warn(warns)
    sites = open_sites(settings, None if before is None else before.sites)
    limits = replace(
        settings.limits, connections=connections(settings.limits.connections, warns=warns)
    )
    if before is not None and before.settings.logging == settings.logging:
        log = before.log
    else:
        log = open_access_log(settings.logging, settings.on_terminal, account(settings))
    return Served(settings, sites, limits, log, certificates)


def account(settings: Settings) -> struct_passwd | None:
    """The user that this process is to become.  Raises `ValueError`."""
    user = settings.process.user
    return None if user is None else privileges.account(user)


def connections(wanted: int, *, warns: bool) -> int:
    """How many connections the system's limit of open files leaves room for: at most `wanted`."""
    hard = open_files()
    room = max(hard - OTHER_FILES, hard // 2)
    if room < wanted and warns:
        click.echo(
            f"The system allows {hard} open files, so {room} connections at once, not {wanted};"
            " raise it with ulimit -n, or LimitNOFILE= of a systemd unit",
            err=True,
        )
    return min(room, wanted)


def open_files() -> int:
    """How many this process may have, once it allows itself as many as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


# -- the access log ------------------------------------------------------------------------------


def open_access_log(
    logging: Logging, on_terminal: bool, user: struct_passwd | None
) -> AccessLog | None:
    """Raises `ValueError`."""
    if logging.log == "off":
        return None
    if logging.log_file is None:
        return AccessLog(logging.log, STDOUT, colour=on_terminal and "NO_COLOR" not in os.environ)
    try:
        return AccessLog(logging.log, open_to_append(logging.log_file, user))
    except OSError as error:
        raise ValueError(
            f"cannot write the log to {logging.log_file}: {error.strerror}; choose another"
            " --log-file"
        ) from None


# -- certificates --------------------------------------------------------------------------------


def load_certificates(settings: Settings) -> Certificates | None:
    """The certificates of all hosts; None without HTTPS.  Raises `ValueError` if they cannot be
    used."""
    pairs: list[tuple[str, str | None]] = []
    if settings.tls.tls_self_signed:
        pairs.append((make_certificate(settings.listening.host), None))
    for site in (settings.site, *settings.hosts.values()):
        pairs += zip_longest(site.cert, site.key)
    if not pairs:
        return None
    from knot.tls import HTTP_1, HTTP_2, Certificates

    protocols = [HTTP_1] if find_spec("h2") is None else [HTTP_2, HTTP_1]
    try:
        return Certificates(pairs, protocols)
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from None


def make_certificate(hosts: Sequence[str]) -> str:
    """The file with a certificate for these addresses, made if there is none yet.  Raises
    `ValueError`."""
    from knot.self_signed import certificate

    try:
        return certificate(hosts)
    except ImportError:
        raise ValueError(SELF_SIGNED_NEEDS) from None
    except OSError as error:
        raise ValueError(
            f"cannot keep a certificate in {error.filename}: {error.strerror}"
        ) from None


# -- sites ---------------------------------------------------------------------------------------


class HostedSite(NamedTuple):
    """What is served to clients that ask for one host."""

    site: Site
    responder: Responder
    passwords: Passwords | None

    @property
    def paths(self) -> list[Path | str]:
        """Paths that are followed."""
        return [self.site.directory, *([] if self.passwords is None else [self.passwords.path])]

    @property
    def has_all(self) -> bool:
        return self.site.is_there and (self.passwords is None or self.passwords.are_there)

    def look(self) -> None:
        """Once a second: follow the paths, and let go of files that nothing leads to any more."""
        self.site.look()
        self.site.sweep()
        self.responder.sweep()
        if self.passwords is not None:
            self.passwords.look(time())


class Sites(dict[str, HostedSite]):
    """By host; the site for all other hosts has an empty name."""

    turns: Semaphore
    """For the checks of passwords."""
    rates: Rates | None = None
    """What each client has requested lately, if that is limited."""

    def close(self) -> None:
        for hosted in self.values():
            hosted.site.close()

    def retire(self) -> None:
        """They get no new requests, and are closed with the last one that they have."""
        for hosted in self.values():
            hosted.site.retire()

    def watch(self, server: Server) -> None:
        """Have `server` follow the paths of all sites, and know whether all are there."""
        server.watched += [hosted.look for hosted in self.values()]
        server.has_all = lambda: all(hosted.has_all for hosted in self.values())


def open_sites(settings: Settings, before: Sites | None = None) -> Sites:
    """Raises `ValueError` for what cannot be served.

    What is known about passwords is taken over from the sites `before`.  The memory for files is
    divided equally.
    """
    load_compressors()
    hosts = {"": settings.site, **settings.hosts}
    withheld = Withheld(own_files(settings))
    sites = Sites()
    sites.turns = Semaphore(CHECKS) if before is None else before.turns
    passwords = PasswordFiles(sites.turns, before)
    for host, site in hosts.items():
        try:
            known = None if site.auth is None else passwords.open(site.auth)
            sites[host] = HostedSite(*open_site(site, settings, withheld, len(hosts)), known)
        except ValueError as error:
            sites.close()
            where = f"{settings.file}: host {host}: " if host else ""
            raise ValueError(f"{where}{error}") from None
    return sites


def own_files(settings: Settings) -> list[Path | str]:
    """Files of the server's own, which no site serves."""
    found: list[Path | str | None] = [settings.file, settings.logging.log_file]
    for site in (settings.site, *settings.hosts.values()):
        found += [*site.cert, *site.key, site.auth]
    return [path for path in found if path is not None]


def open_site(
    own: SiteSettings, settings: Settings, withheld: Withheld, number: int
) -> tuple[Site, Responder]:
    """One site of that `number`.  Raises `ValueError`."""
    fields = list(own.header)
    if settings.tls.hsts is not None:
        fields.append(f"Strict-Transport-Security: max-age={settings.tls.hsts:.0f}")
    rules = FieldRules(own.cache_control, fields, own.cors, own.auth is not None)
    room = settings.cache_size // number
    try:
        site = Site(
            own.directory,
            cache_size=room,
            hidden=own.hidden,
            follow_symlinks=own.follow_symlinks,
            clean_urls=own.clean_urls,
            spa=own.spa,
            listing=own.listing,
            types=media_types(own.mime),
            withheld=withheld,
            open_files=max(OPEN_FILES // number, 1),
            shared_tags=own.shared_tags,
        )
    except OSError as error:
        raise ValueError(
            f"cannot serve {own.directory}: {error.strerror}; name a directory to serve"
        ) from None
    return site, Responder(site, rules, room)


def media_types(given: Pairs) -> dict[str, str]:
    """By suffix with its dot; a name without a leading dot is also the name of a whole file."""
    types = {}
    for name, kind in given:
        types["." + name.lstrip(".")] = kind
        if not name.startswith("."):
            types[name] = kind
    return types


class PasswordFiles:
    """The files of passwords: each is read once, however many sites use it."""

    def __init__(self, turns: Semaphore, before: Sites | None) -> None:
        self._turns = turns
        self._open: dict[str, Passwords] = {}
        self._before = {
            hosted.passwords.path: hosted.passwords
            for hosted in (() if before is None else before.values())
            if hosted.passwords is not None
        }

    def open(self, path: str) -> Passwords:
        """Raises `ValueError`."""
        if path not in self._open:
            before = self._before.get(os.fsdecode(absolute(path)))
            self._open[path] = open_passwords(path, self._turns, before)
        return self._open[path]


def open_passwords(path: str, turns: Semaphore, before: Passwords | None = None) -> Passwords:
    """Raises `ValueError`."""
    try:
        from knot.access.passwords import Passwords
    except ModuleNotFoundError as error:
        if error.name != "bcrypt":
            raise
        raise ValueError("--auth needs bcrypt: pip install 'knot-httpd[auth]'") from None
    try:
        return Passwords(path, turns, before)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


# -- gates ---------------------------------------------------------------------------------------


def guard(
    server: Server,
    sites: Sites,
    settings: Settings,
    https_port: int | None,
    before: Sites | None = None,
) -> None:
    """Put in front of the sites the gates that the settings ask for.

    `https_port` is the port to which clients without TLS are sent, if they are.  What the sites
    `before` have counted still counts.
    """
    access = settings.access
    trusted = networks(access.trust)
    sites.rates = open_rates(access.max_rate, None if before is None else before.rates)
    limit_connections(server, access, trusted)
    watches = bool(access.trust or access.allow or access.deny) or sites.rates is not None
    has_passwords = any(hosted.passwords is not None for hosted in sites.values())
    if not (has_passwords or watches or len(sites) > 1 or https_port is not None):
        return
    from knot.access.forwarded import FORWARDED
    from knot.access.gates import AUTHORIZATION, introducer

    wanted = frozenset(
        [HOST] * (len(sites) > 1 or https_port is not None)
        + [AUTHORIZATION] * has_passwords
        + [FORWARDED] * (trusted is not None)
    )
    inner = gate_of_sites(sites, wanted)
    gate: Gate = inner
    refusals = server.responder
    if https_port is not None:
        rules = FieldRules(fields=settings.site.header, cors=settings.site.cors)
        refusals = Responder(sites[""].site, rules, PLAIN_ROOM)  # without HSTS (RFC 6797, 7.2)
        gate = HttpsRedirect(https_port, refusals, gate, challenges(sites, rules, wanted))
    doorkeeper = None
    if watches:
        gate = doorkeeper = open_door(access, trusted, sites.rates, refusals, gate)
    server.guard(gate, wanted)
    if has_passwords or trusted is not None:
        server.who = introducer(doorkeeper, inner)


def open_rates(rate: float | None, before: Rates | None) -> Rates | None:
    if rate is None:
        return None
    if before is not None and before.rate == rate:
        return before
    from knot.access.rates import Rates

    return Rates(rate)


def limit_connections(server: Server, access: Access, trusted: Networks | None) -> None:
    if access.max_connections_per_client is not None:
        from knot.access.rates import ConnectionLimit

        server.connection_limit = ConnectionLimit(
            access.max_connections_per_client, None if trusted is None else trusted.have
        )
    if access.proxy_protocol:
        assert trusted is not None
        server.proxies = trusted.have


def gate_of_sites(sites: Sites, wanted: frozenset[bytes]) -> SiteGate:
    """Each host's own site, behind its passwords."""
    from knot.access.gates import BasicAuth

    return by_host(
        {
            host: BasicAuth(hosted.responder, hosted.passwords, wanted)
            for host, hosted in sites.items()
        }
    )


def challenges(sites: Sites, rules: FieldRules, wanted: frozenset[bytes]) -> Gate:
    """Each host's own tokens, or those of the site for all hosts: the client of a certificate
    authority may write them into the directory of the host, or into one for all (certbot:
    ``--webroot``)."""
    from knot.access.gates import BasicAuth
    from knot.access.https_redirect import Challenges

    common = sites[""].site
    found = {host: Challenges(hosted.site, common) for host, hosted in sites.items()}
    found[""] = Challenges(common)
    return by_host(
        {
            host: BasicAuth(Responder(tokens, rules, PLAIN_ROOM), unwanted=wanted)
            for host, tokens in found.items()
        }
    )


def by_host(gates: dict[str, BasicAuth]) -> SiteGate:
    others = gates.pop("")
    if not gates:
        return others
    from knot.access.virtual_hosts import VirtualHosts

    return VirtualHosts(others, gates)


def open_door(
    access: Access,
    trusted: Networks | None,
    rates: Rates | None,
    refusals: Responder,
    gate: Gate,
) -> Doorkeeper:
    from knot.access.gates import Doorkeeper

    return Doorkeeper(
        refusals,
        gate,
        trusted=trusted,
        allowed=networks(access.allow),
        denied=networks(access.deny),
        rates=rates,
    )


def networks(given: tuple[str, ...]) -> Networks | None:
    if not given:
        return None
    from knot.access.networks import Networks

    return Networks(given)
