"""What ``knot serve`` is told, by whom, and what it says to what it cannot do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from knot.cli import main, serve
from knot.config import Config
from knot.http.responder import RESERVED_FIELDS, FieldRules, field_line
from knot.options import Pair, Size, Text

# -- values --------------------------------------------------------------------------------------

SIZES = [
    ("0", 0),
    ("4096", 4096),
    ("1K", 1024),
    ("1k", 1024),
    ("64M", 64 << 20),
    ("64m", 64 << 20),
    ("64MB", 64 << 20),
    ("64MiB", 64 << 20),
    ("64mib", 64 << 20),
    ("64 MiB", 64 << 20),
    (" 64M ", 64 << 20),
    ("2G", 2 << 30),
    ("2GiB", 2 << 30),
    ("1.5G", 3 << 29),
    ("0.5k", 512),
    ("100B", 100),
    (4096, 4096),
    (1.5, 1),
]


@pytest.mark.parametrize(("value", "expected"), SIZES)
def test_a_size_is(value: object, expected: int) -> None:
    assert Size().convert(value, None, None) == expected


NO_SIZES = [
    "", " ", "M", "-1", "+1", "1e6", "1,5M", "1.M", ".5M", "64T", "64MM", "64M B", "0x10",
    "64 Mbit", "much", "64M\n64M", "inf", "nan", None, True, [1], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("value", NO_SIZES)
def test_it_is_no_size(value: object) -> None:
    with pytest.raises(click.BadParameter, match="is not a valid size; use bytes, or 64K, 64M, 1G"):
        Size().convert(value, None, None)


@given(st.integers(0, 2**50), st.sampled_from([("", 1), ("K", 1 << 10), ("M", 1 << 20)]))
def test_a_whole_number_is_exact(number: int, unit: tuple[str, int]) -> None:
    letter, factor = unit
    assert Size().convert(f"{number}{letter}", None, None) == number * factor


PAIRS = [
    ("wasm=application/wasm", ("wasm", "application/wasm")),
    ("a=b=c", ("a", "b=c")),
    (" assets/* = public, max-age=9 ", ("assets/*", "public, max-age=9")),
    (("a", "b"), ("a", "b")),
]


@pytest.mark.parametrize(("value", "expected"), PAIRS)
def test_a_pair_is(value: object, expected: tuple[str, str]) -> None:
    assert Pair("KEY", "VALUE").convert(value, None, None) == expected


@pytest.mark.parametrize("value", ["", "=", "a", "a=", "=b", "  =b", "a=  ", 5, None, ["a", "b"]])
def test_it_is_no_pair(value: object) -> None:
    with pytest.raises(click.BadParameter, match="is not of the form SUFFIX=TYPE"):
        Pair("SUFFIX", "TYPE").convert(value, None, None)


@given(st.text() | st.binary() | st.integers() | st.floats())
def test_a_value_is_converted_or_refused(value: object) -> None:
    for kind in (Size(), Pair("KEY", "VALUE"), Text()):
        with suppress(click.BadParameter):
            kind.convert(value, None, None)


# -- who says it ---------------------------------------------------------------------------------

Told = dict[str, Any]
Tell = Callable[..., Told]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory with no ``knot.toml``, and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("KNOT_"):
            monkeypatch.delenv(name)


def invoke(*arguments: str, toml: str | None = None, **environment: str) -> Result:
    if toml is not None:
        Path("knot.toml").write_text(toml, encoding="utf-8")
    return CliRunner().invoke(main, ["serve", *arguments], env=environment)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """What ``knot serve`` would serve with."""
    options: Told = {}
    monkeypatch.setattr(serve, "callback", lambda **told: options.update(told))

    def tell(*arguments: str, toml: str | None = None, **environment: str) -> Told:
        options.clear()
        result = invoke(*arguments, toml=toml, **environment)
        assert result.exit_code == 0, result.output
        return dict(options)

    return tell


def test_nothing_need_be_said(told: Tell) -> None:
    options = told()
    assert options["directory"] == "."
    assert (options["host"], options["port"]) == (("127.0.0.1",), 8000)
    assert options["cache_size"] == 64 << 20
    assert (options["listing"], options["log"]) == (None, None)
    assert options["config"] == Config(None, {})
    assert (options["mime"], options["cache_control"], options["header"]) == ((), (), ())
    for name in ("open", "hidden", "follow_symlinks", "clean_urls", "spa", "cors"):
        assert options[name] is False


LINE, ENVIRONMENT, FILE = ("--port", "1"), {"KNOT_PORT": "2"}, "port = 3"

WHO_GOES_FIRST = [
    # (command line, environment, file, the port)
    (LINE, ENVIRONMENT, FILE, 1),
    (LINE, ENVIRONMENT, None, 1),
    (LINE, {}, FILE, 1),
    (LINE, {}, None, 1),
    ((), ENVIRONMENT, FILE, 2),
    ((), ENVIRONMENT, None, 2),
    ((), {"KNOT_PORT": ""}, FILE, 3),
    ((), {}, FILE, 3),
    ((), {}, None, 8000),
]


@pytest.mark.parametrize(("line", "environment", "file", "port"), WHO_GOES_FIRST)
def test_the_command_line_goes_before_the_environment_and_that_before_the_file(
    told: Tell, line: tuple[str, ...], environment: dict[str, str], file: str | None, port: int
) -> None:
    assert told(*line, toml=file, **environment)["port"] == port


def test_it_is_so_for_each_option_by_itself(told: Tell) -> None:
    options = told(
        "--host", "::1", toml='port = 3\nhost = "a"\nspa = true\nlisting = true', KNOT_PORT="2"
    )
    assert (options["host"], options["port"], options["spa"]) == (("::1",), 2, True)
    assert options["listing"] is True
    assert told("--no-listing")["listing"] is False
    assert told(KNOT_LISTING="no")["listing"] is False


def test_the_directory_may_stand_in_each_place(told: Tell) -> None:
    assert told(toml='directory = "c"')["directory"] == "c"
    assert told(KNOT_DIRECTORY="b")["directory"] == "b"
    assert told("a", KNOT_DIRECTORY="b")["directory"] == "a"


def test_a_list_of_one_place_takes_that_of_another_away(told: Tell) -> None:
    toml = 'header = ["X-A: 1", "X-B: 2"]'
    assert told(toml=toml)["header"] == ("X-A: 1", "X-B: 2")
    assert told(toml=toml, KNOT_HEADER="X-C: 3")["header"] == ("X-C: 3",)
    assert told("--header", "X-D: 4", toml=toml, KNOT_HEADER="X-C: 3")["header"] == ("X-D: 4",)


SPELLINGS = ["clean-urls", "clean_urls", "Clean-URLs", '"clean-urls"']


@pytest.mark.parametrize("key", SPELLINGS)
def test_a_key_is_spelt_with_dashes_or_underscores(told: Tell, key: str) -> None:
    assert told(toml=f"{key} = true")["clean_urls"] is True


VALUES = [
    ('cache-size = "1.5G"', "cache_size", 3 << 29),
    ("cache-size = 4096", "cache_size", 4096),
    ("keep-alive = 1.5", "keep_alive", 1.5),
    ("grace = 0", "grace", 0),
    ('port = "8080"', "port", 8080),
    ("hidden = false", "hidden", False),
    ("listing = false", "listing", False),
    ('log-file = "access.log"', "log_file", "access.log"),
    ("max-requests = 1", "max_requests", 1),
    ("header = []", "header", ()),
    ('mime = ["a=b/c", "d=e/f"]', "mime", (("a", "b/c"), ("d", "e/f"))),
    ('[mime]\nwasm = "application/wasm"', "mime", (("wasm", "application/wasm"),)),
    ('mime = { ".a" = "b/c" }', "mime", ((".a", "b/c"),)),
    ("[mime]", "mime", ()),
    (
        '[cache-control]\n"b/*" = "max-age=9"\n"a/*" = "no-store"\n"*" = "no-cache"',
        "cache_control",
        (("b/*", "max-age=9"), ("a/*", "no-store"), ("*", "no-cache")),  # the order counts
    ),
    (
        'header = ["Content-Security-Policy: a=b; c"]',
        "header",
        ("Content-Security-Policy: a=b; c",),
    ),
]


@pytest.mark.parametrize(("toml", "name", "expected"), VALUES)
def test_the_file_says(told: Tell, toml: str, name: str, expected: object) -> None:
    assert told(toml=toml)[name] == expected


IN_THE_ENVIRONMENT = [
    ("KNOT_HEADER", "X-One: 1 1\nX-Two: 2", "header", ("X-One: 1 1", "X-Two: 2")),
    ("KNOT_MIME", "a=b/c\nd=e/f", "mime", (("a", "b/c"), ("d", "e/f"))),
    (
        "KNOT_CACHE_CONTROL",
        "a b/*=public, max-age=9\n*=no-cache",
        "cache_control",
        (("a b/*", "public, max-age=9"), ("*", "no-cache")),
    ),
    ("KNOT_HEADER", "", "header", ()),
    ("KNOT_SPA", "1", "spa", True),
    ("KNOT_SPA", "false", "spa", False),
    ("KNOT_CACHE_SIZE", "1M", "cache_size", 1 << 20),
    ("KNOT_KEEP_ALIVE", "2.5", "keep_alive", 2.5),
]


@pytest.mark.parametrize(("variable", "value", "name", "expected"), IN_THE_ENVIRONMENT)
def test_the_environment_says(
    told: Tell, variable: str, value: str, name: str, expected: object
) -> None:
    assert told(**{variable: value})[name] == expected


def test_the_file_that_was_read_is_known_and_withheld(told: Tell, tmp_path: Path) -> None:
    assert told()["config"].file is None
    assert told(toml="port = 3")["config"].file == Path("knot.toml")
    other = tmp_path / "other.toml"
    other.write_text("port = 4")
    options = told("--config", str(other))
    assert (options["port"], options["config"].file) == (4, other)
    assert told(KNOT_CONFIG=str(other))["port"] == 4


def test_a_directory_called_as_the_file_is_no_file(told: Tell) -> None:
    Path("knot.toml").mkdir()
    assert told()["config"].file is None


# -- what is wrong with it -----------------------------------------------------------------------

WRONG_FILES = [
    # A key that there is none of: the nearest is named
    ("prot = 1", "knot.toml: unknown option prot; did you mean port?"),
    ("clean-url = true", "unknown option clean-url; did you mean clean-urls?"),
    ("cachesize = 1", "unknown option cachesize; did you mean cache-size?"),
    ('headers = ["A: b"]', "unknown option headers; did you mean header?"),
    ('[cache_controll]\n"*" = "a"', "did you mean cache-control?"),
    ("xyzzy = 1", "unknown option xyzzy"),
    ('config = "other.toml"', "unknown option config"),
    ("help = true", "unknown option help"),
    # No TOML
    ("port", "knot.toml is not valid TOML: "),
    ("port = ", "knot.toml is not valid TOML: "),
    ("port = 1\nport = 2", "knot.toml is not valid TOML: "),
    ("[mime", "knot.toml is not valid TOML: "),
    # A value of another kind
    ("port = 'x'", "'x' is not a valid integer"),
    ("port = ''", "'' is not a valid integer"),
    ("port = 70000", "70000 is not in the range 0<=x<=65535"),
    ("port = -1", "-1 is not in the range"),
    ("keep-alive = 'long'", "'long' is not a valid number of seconds"),
    ("grace = -1", "'-1' is not a valid number of seconds"),
    ("max-requests = 0", "0 is not in the range x>=1"),
    ("port = [80]", "port cannot be [80]"),
    ("port = 80.5", "'80.5' is not a valid integer"),
    ("port = true", "port cannot be True"),
    ("port = 1979-05-27", "port cannot be"),
    ("port.x = 1", "port cannot be {'x': 1}"),
    ("host = [1]", "host cannot be 1"),
    ("hidden = 2", "hidden must be true or false"),
    ("header = 'X: y'", "header must be a list of strings"),
    ("header.X = 'y'", "header must be a list of strings"),
    ("mime.a.b = 1", "mime cannot be {'b': 1}"),
    ("keep-alive = nan", "'nan' is not a valid number of seconds"),
    (f"cache-size = '{'9' * 400}'", "is not a valid size"),
    ('directory = "a\\u0000b"', "directory cannot be"),
    ("port = " + "[" * 3000, "knot.toml is not valid TOML"),
    ("cors = 'perhaps'", "knot.toml: cors must be true or false"),
    ("cache-size = 'much'", "'much' is not a valid size; use bytes, or 64K, 64M, 1G"),
    ("cache-size = true", "cache-size cannot be True"),
    ("cache-size = []", "cache-size cannot be []"),
    ("mime = ['x']", "'x' is not of the form SUFFIX=TYPE"),
    ("mime = [1]", "mime cannot be 1"),
    ("cache-control = ['*']", "'*' is not of the form GLOB=VALUE"),
]


@pytest.mark.parametrize(("toml", "expected"), WRONG_FILES)
def test_a_file_that_is_wrong_is_told_of_in_a_sentence(toml: str, expected: str) -> None:
    check_usage_error(invoke(toml=toml), expected)


def check_usage_error(result: Result, expected: str) -> None:
    """One sentence after the usage, and no traceback."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2
    usage, hint, nothing, *said = result.output.splitlines()
    assert usage.startswith("Usage: ")
    assert hint.startswith("Try ")
    assert nothing == ""
    (sentence,) = said
    assert sentence.startswith("Error: ")
    assert expected in sentence


