"""``knot schema``: every option is in it, and what the documentation shows fits."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from knot.cli import main, serve
from knot.config import OF_A_HOST

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


TYPES: dict[str, Any] = {
    "array": list, "boolean": bool, "integer": int, "number": int | float, "object": dict,
    "string": str,
}  # fmt: skip


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As a validator decides it; only for the words that this schema uses."""
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        return False
    tests = {
        "anyOf": lambda schemas: any(fits(value, each) for each in schemas),
        "enum": lambda values: value in values,
        "const": lambda expected: value == expected,
        "minimum": lambda limit: value >= limit,
        "maximum": lambda limit: value <= limit,
        "minLength": lambda length: len(value) >= length,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "items": lambda items: all(fits(each, items) for each in value),
        "additionalProperties": lambda _: all(
            fits_member(name, member, schema) for name, member in value.items()
        ),
    }
    known = {"$schema", "title", "description", "type", "default", "properties"}
    assert set(schema) <= {*tests, *known, "patternProperties"}
    return all(test(schema[word]) for word, test in tests.items() if word in schema)


def fits_member(name: str, value: Any, schema: dict[str, Any]) -> bool:
    patterns = schema.get("patternProperties", {})
    schemas = [each for pattern, each in patterns.items() if re.search(pattern, name)]
    schemas += [schema["properties"][name]] if name in schema.get("properties", {}) else []
    rest = schema["additionalProperties"]
    return all(fits(value, each) for each in schemas) if schemas else rest and fits(value, rest)


def test_every_option_is_in_it(schema: dict[str, Any]) -> None:
    options = {str(param.name).replace("_", "-") for param in serve.params} - {"config"}
    assert set(schema["properties"]) == {*options, "hosts"}
    of_a_host = schema["properties"]["hosts"]["additionalProperties"]["properties"]
    assert set(of_a_host) == {name.replace("_", "-") for name in OF_A_HOST}
    for name, each in schema["properties"].items():
        assert each["description"], name
        assert "default" not in each or fits(each["default"], each), name
    assert schema["properties"]["port"] == {
        "description": "Port to listen on; 0 takes any that is free.",
        "type": "integer",
        "minimum": 0,
        "maximum": 65535,
        "default": 8000,
    }
    assert schema["properties"]["model"]["enum"] == ["events", "threads", "asyncio", "greenlets"]


FILES = [
    (page.name, text)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.mark.parametrize(("page", "text"), FILES)
def test_the_examples_of_the_documentation_fit(
    schema: dict[str, Any], page: str, text: str
) -> None:
    assert fits(tomllib.loads(text), schema)


RIGHT = [
    'host = "::1"', 'host = ["::1", "localhost"]', "port = 0", "hidden = true", "clean_urls = true",
    'cache-size = "1.5G"', "cache_size = 4096", 'workers = "auto"', "workers = 2", "max-rate = 0.5",
    "grace = 0", 'log = "json"', 'cert = "a.pem"', 'cert = ["a.pem"]', 'mime = ["a=b/c"]',
    '[mime]\na = "b/c"', 'admin = ":9090"', 'trust = ["unix"]', 'header = ["A: b"]',
    '[hosts."a.example"]\nspa = true\nauth = "b"', "fd = 3", 'user = "www"',
]  # fmt: skip

WRONG = [
    "prot = 1", 'host = ""\nx = 1', "host = [1]", "port = 70000", "port = 80.5", "port = true",
    'hidden = "yes"', 'cache-size = "much"', "cache-size = -1", "workers = 0", 'workers = "all"',
    "max-rate = 0", "grace = -1", 'log = "xml"', "cert = 1", 'directory = ""', "mime = [1]",
    "[mime]\na = 1", 'header = "A: b"', 'trust = "unix"', 'hosts = "a"', "[hosts.a]\nport = 1",
    'config = "a"',
]  # fmt: skip


@pytest.mark.parametrize(("text", "right"), [*((t, True) for t in RIGHT), *((t, 0) for t in WRONG)])
def test_it_agrees_with_the_reader(
    schema: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    right: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "callback", lambda **_: None)
    Path("knot.toml").write_text(text)
    read = CliRunner().invoke(main, ["serve"])
    assert bool(fits(tomllib.loads(text), schema)) == bool(right)
    assert (read.exit_code == 0) == bool(right), read.output
