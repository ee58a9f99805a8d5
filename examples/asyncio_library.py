"""A tamed program that uses an asyncio library: it fetches pages by aiohttp, three at a time.

    python examples/asyncio_library.py URL...

The session and its requests are coroutines.  `start` runs a coroutine and triggers an event with
its result, and `window` limits how many run at a time.
"""

from __future__ import annotations

import sys

import aiohttp

from tame import Event, mkevent, run, tamed, tvars, twait
from tame.aio import start
from tame.sync import window

AT_ONCE = 3


async def fetch(session: aiohttp.ClientSession, url: str) -> tuple[int, int]:
    """The status and the number of bytes of a page, as text."""
    async with session.get(url) as response:
        return response.status, len(await response.read())


async def new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()  # which has to be made where a loop runs


@tamed
def report(session: aiohttp.ClientSession, url: str, done: Event[()]) -> None:
    with tvars:
        found: tuple[int, int]
    try:
        with twait:
            start(fetch(session, url), mkevent(found))
    except aiohttp.ClientError as error:
        print(f"{url}: {type(error).__name__}")
    else:
        status, size = found
        print(f"{url}: {status}, {size} bytes")
    done.trigger()


@tamed
def main(urls: list[str]) -> None:
    with tvars:
        session: aiohttp.ClientSession
        nothing: None
    with twait:
        start(new_session(), mkevent(session))
    with twait:
        window(AT_ONCE, urls, lambda url, done: report(session, url, done), mkevent())
    with twait:
        start(session.close(), mkevent(nothing))


if __name__ == "__main__":
    run(main, sys.argv[1:])
