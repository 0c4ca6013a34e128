"""The event loops that tests run on, and the type of the fixture `run`."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import iodine_aio

LOOP_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": iodine_aio.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}

Run = Callable[[Coroutine[Any, Any, Any]], Any]