def test_a_file_that_cannot_be_read_is_told_of_in_a_sentence(tmp_path: Path) -> None:
    cases = [
        ("nothing.toml", "cannot read nothing.toml: No such file or directory"),
        (str(tmp_path), f"cannot read {tmp_path}: Is a directory"),
        ("no/such/file", "cannot read no/such/file: No such file or directory"),
    ]
    for name, expected in cases:
        check_usage_error(invoke("--config", name), expected)
        check_usage_error(invoke(KNOT_CONFIG=name), expected)
    (tmp_path / "knot.toml").write_bytes(b"port = 1 # \xff")
    check_usage_error(invoke(), "knot.toml is not valid TOML: ")


WRONG_VARIABLES = [
    ("KNOT_PORT", "x", "'x' is not a valid integer"),
    ("KNOT_CACHE_SIZE", "much", "'much' is not a valid size"),
    ("KNOT_SPA", "perhaps", "'perhaps' is not a valid boolean"),
    ("KNOT_MIME", "a=b/c\nd", "'d' is not of the form SUFFIX=TYPE"),
]


@pytest.mark.parametrize(("variable", "value", "expected"), WRONG_VARIABLES)
def test_a_variable_that_is_wrong_is_told_of_in_a_sentence(
    variable: str, value: str, expected: str
) -> None:
    check_usage_error(invoke(**{variable: value}), expected)


