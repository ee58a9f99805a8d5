"""Settings: one field for each option, and what does not go together."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from click.testing import CliRunner

from knot.cli import main, serve
from knot.config import read_settings
from knot.limits import Limits
from knot.reload import keep_fixed
from knot.settings import (
    CONTRADICTIONS,
    Access,
    Listening,
    Logging,
    Process,
    Settings,
    SiteSettings,
    Tls,
    contradictions,
)

PARTS = (Access, Listening, Logging, Process, SiteSettings, Tls)

OF_LIMITS = {"head_timeout", "keep_alive", "send_timeout", "max_requests", "max_connections"}

OF_ALL = {"cache_size", "open"}


def test_every_option_is_one_field() -> None:
    names = [each.name for part in PARTS for each in fields(part)]
    assert len(names) == len(set(names))
    options = {param.name for param in serve.params} - {"config"}
    assert options == {*names, *OF_LIMITS, *OF_ALL}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("KNOT_"):
            monkeypatch.delenv(name)


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Settings:
    found: list[Settings] = []
    monkeypatch.setattr(serve, "callback", lambda **values: found.append(read_settings(values)))
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 0, result.output
    return found[0]


def test_without_options_they_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch) == Settings()


EVERYTHING = """
DIR --host ::1 --port 1 --share-port --unix a --fd 4 --redirect-http :80 --https-port 2
--admin :9090 --workers 3 --worker-memory 1M --user me --no-sandbox --model threads
--threads 5 --grace 0.5 --tls-self-signed --hsts 7 --allow ::1 --deny ::2 --max-rate 8
--max-connections-per-client 9 --trust unix --proxy-protocol --log json --log-file b
--listing --hidden --follow-symlinks --clean-urls --spa --mime a=b/c --cache-control *=d
--header A:e --cors --auth f --cert g --key h --shared-tags --cache-size 1K --open
--head-timeout 1 --keep-alive 2 --send-timeout 3 --max-requests 4 --max-connections 5
"""


def test_every_value_has_the_type_that_its_field_says(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("knot.toml").write_text('[hosts."x.example"]\nspa = true\ncert = ["i"]\n')
    settings = settings_of(monkeypatch, *EVERYTHING.split())
    default = Settings()
    for found in (settings, settings.hosts["x.example"], *map(part_of(settings), PARTS[:4])):
        for name, kind in get_type_hints(type(found)).items():
            assert is_of(getattr(found, name), kind), name
    for part, before in ((settings.limits, default.limits), (settings.tls, default.tls)):
        for each in fields(part):
            changed = getattr(part, each.name) != getattr(before, each.name)
            assert changed or each.name == "linger", each.name


def part_of(settings: Settings) -> Any:
    return lambda kind: next(value for value in vars(settings).values() if isinstance(value, kind))


def is_of(value: object, kind: Any) -> bool:
    """Whether a type hint is true of a value."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        assert isinstance(value, tuple)
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return len(value) == len(kinds) and all(map(is_of, value, kinds))
    if origin is None:
        return isinstance(value, int | float if kind is float else kind) and (
            kind is bool or not isinstance(value, bool)
        )
    if (arguments and not isinstance(origin, type)) or type(None) in arguments:
        return any(is_of(value, each) for each in arguments)
    return isinstance(value, origin)


def test_a_host_has_its_own_values_before_those_of_all_but_no_certificate_of_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("knot.toml").write_text('[hosts."x.example"]\nspa = false\ndirectory = "x"\n')
    settings = settings_of(monkeypatch, "y", "--spa", "--cors", "--cert", "a", "--key", "b")
    assert settings.site == SiteSettings("y", spa=True, cors=True, cert=("a",), key=("b",))
    assert settings.hosts == {"x.example": SiteSettings("x", spa=False, cors=True)}


# -- what does not go together -------------------------------------------------------------------

CERT = SiteSettings(cert=("a",))

