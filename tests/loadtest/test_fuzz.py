"""The targets of `make fuzz` hold on their seeds, and on what is near them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from loadtest.robust import fuzz
from loadtest.robust.fuzz import TARGETS


def near(seed: bytes, numbers: random.Random) -> bytes:
    """With a few bytes changed, taken out, or doubled."""
    data = bytearray(seed)
    for _ in range(numbers.randrange(1, 4)):
        place = numbers.randrange(len(data) + 1)
        data[place : place + numbers.randrange(3)] = numbers.choice(
            [b"", b"\r\n", b"%", b"..", b"/", b",", b"-", b"\0", numbers.randbytes(2), data[place:]]
        )
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_on_its_seeds_and_near_them(name: str) -> None:
    numbers = random.Random(7)
    for seed in TARGETS[name].seeds:
        TARGETS[name].check(seed)
        for _ in range(100):
            TARGETS[name].check(near(seed, numbers))


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=100))
def test_a_target_holds_on_anything(name: str, data: bytes) -> None:
    TARGETS[name].check(data)


def test_a_crash_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bytes that it was found by."""

    def broken(data: bytes) -> None:
        assert data != b"crash"

    monkeypatch.setitem(TARGETS, "ranges", fuzz.Target(broken, [b"seed"]))
    file = tmp_path / "file"
    for content, status in ((b"crash", 1), (b"fine", 0)):
        file.write_bytes(content)
        assert CliRunner().invoke(fuzz.main, ["ranges", str(file)]).exit_code == status
