"""The event loops that tests run on, and how they are turned."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import iodine_aio

LOOP_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": iodine_aio.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}

Run = Callable[[Coroutine[Any, Any, Any]], Any]  # of the fixture `run`


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop turn until `condition()` is so; the test's own limit ends it."""
    while not condition():
        await asyncio.sleep(0)


@contextlib.contextmanager
def elsewhere(
    factory: Callable[[], asyncio.AbstractEventLoop],
    main: Callable[[threading.Event, asyncio.Event], Coroutine[Any, Any, None]],
) -> Iterator[None]:
    """Runs `main(started, stop)` on a loop in another thread until the block ends."""
    started = threading.Event()
    ending: list[Any] = []

    async def run() -> None:
        stop = asyncio.Event()
        ending.extend([asyncio.get_running_loop(), stop])
        await main(started, stop)

    def work() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(run())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(10)
        yield
    finally:
        ending[0].call_soon_threadsafe(ending[1].set)
        thread.join(10)
