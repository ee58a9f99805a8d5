"""asyncio both ways: a tamed program uses coroutines, and a coroutine uses tamed functions.

`start` runs a coroutine for an event; it needs Tame's loop to stand on asyncio (the drivers uvloop
and asyncio do).  `run_inside` is `tame.run` for a program whose asyncio loop runs already, and
`as_future` waits there for an event.  Both sides are on one thread: between two waits of either,
nothing of the other runs.
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
    """Run `coroutine` as a task, and trigger `event` with what it returns, or fail it with what it
    raises, `CancelledError` if the task is cancelled.

    The task sees the context variables of here and now.  An event that is forgotten lets the
    task go on; it is returned so that it can be cancelled.  Raises `LoopError` where Tame's loop
    does not stand on asyncio.
    """
    driver = loop.active
    if not isinstance(driver, AsyncioDriver):
        coroutine.close()
        raise LoopError(
            "a coroutine needs a loop of asyncio's: choose the driver uvloop or asyncio"
        )

    def tell(task: asyncio.Task[T]) -> None:
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
    task.add_done_callback(tell)
    return task


def as_future(begin: Callable[[Event[T]], None]) -> asyncio.Future[T]:
    """Call `begin(event)`, and return a future with the value of `event`, for ``await``.

    What `event` fails with is the future's exception, `EventDroppedError` if it is dropped.  If the
    future is cancelled, the event is forgotten: whoever triggers it then does nothing.  If Tame's
    loop ends before, the exception is a `LoopError`.  Raises `LoopError` where Tame does not run.

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
            future.set_exception(LoopError("Tame's loop has ended while a future waited for it"))
        raise
    except Exception as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(found[0])


class Guest(AsyncioDriver):
    """A driver on a loop that runs already and is somebody else's."""

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
        return True  # the program around it may do anything

    def close(self) -> None:
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


async def run_inside(f: Callable[..., None], *args: Any) -> None:
    """`tame.run` where an asyncio loop runs already: return when the closure of `f` has ended.

    An exception that ends it comes out of here.  A cancellation closes it, and what it has left.
    One at a time, as with `run`.
    """
    on = asyncio.get_running_loop()

    def guest(on_turn: Callable[[], bool], on_alarm: Callable[[], None]) -> Guest:
        return Guest(on_turn, on_alarm, "guest", on)

    with loop.running(guest, f, args) as driver:
        if driver is not None:
            await driver.finished
