"""What ``knot serve`` is told: values of options, and the file ``knot.toml``.

An option of the command line goes before its environment variable, that before the file, that
before the default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from knot.process import cpus
from knot.process import listeners as sockets

FILE: Final = "knot.toml"

HOSTS: Final = "hosts"
"""A table of the file that is no option: what is served under other names."""

OF_A_HOST: Final = (
    "directory", "listing", "hidden", "follow_symlinks", "clean_urls", "spa", "mime",
    "cache_control", "header", "cors", "auth", "cert", "key", "shared_tags",
)  # fmt: skip
"""Options that a host may have of its own."""

SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


LINK: Final = re.compile(r"(?:tcp|udp|sctp)://\S*")
"""What Kubernetes and Docker have in variables such as ``KNOT_PORT`` for a service called knot."""

OF_LINKS: Final = re.compile(
    r".*_(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
"""Their names."""

MAX_SECONDS: Final = 1e9
"""31 years; timers do not know infinity."""

MIN_RATE: Final = 1e-3
MAX_RATE: Final = 1e6
"""Requests per second; what is slower is a lock, and what is faster is no limit."""


class Text(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """A line of text; an environment variable may have several, as values have spaces in them."""

    name = "Name: value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return str(value)

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.splitlines() if line.strip()]


class File(Text):
    """A path.  In a file of options it is relative to that file, elsewhere to the current
    directory."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("a path cannot be empty", param, ctx)
        return str(value)


class Host(click.ParamType):  # type: ignore[type-arg]
    """An address or a name to listen at; an environment variable may have several."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return sockets.parse_host(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def split_envvar_value(self, rv: str) -> list[str]:
        return rv.replace(",", " ").split()


class Pair(Text):
    """``KEY=VALUE``."""

    def __init__(self, key: str, value: str) -> None:
        self.name = f"{key}={value}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):  # converted already
            return value
        key, equals, rest = str(value).partition("=")
        if not (key.strip() and equals and rest.strip()):
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return key.strip(), rest.strip()


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, as ``64M``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no size: write bytes, or as 64M with K, M or G", param, ctx)
        return int(float(found[1]) * UNITS[found[2].lower()])


class Workers(click.ParamType):  # type: ignore[type-arg]
    """A number of processes, or ``auto`` for one on each CPU that may be used."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return cpus.available()
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is no number of processes: write 1 or more, or auto", param, ctx)
        return number


class Address(click.ParamType):  # type: ignore[type-arg]
    """Host and port, as ``127.0.0.1:9090``."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):  # converted already
            return value
        try:
            return sockets.parse_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Network(click.ParamType):  # type: ignore[type-arg]
    """A network, an address, or ``unix``."""

    name = "network"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from knot.access.networks import network

        try:
            return network(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Rate(click.ParamType):  # type: ignore[type-arg]
    """Something a second."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            rate = float(value)
        except ValueError:
            rate = 0
        if not MIN_RATE <= rate <= MAX_RATE:  # nor is NaN
            self.fail(f"{value!r} is no rate: write requests per second, as 20 or 0.5", param, ctx)
        return rate


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """Time."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1
        if not 0 <= seconds <= MAX_SECONDS:  # nor is NaN
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Option(click.Option):
    """One whose environment variable may be empty, or somebody else's."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return None if value is None or not value.strip() or LINK.fullmatch(value) else value


def doubts(prefix: str, names: Iterable[str], environment: Mapping[str, str]) -> Iterator[str]:
    """Sentences about variables that begin with `prefix` and set none of the options `names`."""
    known = [name.upper() for name in names]
    for variable, value in sorted(environment.items()):
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix)
        if name in known:
            if LINK.fullmatch(value):
                yield (
                    f"{variable}={value} is ignored: it is set for a service of that name;"
                    " enableServiceLinks: false in the pod's specification keeps it out"
                )
        elif not OF_LINKS.fullmatch(variable):
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            yield f"{variable} is ignored: there is no such option{hint}"


