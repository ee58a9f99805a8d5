"""Which media type a client prefers (RFC 9110, section 12.5.1).  No I/O."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MAX_ACCEPT: Final = 512
"""Bytes of an Accept field that is read; browsers send up to 200."""

QUOTED: Final = rb'"(?:[^"\\]|\\.)*+"'
MEMBER: Final = re.compile(rb'(?:[^",]|' + QUOTED + rb")++", re.DOTALL)
PARAMETER: Final = re.compile(rb'(?:[^";]|' + QUOTED + rb")++", re.DOTALL)
WEIGHT: Final = re.compile(rb"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)

JSON: Final = (b"application/json", b"application/*", b"*/*")
PAGE: Final = (b"text/html", b"text/*", b"*/*")
"""The ranges that match a type, the most specific first."""

Ranges = dict[tuple[bytes, bool], float]
"""Weights of media ranges, by name and whether they have parameters."""


@lru_cache(256)  # the clients of a server send a few values
def prefers_json(value: bytes) -> bool:
    """Whether JSON is preferred to a page by an Accept field.

    Of two types with the same weight a client prefers the one that it names more exactly:
    ``application/json, */*`` asks for JSON, and ``*/*`` for whatever there is.
    """
    if len(value) > MAX_ACCEPT:
        return False
    ranges = parse(value)
    return preference(ranges, JSON) > preference(ranges, PAGE)


def preference(ranges: Ranges, names: tuple[bytes, ...]) -> tuple[float, int]:
    """The weight of a type, and how exactly it is named."""
    for rank, name in enumerate(names):
        for has_parameters in (False, True):
            weight = ranges.get((name, has_parameters))
            if weight is not None:
                return (weight, -rank) if weight else (0.0, -len(names))
    return 0.0, -len(names)


def parse(value: bytes) -> Ranges:
    """The ranges of an Accept field; a member with a malformed weight is left out."""
    ranges: Ranges = {}
    for member in MEMBER.findall(value):
        name, *parameters = [part.strip(b" \t") for part in PARAMETER.findall(member)] or [b""]
        weight = 1.0
        for parameter in parameters:
            if parameter[:2].lower() == b"q=":
                found = WEIGHT.fullmatch(parameter)
                weight = float(found[1]) if found else -1.0
                parameters = [other for other in parameters if other is not parameter]
                break
        key = (name.lower(), any(parameters))
        if weight >= 0:
            ranges[key] = max(weight, ranges.get(key, 0.0))
    return ranges
