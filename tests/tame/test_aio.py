"""asyncio both ways."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from tame import BlockedWarning, Event, LoopError, mkevent, run, tamed, timer, tvars, twait
from tame.aio import as_future, run_inside, start

USER: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.fixture(params=["uvloop", "asyncio"])
def on_asyncio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("TAME_DRIVER", name)
    return name


@tamed
def lookup(name: str, done: Event[str]) -> None:
    with twait:
        timer(0.001, mkevent())
    if name == "nowhere":
        done.fail(KeyError(name))
    elif name != "silence":
        done.trigger(f"address of {name}")


# -- a tamed program uses coroutines ---------------------------------------------------------------


@pytest.mark.usefixtures("on_asyncio")
def test_a_coroutine_runs_for_an_event() -> None:
    async def fetch(number: int) -> str:
        await asyncio.sleep(0.001 * number)
        return f"{number} for {USER.get()}"

    @tamed
    def main() -> None:
        found = ["", ""]
        USER.set("somebody")
        with twait:
            for number in range(2):
                start(fetch(number), mkevent(found[number]))
        assert found == ["0 for somebody", "1 for somebody"]

    run(main)


@pytest.mark.usefixtures("on_asyncio")
def test_what_a_coroutine_raises_is_raised_where_one_waits() -> None:
    async def broken() -> int:
        raise ZeroDivisionError("in a coroutine")

    @tamed
    def main() -> None:
        with tvars:
            result: int
        with twait:
            start(broken(), mkevent(result))

    with pytest.raises(ZeroDivisionError, match="in a coroutine"):
        run(main)


@pytest.mark.usefixtures("on_asyncio")
def test_a_task_that_is_cancelled_is_told_to_who_waits() -> None:
    seen: list[str] = []

    @tamed
    def main() -> None:
        with tvars:
            result: None
        try:
            with twait:
                task = start(asyncio.sleep(1000), mkevent(result))
                task.cancel()
        except asyncio.CancelledError:
            seen.append("cancelled")

    run(main)
    assert seen == ["cancelled"]


@pytest.mark.usefixtures("on_asyncio")
def test_a_forgotten_event_lets_the_task_go_on() -> None:
    ended: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        ended.append("work")

    @tamed
    def main() -> None:
        with tvars:
            nothing: None
        try:
            with twait:
                task = start(work(), mkevent(nothing))
                raise KeyError
        except KeyError:
            pass
        while not task.done():
            with twait:
                timer(0, mkevent())

    run(main)
    assert ended == ["work"]


def test_without_asyncio_there_are_no_coroutines() -> None:
    @tamed
    def main() -> None:
        with tvars:
            nothing: None
        with twait:
            start(asyncio.sleep(0), mkevent(nothing))

    with pytest.raises(LoopError, match="choose the driver uvloop or asyncio"):
        run(main, driver="epoll")


# -- an asyncio program uses tamed functions -------------------------------------------------------


def test_a_tamed_function_is_awaited() -> None:
    found: list[object] = []

    async def client() -> None:
        found.append(await as_future(lambda e: lookup("one", e)))
        found.append(
            await asyncio.gather(*(as_future(lambda e, n=n: lookup(n, e)) for n in "ab"))  # type: ignore[misc]
        )
        for name, error in (("nowhere", KeyError), ("silence", Exception)):
            with pytest.raises(error):
                await as_future(lambda e: lookup(name, e))  # noqa: B023  (awaited at once)

    @tamed
    def main() -> None:
        with tvars:
            nothing: None
        with twait:
            start(client(), mkevent(nothing))

    async def program() -> None:
        await run_inside(main)

    asyncio.run(program())
    assert found == ["address of one", ["address of a", "address of b"]]


def test_a_future_that_is_cancelled_forgets_its_event() -> None:
    events: list[Event[int]] = []

    async def client() -> None:
        future = as_future(events.append)
        future.cancel()
        await asyncio.sleep(0)
        assert not events[0].live
        events.pop().trigger(1)

    @tamed
    def main() -> None:
        with tvars:
            nothing: None
        with twait:
            start(client(), mkevent(nothing))

    async def program() -> None:
        await run_inside(main)

    asyncio.run(program())


def test_a_tamed_program_runs_inside_an_asyncio_program_and_leaves_it_its_turns() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    @tamed
    def main() -> None:
        with twait:
            timer(0.01, mkevent())

    async def program() -> None:
        task = asyncio.create_task(others())
        await run_inside(main)
        task.cancel()
        with pytest.raises(ZeroDivisionError):
            await run_inside(divide)

    @tamed
    def divide() -> None:
        with twait:
            timer(0, mkevent())
        raise ZeroDivisionError

    asyncio.run(program())
    assert turns > 1


def test_a_program_that_is_cancelled_ends_its_closures() -> None:
    ended: list[str] = []

    @tamed
    def main() -> None:
        try:
            with twait:
                timer(1000, mkevent())
        finally:
            ended.append("main")

    async def program() -> None:
        task = asyncio.create_task(run_inside(main))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(program())
    assert ended == ["main"]


def test_outside_of_tame_no_event_can_be_awaited() -> None:
    async def program() -> None:
        with pytest.raises(LoopError, match="run_inside"):
            as_future(lambda e: e.trigger(1))
        with pytest.raises(LoopError, match="run_inside"):
            run(lambda: None)

    asyncio.run(program())


def test_a_future_that_is_awaited_when_tame_ends_is_told_so() -> None:
    kept: list[Event[int]] = []

    async def client() -> None:
        with pytest.raises(LoopError, match="has ended"):
            await as_future(kept.append)

    async def program() -> None:
        clients: list[asyncio.Task[None]] = []

        @tamed
        def main() -> None:
            clients.append(asyncio.create_task(client()))
            with twait:
                timer(0.001, mkevent())

        with pytest.warns(BlockedWarning):
            await run_inside(main)
        await asyncio.wait_for(clients[0], 10)

    asyncio.run(program())
    kept.clear()