class Config(NamedTuple):
    """What a file says that is no default of an option."""

    file: Path | None
    """That was read; None if there is none."""
    hosts: Mapping[str, Mapping[str, Any]]
    """By `knot.access.virtual_hosts.pattern`, the options that a host has of its own."""


def load_config(ctx: click.Context, param: click.Parameter, path: str | None) -> Config:
    """Make the values of the file the defaults."""
    file = Path(FILE if path is None else path)
    if path is None and not file.is_file():
        return Config(None, {})
    options = {p.name: p for p in ctx.command.params if p.name not in (None, "config", "help")}
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{file} is no TOML: {error}") from None
    ctx.default_map = {}
    hosts: Mapping[str, Mapping[str, Any]] = {}
    keys: dict[str, str] = {}
    for key, value in values.items():
        name = known(key, [*(str(name) for name in options), HOSTS], str(file), keys)
        if name == HOSTS:
            hosts = load_hosts(ctx, value, {name: options[name] for name in OF_A_HOST}, file)
            continue
        try:
            ctx.default_map[name] = as_option(options[name], value, file)
        except ValueError as error:
            raise click.UsageError(f"{file}: {key} {error}") from None
    return Config(file, hosts)


def load_hosts(
    ctx: click.Context, table: object, options: Mapping[str, click.Parameter], file: Path
) -> dict[str, dict[str, Any]]:
    """The options of each host, from tables as ``[hosts."example.org"]``."""
    from knot.access.virtual_hosts import pattern

    if not isinstance(table, dict):
        raise click.UsageError(f'{file}: {HOSTS} has tables, as [{HOSTS}."example.org"]')
    hosts: dict[str, dict[str, Any]] = {}
    for text, values in table.items():
        where = f"{file}: host {text}"
        try:
            host = pattern(text)
        except ValueError as error:
            raise click.UsageError(f"{file}: {HOSTS}: {error}") from None
        if host in hosts:
            raise click.UsageError(f"{where} stands there twice")
        if not isinstance(values, dict):
            raise click.UsageError(f'{where} is a table: write it as [{HOSTS}."{text}"]')
        hosts[host] = {}
        keys: dict[str, str] = {}
        for key, value in values.items():
            if isinstance(value, dict) and key.replace("-", "_").lower() not in options:
                raise click.UsageError(
                    f"{where}: no option is called {key}; a name with dots in it is quoted, as"
                    f' [{HOSTS}."{text}.{key}"]'
                )
            name = known(key, options, where, keys)
            option = options[name]
            try:
                hosts[host][name] = option.type_cast_value(ctx, as_option(option, value, file))
            except (ValueError, click.BadParameter) as error:
                raise click.UsageError(f"{where}: {key} {error}") from None
    return hosts


def known(key: str, names: Collection[str], where: str, keys: dict[str, str]) -> str:
    """The parameter that a key of the file is for; `keys` are those that were there before it."""
    name = key.replace("-", "_").lower()
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
        raise click.UsageError(f"{where}: no option is called {key}{hint}")
    if name in keys:
        raise click.UsageError(f"{where}: {keys[name]} and {key} are the same option: remove one")
    keys[name] = key
    return name


def as_option(option: click.Parameter, value: object, file: Path) -> object:
    """A value of `file` as the command line would have it.  Raises `ValueError`."""
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise ValueError("is true or false")
        return value
    if getattr(option, "multiple", False):
        if isinstance(value, dict) and isinstance(option.type, Pair):
            return [f"{key}={text(member)}" for key, member in value.items()]
        if isinstance(value, str) and isinstance(option.type, File | Host):
            value = [value]
        if not isinstance(value, list):
            raise ValueError("is a list of strings")
        return [as_value(option, member, file) for member in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return as_value(option, value, file)


def as_value(option: click.Parameter, value: object, file: Path) -> str:
    found = text(value)
    if isinstance(option.type, File) and found:
        return os.path.join(os.path.dirname(file), found)
    return found


def text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"cannot be {value!r}")
    return value
