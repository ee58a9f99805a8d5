"""The clients that people use, against `knot serve` as they start it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from serving import KNOT

BIG = bytes(range(256)) * 8 * 1024  # 2 MiB

NAMES = ["plain.txt", "a b.txt", "100%.txt", "#1?.txt", "ü&'.txt"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "names").mkdir(parents=True)
    (root / "big").write_bytes(BIG)
    (root / "text.html").write_text("<p>a paragraph</p>\n" * 100)
    for name in NAMES:
        (root / "names" / name).write_text(name)
    return root


@contextmanager
def serving(root: Path, *options: str) -> Iterator[str]:
    command = [*KNOT, "serve", str(root), "--port", "0", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().split(" at ")[1].split()[0]
        finally:
            process.terminate()
            process.wait(timeout=20)


def client(program: str, *arguments: str, cwd: Path | None = None) -> str:
    """What the program prints; skipped where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    ran = subprocess.run(
        [found, *arguments], capture_output=True, text=True, cwd=cwd, timeout=60, check=True
    )
    return ran.stdout


def curl(*arguments: str) -> str:
    return client("curl", "--silent", "--show-error", "--max-time", "20", *arguments)


def test_curl_goes_on_with_a_download(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "part"
    target.write_bytes(BIG[:1_000_000])
    with serving(root) as url:
        status = curl("-C", "-", "-o", str(target), "-w", "%{http_code}", f"{url}/big")
    assert status == "206"
    assert target.read_bytes() == BIG


def test_curl_asks_for_parts(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "part"
    with serving(root) as url:
        for asked, expected in (("0-99", BIG[:100]), ("-100", BIG[-100:]), ("5000-", BIG[5000:])):
            curl("-r", asked, "-o", str(target), f"{url}/big")
            assert target.read_bytes() == expected
        curl("-r", "0-9,300-309", "-o", str(target), f"{url}/big")
    parts = target.read_bytes().split(b"\r\n\r\n")[1:]
    assert [part[:10] for part in parts] == [BIG[:10], BIG[300:310]]


def test_curl_has_it_already(root: Path, tmp_path: Path) -> None:
    tag, code = str(tmp_path / "tag"), ["-o", os.devnull, "-w", "%{http_code}"]
    with serving(root) as url:
        assert curl(*code, "--etag-save", tag, f"{url}/text.html") == "200"
        assert curl(*code, "--etag-compare", tag, f"{url}/text.html") == "304"
        os.utime(root / "big", (784111777, 784111777))  # a date counts once it is over
        assert curl(*code, "-z", str(root / "big"), f"{url}/big") == "304"


def test_curl_takes_it_compressed(root: Path) -> None:
    with serving(root) as url:
        shown = curl("--compressed", "-w", "%{size_download}", f"{url}/text.html")
    text, _, size = shown.rpartition("\n")
    assert text + "\n" == (root / "text.html").read_text()
    assert int(size) < 200


def test_curl_keeps_its_connection(root: Path) -> None:
    with serving(root) as url:
        arguments = ["-o", os.devnull, "-w", "%{num_connects} ", f"{url}/big"]
        assert curl(*arguments, *arguments) == "1 0 "
        assert curl("--http1.0", *arguments, *arguments) == "1 1 "


def test_curl_follows_to_the_slash(root: Path) -> None:
    with serving(root, "--listing") as url:
        shown = curl("-L", "-o", os.devnull, "-w", "%{url_effective}", f"{url}/names?a=b")
        assert shown == f"{url}/names/?a=b"
        listed = json.loads(curl("-H", "Accept: application/json", f"{url}/names/"))
        assert {entry["name"] for entry in listed["entries"]} == set(NAMES)
        for entry in listed["entries"]:
            assert curl(f"{url}/names/{entry['href']}") == entry["name"]


def test_wget_goes_on_with_a_download(root: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG[:1_000_000])
    with serving(root) as url:
        client("wget", "-q", "-c", f"{url}/big", cwd=tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG


def test_wget_mirrors_a_listing(root: Path, tmp_path: Path) -> None:
    with serving(root, "--listing") as url:
        arguments = ["-q", "-r", "-np", "-nH", "--restrict-file-names=nocontrol", f"{url}/names/"]
        client("wget", *arguments, cwd=tmp_path)
    got = {path.name: path.read_text() for path in (tmp_path / "names").glob("*.txt")}
    assert got == {name: name for name in NAMES}


def test_git_clones_over_plain_http(root: Path, tmp_path: Path) -> None:
    def git(*arguments: str, cwd: Path = tmp_path) -> str:
        return client("git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments, cwd=cwd)

    git("init", "-q", "work")
    (tmp_path / "work" / "file").write_text("content")
    git("add", "file", cwd=tmp_path / "work")
    git("commit", "-qm", "one", cwd=tmp_path / "work")
    git("clone", "-q", "--bare", "work", str(root / "repo.git"))
    git("update-server-info", cwd=root / "repo.git")
    with serving(root) as url:
        git("clone", "-q", f"{url}/repo.git", "copy")
    assert (tmp_path / "copy" / "file").read_text() == "content"


def test_pip_installs_from_an_index(root: Path, tmp_path: Path) -> None:
    folder = root / "simple" / "knot-probe"
    folder.mkdir(parents=True)
    name = "knot_probe-1.0-py3-none-any.whl"
    make_wheel(folder / name)
    (folder / "index.html").write_text(f'<!doctype html><a href="{name}">{name}</a>')
    with serving(root) as url:
        arguments = ["--isolated", "--disable-pip-version-check", "download", "-q", "--no-deps"]
        arguments += ["--no-cache-dir", "--index-url", f"{url}/simple", "-d", str(tmp_path)]
        client(sys.executable, "-m", "pip", *arguments, "knot-probe")
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def make_wheel(path: Path) -> None:
    files = {
        "knot_probe.py": b"",
        "knot_probe-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: knot-probe\n"
        b"Version: 1.0\n",
        "knot_probe-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: a\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},"
        f"{len(data)}\n"
        for name, data in files.items()
    )
    record += "knot_probe-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
        wheel.writestr("knot_probe-1.0.dist-info/RECORD", record)


# -- a browser -----------------------------------------------------------------------------------

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>waiting</title>
<link rel="stylesheet" href="style.css">
<img id="picture" src="picture.svg">
<audio id="sound" src="sound.wav" preload="metadata"></audio>
<script type="module">
import { word } from "./module.js";
const picture = document.getElementById("picture"), sound = document.getElementById("sound");
await picture.decode();
const data = await (await fetch("data.json")).json();
const seeked = new Promise(done => sound.addEventListener("seeked", done, { once: true }));
if (sound.readyState < 1)
  await new Promise(done => sound.addEventListener("loadedmetadata", done, { once: true }));
sound.currentTime = 1000;
await seeked;
const colour = getComputedStyle(document.body).color;
const found = [word, data.word, picture.naturalWidth, colour, sound.currentTime].join("|");
await fetch("REPORT?" + encodeURIComponent(found), { mode: "no-cors" });
</script>
"""


def make_sound(path: Path, seconds: int) -> None:
    """Silence of 88 KB a second: so much that no browser fetches all of it before it seeks."""
    rate, size = 44_100, 2 * 44_100 * seconds
    shape = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    head = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + shape
    path.write_bytes(head + b"data" + struct.pack("<I", size))
    os.truncate(path, 44 + size)


class Reports(HTTPServer):
    """Waits for what the page has found."""

    timeout = 40
    found = ""


class Report(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Reports)
        self.server.found = unquote(self.path.partition("?")[2])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_browser_loads_a_page_and_seeks_in_its_sound(root: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    (root / "style.css").write_text("body { color: rgb(1, 2, 3) }")
    (root / "module.js").write_text('export const word = "module";')
    (root / "data.json").write_text('{"word": "ü"}')
    (root / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="37"/>')
    make_sound(root / "sound.wav", seconds=1200)
    log = tmp_path / "log"
    with Reports(("127.0.0.1", 0), Report) as reports:
        address = f"http://127.0.0.1:{reports.server_port}/"
        (root / "index.html").write_text(PAGE.replace("REPORT", address))
        with serving(root, "--log", "json", "--log-file", str(log)) as url:
            browser = subprocess.Popen(
                [
                    chromium, "--headless", "--no-sandbox", "--disable-gpu", "--mute-audio",
                    "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
                    "--remote-debugging-port=0", f"{url}/",
                ],
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                reports.handle_request()
            finally:
                browser.terminate()
                browser.wait(timeout=20)
    assert reports.found == "module|ü|37|rgb(1, 2, 3)|1000"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    sounds = [line for line in lines if line["target"] == "/sound.wav"]
    assert len(sounds) > 1
    assert {206} <= {line["status"] for line in sounds} <= {206, 304}
    missing = {line["target"] for line in lines if line["status"] >= 400}
    assert missing <= {"/favicon.ico"}
