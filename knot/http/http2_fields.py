"""The header fields of HTTP/2 (RFC 9113, section 8): a request is read from a list of them, and a
response is written as one (RFC 7541).  No I/O, and nothing of frames or streams.

Fields are validated here, not by the library `h2`: in 6 µs for a browser's and not 27, and a
request that is not valid gets a response instead of a reset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hpack import (
    Decoder,
    Encoder,
    HeaderTuple,
    HPACKError,
    NeverIndexedHeaderTuple,
    OversizedHeaderListError,
)

from knot.http.accept import MAX_ACCEPT, prefers_json
from knot.http.request import (
    ACCEPT,
    AGENT,
    BAD_TARGET,
    CONNECT,
    FIELDS,
    HOST,
    LENGTH,
    MAX_FIELDS,
    MAX_HEAD,
    MAX_REMEMBERED,
    MAX_REMEMBERED_SIZE,
    MAX_SAID,
    MAX_TARGET,
    NO_NAMES,
    PREFERS_JSON,
    REFERER,
    TOO_LONG_TARGET,
    TOO_MANY_FIELDS,
    UNKNOWN_METHOD,
    BadRequest,
    Request,
    can_be_authority,
    can_be_target,
    new_request,
)

STATUS: Final = b":status"
METHOD: Final = b":method"
PATH: Final = b":path"
SCHEME: Final = b":scheme"
AUTHORITY: Final = b":authority"
PSEUDO: Final = {METHOD, PATH, SCHEME, AUTHORITY}
FIELD_NAMES: Final = frozenset(FIELDS)

METHODS: Final = {
    CONNECT, b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE",
}  # fmt: skip

TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NAME: Final = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
VALUE: Final = re.compile(rb"(?![ \t])[^\x00-\x08\x0a-\x1f\x7f]*(?<![ \t])")
"""The characters that a field value may have (section 8.2.1, and RFC 9110, section 5.5)."""

NUMBER: Final = re.compile(rb"[0-9]{1,18}")

CONNECTION_FIELDS: Final = {
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
}  # fmt: skip
"""Fields of HTTP/1.1 that HTTP/2 does not allow (section 8.2.2)."""

_fields_seen: set[tuple[bytes, bytes]] = set()  # valid ones: a look here costs a third


# -- decoding --------------------------------------------------------------------------------------


class CompressionError(ProtocolError):
    """A block of fields that cannot be decoded, or no longer can (section 4.3)."""

    error_code = ErrorCodes.COMPRESSION_ERROR


class ContentLength(HeaderTuple):
    """A content-length, hidden under an empty name, which no valid field has."""


class FieldDecoder(Decoder):
    """HPACK's decoder for h2, which hides from it every content-length and status.

    If one is not valid, h2 ends the connection; by section 8.1.1 only the stream is at fault.
    """

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        try:
            fields = super().decode(data, raw)
        except OversizedHeaderListError:
            raise
        except HPACKError as error:
            raise CompressionError(str(error)) from error
        names = [field[0] for field in fields]
        if LENGTH in names or STATUS in names:
            fields = [hidden(field) for field in fields]
        return fields


def hidden(field: HeaderTuple) -> HeaderTuple:
    name, value = field
    if name == LENGTH:
        return ContentLength(b"", value)
    return HeaderTuple(b"", value) if name == STATUS else field


# -- requests --------------------------------------------------------------------------------------


class Head(NamedTuple):
    """A list of fields, sorted by what each is for."""

    pseudo: dict[bytes, bytes]
    kept: list[tuple[bytes, bytes]]
    """Fields that the response may depend on."""
    hosts: list[bytes]
    lengths: list[bytes]
    accept: bytes
    said: tuple[bytes, bytes]
    """Referer and User-Agent."""
    size: int
    """As section 6.5.2 counts it."""
    is_valid: bool
    """Whether each field is valid and in a valid place."""


def find_request(
    fields: Iterable[tuple[bytes, bytes]],
    wanted: frozenset[bytes] = NO_NAMES,
    whole: bool = True,
) -> tuple[Request | BadRequest, tuple[bytes, bytes]]:
    """The request in a list of fields (section 8.3.1), or its refusal; with Referer and User-Agent.

    `wanted` are names of further fields to keep; `whole` means that no content follows.
    """
    head = read_head(fields, wanted)
    pseudo, kept, hosts, _, accept, said, *_ = head
    authority = pseudo.get(AUTHORITY) or (hosts[0] if hosts else b"")
    method = pseudo.get(METHOD, b"")
    target = authority if method == CONNECT else pseudo.get(PATH, b"")
    fault = find_fault(head, method, target, authority, whole)
    if fault is not None:
        status, reason = fault
        return BadRequest(status, reason, target[:MAX_TARGET]), said
    if accept and prefers_json(accept):
        kept.append(PREFERS_JSON)
    if HOST in wanted:
        kept.append((HOST, authority))
    return new_request((method, target, True, False, tuple(kept))), said


def read_head(fields: Iterable[tuple[bytes, bytes]], wanted: frozenset[bytes]) -> Head:
    pseudo: dict[bytes, bytes] = {}
    kept: list[tuple[bytes, bytes]] = []
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    accept = referer = agent = b""
    size = 0
    is_valid, regular = True, False
    for field in fields:
        name, value = field
        size += len(name) + len(value) + 32
        if field not in _fields_seen and not can_be_field(name, value):
            if isinstance(field, ContentLength):
                lengths.append(value)
            else:
                is_valid = False
        elif name in PSEUDO:
            is_valid = is_valid and not regular and name not in pseudo
            pseudo[name] = value
            continue
        elif name in FIELD_NAMES:
            kept.append((name, value))
        elif name == ACCEPT:
            accept = accept[: MAX_ACCEPT + 1] + b", " + value if accept else value
        elif name == HOST:
            hosts.append(value)
        elif name == REFERER:
            referer = value[:MAX_SAID]
        elif name == AGENT:
            agent = value[:MAX_SAID]
        elif name in wanted:
            kept.append((name, value))
        regular = True
    return Head(pseudo, kept, hosts, lengths, accept, (referer, agent), size, is_valid)


def find_fault(
    head: Head, method: bytes, target: bytes, authority: bytes, whole: bool
) -> tuple[int, str] | None:
    """The status and the reason for which a request is refused; None if it is valid."""
    hosts = head.hosts
    if head.size > MAX_HEAD:
        return 431, f"the request header fields are longer than {MAX_HEAD} bytes"
    if len(target) > MAX_TARGET:
        return 414, TOO_LONG_TARGET
    if len(head.kept) > MAX_FIELDS:
        return 431, TOO_MANY_FIELDS
    if not head.is_valid or not fits_method(head.pseudo, method, target):
        return 400, "the header fields are not those of a request (RFC 9113, section 8.3.1)"
    if head.lengths and not can_be_length(head.lengths, whole):
        return 400, "the content-length is not that of the content (RFC 9113, section 8.1.1)"
    if len(hosts) > 1 or (hosts and hosts[0] != authority) or not can_be_authority(authority):
        return 400, "a request must name one valid host (RFC 9113, section 8.3.1)"
    if not can_be_target(target, method):
        return 400, BAD_TARGET
    if method not in METHODS:
        return 501, UNKNOWN_METHOD
    return None


def fits_method(pseudo: dict[bytes, bytes], method: bytes, target: bytes) -> bool:
    """Whether a request with that method has the pseudo-header fields that it must have."""
    if method == CONNECT:
        return PATH not in pseudo and SCHEME not in pseudo
    if SCHEME not in pseudo or target[:1] not in (b"/", b"*"):
        return False
    return method in METHODS or TOKEN.fullmatch(method) is not None


def can_be_length(values: list[bytes], whole: bool) -> bool:
    """Whether a request may have these content-lengths; a `whole` one has no content."""
    if len(values) > 1 or not NUMBER.fullmatch(values[0]):
        return False
    return not (whole and int(values[0]))


def length_in(fields: Iterable[tuple[bytes, bytes]]) -> int | None:
    """The content-length of a request; None if it has none."""
    for field in fields:
        if isinstance(field, ContentLength) and NUMBER.fullmatch(field[1]):
            return int(field[1])
    return None


def can_be_trailer(field: tuple[bytes, bytes]) -> bool:
    name, value = field
    return not name.startswith(b":") and can_be_field(name, value)


def can_be_field(name: bytes, value: bytes) -> bool:
    if not NAME.fullmatch(name) or not VALUE.fullmatch(value) or name in CONNECTION_FIELDS:
        return False
    if name.startswith(b":") and name not in PSEUDO:
        return False
    if name == b"te" and value != b"trailers":
        return False
    if len(value) < MAX_REMEMBERED_SIZE and len(_fields_seen) < MAX_REMEMBERED:
        _fields_seen.add((name, value))
    return True


# -- responses -------------------------------------------------------------------------------------


@lru_cache(512)
def encoded(head: bytes) -> bytes:
    """The head of an HTTP/1.1 response as a block of fields (section 8.3.2).

    It uses no dynamic table, so that equal responses have equal blocks: 0.4 µs instead of 17, for
    150 bytes instead of 10, which is still half of what HTTP/1.1 takes.
    """
    status, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return literal(STATUS, status[9:12]) + b"".join(
        [literal(*line.split(b": ", 1)) for line in lines]
    )


@lru_cache(4096)
def literal(name: bytes, value: bytes) -> bytes:
    """A field without indexing (RFC 7541, section 6.2.2), or by its index in the static table."""
    name = name.lower()
    if name in CONNECTION_FIELDS:
        return b""
    block = _encoder.encode([NeverIndexedHeaderTuple(name, value)], huffman=True)
    if block[0] & 0xF0 == 0x10:  # "never indexed" is meant for secrets
        return bytes((block[0] & 0x0F,)) + block[1:]
    return block


_encoder = Encoder()  # its dynamic table stays empty
