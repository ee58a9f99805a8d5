"""What ``knot serve`` is told: values of options, and the file ``knot.toml``.

An option of the command line goes before its environment variable, that before the file, that
before the default.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import click

FILE: Final = "knot.toml"

SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """Bytes, as ``64M``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no size: write bytes, or as 64M with K, M or G", param, ctx)
        return int(float(found[1]) * UNITS[found[2].lower()])


class Pair(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """``KEY=VALUE``."""

    envvar_list_splitter = "\n"  # values have spaces in them

    def __init__(self, key: str, value: str) -> None:
        self.name = f"{key}={value}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, rest = str(value).partition("=")
        if not (key.strip() and equals and rest.strip()):
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return key.strip(), rest.strip()


class Line(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """A line of text; an environment variable may have several."""

    name = "Name: value"
    envvar_list_splitter = "\n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


def load_config(ctx: click.Context, param: click.Parameter, path: str | None) -> Path | None:
    """Make the values of the file the defaults; the file that was read, if one was."""
    file = Path(path or FILE)
    if path is None and not file.is_file():
        return None
    names = {p.name for p in ctx.command.params if p.name} - {"config", "help"}
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} is no TOML: {error}") from None
    ctx.default_map = {known(key, names, file): as_option(value) for key, value in values.items()}
    return file


def known(key: str, names: Collection[str], file: Path) -> str:
    """The parameter that a key of the file is for."""
    name = key.replace("-", "_").lower()
    if name in names:
        return name
    near = get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
    raise click.UsageError(f"{file}: no option is called {key}{hint}")


def as_option(value: object) -> object:
    """A table of the file as the list of pairs that an option has."""
    return list(value.items()) if isinstance(value, dict) else value