WRONG = [
    (Settings(process=Process(threads=4)), "--threads needs --model threads"),
    (Settings(process=Process(worker_memory=1)), "--worker-memory needs --workers"),
    (Settings(site=CERT, tls=Tls(tls_self_signed=True)), "choose one"),
    (Settings(listening=Listening(redirect_http=("::", 80))), "--redirect-http needs --cert"),
    (Settings(tls=Tls(hsts=5)), "--hsts needs --cert"),
    (Settings(listening=Listening(unix="a", fd=3)), "--unix and --fd both say where to listen"),
    (Settings(listening=Listening(https_port=443)), "--https-port needs --redirect-http"),
    (
        Settings(site=CERT, listening=Listening(unix="a", redirect_http=("::", 80))),
        "--unix has none: name it with --https-port",
    ),
    (Settings(listening=Listening(share_port=True, fd=3)), "--share-port needs a port"),
    (Settings(access=Access(proxy_protocol=True)), "--proxy-protocol needs --trust"),
    (
        Settings(listening=Listening(unix="a"), access=Access(max_rate=1)),
        "--max-rate with --unix needs --trust unix",
    ),
    (
        Settings(listening=Listening(unix="a"), access=Access(max_connections_per_client=1)),
        "--max-connections-per-client with --unix needs",
    ),
    (Settings(process=Process(model="asyncio", workers=1)), "--workers needs --model events"),
    (
        Settings(process=Process(model="asyncio"), listening=Listening(fd=3)),
        "--fd needs --model events",
    ),
    (
        Settings(process=Process(model="asyncio"), listening=Listening(admin=("::", 1))),
        "--admin needs --model events",
    ),
    (
        Settings(
            process=Process(model="asyncio"), access=Access(trust=("unix",), proxy_protocol=True)
        ),
        "--proxy-protocol needs --model events",
    ),
    (Settings(process=Process(model="asyncio"), site=CERT), "HTTPS needs --model events"),
    (Settings(site=SiteSettings(cert=("a", "b"), key=("c",))), "2 --cert and 1 --key"),
    (
        Settings(site=CERT, hosts={"x": SiteSettings(cert=("a",), key=("b", "c"))}),
        "host x: 1 --cert and 2 --key",
    ),
    (Settings(hosts={"x": CERT}), "host x has a certificate: other hosts need --cert, too"),
]


@pytest.mark.parametrize(("settings", "said"), WRONG, ids=[said for _, said in WRONG])
def test_settings_do_not_go_together(settings: Settings, said: str) -> None:
    (sentence,) = contradictions(settings)
    assert said in sentence


def test_each_row_of_the_table_is_tried() -> None:
    assert list(contradictions(Settings())) == []
    for holds, message in CONTRADICTIONS:
        assert any(holds(settings) for settings, _ in WRONG), message


# -- what a running process keeps ----------------------------------------------------------------


def test_a_running_process_keeps_its_sockets_and_what_it_is() -> None:
    old = Settings(site=SiteSettings("a"))
    new = Settings(
        site=SiteSettings("b"),
        listening=Listening(host=("::",), admin=("::", 1)),
        process=Process(grace=1),
        limits=Limits(head=1),
    )
    kept, lasting = keep_fixed(new, old)
    assert kept == Settings(site=SiteSettings("b"), limits=Limits(head=1))
    assert lasting == ["host", "admin", "grace"]


def test_https_neither_begins_nor_ends_in_a_running_process() -> None:
    plain = Settings()
    secure = Settings(
        site=replace(CERT, spa=True), tls=Tls(hsts=5), hosts={"x": SiteSettings("x", cert=("b",))}
    )
    kept, lasting = keep_fixed(secure, plain)
    assert kept == Settings(site=SiteSettings(spa=True), hosts={"x": SiteSettings("x")})
    assert lasting == ["cert", "hsts"]
    kept, lasting = keep_fixed(plain, secure)
    assert kept == Settings(site=CERT, tls=Tls(hsts=5))
    assert lasting == ["cert", "hsts"]
    other = replace(secure, site=SiteSettings(cert=("c",)), tls=Tls())
    assert keep_fixed(other, secure) == (other, [])
