"""Options for click: the types of their values, and how their help is written.

Which options there are is in `knot.cli`, and what their values become in `knot.config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

import click

from knot.process import cpus
from knot.process.addresses import format_address, parse_address, parse_host

SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

LINK: Final = re.compile(r"(?:tcp|udp|sctp)://\S*")
"""Values that Kubernetes and Docker give ``KNOT_PORT`` and the like for a service named knot."""

OF_LINKS: Final = re.compile(
    r".*_(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
"""The names of those variables."""

MAX_SECONDS: Final = 1e9
"""The longest time, 31 years: timers do not accept infinity."""

MIN_RATE: Final = 1e-3
MAX_RATE: Final = 1e6
"""Requests per second: less would lock a client out, and more would be no limit."""


# -- types ---------------------------------------------------------------------------------------


class Text(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """A line of text; an environment variable may have several, since values contain spaces."""

    name = "Name: value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return str(value)

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.splitlines() if line.strip()]


class File(Text):
    """A path.  In ``knot.toml`` it is relative to that file, elsewhere to the current directory."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("a path cannot be empty", param, ctx)
        return str(value)


class Host(click.ParamType):  # type: ignore[type-arg]
    """An address or a name to listen on; an environment variable may have several."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_host(str(value))
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
    """Bytes, such as ``64M``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a valid size; use bytes, or 64K, 64M, 1G", param, ctx)
        return int(float(found[1]) * UNITS[found[2].lower()])


class Workers(click.ParamType):  # type: ignore[type-arg]
    """A number of processes, or ``auto`` for one per CPU that may be used."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return cpus.available()
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(
                f"{value!r} is not a valid number of processes; use 1 or more, or 'auto'",
                param,
                ctx,
            )
        return number


class Address(click.ParamType):  # type: ignore[type-arg]
    """Host and port, such as ``127.0.0.1:9090``."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):  # converted already
            return value
        try:
            return parse_address(str(value))
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
    """A number per second."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            rate = float(value)
        except ValueError:
            rate = 0
        if not MIN_RATE <= rate <= MAX_RATE:  # which NaN is not, either
            self.fail(
                f"{value!r} is not a valid rate; use requests per second, such as 20 or 0.5",
                param,
                ctx,
            )
        return rate


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A time."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1
        if not 0 <= seconds <= MAX_SECONDS:  # which NaN is not, either
            self.fail(f"{value!r} is not a valid number of seconds; use 10 or 0.5", param, ctx)
        return seconds


def as_text(kind: click.ParamType, value: Any) -> str:  # type: ignore[type-arg]
    """A value as it would be given on the command line."""
    if isinstance(kind, Size):
        return with_unit(value)
    if isinstance(kind, Address):
        return format_address(*value)
    if isinstance(kind, Pair):
        return "=".join(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def with_unit(size: int) -> str:
    for unit in "gmk":
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit.upper()}"
    return str(size)


# -- options -------------------------------------------------------------------------------------


class Option(click.Option):
    """An option whose environment variable may be empty, or be meant for something else."""

    def __init__(self, *names: str, otherwise: str = "", **attributes: Any) -> None:
        """`otherwise` describes the default, if it depends on other settings."""
        super().__init__(list(names), **attributes)
        self.otherwise = otherwise

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return None if value is None or not value.strip() or LINK.fullmatch(value) else value

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        names = self.opts[0]
        if self.secondary_opts:
            names = names.replace("--", "--[no-]")
        if not self.is_flag:
            names += f" {self.metavar or self.type.name.upper()}"
        default = self.default_text()
        return names, (self.help or "") + (f"  [default: {default}]" if default else "")

    def default_text(self) -> str:
        """The default as the help shows it; empty if there is nothing to say."""
        if self.otherwise or self.is_flag:
            return self.otherwise
        values = self.default if self.multiple else [self.default]
        if not isinstance(values, list | tuple):
            return ""
        values = [value for value in values if isinstance(value, int | float | str)]
        return ", ".join(as_text(self.type, value) for value in values)


class Command(click.Command):
    """A command with groups of options.

    ``--help`` describes the options that are used most and names the others; ``--help-all``
    describes all of them.
    """

    def __init__(
        self, *arguments: Any, groups: Mapping[str, Sequence[Option]], most_used: Sequence[str],
        **attributes: Any,
    ) -> None:  # fmt: skip
        super().__init__(*arguments, **attributes)
        self.params += [option for options in groups.values() for option in options]
        self._groups = groups
        self._most_used = most_used
        self._help_all = click.Option(
            ["--help-all"], is_flag=True, expose_value=False, is_eager=True, callback=show_all,
            allow_from_autoenv=False,
        )  # fmt: skip

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), self._help_all]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everything = ctx.meta.get(EVERYTHING, False)
        for name, options in self._groups.items() if everything else [("Most used", self._most())]:
            with formatter.section(name):
                formatter.write_dl([option.get_help_record(ctx) for option in options])
        if not everything:
            with formatter.section("More options, described by --help-all"):
                formatter.write_dl(list(self._others()))

    def _most(self) -> list[Option]:
        every = {option.opts[0]: option for options in self._groups.values() for option in options}
        return [every[name] for name in self._most_used]

    def _others(self) -> Iterator[tuple[str, str]]:
        """The names in each group that are not among those used most."""
        for name, options in self._groups.items():
            others = [each.opts[0] for each in options if each.opts[0] not in self._most_used]
            if others:
                yield name, " ".join(others)


EVERYTHING: Final = f"{__name__}.everything"
"""A key of `click.Context.meta`."""


def show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[EVERYTHING] = True
        click.echo(ctx.get_help())
        ctx.exit()


# -- the environment -----------------------------------------------------------------------------


def doubts(prefix: str, names: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    """Sentences about variables that begin with `prefix` and set none of the options `names`."""
    known = [name.upper() for name in names]
    for variable, value in sorted(environment.items()):
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix)
        if name in known:
            if LINK.fullmatch(value):
                yield (
                    f"{variable}={value} is ignored: it describes a service of that name; set"
                    " enableServiceLinks: false in the pod's specification to keep it out"
                )
        elif not OF_LINKS.fullmatch(variable):
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            yield f"{variable} is ignored: there is no such option{hint}"