# -- the fields that answers have ----------------------------------------------------------------

GLOBS = [
    # (pattern, names that it fits, names that it does not)
    ("*", ["a", "a/b", ".well-known/x", ""], []),
    ("*.html", ["a.html", "a/b.html", ".html"], ["a.htm", "a.html.gz", "a.HTML"]),
    ("assets/*", ["assets/a", "assets/a/b", "assets/"], ["assets", "x/assets/a", "assetsx/a"]),
    ("/assets/*", ["assets/a"], ["x/assets/a"]),
    ("*/assets/*", ["x/assets/a", "x/y/assets/a"], ["assets/a"]),
    ("a?.js", ["ab.js", "a1.js"], ["a.js", "abc.js"]),
    ("a[0-9].js", ["a1.js"], ["ab.js", "a10.js"]),
    ("a[!0-9].js", ["ab.js"], ["a1.js"]),
    ("index.html", ["index.html"], ["a/index.html", "index.html/x", "indexxhtml"]),
    ("/index.html", ["index.html"], ["a/index.html"]),
    ("*.*.js", ["app.3f9a.js", "a/b.c.js"], ["app.js"]),
    ("a+b(c).txt", ["a+b(c).txt"], ["aab(c).txt", "a+bc.txt"]),
    ("ü*.txt", ["ü.txt", "üx.txt"], ["u.txt"]),
    ("new\nline", ["new\nline"], ["new"]),
]


