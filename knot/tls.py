"""Encrypted connections: TLS 1.3 and 1.2 (RFC 8446, RFC 5246) by the standard library's `ssl`.

Nothing here waits.  A `Channel` is one connection; `Certificates` are what a server shows of
itself, read anew when they have been renewed.

The bytes are read and written here and not by OpenSSL, which would read each record in two calls
and write each in one of its own: a request costs one read and one write, as without TLS.

The settings are Mozilla's intermediate ones (version 5.7) but for the ciphers whose keys are agreed
on in finite fields: no client that speaks TLS 1.2 is in want of those, and they are dear.
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
"""Bytes of content in a record at most (RFC 8446, section 5.1)."""

BATCH: Final = 64 * 1024
"""Bytes that are encrypted before they are sent: what a client that takes nothing has us keep."""

AT_ONCE: Final = 256 * 1024
"""Bytes that are sent before the others get their turn: a quarter of a millisecond."""

READ_SIZE: Final = RECORD + 1024
"""Bytes read at once."""

UNASKED: Final = 64 * 1024
"""Bytes of the protocol's own that a client may have us keep for it."""

CIPHERS: Final = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
"""Of TLS 1.2; those of TLS 1.3 are all good."""

HTTP_1: Final = "http/1.1"
HTTP_2: Final = "h2"

LOOK: Final = 0.5
"""Seconds between two looks at whether a certificate has been renewed; the server asks once a
second."""

SHOWN: Final = 3
"""Names in a message."""

TOO_WEAK: Final = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK")

log = logging.getLogger("knot")


# -- one connection ------------------------------------------------------------------------------


class PlainTextError(ConnectionError):
    """The client speaks HTTP where TLS is spoken."""


class Channel:
    """A connection through TLS, on a descriptor that does not block and stays its owner's.

    What has to wait raises `BlockingIOError`, as it does on a descriptor; a client that breaks the
    protocol is a `ConnectionError`.
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
        """Whether the client has said that nothing more will come."""

    @property
    def blocked(self) -> bool:
        """Whether something has to be written before anything else can happen."""
        return bool(self._left)

    @property
    def protocol(self) -> str:
        """What client and server have agreed to speak (ALPN, RFC 7301)."""
        return self._secret.selected_alpn_protocol() or HTTP_1

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done.  If not, the client has to be waited for:
        for its room if the channel is `blocked`, else for its bytes."""
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
        """What the client has sent; empty if nothing will come any more."""
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
                torn = True  # a record of which only a part has come
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
        """How many bytes of `data` the client has taken; the rest is to be given again."""
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
        """So many encrypted bytes have left; whether those were all."""
        left = self._left
        while left and moved >= len(left[0]):
            moved -= len(left.pop(0))
        if left:
            left[0] = memoryview(left[0])[moved:]
        return not left

    def _flush(self) -> None:
        """Send what the protocol itself has to say, as far as there is room."""
        if self._out.pending:
            if sum(map(len, self._left)) > UNASKED:
                raise ConnectionAbortedError("the client takes no answer to what it makes us say")
            self._left.append(self._out.read())
        if self._left and not self._owed:
            with suppress(BlockingIOError):
                self._advance(os.writev(self._fd, self._left))

    def end(self) -> None:
        """Say that nothing more will be sent (RFC 8446, section 6.1), if there is room for that."""
        with suppress(OSError):  # of TLS, too
            if not self._left:
                try:
                    self._secret.unwrap()
                finally:
                    self._flush()


def unraisable(report: Callable[[Any], object], found: Any) -> None:
    """A name that a client asks for and that is not ASCII ends its handshake with an alert, before
    `Certificates` is asked; `ssl` would say so on standard error each time."""
    if not (isinstance(found.exc_value, UnicodeDecodeError) and isinstance(found.object, bytes)):
        report(found)


# -- what the server shows -----------------------------------------------------------------------


