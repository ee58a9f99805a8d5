"""Content codings (RFC 9110, sections 8.4 and 12.5.3): which of them a client accepts.

No I/O.  At equal weight, the coding that compresses better wins.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from knot.files.compression import SUFFIXES

MAX_ACCEPT_ENCODING: Final = 256
"""Length of an Accept-Encoding field beyond which it is ignored, in bytes; browsers send 25."""

MEMBER: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?",
    re.IGNORECASE,
)


def acceptable(value: bytes) -> tuple[bytes, ...]:
    """The codings of `SUFFIXES` that an Accept-Encoding field prefers to none, the best first."""
    return _acceptable(value) if len(value) <= MAX_ACCEPT_ENCODING else ()


def refuses_identity(value: bytes) -> bool:
    """Whether an Accept-Encoding field rules out content that is in no coding at all."""
    if len(value) > MAX_ACCEPT_ENCODING:
        return False
    weights = parse(value)
    return weights.get(b"identity", weights.get(b"*", 1.0)) == 0


def parse(value: bytes) -> dict[bytes, float]:
    """The weights in an Accept-Encoding field; a malformed member is left out."""
    weights: dict[bytes, float] = {}
    for member in value.split(b","):
        found = MEMBER.fullmatch(member.strip(b" \t"))
        if found is not None:
            name = found[1].lower().removeprefix(b"x-")
            weights[name] = max(weights.get(name, 0.0), float(found[2] or 1))
    return weights


@lru_cache(512)  # the clients of a server send a few values
def _acceptable(value: bytes) -> tuple[bytes, ...]:
    weights = parse(value)
    others = weights.get(b"*", 0.0)
    plain = weights.get(b"identity", 0.0)
    codings = [(weights.get(coding, others), coding) for coding in SUFFIXES]
    taken = [(weight, coding) for weight, coding in codings if weight > 0 and weight >= plain]
    return tuple(coding for _, coding in sorted(taken, key=lambda entry: -entry[0]))
