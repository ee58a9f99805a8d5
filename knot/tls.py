"""Encrypted connections: TLS 1.3 and 1.2 (RFC 8446, RFC 5246) by the standard library's `ssl`.

Nothing here waits.  A `Channel` is one connection; `Certificates` are those that a server presents,
loaded again when they have been renewed.

The bytes are read and written here and not by OpenSSL, which would read each record in two calls
and write each in a call of its own: a request costs one read and one write, as without TLS.

The settings are Mozilla's intermediate ones (version 5.7), without the ciphers that use a
finite-field key exchange (DHE): they are slow, and no client of TLS 1.2 needs them.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
from _blake2 import blake2b
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import gmtime, monotonic, strftime, time
from typing import Any, Final

from knot.files.paths import absolute, reason
from knot.files.stamps import Stamp, stamp_of

RECORD: Final = 16 * 1024
"""The most bytes of content in a record (RFC 8446, section 5.1)."""

BATCH: Final = 64 * 1024
"""Bytes that are encrypted ahead: what is kept in memory for a client that reads nothing."""

AT_ONCE: Final = 256 * 1024
"""Bytes that are sent before other connections get their turn: a quarter of a millisecond."""

READ_SIZE: Final = RECORD + 1024
"""Bytes read at once."""

UNASKED: Final = 64 * 1024
"""The most bytes of TLS messages that are kept for a client that does not read them."""

CIPHERS: Final = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
"""The ciphers of TLS 1.2; those of TLS 1.3 are all good."""

HTTP_1: Final = "http/1.1"
HTTP_2: Final = "h2"

LOOK: Final = 0.5
"""Seconds between two checks for a renewed certificate."""

SHOWN: Final = 3
"""The most names in a message."""

TOO_WEAK: Final = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")

log = logging.getLogger("knot")


# -- one connection ------------------------------------------------------------------------------


class PlainTextError(ConnectionError):
    """The client sent plain HTTP instead of TLS."""


class Channel:
    """A TLS connection on a non-blocking descriptor, which it does not close.

    A call that would have to wait raises `BlockingIOError`, as on a plain descriptor; a client that
    violates the protocol causes a `ConnectionError`.
    """

    __slots__ = ("_fd", "_in", "_left", "_out", "_owed", "_secret", "over")

    def __init__(self, fd: int, context: ssl.SSLContext) -> None:
        self._fd = fd
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._secret = context.wrap_bio(self._in, self._out, server_side=True)
        self._left: list[bytes | memoryview] = []
        """Encrypted, and not sent yet."""
        self._owed = 0
        """Bytes of content in `_left` that `write` has not counted yet."""
        self.over = False
        """Whether the client has closed its side of the connection."""

    @property
    def blocked(self) -> bool:
        """Whether encrypted bytes have to be sent before anything else can happen."""
        return bool(self._left)

    @property
    def protocol(self) -> str:
        """The protocol that client and server have agreed on (ALPN, RFC 7301)."""
        return self._secret.selected_alpn_protocol() or HTTP_1

    def handshake(self) -> bool:
        """Continue the handshake; return whether it is done.  If not, wait until the descriptor is
        writable if the channel is `blocked`, and until it is readable otherwise."""
        with suppress(BlockingIOError):
            if not self._left and not self._fill():
                raise ConnectionResetError("the client has left during the handshake")
        hook = sys.unraisablehook
        sys.unraisablehook = partial(unraisable, hook)
        try:
            self._secret.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()  # the alert
            if error.reason == "HTTP_REQUEST":
                raise PlainTextError from None
            raise ConnectionAbortedError(f"no handshake: {error.reason}") from None
        finally:
            sys.unraisablehook = hook
        return True  # the last of it leaves with the first answer, or before the next wait

    def read(self) -> bytes:
        """The next bytes from the client; empty if there will be no more."""
        pieces: list[bytes] = []
        torn = False
        while not pieces and not self.over:
            if (torn or not self._in.pending) and not self._fill():
                self.over = True
            try:
                while self._in.pending and not self.over:
                    piece = self._secret.read(RECORD)
                    if piece:
                        pieces.append(piece)
                    else:
                        self.over = True
            except ssl.SSLWantReadError:
                torn = True  # only part of a record has arrived
            except ssl.SSLEOFError:
                self.over = True
            except ssl.SSLError as error:
                self._flush()
                raise ConnectionAbortedError(f"not TLS: {error.reason}") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fill(self) -> int:
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            self._flush()
            raise
        return self._in.write(data) if data else 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send `data`; return how many of its bytes were taken.  Pass the rest again."""
        taken = 0
        with memoryview(data) as whole:
            while taken < min(len(whole), AT_ONCE):
                if not self._owed:
                    self._encrypt(whole[taken : taken + BATCH])
                try:
                    moved = os.writev(self._fd, self._left)
                except BlockingIOError:
                    if taken:
                        break
                    raise
                if not self._advance(moved):
                    moved = min(moved, self._owed - 1)  # the last byte counts when all has left
                    taken += moved
                    self._owed -= moved
                    if not taken:
                        raise BlockingIOError
                    break
                taken += self._owed
                self._owed = 0
        return taken

    def _encrypt(self, content: memoryview) -> None:
        while self._owed < len(content):
            self._owed += self._secret.write(content[self._owed : self._owed + RECORD])
            self._left.append(self._out.read())

    def _advance(self, moved: int) -> bool:
        """Remove `moved` encrypted bytes, which were sent; return whether none are left."""
        left = self._left
        while left and moved >= len(left[0]):
            moved -= len(left.pop(0))
        if left:
            left[0] = memoryview(left[0])[moved:]
        return not left

    def _flush(self) -> None:
        """Send the messages of TLS itself, as far as there is room."""
        if self._out.pending:
            if sum(map(len, self._left)) > UNASKED:
                raise ConnectionAbortedError(
                    "the client does not read the TLS messages that it causes"
                )
            self._left.append(self._out.read())
        if self._left and not self._owed:
            with suppress(BlockingIOError):
                self._advance(os.writev(self._fd, self._left))

    def end(self) -> None:
        """Send close_notify (RFC 8446, section 6.1), if there is room for it."""
        with suppress(OSError):  # of TLS, too
            if not self._left:
                try:
                    self._secret.unwrap()
                finally:
                    self._flush()


