"""A result as the experiment could make it, from a seed: no server runs for it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

from loadtest.results import Cost, Counts, Environment, Held, Load, Memory, Result, Run, Server

CLIENTS = (16, 64, 256, 1024, 4096, 10_000)


@dataclass(frozen=True)
class Nature:
    """What a server of this kind is like: seconds a request and a connection, bytes."""

    request: float
    connection: float
    base: int
    grows: int
    stack: int = 0
    """Virtual bytes of a thread; 0 for a server of one thread."""
    pool: int = 0
    kind: str = "model"
    version: str = "0.1.0"


NATURES = {
    "events": Nature(38e-6, 35e-6, 14_600_000, 2_400),
    "threads": Nature(110e-6, 160e-6, 11_100_000, 21_700, stack=9_300_000),
    "threads, tuned": Nature(108e-6, 155e-6, 11_100_000, 21_500, stack=290_000),
    "pool": Nature(105e-6, 90e-6, 18_200_000, 700, pool=350),
    "asyncio": Nature(70e-6, 60e-6, 17_900_000, 5_100),
    "greenlets": Nature(66e-6, 62e-6, 16_000_000, 9_800),
    "nginx": Nature(11e-6, 14e-6, 2_900_000, 900, kind="peer", version="1.22.1"),
    "aiohttp": Nature(320e-6, 140e-6, 31_000_000, 12_000, kind="peer", version="3.11.0"),
    "Starlette": Nature(410e-6, 130e-6, 33_000_000, 9_000, kind="peer", version="0.45.0"),
    "Granian": Nature(61e-6, 60e-6, 24_000_000, 3_000, kind="peer", version="2.7.0"),
    "http.server": Nature(480e-6, 390e-6, 12_000_000, 25_000, stack=9_300_000, kind="peer"),
    "null": Nature(9e-6, 12e-6, 9_000_000, 500, kind="null"),
}
MODELS = tuple(name for name, nature in NATURES.items() if nature.kind == "model")
PEERS = tuple(name for name, nature in NATURES.items() if nature.kind == "peer")


def example(
    seed: int = 1, rounds: int = 5, slower: Mapping[str, float] | None = None, loaded: str = ""
) -> Result:
    """`slower` has, by server, the factor by which a request costs more than it does."""
    made = Maker(random.Random(seed), rounds, slower or {}, loaded)
    runs = made.figure7() + made.curve() + made.latency() + made.mix() + made.peers()
    return Result(
        made="2026-01-31T12:00:00Z",
        command="make loadtest LOAD=full SEED=1",
        settings={"rounds": str(rounds), "seconds": "10", "seed": str(seed), "load": "10"},
        environment=Environment(
            kernel="6.1.0-18-amd64",
            processor="AMD EPYC 7B13",
            cores=2,
            memory=8_340_000_000,
            python="3.11.7",
            packages={"uvloop": "0.21.0", "gevent": "24.11.1", "wrk": "4.1.0"},
            limits={"nofile": "1048576", "somaxconn": "4096", "pids.max": "max"},
            pinned=True,
            loaded=loaded,
        ),
        servers=tuple(
            Server(
                name=name,
                kind=nature.kind,
                version=nature.version,
                command=f"knot serve --model {name}" if name in MODELS else name,
            )
            for name, nature in NATURES.items()
        ),
        runs=tuple(runs),
        held=tuple(made.held()),
        missing={
            "uvicorn": "it is not installed: pip install '.[peers]'",
            "pool, 1,024 connections and more": "its 350 threads hold 350 connections",
        },
    )


@dataclass
class Maker:
    random: random.Random
    rounds: int
    slower: Mapping[str, float]
    loaded: str

    def run(
        self,
        server: str,
        part: str,
        number: int,
        scenario: str,
        clients: int,
        *,
        requests: int | None = 1,
        share: float | None = None,
        marks: tuple[str, ...] = (),
        errors: Mapping[str, int] | None = None,
    ) -> Run:
        nature = NATURES[server]
        noise = self.random.lognormvariate(0, 0.015)
        each = nature.request * self.slower.get(server, 1) * noise
        each *= 1 + 0.04 * max(0, clients - 256) / 1024 * (5 if nature.stack else 1)
        if requests:
            each += nature.connection / requests
        seconds, bound = 10.0, 25_000.0
        possible = 1 / each
        asked = possible * share if share else None
        rate = asked or min(possible, bound)
        answered = int(rate * seconds)
        if rate == bound:
            marks += ("generator-bound",)
        if self.loaded:
            marks += ("machine loaded",)
        return Run(
            server=server,
            part=part,
            round=number,
            share=share,
            load=Load(
                generator="wrk" if share is None else "tame",
                scenario=scenario,
                clients=clients,
                seconds=seconds,
                rate=asked,
                connections=answered // requests if requests else clients,
                requests=answered,
                bytes=answered * 14_727,
                errors=errors or {},
                latency=self.histogram(each, clients, share) if share else "",
                cpu=seconds * min(1.0, rate / bound),
                fairness=None if share is None else 0.998,
            ),
            cost=Cost(
                seconds=seconds,
                cpu=rate * each * seconds,
            ),
            counts=None
            if server == "nginx"
            else Counts(requests=100, switches=200 if nature.stack else 1, system_calls=600),
            memory=self.memory(server, clients),
            marks=marks,
        )

    def histogram(self, each: float, clients: int, share: float) -> str:
        histogram = HdrHistogram(1, 60_000_000, 3)
        for _ in range(1_500):
            wait = self.random.expovariate(1 - share) * each * 1e6 * (1 + clients / 500)
            histogram.record_value(max(1, int(each * 1e6 + wait)), 4)
        encoded: bytes = histogram.encode()
        return encoded.decode()

    def memory(self, server: str, connections: int) -> Memory:
        nature = NATURES[server]
        threads = nature.pool or (1 + connections if nature.stack else 1)
        private = nature.base + connections * nature.grows
        private += self.random.randrange(-40, 40) * 1_024
        return Memory(
            connections=connections,
            threads=threads,
            rss=private + 6_000_000,
            virtual=nature.base * 3 + threads * (nature.stack or 100_000),
            pss=private + 1_500_000,
            private=private,
            kernel_stacks=threads * 16_384,
            page_tables=90_000 + threads * (4_100 if nature.stack else 20),
        )

    def figure7(self) -> list[Run]:
        return [
            self.run(server, "figure7", number, scenario, 350, requests=requests)
            for number in range(self.rounds)
            for scenario, requests in (("one", 1), ("five", 5))
            for server in MODELS
        ]

    def curve(self) -> list[Run]:
        """Threads refuse some at 10,000 connections, and the pool was not asked there."""
        return [
            self.run(
                server,
                "curve",
                number,
                scenario,
                clients,
                requests=requests,
                errors={"refused": 412} if NATURES[server].stack and clients == 10_000 else None,
                marks=("errors",) if NATURES[server].stack and clients == 10_000 else (),
            )
            for number in range(self.rounds)
            for scenario, requests in (("kept", None), ("one", 1))
            for clients in CLIENTS
            for server in MODELS
            if not (server == "pool" and clients > 350)
        ]

    def latency(self) -> list[Run]:
        return [
            self.run(server, "latency", number, "kept", clients, requests=None, share=share)
            for number in range(self.rounds)
            for share, clients in ((0.5, 350), (0.7, 64), (0.7, 350), (0.9, 350))
            for server in MODELS
            if not (server == "greenlets" and share == 0.9)
        ]

    def mix(self) -> list[Run]:
        return [
            self.run(server, "mix", number, "five", 100, requests=5)
            for number in range(self.rounds)
            for server in MODELS
        ]

    def peers(self) -> list[Run]:
        return [
            self.run(
                server,
                "peers",
                number,
                "kept",
                64,
                requests=None,
                errors={"wrong": 3} if server == "Starlette" else None,
                marks=("wrong answers",) if server == "Starlette" else (),
            )
            for number in range(self.rounds)
            for server in ("events", *PEERS)
        ]

    def held(self) -> list[Held]:
        return [
            Held(server=server, memory=self.memory(server, connections))
            for connections in (0, 350, 1_000, 5_000)
            for server in MODELS
            if not (server == "pool" and connections > 350)
            for _ in range(5)
        ]
