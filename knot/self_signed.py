"""A certificate for development, signed by a local authority (library: trustme).

Both stay in the user's cache directory, so that a browser has to be set to trust them only once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from knot.process.addresses import EVERY_4, EVERY_6
from knot.process.safe_paths import refuse_strangers

LONGEST: Final = 200
"""The most bytes of a file's name, without its suffix."""

ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
"""Names that every certificate has."""


def directory() -> Path:
    """Where the files are kept (XDG base directory specification).  Raises `ValueError`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):  # others are to be ignored, by the specification
        return Path(cache) / "knot"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise ValueError(
            "there is no home directory to keep a certificate in: set HOME, or XDG_CACHE_HOME"
        )
    return Path(home) / ".cache" / "knot"


def certificate(hosts: Iterable[str]) -> str:
    """The file with chain and key for ``localhost`` and `hosts`; made if it does not exist.

    Raises `ImportError` without trustme, `OSError` if it cannot be written, `ValueError` without a
    directory for it.
    """
    names = names_for(hosts)
    file = directory() / f"{stem(names)}.pem"
    refuse_strangers(str(file))
    if not file.exists():
        make(file, names)
    return str(file)


def authority(hosts: Iterable[str]) -> str:
    """The file with the authority that has signed the certificate, as for ``curl --cacert``."""
    return str(authority_beside(directory() / f"{stem(names_for(hosts))}.pem"))


def authority_beside(file: Path) -> Path:
    return file.with_name(f"{file.stem}-authority.pem")


def names_for(hosts: Iterable[str]) -> list[str]:
    """The names that this certificate has beside those of every certificate."""
    every = {EVERY_4, EVERY_6}
    names = {os.uname().nodename if host in every else host.partition("%")[0] for host in hosts}
    return sorted(names.difference(ALWAYS))


def stem(names: list[str]) -> str:
    found = "+".join(names) or ALWAYS[0]
    if len(found) < LONGEST:
        return found
    from hashlib import sha256  # brings OpenSSL, 3.7 MiB

    return sha256(found.encode()).hexdigest()


def make(file: Path, names: list[str]) -> None:
    import trustme

    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_strangers(str(file))  # now that the directory exists
    signer = trustme.CA(organization_name="Knot, for development")
    issued = signer.issue_cert(*ALWAYS, *names)
    # The signer's key is not kept: nobody can sign anything else that a client would trust.
    write(authority_beside(file), signer.cert_pem.bytes())
    write(file, issued.private_key_and_cert_chain_pem.bytes())


def write(file: Path, content: bytes) -> None:
    """Write `file` in one step, because another process may be reading it."""
    with NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as new:
        new.write(content)
    os.replace(new.name, file)
