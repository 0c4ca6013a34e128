"""What is still there when a server has stopped."""

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from iodine_aio.stragglers import DaemonExecutor, leaving_none_behind
from tests.loops import LOOP_FACTORIES, Run


def no_time() -> float:
    return 0.0


@pytest.fixture(params=LOOP_FACTORIES)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine as the one task that is no straggler."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOP_FACTORIES[request.param]) as runner:
            return runner.run(main)

    return run


def test_task_that_swallows_its_end_is_given_up_by_name(run: Run, caplog):
    """The loop can be closed then, though asyncio would wait for it."""

    async def stay() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(600)

    async def main() -> None:
        async with leaving_none_behind(no_time):
            kept.append(asyncio.create_task(stay()))
            await asyncio.sleep(0)

    kept: list[object] = []
    run(main())
    caplog.set_level(logging.CRITICAL)  # asyncio says that it was pending
    kept.clear()
    gc.collect()

    name = stay.__qualname__
    assert [record.getMessage() for record in caplog.records] == [
        f"given up, since they do not end when they are cancelled: {name}"
    ]


def test_task_that_cleans_up_has_the_time_that_is_left(run: Run):
    """Its own `finally` may wait."""

    async def clean_up() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.7)  # more than the least
            done.append("cleaned up")

    async def main() -> None:
        async with leaving_none_behind(lambda: 10.0):
            kept = asyncio.create_task(clean_up())
            await asyncio.sleep(0)
        assert kept.cancelled()

    done: list[str] = []
    run(main())

    assert done == ["cleaned up"]


def test_job_in_a_thread_does_what_it_was_asked(run: Run):
    """`asyncio.to_thread` as ever: results, errors, several at once."""

    async def main() -> list[object]:
        both = threading.Barrier(2)
        async with leaving_none_behind(no_time):
            return await asyncio.gather(
                asyncio.to_thread(both.wait, 10),
                asyncio.to_thread(both.wait, 10),
                asyncio.to_thread(int, "x"),
                asyncio.to_thread(threading.current_thread),
                return_exceptions=True,
            )

    one, two, error, thread = run(main())

    assert {one, two} == {0, 1}
    assert isinstance(error, ValueError)
    assert isinstance(thread, threading.Thread)
    assert thread.daemon


def test_job_that_never_ends_is_not_waited_for(run: Run):
    """The loop is closed, and its thread is a daemon."""
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait(30)
        ended.set()

    async def main() -> None:
        async with leaving_none_behind(no_time):
            kept = asyncio.create_task(asyncio.to_thread(work))
            while not begun.is_set():
                await asyncio.sleep(0)
        assert kept.cancelled()

    run(main())
    still_there = not ended.is_set()
    release.set()

    assert still_there
    assert ended.wait(10)


def test_executor_that_was_shut_down_takes_no_more():
    """It says so as others do."""
    executor = DaemonExecutor()
    future: Future[str] = executor.submit(str, 7)
    assert future.result(10) == "7"
    executor.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(str, 8)