@pytest.mark.parametrize(("pattern", "fits", "others"), GLOBS)
def test_a_pattern_fits(pattern: str, fits: list[str], others: list[str]) -> None:
    rules = FieldRules([(pattern, "max-age=9")])
    for name in fits:
        assert rules.cache_control(name.encode()) == b"Cache-Control: max-age=9\r\n"
    for name in others:
        assert rules.cache_control(name.encode()) == b""


def test_the_first_pattern_that_fits_counts() -> None:
    rules = FieldRules([("a/*.js", "one"), ("a/*", "two"), ("*.js", "three"), ("*", "four")])
    found = [rules.cache_control(name) for name in (b"a/x.js", b"a/x", b"x.js", b"b/a/x.js", b"x")]
    expected = [b"one", b"two", b"three", b"three", b"four"]
    assert found == [b"Cache-Control: %b\r\n" % value for value in expected]
    turned = FieldRules([("*", "four"), ("a/*", "two")])
    assert turned.cache_control(b"a/x") == b"Cache-Control: four\r\n"
    assert FieldRules().cache_control(b"a") == b""


@given(st.text(max_size=10), st.binary(max_size=20))
def test_any_pattern_can_be_asked_about_any_name(pattern: str, name: bytes) -> None:
    assert FieldRules([(pattern, "x")]).cache_control(name) in (b"", b"Cache-Control: x\r\n")
    assert FieldRules([("*", "x")]).cache_control(name)


