"""The wheel and the source distribution: what is in them, and that the wheel serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, the wheel built from the source distribution."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT, cwd=directory)
    return directory


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("knot_httpd-*-py3-none-any.whl")
    return found


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (found,) = dist.glob("knot_httpd-*.tar.gz")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel, on the dependencies of this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", home]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


def test_the_wheel_has_the_two_packages_and_their_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "knot",
        "tame",
        f"knot_httpd-{PROJECT['version']}.dist-info",
    }
    assert {"knot/py.typed", "tame/py.typed"} <= set(names)
    assert not [name for name in names if "test_" in name or "__pycache__" in name]


def test_the_source_distribution_has_what_the_wheel_needs_and_the_documentation(
    sdist: Path,
) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "docs/tame.md"} <= names
    assert {"knot/py.typed", "tame/py.typed", "examples/multidns.py"} <= names
    for absent in ("tests/", "loadtest/", "docs/results/", ".venv/", "reports/"):
        assert not [name for name in names if name.startswith(absent)], absent


def test_twine_and_check_wheel_contents_find_nothing(dist: Path, wheel: Path, sdist: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=dist)
    settings = ROOT / "pyproject.toml"
    run(sys.executable, "-m", "check_wheel_contents", "--config", settings, wheel, cwd=dist)


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert metadata["Name"] == "knot-httpd"
    for field in ("Project-URL", "Keywords", "Classifier", "License-Expression", "Summary"):
        assert metadata[field], field
    for extra in ("auth", "compress", "greenlets", "http2", "metrics", "self-signed", "top"):
        assert extra in metadata.get_all("Provides-Extra", [])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("from a wheel")
    return site


@pytest.fixture
def port(installed: Path, site: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = [installed / "knot", "serve", site, "--port", str(port)]
    with subprocess.Popen(command, cwd=site, env=CLEAN, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline().startswith(b"Serving")
            yield port
        finally:
            process.terminate()


def test_an_installed_wheel_serves(port: int) -> None:
    with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        assert answer.read() == b"from a wheel"


def test_an_installed_wheel_has_its_commands_and_no_other_package(
    installed: Path, tmp_path: Path
) -> None:
    assert run(installed / "knot", "--version", cwd=tmp_path) == (
        f"knot, version {PROJECT['version']}\n"
    )
    assert "Usage: tame" in run(installed / "tame", "--help", cwd=tmp_path)
    look = "import importlib.util as u, knot; print(knot.__file__, u.find_spec('loadtest'))"
    found, loadtest = run(installed / "python", "-c", look, cwd=tmp_path).split()
    assert Path(found).is_relative_to(installed.parent)
    assert loadtest == "None"
