"""What pytest is told for all tests.

An `async def` test runs twice, on uvloop and on plain asyncio, for 20 seconds at most.
One marked `one_loop` runs once: its server is another process.
"""

import asyncio
import functools
import gc
import inspect
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from iodine_aio import lifecycle
from tests.loops import LOOP_FACTORIES, Run

SECONDS = 20


def pytest_configure() -> None:
    """Servers that tests start hear Ctrl-C, though the tests run in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """An async test is run on each of these."""
    if item.get_closest_marker("one_loop"):
        return {"uvloop": LOOP_FACTORIES["uvloop"]}
    return LOOP_FACTORIES


def pytest_collection_finish() -> None:
    """The tests themselves are never rubbish: one that collects some need not look at them all."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """An async test that hangs is cancelled: the alarm of pytest-timeout ends no loop."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = limit_time(item.obj)


def limit_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def limited(**arguments: Any) -> None:
        async with asyncio.timeout(SECONDS):
            await test(**arguments)

    return limited


@pytest.fixture(params=LOOP_FACTORIES)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a loop of its own, uvloop or asyncio, for 20 seconds at most.

    For tests that look at what is left when the loop has ended, or begin before it.
    """

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOP_FACTORIES[request.param]) as runner:
            return runner.run(asyncio.wait_for(main, SECONDS))

    return run


@pytest.fixture(autouse=True)
def forget_hooks() -> Iterator[None]:
    """Hooks and timers belong to the process: a test's end with it."""
    yield
    # There is no public way to take a hook back.
    for hooks in lifecycle._hooks.values():
        hooks.clear()
    lifecycle._waiting.clear()
