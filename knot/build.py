"""From options to what is served: a site for each host, and the gates in front of them.

What the options mean is said where the pieces are; here they are put together, and only those that
were asked for are brought into the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from threading import Semaphore
from time import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from knot.access.gate import Gate
from knot.access.https_redirect import HttpsRedirect
from knot.config import Config
from knot.files.compression import load_compressors
from knot.files.paths import Withheld, absolute
from knot.files.site import OPEN_FILES, Site
from knot.http.request import HOST
from knot.http.responder import FieldRules, Responder
from knot.models.server import Server

if TYPE_CHECKING:
    from knot.access.gates import SiteGate
    from knot.access.networks import Networks
    from knot.access.passwords import Passwords
    from knot.access.rates import Rates

CHECKS: Final = 2
"""Of passwords at once: each takes a core, on the threads that wait for disks, too."""

PLAIN_ROOM: Final = 1 << 20
"""Bytes for answers to clients without TLS where it is spoken: they are short."""


class HostedSite(NamedTuple):
    """What is served to those who ask for one host."""

    site: Site
    responder: Responder
    passwords: Passwords | None

    @property
    def paths(self) -> list[Path | str]:
        """Those that are followed."""
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
    """By host; what is for all other hosts has an empty name."""

    turns: Semaphore
    """Of the checks of passwords."""
    rates: Rates | None = None
    """What each client has asked for lately, if that is counted."""

    def close(self) -> None:
        for place in self.values():
            place.site.close()

    def retire(self) -> None:
        """Nobody asks them anything new: they end with the last request that they were asked."""
        for place in self.values():
            place.site.retire()

    def watch(self, server: Server) -> None:
        """Have `server` follow the paths of all sites, and know whether they lead somewhere."""
        server.watched += [place.look for place in self.values()]
        server.has_all = lambda: all(place.has_all for place in self.values())


def open_sites(
    directory: str,
    config: Config,
    options: dict[str, Any],
    interactive: bool,
    before: Sites | None = None,
) -> Sites:
    """Raises `ValueError` for what cannot be served.

    What is known of passwords is taken over from the sites `before`.
    The memory for files is shared out: each site gets as much of it as any other.
    """
    load_compressors()
    hosts = {
        host: {**options, "directory": directory, **own}
        for host, own in {"": {}, **config.hosts}.items()
    }
    withheld = [path for path in (config.file, options["log_file"]) if path is not None]
    for given in hosts.values():
        withheld += [*given["cert"], *given["key"]]
        withheld += [] if given["auth"] is None else [given["auth"]]
    own_files = Withheld(withheld)
    known: dict[str, Passwords] = {}
    sites = Sites()
    sites.turns = Semaphore(CHECKS) if before is None else before.turns
    for place in () if before is None else before.values():
        if place.passwords is not None:
            known[place.passwords.path] = place.passwords
    passwords: dict[str | None, Passwords | None] = {None: None}
    for host, given in hosts.items():
        path = given["auth"]
        try:
            if path not in passwords:
                passwords[path] = open_passwords(
                    path, sites.turns, known.get(os.fsdecode(absolute(path)))
                )
            site, responder = open_site(given, interactive, own_files, len(hosts))
            sites[host] = HostedSite(site, responder, passwords[path])
        except ValueError as error:
            sites.close()
            raise ValueError(f"{config.file}: host {host}: {error}" if host else error) from None
    return sites


def open_site(
    given: dict[str, Any], interactive: bool, withheld: Withheld, number: int
) -> tuple[Site, Responder]:
    """One of that `number`, from its options.  Raises `ValueError`."""
    fields = list(given["header"])
    if given["hsts"] is not None:
        fields.append(f"Strict-Transport-Security: max-age={given['hsts']:.0f}")
    private = given["auth"] is not None
    rules = FieldRules(given["cache_control"], fields, given["cors"], private)
    room = given["cache_size"] // number
    try:
        site = Site(
            given["directory"],
            cache_size=room,
            hidden=given["hidden"],
            follow_symlinks=given["follow_symlinks"],
            clean_urls=given["clean_urls"],
            spa=given["spa"],
            listing=interactive if given["listing"] is None else given["listing"],
            types=media_types(given["mime"]),
            withheld=withheld,
            open_files=max(OPEN_FILES // number, 1),
            shared_tags=given["shared_tags"],
        )
    except OSError as error:
        raise ValueError(
            f"cannot serve {given['directory']}: {error.strerror}; name a directory to serve"
        ) from None
    return site, Responder(site, rules, room)


def media_types(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By suffix with its dot; what has no dot in front may also be the whole name of a file."""
    types = {}
    for name, kind in given:
        types["." + name.lstrip(".")] = kind
        if not name.startswith("."):
            types[name] = kind
    return types


