"""A JSON schema of ``knot.toml`` (draft 7, which editors of TOML understand), from the options.

It describes the usual way to write each value; Knot takes a few more, such as numbers as strings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import click

from knot.config import HOSTS, OF_A_HOST
from knot.options import (
    MAX_RATE,
    MAX_SECONDS,
    MIN_RATE,
    Address,
    File,
    Host,
    Network,
    Option,
    Pair,
    Rate,
    Seconds,
    Size,
    Text,
    Workers,
    as_text,
)

Schema = dict[str, Any]

PATH: Final[Schema] = {"type": "string", "minLength": 1}

STRINGS: Final[Schema] = {"type": "array", "items": {"type": "string"}}

SIZE: Final[Schema] = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^\d+(\.\d+)? *([KMGkmg]?)(i?[Bb])?$"},
    ]
}

PAIRS: Final[Schema] = {
    "anyOf": [{"type": "object", "additionalProperties": {"type": "string"}}, STRINGS]
}

KINDS: Final[dict[type, Schema]] = {
    Address: {"type": "string"},
    File: PATH,
    Host: {"type": "string"},
    Network: {"type": "string"},
    Rate: {"type": "number", "minimum": MIN_RATE, "maximum": MAX_RATE},
    Seconds: {"type": "number", "minimum": 0, "maximum": MAX_SECONDS},
    Size: SIZE,
    Text: {"type": "string"},
    Workers: {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]},
}


def schema_of(parameters: Iterable[click.Parameter]) -> Schema:
    options = {str(each.name): each for each in parameters if each.name != "config"}
    hosts = table({name: options[name] for name in OF_A_HOST})
    found = table(options)
    found["properties"][HOSTS] = {
        "description": 'Sites for other host names, such as [hosts."example.org"].',
        "type": "object",
        "additionalProperties": hosts,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "knot.toml",
        "description": "Options of knot serve.",
        **found,
    }


def table(options: dict[str, click.Parameter]) -> Schema:
    """Each option by its name with dashes; a name with underscores is understood, too."""
    properties = {name.replace("_", "-"): property_of(each) for name, each in options.items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "patternProperties": {
            f"^{name}$": properties[name.replace("_", "-")] for name in options if "_" in name
        },
    }


def property_of(parameter: click.Parameter) -> Schema:
    if not isinstance(parameter, Option):
        return {"description": "Directory to serve.", **PATH, "default": "."}
    found = {"description": parameter.help, **values_of(parameter)}
    if parameter.multiple or parameter.is_flag or not parameter.default_text():
        return found
    if isinstance(parameter.default, int | float | str):
        default = parameter.default
        found["default"] = as_text(parameter.type, default) if "anyOf" in found else default
    return found


def values_of(option: Option) -> Schema:
    kind = option.type
    if option.is_flag:
        return {"type": "boolean"}
    if isinstance(kind, Pair):
        return PAIRS
    if isinstance(kind, click.Choice):
        return {"enum": list(kind.choices)}
    if isinstance(kind, click.IntRange):
        limits = {"minimum": kind.min, "maximum": kind.max}
        return {
            "type": "integer",
            **{name: limit for name, limit in limits.items() if limit is not None},
        }
    single = KINDS.get(type(kind), {"type": "string"})
    if not option.multiple:
        return single
    several = {"type": "array", "items": single}
    return {"anyOf": [single, several]} if isinstance(kind, File | Host) else several