LINES = [
    ("X-A: b", b"X-A: b\r\n"),
    ("X-A:b", b"X-A: b\r\n"),
    ("X-A:  b\t ", b"X-A: b\r\n"),
    ("X-A:", b"X-A: \r\n"),
    ('X-A: b: c, d; e="f"', b'X-A: b: c, d; e="f"\r\n'),
    ("X-A: b\tc", b"X-A: b\tc\r\n"),
    ("x_!#$%&'*+.^`|~: 1", b"x_!#$%&'*+.^`|~: 1\r\n"),
]


@pytest.mark.parametrize(("text", "line"), LINES)
def test_a_field_is_a_line(text: str, line: bytes) -> None:
    assert field_line(text) == line


NO_LINES = [
    "", "X", ":", ": b", " X: b", "X : b", "X Y: b", "X\t: b", "(X): b", "Ü: b",
    "X: a\r\nY: b", "X: a\nY: b", "X: a\rY: b", "X: a\n", "X: a\r\n\r\n<html>", "X: a\n b",
    "X\r\nY: b", "X\n: b", "X: \0", "X: \x7f", "X: \x1b[m", "X: ü", "X: \x85Y: b", "X: \u2028",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_LINES)
def test_it_is_no_field(text: str) -> None:
    message = f"{text!r} is not a valid header field; use 'Name: value'"
    with pytest.raises(ValueError, match=re.escape(message)):
        FieldRules(fields=["X-Before: 1", text])


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\n", "\0", "ü"])
def test_a_rule_cannot_smuggle_a_field(value: str) -> None:
    with pytest.raises(ValueError, match="is not a valid header field"):
        FieldRules([("*", value)])


@given(st.text(max_size=30))
def test_any_text_is_one_line_or_none(text: str) -> None:
    for field in (text, "X: " + text, text + ": b"):
        try:
            line = field_line(field)
        except ValueError:
            continue
        assert line.endswith(b"\r\n")
        assert not set(line[:-2]) & set(b"\r\n\0")
        assert re.match(rb"[^\s:]+: ", line)


@pytest.mark.parametrize("name", sorted(RESERVED_FIELDS))
def test_what_knot_sets_is_not_set_by_others(name: str) -> None:
    for spelling in (name, name.title(), name.upper()):
        with pytest.raises(ValueError, match=f"{spelling} is a field that Knot sets itself"):
            FieldRules(fields=[f"{spelling}: 1"])


SERVERS: list[tuple[list[str], bytes]] = [
    ([], b"Server: knot\r\n"),
    (["X-Server: mine"], b"Server: knot\r\n"),
    (["X: y", "X-A: server: b"], b"Server: knot\r\n"),
    (["Server: mine"], b""),
    (["X: y", "SERVER: mine"], b""),
    (["server:"], b""),
]


@pytest.mark.parametrize(("fields", "server"), SERVERS)
def test_there_is_one_server_field(fields: list[str], server: bytes) -> None:
    assert FieldRules(fields=fields).server == server
    assert FieldRules(fields=fields, cors=True).server == server


def test_the_fields_keep_their_order() -> None:
    rules = FieldRules(fields=["X-B: 2", "X-A: 1", "X-B: 3"])
    assert rules.everywhere == b"X-B: 2\r\nX-A: 1\r\nX-B: 3\r\n"


def test_a_last_line_break_of_a_variable_is_no_line(told: Tell) -> None:
    assert told(KNOT_HEADER="X-A: 1\r\nX-B: 2\n")["header"] == ("X-A: 1", "X-B: 2")
    assert told(KNOT_MIME="a=b/c\n")["mime"] == (("a", "b/c"),)


def test_the_file_of_the_readme_is_understood(told: Tell) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    options = told(toml=readme.partition("```toml\n")[2].partition("```")[0])
    assert (options["port"], options["log"], options["clean_urls"]) == (8080, "combined", True)
    assert told(KNOT_LOG="short", KNOT_OPEN="1")["log"] == "short"


def test_a_pattern_is_of_characters_and_not_of_bytes() -> None:
    assert FieldRules([("[üö].txt", "x")]).cache_control("ü.txt".encode())
    assert FieldRules([("\udcff*", "x")]).cache_control(b"\xff.txt")
