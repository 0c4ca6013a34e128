"""How requests that the loop reads in one turn come to the pool."""

import asyncio
from typing import Any

import pytest

from iodine_aio.apps.threads import PlainDelivery, ThreadedApp
from iodine_aio.errors import UsageError
from iodine_aio.settings import Settings


class Jobs:
    """A pool that keeps its jobs, or refuses them."""

    def __init__(self, closed: bool = False) -> None:
        self.closed = closed
        self.jobs: list[tuple[Any, ...]] = []

    @property
    def waiting(self) -> int:
        return len(self.jobs)

    def submit_all(self, function: Any, arguments: list[tuple[Any, ...]]) -> None:
        if self.closed:
            raise UsageError("the pool takes no more jobs")
        self.jobs += [(function, *args) for args in arguments]


class Desk:
    """A host whose mail is read at once."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.loop = asyncio.get_running_loop()
        self.busy_page = None

    def post(self, function: Any, *args: Any) -> bool:
        function(*args)
        return True


def make_app(pool: Jobs, **options: Any) -> ThreadedApp:
    return ThreadedApp(lambda env: None, PlainDelivery, Desk(pool), Settings(**options))  # type: ignore[arg-type]


async def test_requests_of_one_turn_come_to_the_pool_together():
    """Once the loop has read them all: a thread that is at work keeps it from reading."""
    pool = Jobs()
    app = make_app(pool)
    calls = [app({"PATH_INFO": path}) for path in ("/1", "/2", "/3")]
    during = pool.waiting
    await asyncio.sleep(0)
    order = [env["PATH_INFO"] for _, _, env, _ in pool.jobs]
    app({"PATH_INFO": "/4"})
    await asyncio.sleep(0)

    assert not any(call.done() for call in calls)
    assert during == 0
    assert order == ["/1", "/2", "/3"]
    assert pool.waiting == 4


async def test_requests_of_one_turn_count_as_waiting():
    """The bound holds for those that have not come to the pool yet, too."""
    app = make_app(Jobs(), max_waiting=2)
    answers = [app({}) for _ in range(3)]

    assert [isinstance(answer, tuple) for answer in answers] == [False, False, True]
    assert answers[2][0] == 503


async def test_request_that_the_pool_refuses_fails():
    """Its client is told, and nobody waits for ever."""
    app = make_app(Jobs(closed=True))
    answer = app({})

    with pytest.raises(UsageError, match="no more jobs"):
        await answer


async def test_response_is_told_of_within_the_call_that_brings_it():
    """Its connection does not wait for another turn of the loop."""
    pool = Jobs()
    app = ThreadedApp(lambda env: (200, {}, b"x"), PlainDelivery, Desk(pool), Settings())  # type: ignore[arg-type]
    heard: list[Any] = []
    app({}).add_done_callback(lambda reply: heard.append(reply.result()))
    await asyncio.sleep(0)
    ((run, *job),) = pool.jobs
    run(*job)

    assert heard == [(200, {}, b"x")]