def unraisable(report: Callable[[Any], object], found: Any) -> None:
    """An unraisable hook that ignores server names that are not ASCII: the handshake ends with an
    alert, but `ssl` would print a traceback each time."""
    if not (isinstance(found.exc_value, UnicodeDecodeError) and isinstance(found.object, bytes)):
        report(found)


# -- certificates -----------------------------------------------------------------------------


class Certificate:
    """A chain of certificates with its key, in PEM files, and a context that presents it."""

    def __init__(self, chain: str, key: str | None, protocols: Sequence[str]) -> None:
        """`key` is None if it is in the file of the chain.  Raises `ValueError` if the files are
        not such a pair, `OSError` if they cannot be read."""
        self.chain = os.fsdecode(absolute(chain))
        self.key = None if key is None else os.fsdecode(absolute(key))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self.context.set_ciphers(CIPHERS)
        self.context.set_alpn_protocols(list(protocols))
        self.names: list[str] = []
        """The hosts that it is for, in lower case; ``*.`` matches one label."""
        self.shown: list[str] = []
        """The hosts and addresses that it is for, or else its subject; for messages."""
        self.valid = (-inf, inf)
        """When it is valid: begin and end, in seconds since the epoch."""
        self._stamps: list[Stamp] = []
        self._content: list[bytes] = []  # hashes of the files
        self._settled = False
        self.load()

    @property
    def files(self) -> list[str]:
        return [self.chain] if self.key is None else [self.chain, self.key]

    def load(self) -> None:
        """Read the files, and present their certificate to new clients from now on."""
        now, stamps = time(), self._look()
        content = self._hashes()  # also for an error that names the file
        try:
            # First into another context: a pair that does not match would be half loaded.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
                context.load_cert_chain(self.chain, self.key, no_password)
                found = first_of(self.chain)
        except ssl.SSLError as error:
            raise ValueError(why_not(self, error)) from None
        self.names = [value.lower() for kind, value in alternatives(found) if kind == "DNS"]
        self.shown = [value for _, value in alternatives(found)] or subject(found)
        self.valid = moment(found.get("notBefore"), -inf), moment(found.get("notAfter"), inf)
        self._stamps, self._content = stamps, content
        self._settled = all(stamp.is_settled(now) for stamp in stamps)

    def has_changed(self) -> bool:
        """Whether the files have changed since they were loaded.  Raises `OSError`."""
        now, stamps = time(), self._look()
        if stamps != self._stamps:
            return True
        if not self._settled:
            with suppress(PermissionError):  # the right to read the key may have been given up
                if self._hashes() != self._content:
                    return True
            self._settled = all(stamp.is_settled(now) for stamp in stamps)
        return False

    def _look(self) -> list[Stamp]:
        return [stamp_of(os.stat(file)) for file in self.files]

    def _hashes(self) -> list[bytes]:
        hashes = []
        for name in self.files:
            with open(name, "rb") as file:
                hashes.append(blake2b(file.read(), digest_size=16).digest())
        return hashes

    def invalidity(self, now: float) -> str:
        """Why clients refuse it at the time `now`, in seconds since the epoch; else empty."""
        begin, end = self.valid
        if begin <= now <= end:
            return ""
        names = ", ".join(self.shown[:SHOWN]) + (", …" if len(self.shown) > SHOWN else "")
        what, when = ("expired on", end) if now > end else ("is not valid before", begin)
        date = strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(when))
        return f"the certificate {self.chain} for {names} {what} {date}: clients refuse it"


