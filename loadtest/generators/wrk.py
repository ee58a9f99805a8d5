"""wrk as a load generator: the one that saturates any server, and looks at no answer's bytes.

It has no pauses and no constant rate, and a connection ends only when the server ends it, so that
scenarios of so many requests send ``Connection: close`` with the last.  Its scripts do not know
which connection they speak for: of all requests each fifth is a last one, and so a connection has
five on the average.  One request before the load is compared with the file; under the load only
the status is.

Latencies are wrk's own.  It adds to them what it believes to have missed where an answer took
longer than the mean interval between two requests of a connection.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Final, NamedTuple

from loadtest.fileset import FileSet
from loadtest.generators import GeneratorError, Target, pinned, take_descriptors
from loadtest.generators.tally import histogram
from loadtest.results import Load
from loadtest.scenario import Scenario

DRAWS: Final = 50_000
"""Requests of the mix, drawn in advance; then they come again."""

PATIENCE: Final = 10
"""Seconds, as `--timeout` has it."""

REQUESTS: Final = """
local requests, lasts, drawn, asked = {}, {}, {}, 0
function init()
  local keep, close = {["Host"] = "HOST"}, {["Host"] = "HOST", ["Connection"] = "close"}
  for path in ("PATHS"):gmatch("%S+") do
    requests[#requests + 1] = wrk.format("GET", path, keep)
    lasts[#lasts + 1] = wrk.format("GET", path, close)
  end
  for number in ("DRAWN"):gmatch("%d+") do drawn[#drawn + 1] = tonumber(number) end
end
function request()
  asked = asked + 1
  local number = drawn[(asked - 1) % #drawn + 1]
  if EACH > 0 and asked % EACH == 0 then return lasts[number] end
  return requests[number]
end
"""
"""Asks for the paths as drawn; each EACH-th request is the last of its connection."""

DONE: Final = """
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("summary %d %d %d\\n", summary.duration, summary.requests, summary.bytes))
  io.write(string.format("errors %d %d %d %d %d\\n", errors.connect, errors.read, errors.write,
    errors.status, errors.timeout))
  if #latency * latency.max < 1e9 then
    for i = 1, #latency do io.write(string.format("latency %d %d\\n", latency(i))) end
  elseif #latency > 0 then
    local count = math.max(1, math.floor(summary.requests / 1000))
    for i = 1, 999 do
      io.write(string.format("latency %d %d\\n", latency:percentile(i / 10), count))
    end
    io.write(string.format("latency %d %d\\n", latency.max, count))
  end
end
"""
"""Tells what was counted.  For each value wrk searches all microseconds up to the highest; where
that would take more than a second or so, a thousand quantiles stand for the distribution."""


def available() -> str:
    return "" if shutil.which("wrk") else "wrk is not installed: install the Debian package wrk"


def generate(
    target: Target,
    scenario: Scenario,
    *,
    files: FileSet,
    path: str | None,
    clients: int,
    seconds: float,
    warm_up: float,
    rate: float | None,
    seed: int,
    core: int | None,
) -> Load:
    """See `loadtest.generators.generate`; wrk takes whole seconds, so these are rounded up.

    The warm-up is a run of its own, with connections of its own.
    """
    check(scenario, rate)
    take_descriptors(clients)
    paths = [path] if path is not None else draw(files, seed)
    compare(target, paths[0], files)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(requests(target, paths, scenario) + DONE)
        script.flush()
        url = f"http://{target.host}:{target.port}{target.path(paths[0])}"
        wrk = ["wrk", "-t1", f"-c{clients}", f"--timeout={PATIENCE}s", f"-s{script.name}"]
        if warm_up:
            run(pinned([*wrk, f"-d{math.ceil(warm_up)}s", url], core), warm_up)
        ran = run(pinned([*wrk, f"-d{max(1, math.ceil(seconds))}s", url], core), seconds)
    told = read(ran.said)
    return Load(
        generator="wrk",
        scenario=scenario.name,
        clients=clients,
        seconds=told.seconds,
        connections=told.requests // scenario.requests if scenario.requests else clients,
        requests=told.requests,
        bytes=told.bytes,
        errors=told.errors,
        latency=histogram(told.latencies),
        cpu=ran.cpu,
    )


def check(scenario: Scenario, rate: float | None) -> None:
    if missing := available():
        raise GeneratorError(missing)
    if rate is not None:
        raise GeneratorError("wrk knows no constant rate: take the generator tame")
    if scenario.pause or scenario.think or scenario.assets or scenario.slow or not scenario.asks:
        raise GeneratorError(
            f"wrk cannot do the scenario {scenario.name}: take the generator tame or locust"
        )


def draw(files: FileSet, seed: int) -> list[str]:
    numbers = random.Random(seed)
    return [files.draw(numbers) for _ in range(DRAWS)]


def requests(target: Target, paths: list[str], scenario: Scenario) -> str:
    """The part of the script that asks."""
    different = sorted(set(paths))
    number = {path: str(i) for i, path in enumerate(different, start=1)}
    return (
        REQUESTS.replace("HOST", f"{target.host}:{target.port}")
        .replace("EACH", str(scenario.requests or 0))
        .replace("PATHS", " ".join(map(target.path, different)))
        .replace("DRAWN", " ".join(number[path] for path in paths))
    )


def compare(target: Target, path: str, files: FileSet) -> None:
    """Ask once for the file, and see whether it is what comes."""
    with closing(HTTPConnection(target.host, target.port, timeout=PATIENCE)) as client:
        try:
            client.request("GET", target.path(path), headers={"Connection": "close"})
            response = client.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise GeneratorError(f"the server does not answer with {path}: {error}") from None
    if response.status != 200 or body != (files.root / path).read_bytes():
        raise GeneratorError(
            f"the server answers with other bytes than {path} has, and the status"
            f" {response.status}: the generator tame tells how often"
        )


class Ran(NamedTuple):
    said: str
    cpu: float


def run(command: list[str], seconds: float) -> Ran:
    """Run wrk to its end; its own CPU time is what the kernel tells when it is waited for."""
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        limit = threading.Timer(seconds + 3 * PATIENCE, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
            limit.join()
        stderr.seek(0)
        problem = stderr.read().strip() or said.strip()
    if process.returncode != 0 or "summary" not in said:
        raise GeneratorError(f"wrk has failed: {problem}")
    return Ran(said, used.ru_utime + used.ru_stime)


class Told(NamedTuple):
    """What wrk has counted."""

    seconds: float
    requests: int
    bytes: int
    errors: dict[str, int]
    latencies: list[tuple[int, int]]


def read(said: str) -> Told:
    (duration, answered, size), *_ = numbers(said, "summary")
    (connect, cut, write, status, timeout), *_ = numbers(said, "errors")
    kinds = {"refused": connect, "cut": cut, "closed": write, "status": status, "timeout": timeout}
    errors = {kind: count for kind, count in kinds.items() if count}
    latencies = [(value, count) for value, count in numbers(said, "latency")]
    return Told(duration / 1e6, answered - status, size, errors, latencies)


def numbers(said: str, word: str) -> Iterator[list[int]]:
    """The numbers of each line that begins with `word`."""
    for line in said.splitlines():
        first, *rest = line.split(" ")
        if first == word:
            yield [int(number) for number in rest]
