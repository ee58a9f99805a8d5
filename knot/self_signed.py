"""A certificate for development, signed by an authority of this user's own (library: trustme).

Both stay in the user's cache directory, so that a browser that was told to trust the one or the
other once need not be told again.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from knot.safe_paths import refuse_strangers

EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104  (to be known, not to be bound)
ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
"""Names that every certificate has."""


def directory() -> Path:
    """Where they are kept (XDG base directory specification)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "knot"


def certificate(host: str) -> str:
    """The file with chain and key for ``localhost`` and for `host`, made if there is none.

    Raises `ImportError` without trustme, `OSError` if it cannot be kept.
    """
    file = directory() / f"{name_for(host)}.pem"
    refuse_strangers(str(file))
    if not file.exists():
        make(file, host)
    return str(file)


def authority(host: str) -> str:
    """The file with the authority that has signed it, which ``curl --cacert`` takes."""
    return str(directory() / f"{name_for(host)}-authority.pem")


def name_for(host: str) -> str:
    if host in EVERYWHERE:
        return os.uname().nodename
    return ALWAYS[0] if host in ALWAYS else host


def make(file: Path, host: str) -> None:
    import trustme

    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_strangers(str(file))  # now that the directory is there
    signer = trustme.CA(organization_name="Knot, for development")
    issued = signer.issue_cert(*{*ALWAYS, name_for(host)})
    # The signer's key is not kept: nobody can sign anything else that a client would trust.
    write(Path(authority(host)), signer.cert_pem.bytes())
    write(file, issued.private_key_and_cert_chain_pem.bytes())


def write(file: Path, content: bytes) -> None:
    """In one step: another process may look for it at this moment."""
    with NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as new:
        new.write(content)
    os.replace(new.name, file)
