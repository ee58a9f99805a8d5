"""`make test-docker`: build the image and use it as its users do.

buildah builds it without a daemon, on a base made of Debian packages, and runs the image's command.
This needs root, and the Debian packages buildah and debootstrap.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knot"
BASE, IMAGE = "localhost/knot-test-base", "localhost/knot-test"
MAX_ADDED = 80_000_000
"""The most bytes that the image may add to its base."""
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

BUILDAH = ("buildah", "--storage-driver", "vfs")


def buildah(*arguments: str) -> str:
    done = subprocess.run([*BUILDAH, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="session")
def base() -> str:
    """Debian with its Python, as one image."""
    for program in ("buildah", "debootstrap"):
        assert shutil.which(program), f"install the Debian package {program}"
    tree = CACHE / "debian-bookworm"
    if not (tree / "usr/bin/python3").exists():
        tree.mkdir(parents=True, exist_ok=True)
        packages = "--include=python3,python3-venv,ca-certificates"
        command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(tree)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.copy(f"/{CERTIFICATES}", tree / CERTIFICATES)  # has that of a local proxy, too
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(tree), "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    return BASE


@pytest.fixture(scope="session")
def image(base: str) -> str:
    options = ["--isolation", "chroot", "--build-arg", f"PYTHON={base}", "--quiet"]
    for name in ("PIP_CERT", "PIP_INDEX_URL"):
        if name in os.environ:
            options += ["--env", f"{name}={os.environ[name]}"]
    buildah("bud", *options, "--format", "docker", "--tag", IMAGE, str(ROOT))
    return IMAGE


@pytest.fixture(scope="session")
def settings(image: str) -> dict[str, Any]:
    """The configuration of the image."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))
    return found["Docker"]["config"]  # type: ignore[no-any-return]


class Container:
    """The image's own command, as the image's own user, on a free port."""

    def __init__(self, image: str, settings: dict[str, Any], www: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.name = buildah("from", image)
        self.command = [*settings["Entrypoint"], *settings["Cmd"]]
        options = ["--isolation", "chroot", "--volume", f"{www}:/www:ro"]
        options += ["--env", f"KNOT_PORT={self.port}"]
        self.options = options
        self.process = subprocess.Popen(
            [*BUILDAH, "run", *options, self.name, "--", *self.command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout
        lines = iter(self.process.stdout.readline, "")
        self.first_line = next((line for line in lines if line.startswith("Serving")), "")

    def fetch(self, path: str) -> bytes:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            found: bytes = answer.read()
            return found

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*BUILDAH, "run", *self.options, self.name, "--", *command],
            capture_output=True,
            text=True,
            check=False,
        )

    def knot(self) -> int:
        """The id of its process."""
        (found,) = [pid for pid in family(self.process.pid) if is_knot(pid)]
        return found

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        os.kill(self.knot(), number)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.knot(), signal.SIGKILL)
            self.process.communicate()
        buildah("rm", self.name)


def family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def is_knot(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"/opt/knot/bin/knot" in words and b"serve" in words and words[0].endswith(b"python3")


@pytest.fixture
def www() -> Iterator[Path]:
    """A directory that every user can read."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        Path(directory, "index.html").write_text("from a container")
        yield Path(directory)


@pytest.fixture
def container(image: str, settings: dict[str, Any], www: Path) -> Iterator[Container]:
    found = Container(image, settings, www)
    try:
        yield found
    finally:
        found.close()


def test_the_image_says_what_it_is(settings: dict[str, Any]) -> None:
    assert settings["User"] == "10001:10001"
    assert settings["ExposedPorts"] == {"8080/tcp": {}}
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"][0] == "CMD"
    assert settings["Labels"]["org.opencontainers.image.title"] == "Knot"
    assert settings["WorkingDir"] == "/www"


def test_the_image_is_small_and_has_no_compiler(base: str, image: str) -> None:
    sizes = {
        row["names"][0].partition(":")[0]: row["size"]
        for row in json.loads(buildah("images", "--json"))
        if row.get("names")
    }
    added = megabytes(sizes[image]) - megabytes(sizes[base])
    print(f"the image adds {added / 1e6:.1f} MB to its base")
    assert added <= MAX_ADDED
    name = buildah("from", image)
    try:
        run = ["run", "--isolation", "chroot", name, "--", "sh", "-c"]
        absent = "! command -v gcc && ! command -v cc && ! test -e /opt/knot/bin/pip"
        buildah(*run, absent)
    finally:
        buildah("rm", name)


def megabytes(shown: str) -> float:
    number, unit = shown.split()
    return float(number) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def test_a_container_serves_is_healthy_and_stops(
    container: Container, settings: dict[str, Any]
) -> None:
    assert container.first_line.startswith("Serving /www at http://0.0.0.0:")
    assert container.fetch("/") == b"from a container"
    lines = Path(f"/proc/{container.knot()}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    assert set(status["Uid"].split()) == {"10001"}
    assert status["CapEff"].strip() == "0000000000000000"
    assert container.run(*settings["Healthcheck"]["Test"][1:]).returncode == 0
    code, said = container.stop(signal.SIGTERM)
    assert code == 0
    assert '"GET / HTTP/1.1" 200' in said
    assert container.run(*settings["Healthcheck"]["Test"][1:]).returncode == 1


def test_a_container_has_workers(image: str, settings: dict[str, Any], www: Path) -> None:
    found = Container(image, settings | {"Cmd": ["/www", "--workers", "2"]}, www)
    try:
        assert "2 workers" in found.first_line
        assert found.fetch("/") == b"from a container"
    finally:
        supervisor = min(pid for pid in family(found.process.pid) if is_knot_or_worker(pid))
        os.kill(supervisor, signal.SIGTERM)
        found.process.communicate(timeout=30)
        buildah("rm", found.name)
    assert found.process.returncode == 0


def is_knot_or_worker(pid: int) -> bool:
    return b"knot" in Path(f"/proc/{pid}/cmdline").read_bytes() and is_python(pid)


def is_python(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"python3")
