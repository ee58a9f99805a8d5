"""The examples with asyncio, each way, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving import serving

EXAMPLES = Path(__file__).parents[2] / "examples"


def said(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_a_tamed_program_uses_a_library_of_asyncio(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"x" * number)
    with serving(str(tmp_path)) as (_, url):
        urls = [f"{url}/{number}" for number in range(6)]
        lines = said(str(EXAMPLES / "asyncio_library.py"), *urls).splitlines()
    for number in range(5):
        assert f"{url}/{number}: 200, {number} bytes" in lines
    assert any(line.startswith(f"{url}/5: 404, ") for line in lines)


def test_nobody_at_the_other_end_is_told() -> None:
    assert "ClientConnectorError" in said(
        str(EXAMPLES / "asyncio_library.py"), "http://127.0.0.1:1/"
    )


def test_a_tamed_server_runs_in_an_asyncio_program() -> None:
    assert said(str(EXAMPLES / "tamed_server.py")) == "hello, world\nhello, tame\n"
