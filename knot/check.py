"""What a start would find wrong: files, certificates, passwords, names, libraries, limits.

Nothing is bound, made or served.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Final

from knot.build import SELF_SIGNED_NEEDS, account, guard, load_certificates, open_sites
from knot.listening import remedy
from knot.models.server import Server
from knot.process.addresses import resolve
from knot.process.safe_paths import place_to_append
from knot.run import check_machine, load_model
from knot.self_signed import directory as directory_of_certificates
from knot.settings import Settings, contradictions


def problems(settings: Settings) -> list[str]:
    """A sentence for each; none if the settings can be served."""
    found = list(contradictions(settings))
    if found:
        return found
    for step in STEPS:
        try:
            step(settings)
        except ValueError as error:
            found.append(str(error))
    return found


def check_model(settings: Settings) -> None:
    load_model(settings.process.model)


def check_addresses(settings: Settings) -> None:
    """The names of hosts, and the directory of a Unix socket."""
    for option, host, port in addresses(settings):
        try:
            list(resolve(host, port))
        except OSError as error:
            raise ValueError(
                f"cannot listen on {error.filename}: {error.strerror};"
                f" {remedy(error, option, port)}"
            ) from None
    path = settings.listening.unix
    if path is not None and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise ValueError(f"cannot listen on {path}: its directory does not exist; make it first")


def addresses(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Option, host and port of each."""
    listening = settings.listening
    if listening.unix is None and listening.fd is None:
        for host in listening.host:
            yield "--port", host, listening.port
    if listening.redirect_http is not None:
        yield "--redirect-http", *listening.redirect_http
    if listening.admin is not None:
        yield "--admin", *listening.admin


def check_certificates(settings: Settings) -> None:
    """They load; one for development need not have been made yet."""
    if settings.tls.tls_self_signed:
        directory_of_certificates()
        if find_spec("trustme") is None:
            raise ValueError(SELF_SIGNED_NEEDS)
    given = replace(settings, tls=replace(settings.tls, tls_self_signed=False))
    certificates = load_certificates(given)
    if certificates is not None:
        certificates.warn()


def check_sites(settings: Settings) -> None:
    """Directories, passwords, header fields and networks."""
    sites = open_sites(settings)
    try:
        guard(Server(sites[""].responder), sites, settings, settings.listening.https_port)
    finally:
        sites.close()


def check_user(settings: Settings) -> None:
    account(settings)


def check_log(settings: Settings) -> None:
    """The file can be appended to, or made.  A start might give it to --user."""
    path = settings.logging.log_file
    if path is None or settings.logging.log == "off":
        return
    place = place_to_append(path)
    if place is None:
        return
    if os.path.isdir(path):
        why = "it is a directory"
    elif not os.path.exists(place):
        why = "its directory does not exist"
    elif not os.access(path if os.path.exists(path) else place, os.W_OK, effective_ids=True):
        why = "permission denied"
    else:
        return
    raise ValueError(f"cannot write the log to {path}: {why}; choose another --log-file")


STEPS: Final = (
    check_machine, check_model, check_addresses, check_certificates, check_sites, check_user,
    check_log,
)  # fmt: skip
