"""The event loops that tests run on, and how they are turned."""

import asyncio
from collections.abc import Callable, Coroutine
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
