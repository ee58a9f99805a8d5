"""wrk as a load generator: it saturates any server, and does not check the bytes of answers.

It cannot pause or keep a constant rate, and a connection ends only when the server closes it, so
scenarios with a number of requests send ``Connection: close`` with the last one.  A script of wrk
does not know which connection it writes for: with five requests, every fifth request of all is a
last one, so a connection has five on average.  One request before the load is compared with the
file; during the load only the status is checked.

Latencies are wrk's own.  Where an answer took longer than the mean interval between two requests of
a connection, wrk adds the latencies that it assumes it has missed.
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
from loadtest.generators import GeneratorError, Job, Target, take_descriptors
from loadtest.generators.tally import histogram
from loadtest.processes import pinned
from loadtest.results import Load
from loadtest.scenario import Scenario

DRAWS: Final = 50_000
"""Requests of the mix, drawn in advance and then repeated."""

TIMEOUT: Final = 10
"""Seconds for an answer."""

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
"""Prints what was counted.  For each value wrk searches all microseconds up to the highest; where
that would take more than about a second, a thousand quantiles represent the distribution."""


def available() -> str:
    return "" if shutil.which("wrk") else "wrk is not installed: install the Debian package wrk"


def generate(job: Job) -> Load:
    """See `loadtest.generators.generate`; wrk takes whole seconds, so these are rounded up.

    The warm-up is a run of its own, with connections of its own.
    """
    check(job.scenario, job.rate)
    take_descriptors(job.clients)
    paths = [job.path] if job.path is not None else draw(job.files, job.seed)
    compare(job.target, paths[0], job.files)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(requests(job.target, paths, job.scenario) + DONE)
        script.flush()
        url = f"http://{job.target.host}:{job.target.port}{job.target.path(paths[0])}"
        wrk = ["wrk", "-t1", f"-c{job.clients}", f"--timeout={TIMEOUT}s", f"-s{script.name}"]
        if job.warm_up:
            run(pinned([*wrk, f"-d{math.ceil(job.warm_up)}s", url], job.core), job.warm_up)
        seconds = max(1, math.ceil(job.seconds))
        ran = run(pinned([*wrk, f"-d{seconds}s", url], job.core), job.seconds)
    report = read(ran.output)
    each = job.scenario.requests
    return Load(
        generator="wrk",
        scenario=job.scenario.name,
        clients=job.clients,
        seconds=report.seconds,
        connections=report.requests // each if each else job.clients,
        requests=report.requests,
        bytes=report.bytes,
        errors=report.errors,
        latency=histogram(report.latencies),
        cpu=ran.cpu,
    )


def check(scenario: Scenario, rate: float | None) -> None:
    if missing := available():
        raise GeneratorError(missing)
    if rate is not None:
        raise GeneratorError("wrk has no constant rate: take the generator tame")
    if scenario.pause or scenario.think or scenario.assets or scenario.slow or not scenario.asks:
        raise GeneratorError(
            f"wrk cannot do the scenario {scenario.name}: take the generator tame or locust"
        )


def draw(files: FileSet, seed: int) -> list[str]:
    numbers = random.Random(seed)
    return [files.draw(numbers) for _ in range(DRAWS)]


def requests(target: Target, paths: list[str], scenario: Scenario) -> str:
    """The part of the script that makes requests."""
    different = sorted(set(paths))
    number = {path: str(i) for i, path in enumerate(different, start=1)}
    return (
        REQUESTS.replace("HOST", f"{target.host}:{target.port}")
        .replace("EACH", str(scenario.requests or 0))
        .replace("PATHS", " ".join(map(target.path, different)))
        .replace("DRAWN", " ".join(number[path] for path in paths))
    )


def compare(target: Target, path: str, files: FileSet) -> None:
    """Ask once for the file.  Raises `GeneratorError` if the answer is not its bytes."""
    with closing(HTTPConnection(target.host, target.port, timeout=TIMEOUT)) as client:
        try:
            client.request("GET", target.path(path), headers={"Connection": "close"})
            response = client.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise GeneratorError(f"the server does not answer with {path}: {error}") from None
    if response.status != 200 or body != (files.root / path).read_bytes():
        raise GeneratorError(
            f"the server answers with other bytes than {path} has, and the status"
            f" {response.status}: the generator tame counts how often"
        )


class Ran(NamedTuple):
    output: str
    cpu: float


def run(command: list[str], seconds: float) -> Ran:
    """Run wrk to its end; wait4(2) reports its CPU time."""
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        limit = threading.Timer(seconds + 3 * TIMEOUT, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            output = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
            limit.join()
        stderr.seek(0)
        problem = stderr.read().strip() or output.strip()
    if process.returncode != 0 or "summary" not in output:
        raise GeneratorError(f"wrk has failed: {problem}")
    return Ran(output, used.ru_utime + used.ru_stime)


class Report(NamedTuple):
    """What wrk has counted."""

    seconds: float
    requests: int
    bytes: int
    errors: dict[str, int]
    latencies: list[tuple[int, int]]


def read(output: str) -> Report:
    (duration, answered, size), *_ = numbers(output, "summary")
    (connect, cut, write, status, timeout), *_ = numbers(output, "errors")
    kinds = {"refused": connect, "cut": cut, "closed": write, "status": status, "timeout": timeout}
    errors = {kind: count for kind, count in kinds.items() if count}
    latencies = [(value, count) for value, count in numbers(output, "latency")]
    return Report(duration / 1e6, answered - status, size, errors, latencies)


def numbers(output: str, word: str) -> Iterator[list[int]]:
    """The numbers of each line that begins with `word`."""
    for line in output.splitlines():
        first, *rest = line.split(" ")
        if first == word:
            yield [int(number) for number in rest]
