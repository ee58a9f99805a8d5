"""Questions and answers between a supervisor and a worker, over the sockets that they have."""

from __future__ import annotations

import os
import socket
import warnings

import pytest

from knot.process import control
from knot.process.control import (
    BEAT,
    COUNT,
    MAX_ANSWER,
    NUMBER,
    QUESTION,
    WAITING,
    ControlChannel,
    pair,
    serve_control,
)
from tame import BlockedWarning, mkevent, run, tamed, tvars, twait

pytestmark = pytest.mark.usefixtures("driver")


def test_a_question_gets_its_answer() -> None:
    said: list[str | None] = []
    worker = pair()

    @tamed
    def main() -> None:
        with tvars:
            answers: list[str | None]
        line = ControlChannel(worker[0].detach())
        line.listen()
        serve_control(worker[1].detach(), {COUNT: lambda: "", WAITING: lambda: "for Gödel"})
        answers = [None, None, None]
        with twait:
            line.ask(WAITING, mkevent(answers[0]))
            line.ask(COUNT, mkevent(answers[1]))
            line.ask(WAITING, mkevent(answers[2]))
        said.extend(answers)
        line.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)  # the worker's end, which may not know yet
        run(main)
    assert said == ["for Gödel", "", "for Gödel"]


def test_who_asks_several_times_at_once_costs_the_worker_one_answer() -> None:
    own, other = pair()
    made: list[str] = []

    def make() -> str:
        made.append("")
        return "x"

    for number in range(5):
        own.send(QUESTION.pack(WAITING, number))

    own.shutdown(socket.SHUT_WR)
    run(serve_control, other.detach(), {WAITING: make})
    with own:
        assert [own.recv(100) for _ in range(5)] == [NUMBER.pack(n) + b"x" for n in range(5)]
        assert own.recv(100) == b""
    assert len(made) == 1


def test_a_long_answer_is_cut() -> None:
    own, other = pair()
    own.send(QUESTION.pack(WAITING, 7))
    own.shutdown(socket.SHUT_WR)

    run(serve_control, other.detach(), {WAITING: lambda: "ö" * MAX_ANSWER})
    with own:
        assert len(own.recv(2 * MAX_ANSWER)) == MAX_ANSWER


def test_an_answer_that_comes_too_late_is_taken_for_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "ANSWER_TIMEOUT", 0.01)
    own, worker = pair()
    said: list[str | None] = []

    @tamed
    def main() -> None:
        with tvars:
            answer: str | None
        line = ControlChannel(own.detach())
        line.listen()
        with twait:
            line.ask(WAITING, mkevent(answer))
        said.append(answer)
        monkeypatch.setattr(control, "ANSWER_TIMEOUT", 20)
        (first,) = [QUESTION.unpack(worker.recv(100))[1]]
        with twait:
            line.ask(WAITING, mkevent(answer))
            second = QUESTION.unpack(worker.recv(100))[1]
            worker.send(NUMBER.pack(first) + b"late")
            worker.send(NUMBER.pack(second) + b"in time")
        said.append(answer)
        line.close()

    run(main)
    worker.close()
    assert said == [None, "in time"]


def test_who_has_ended_answers_nothing_and_at_once() -> None:
    own, worker = pair()
    said: list[str | None] = []

    @tamed
    def main() -> None:
        with tvars:
            answers: list[str | None]
        answers = ["", ""]
        line = ControlChannel(own.detach())
        line.listen()
        with twait:
            line.ask(WAITING, mkevent(answers[0]))
            worker.close()
        with twait:
            line.ask(WAITING, mkevent(answers[1]))
        said.extend(answers)

    run(main)
    assert said == [None, None]


def test_a_supervisor_that_takes_no_answers_is_no_reason_to_stop() -> None:
    own, other = pair()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for number in range(20):
        own.send(QUESTION.pack(WAITING, number))
    own.shutdown(socket.SHUT_WR)

    run(serve_control, other.detach(), {WAITING: lambda: "x" * 500})
    taken = []
    with own:
        while said := os.read(own.fileno(), 1000):
            taken.append(NUMBER.unpack_from(said)[0])
    assert taken == list(range(len(taken)))
    assert 0 < len(taken) < 20


def test_a_beat_counts_until_the_worker_says_anything() -> None:
    own, worker = pair()
    silent: list[int] = []

    @tamed
    def main() -> None:
        with tvars:
            said: str | None
        line = ControlChannel(own.detach())
        line.listen()
        for _ in range(3):
            line.beat()
        silent.append(line.missed)
        serve_control(worker.detach(), {BEAT: str, WAITING: str})
        with twait:
            line.ask(WAITING, mkevent(said))
        silent.append(line.missed)
        line.close()
        line.beat()  # nobody is there: no reason to stop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlockedWarning)
        run(main)
    assert silent == [3, 0]