class Certificate:
    """A chain of certificates with its key, in files of PEM, and a context that shows it."""

    def __init__(self, chain: str, key: str | None, protocols: Sequence[str]) -> None:
        """`key` is None if it stands in the chain's file.  Raises `ValueError` if the files are no
        such pair, `OSError` if they cannot be read."""
        self.chain = os.fsdecode(absolute(chain))
        self.key = None if key is None else os.fsdecode(absolute(key))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self.context.set_ciphers(CIPHERS)
        self.context.set_alpn_protocols(list(protocols))
        self.names: list[str] = []
        """Hosts that it is for, in lower case; ``*.`` stands for one label."""
        self.shown: list[str] = []
        """Hosts and addresses that it is for, else its subject, for messages."""
        self.valid = (-inf, inf)
        """From when until when, in seconds since the epoch."""
        self._stamps: list[Stamp] = []
        self._content: list[bytes] = []  # hashes of it
        self._settled = False
        self.load()

    @property
    def files(self) -> list[str]:
        return [self.chain] if self.key is None else [self.chain, self.key]

    def load(self) -> None:
        """Show from now on, to whoever connects, what stands in the files."""
        now, stamps = time(), self._look()
        content = self._hashes()  # also for an error that names the file
        try:
            # First elsewhere: a pair that does not fit would leave half of it behind.
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
        """Whether the files are others than those that were loaded.  Raises `OSError`."""
        now, stamps = time(), self._look()
        if stamps != self._stamps:
            return True
        if not self._settled:
            with suppress(PermissionError):  # whoever reads a key may have given up the right to
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
        """Why clients refuse it at that time, in seconds since the epoch; empty if they do not."""
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
            f"the key in {key or chain} is not that of the certificate in {chain}, or another"
            " certificate stands there before it"
        )
    if reason in TOO_WEAK:
        return f"the certificate in {chain} is too weak for OpenSSL: {reason}"
    if key is None:
        return f"{chain} has no certificate and key in PEM; name the key's file with --key"
    return f"{chain} and {key} are no certificate and key in PEM"


def first_of(chain: str) -> dict[str, Any]:
    """The first certificate of a file, as `ssl` reads that of a peer."""
    # No public function reads a certificate that is nobody's peer's.
    decode: Any = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
    found: dict[str, Any] = decode(chain)
    return found


def alternatives(found: dict[str, Any]) -> list[tuple[str, str]]:
    """For which hosts it is (RFC 6125; the older Common Name has no meaning any more)."""
    return [(kind, value) for kind, value in found.get("subjectAltName", ())]


def moment(date: str | None, otherwise: float) -> float:
    """In seconds since the epoch."""
    try:
        return otherwise if date is None else ssl.cert_time_to_seconds(date)
    except ValueError:
        return otherwise


def subject(found: dict[str, Any]) -> list[str]:
    return ["/".join(value for names in found.get("subject", ()) for _, value in names) or "nobody"]


class Certificates:
    """Those of one server: by the name that a client asks for (SNI, RFC 6066), else the first."""

    def __init__(
        self, pairs: Sequence[tuple[str, str | None]], protocols: Sequence[str] = (HTTP_1,)
    ) -> None:
        """`pairs` are the files of chain and key, one at least.  Raises as `Certificate` does."""
        self.protocols = protocols
        """What is spoken, the most liked first (ALPN)."""
        self._all = [Certificate(chain, key, protocols) for chain, key in pairs]
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._refused: dict[Certificate, str] = {}
        self._invalid: dict[Certificate, str] = {}
        """What has been said of those that clients refuse."""
        self._look_at = monotonic() + LOOK
        self.context = self._all[0].context
        """For new connections."""
        self._sort()
        self._begin()

    def _begin(self) -> None:
        if len(self._all) > 1:
            self.context.sni_callback = self._choose

    def adopt(self, other: Certificates) -> None:
        """Show from now on, to whoever connects, what `other` would."""
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
        """Now and then: load what has been renewed.  What cannot be used changes nothing, and is
        told once."""
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
        """Say once of each certificate that clients refuse it by now; or only note that it is known
        already."""
        now = time()
        for certificate in self._all:
            why = certificate.invalidity(now)
            if aloud and why and why != self._invalid.get(certificate):
                log.warning("%s", why)
            self._invalid[certificate] = why