def no_password() -> str:
    raise ValueError("a key with a password cannot be used by a server that starts by itself")


def why_not(certificate: Certificate, error: ssl.SSLError) -> str:
    chain, key = certificate.chain, certificate.key
    reason = getattr(error, "reason", None)  # some lack it
    if reason == "KEY_VALUES_MISMATCH":
        return (
            f"the key in {key or chain} does not match the certificate in {chain}; the server's"
            " certificate must come first in its file"
        )
    if reason in TOO_WEAK:
        return f"the certificate in {chain} is too weak for OpenSSL: {reason}"
    if key is None:
        return f"{chain} has no certificate and key in PEM; name the key's file with --key"
    return f"{chain} and {key} are not a certificate and key in PEM"


def first_of(chain: str) -> dict[str, Any]:
    """The first certificate of a file, as `ssl` reads that of a peer."""
    # No public function reads a certificate that does not come from a peer.
    decode: Any = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
    found: dict[str, Any] = decode(chain)
    return found


def alternatives(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The hosts that it is for (RFC 6125; clients ignore the Common Name now)."""
    return [(kind, value) for kind, value in found.get("subjectAltName", ())]


def moment(date: str | None, otherwise: float) -> float:
    """`date` in seconds since the epoch."""
    try:
        return otherwise if date is None else ssl.cert_time_to_seconds(date)
    except ValueError:
        return otherwise


def subject(found: dict[str, Any]) -> list[str]:
    return ["/".join(value for names in found.get("subject", ()) for _, value in names) or "nobody"]


class Certificates:
    """The certificates of a server, chosen by the name that a client asks for (SNI, RFC 6066); the
    first one if none matches."""

    def __init__(
        self, pairs: Sequence[tuple[str, str | None]], protocols: Sequence[str] = (HTTP_1,)
    ) -> None:
        """`pairs` are the files of chain and key, at least one pair.  Raises as `Certificate`."""
        self.protocols = protocols
        """The protocols to offer, preferred ones first (ALPN)."""
        self._all = [Certificate(chain, key, protocols) for chain, key in pairs]
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._refused: dict[Certificate, str] = {}
        self._invalid: dict[Certificate, str] = {}
        """The last warning about each certificate that clients refuse."""
        self._look_at = monotonic() + LOOK
        self.context = self._all[0].context
        """The context for new connections."""
        self._sort()
        self._begin()

    def _begin(self) -> None:
        if len(self._all) > 1:
            self.context.sni_callback = self._choose

    def adopt(self, other: Certificates) -> None:
        """Present the certificates of `other` to new clients from now on."""
        self._all, self._by_name, self.context = other._all, other._by_name, other.context
        self._refused = {}
        self._look_at = other._look_at
        self._begin()

    @property
    def files(self) -> list[str]:
        return [file for certificate in self._all for file in certificate.files]

    def _sort(self) -> None:
        self._by_name = {
            name: certificate.context
            for certificate in reversed(self._all)
            for name in certificate.names
        }

    def _choose(self, secret: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        if name is not None:
            name = name.lower().removesuffix(".")
            found = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
            secret.context = found or self.context
        return None

    def look(self) -> None:
        """Load renewed certificates, every `LOOK` seconds; called once a second.  One that cannot
        be used is reported once, and the old one stays in use."""
        if monotonic() < self._look_at:
            return
        self._look_at = monotonic() + LOOK
        for certificate in self._all:
            try:
                if not certificate.has_changed():
                    continue
                certificate.load()
            except (OSError, ValueError) as error:
                why = str(error)
                if isinstance(error, OSError):
                    why = reason(error, error.filename or certificate.chain)
                if self._refused.get(certificate) != why:
                    self._refused[certificate] = why
                    log.error(
                        "the renewed certificate %s cannot be used: %s; the old one stays",
                        certificate.chain,
                        why,
                    )
                continue
            self._refused.pop(certificate, None)
            self._sort()
            log.warning("the certificate %s was renewed", certificate.chain)
        self.warn()

    def warn(self, aloud: bool = True) -> None:
        """Warn once about each certificate that clients refuse by now; without `aloud`, only record
        that this is known."""
        now = time()
        for certificate in self._all:
            why = certificate.invalidity(now)
            if aloud and why and why != self._invalid.get(certificate):
                log.warning("%s", why)
            self._invalid[certificate] = why