def open_passwords(path: str, turns: Semaphore, before: Passwords | None = None) -> Passwords:
    """Raises `ValueError`."""
    try:
        from knot.access.passwords import Passwords
    except ModuleNotFoundError as error:
        if error.name != "bcrypt":
            raise
        raise ValueError("--auth needs bcrypt: pip install 'knot[auth]'") from None
    try:
        return Passwords(path, turns, before)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def guard(
    server: Server,
    sites: Sites,
    options: dict[str, Any],
    https_port: int | None,
    before: Sites | None = None,
) -> None:
    """Put in front of the sites what lets clients in, as far as anything was asked for.

    `https_port` is that to which clients without TLS are sent, if they are.  What the sites
    `before` have counted goes on to count.
    """
    if options["max_rate"] is not None:
        from knot.access.rates import Rates

        counted = None if before is None else before.rates
        same = counted is not None and counted.rate == options["max_rate"]
        sites.rates = counted if same else Rates(options["max_rate"])
    trusted = networks(options["trust"])
    if options["max_connections_per_client"] is not None:
        from knot.access.rates import ConnectionLimit

        most = options["max_connections_per_client"]
        server.connection_limit = ConnectionLimit(most, None if trusted is None else trusted.have)
    if options["proxy_protocol"]:
        assert trusted is not None
        server.proxies = trusted.have
    secret = any(place.passwords is not None for place in sites.values())
    watched = any(options[name] for name in ("trust", "allow", "deny", "max_rate"))
    if not (secret or watched or len(sites) > 1 or https_port is not None):
        return
    from knot.access.forwarded import FORWARDED
    from knot.access.gates import AUTHORIZATION, BasicAuth, Doorkeeper, introducer

    wanted = frozenset(
        [HOST] * (len(sites) > 1 or https_port is not None)
        + [AUTHORIZATION] * secret
        + [FORWARDED] * (trusted is not None)
    )
    entrances = {
        host: BasicAuth(place.responder, place.passwords, wanted) for host, place in sites.items()
    }
    inner: SiteGate = entrances.pop("")
    if entrances:
        from knot.access.virtual_hosts import VirtualHosts

        inner = VirtualHosts(inner, entrances)
    gate: Gate = inner
    refusals = server.responder
    if https_port is not None:
        rules = FieldRules(fields=options["header"], cors=options["cors"])
        refusals = Responder(sites[""].site, rules, PLAIN_ROOM)  # without HSTS (RFC 6797, 7.2)
        gate = HttpsRedirect(https_port, refusals, gate, challenges(sites, rules, wanted))
    doorkeeper = None
    if watched:
        gate = doorkeeper = Doorkeeper(
            refusals,
            gate,
            trusted=trusted,
            allowed=networks(options["allow"]),
            denied=networks(options["deny"]),
            rates=sites.rates,
        )
    server.guard(gate, wanted)
    if secret or trusted is not None:
        server.who = introducer(doorkeeper, inner)


def challenges(sites: Sites, rules: FieldRules, wanted: frozenset[bytes]) -> Gate:
    """Each host's own tokens, or those of the site for all hosts: a client of an authority may
    write them into the directory of the host, or into one for all (certbot: ``--webroot``)."""
    from knot.access.gates import BasicAuth
    from knot.access.https_redirect import Challenges

    common = sites[""].site
    found = {host: Challenges(place.site, common) for host, place in sites.items()}
    found[""] = Challenges(common)
    gates = {
        host: BasicAuth(Responder(tokens, rules, PLAIN_ROOM), unwanted=wanted)
        for host, tokens in found.items()
    }
    inner: SiteGate = gates.pop("")
    if not gates:
        return inner
    from knot.access.virtual_hosts import VirtualHosts

    return VirtualHosts(inner, gates)


def networks(given: tuple[str, ...]) -> Networks | None:
    if not given:
        return None
    from knot.access.networks import Networks

    return Networks(given)
