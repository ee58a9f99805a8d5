"""Tame and asyncio in one program: coroutines in tamed programs, tamed functions in coroutines.

`start` runs a coroutine and triggers an event with its result; it needs a driver that uses asyncio
(uvloop or asyncio).  `run_inside` is `tame.run` for a program whose asyncio loop is already
running, and `as_future` waits there for an event.  Both sides share one thread: between two waits
of one, the other does not run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tame import loop
from tame.adapters import into
from tame.drivers import AsyncioDriver
from tame.errors import LoopError
from tame.event import Event
from tame.language import mkevent, tamed, twait
from tame.rendezvous import Rendezvous

T = TypeVar("T")


def start(coroutine: Coroutine[Any, Any, T], event: Event[T]) -> asyncio.Task[T]:
    """Run `coroutine` as a task, and trigger `event` with its result, or fail it with its exception
    (`CancelledError` if the task is cancelled).

    The task sees the context variables of the caller.  If `event` is forgotten, the task
    continues; it is returned so that it can be cancelled.  Raises `LoopError` if the driver does
    not use asyncio.
    """
    driver = loop.active
    if not isinstance(driver, AsyncioDriver):
        coroutine.close()
        raise LoopError("a coroutine needs an asyncio loop: choose the driver uvloop or asyncio")

    def deliver(task: asyncio.Task[T]) -> None:
        driver.tasks -= 1
        if not event.live:
            return
        if task.cancelled():
            event.fail(asyncio.CancelledError("the task was cancelled"))
        elif (error := task.exception()) is not None:
            event.fail(error)
        else:
            event.trigger(task.result())

    driver.tasks += 1
    task = driver.loop.create_task(coroutine)
    task.add_done_callback(deliver)
    return task


def as_future(begin: Callable[[Event[T]], None]) -> asyncio.Future[T]:
    """Call `begin(event)`, and return a future for the value of `event`.

    The future's exception is the error that `event` fails with, `EventDroppedError` if it is
    dropped, or `LoopError` if Tame's loop ends first.  If the future is cancelled, the event is
    forgotten, and a later trigger does nothing.  Raises `LoopError` if Tame's loop is not running.

        address = await as_future(lambda e: gethost_ev("example.org", e))
    """
    if not isinstance(loop.active, AsyncioDriver):
        raise LoopError("tamed functions need Tame's loop: await tame.aio.run_inside(f) first")
    future: asyncio.Future[T] = loop.active.loop.create_future()
    r = Rendezvous[None]()
    future.add_done_callback(lambda _: r.cancel() if future.cancelled() else None)
    wait_for(begin, r, future)
    return future


@tamed
def wait_for(
    begin: Callable[[Event[T]], None], r: Rendezvous[None], future: asyncio.Future[T]
) -> None:
    found: list[T] = []
    try:
        begin(into(found, mkevent(r, None)))
        twait(r)
    except GeneratorExit:
        if not future.done():
            future.set_exception(LoopError("Tame's loop has ended before the event of a future"))
        raise
    except Exception as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(found[0])


class Guest(AsyncioDriver):
    """A driver on an asyncio loop that is already running and belongs to the program."""

    def __init__(
        self, on_turn: Callable[[], bool], on_alarm: Callable[[], None], name: str, on: Any
    ) -> None:
        super().__init__(on_turn, on_alarm, name, on)
        self.finished: asyncio.Future[None] = on.create_future()

    def stop(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def _fail(self, error: BaseException) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)

    def has_foreign_work(self) -> bool:
        return True  # the surrounding program may do anything

    def close(self) -> None:
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


async def run_inside(f: Callable[..., None], *args: Any) -> None:
    """`tame.run` on an asyncio loop that is already running; returns when the closure of `f` ends.

    An exception that ends the closure is raised here.  Cancelling this coroutine closes all
    closures.  As with `run`, there can be one at a time.
    """
    current = asyncio.get_running_loop()

    def guest(on_turn: Callable[[], bool], on_alarm: Callable[[], None]) -> Guest:
        return Guest(on_turn, on_alarm, "guest", current)

    with loop.running(guest, f, args) as driver:
        if driver is not None:
            await driver.finished
