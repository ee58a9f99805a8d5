"""What ``knot serve`` is given: the file ``knot.toml``, and all values together as `Settings`.

An option on the command line overrides its environment variable, that overrides the file, and that
the default.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from knot.limits import Limits
from knot.options import File, Host, Option, Pair, as_text
from knot.settings import Access, Listening, Logging, Process, Settings, SiteSettings, Tls

FILE: Final = "knot.toml"

HOSTS: Final = "hosts"
"""A table of the file that is not an option: what is served under other names."""

OF_A_HOST: Final = tuple(each.name for each in fields(SiteSettings))
"""Options that a host may have of its own."""

COLUMN: Final = 44
"""Where the sources are printed."""

Part = TypeVar("Part", Access, Listening, Logging, Process, SiteSettings, Tls)


# -- all values together -------------------------------------------------------------------------


def read_settings(values: Mapping[str, Any]) -> Settings:
    """The settings from the values of all options, as click has converted them."""
    config: Config = values["config"]
    on_terminal = is_on_terminal()
    values = {**values, **defaults_by_terminal(values, on_terminal)}
    site = part(SiteSettings, values)
    # A certificate is for the names in it, and so no default for other hosts.
    other = replace(site, cert=(), key=())
    return Settings(
        site=site,
        hosts={host: replace(other, **own) for host, own in config.hosts.items()},
        listening=part(Listening, values),
        process=part(Process, values),
        tls=part(Tls, values),
        access=part(Access, values),
        limits=Limits(
            head=values["head_timeout"],
            keep_alive=values["keep_alive"],
            send=values["send_timeout"],
            requests=values["max_requests"],
            connections=values["max_connections"],
        ),
        logging=part(Logging, values),
        cache_size=values["cache_size"],
        open=values["open"],
        file=config.file,
        on_terminal=on_terminal,
    )


def part(kind: type[Part], values: Mapping[str, Any]) -> Part:
    return kind(**{each.name: values[each.name] for each in fields(kind)})


def is_on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def defaults_by_terminal(values: Mapping[str, Any], on_terminal: bool) -> dict[str, Any]:
    """A person who serves a directory by hand sees it listed, and what is fetched."""
    found: dict[str, Any] = {}
    if values["listing"] is None:
        found["listing"] = on_terminal
    if values["log"] is None:
        by_default = "short" if on_terminal else "off"
        found["log"] = by_default if values["log_file"] is None else "common"
    return found


def effective(ctx: click.Context, groups: Mapping[str, Sequence[Option]]) -> Iterator[str]:
    """All settings as lines of TOML, each with where it comes from."""
    config: Config = ctx.params["config"]
    values = {**ctx.params, **defaults_by_terminal(ctx.params, is_on_terminal())}
    directory, *_ = ctx.command.params
    yield setting(directory, values["directory"], source(ctx, directory, str(config.file)))
    for title, options in groups.items():
        yield ""
        yield f"# {title}"
        for option in options:
            if option.name != "config":
                value = values[str(option.name)]
                yield setting(option, value, source(ctx, option, str(config.file)))
    parameters = {str(each.name): each for each in ctx.command.params}
    for host, own in config.hosts.items():
        yield ""
        yield f"[{HOSTS}.{json.dumps(host)}]"
        for name, value in own.items():
            yield setting(parameters[name], value, str(config.file))


def source(ctx: click.Context, option: click.Parameter, file: str) -> str:
    """Where the value of the option comes from."""
    name = str(option.name)
    found = ctx.get_parameter_source(name)
    if found is ParameterSource.COMMANDLINE:
        return "command line"
    if found is ParameterSource.ENVIRONMENT:
        return f"{ctx.auto_envvar_prefix}_{name.upper()}"
    if found is ParameterSource.DEFAULT_MAP:
        return file
    otherwise = getattr(option, "otherwise", "")
    return f"default: {otherwise}" if otherwise else "default"


def setting(option: click.Parameter, value: object, source: str) -> str:
    name = str(option.name).replace("_", "-")
    if value is None:
        return f"{'# ' + name:{COLUMN}} # not set"
    return f"{f'{name} = {as_toml(option, value)}':{COLUMN}} # {source}"


def as_toml(option: click.Parameter, value: Any) -> str:
    if getattr(option, "multiple", False):
        return f"[{', '.join(quoted(as_text(option.type, each)) for each in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    text = as_text(option.type, value)
    return text if isinstance(value, int | float) and text[-1].isdigit() else quoted(text)


def quoted(text: str) -> str:
    """A basic string of TOML, which is a string of JSON, too."""
    return json.dumps(text, ensure_ascii=False)


# -- the file ------------------------------------------------------------------------------------


class Config(NamedTuple):
    """What a file says that is not the default of an option."""

    file: Path | None
    """That was read; None if there is none."""
    hosts: Mapping[str, Mapping[str, Any]]
    """By `knot.access.virtual_hosts.pattern`, the options that a host has of its own."""


def load_config(ctx: click.Context, param: click.Parameter, path: str | None) -> Config:
    """Make the values of the file the defaults."""
    file = Path(FILE if path is None else path)
    if path is None and not file.is_file():
        return Config(None, {})
    options = {str(each.name): each for each in ctx.command.params if each.name != "config"}
    ctx.default_map = {}
    hosts: Mapping[str, Mapping[str, Any]] = {}
    keys: dict[str, str] = {}
    for key, value in parse(file).items():
        name = known(key, [*options, HOSTS], str(file), keys)
        if name == HOSTS:
            hosts = load_hosts(ctx, value, {name: options[name] for name in OF_A_HOST}, file)
            continue
        try:
            ctx.default_map[name] = as_option(options[name], value, file)
        except ValueError as error:
            raise click.UsageError(f"{file}: {key} {error}") from None
    return Config(file, hosts)


def parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{file} is not valid TOML: {error}") from None


def load_hosts(
    ctx: click.Context, tables: object, options: Mapping[str, click.Parameter], file: Path
) -> dict[str, dict[str, Any]]:
    """The options of each host, from tables such as ``[hosts."example.org"]``."""
    from knot.access.virtual_hosts import pattern

    if not isinstance(tables, dict):
        raise click.UsageError(f'{file}: {HOSTS} must be tables, such as [{HOSTS}."example.org"]')
    hosts: dict[str, dict[str, Any]] = {}
    for text, table in tables.items():
        where = f"{file}: host {text}"
        try:
            host = pattern(text)
        except ValueError as error:
            raise click.UsageError(f"{file}: {HOSTS}: {error}") from None
        if host in hosts:
            raise click.UsageError(f"{where} is given twice: remove one of the tables")
        if not isinstance(table, dict):
            raise click.UsageError(f'{where} must be a table: write it as [{HOSTS}."{text}"]')
        for key, value in table.items():
            if isinstance(value, dict) and parameter_of(key) not in options:
                raise click.UsageError(
                    f"{where}: unknown option {key}; quote a name with dots in it, as in"
                    f' [{HOSTS}."{text}.{key}"]'
                )
        hosts[host] = load_host(ctx, table, options, where, file)
    return hosts


def load_host(
    ctx: click.Context,
    table: Mapping[str, object],
    options: Mapping[str, click.Parameter],
    where: str,
    file: Path,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in table.items():
        name = known(key, options, where, keys)
        option = options[name]
        try:
            values[name] = option.type_cast_value(ctx, as_option(option, value, file))
        except (ValueError, click.BadParameter) as error:
            raise click.UsageError(f"{where}: {key} {error}") from None
    return values


def parameter_of(key: str) -> str:
    return key.replace("-", "_").lower()


def known(key: str, names: Collection[str], where: str, keys: dict[str, str]) -> str:
    """The parameter that a key of the file is for; `keys` are the ones before it."""
    name = parameter_of(key)
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
        raise click.UsageError(f"{where}: unknown option {key}{hint}")
    if name in keys:
        raise click.UsageError(f"{where}: {keys[name]} and {key} are the same option: remove one")
    keys[name] = key
    return name


def as_option(option: click.Parameter, value: object, file: Path) -> object:
    """A value of `file` as it would be on the command line.  Raises `ValueError`."""
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if getattr(option, "multiple", False):
        if isinstance(value, dict) and isinstance(option.type, Pair):
            return [f"{key}={text(member)}" for key, member in value.items()]
        if isinstance(value, str) and isinstance(option.type, File | Host):
            value = [value]
        if not isinstance(value, list):
            raise ValueError("must be a list of strings")
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
