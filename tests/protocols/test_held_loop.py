"""Whoever keeps the loop to itself is named in the log, once, with the cure."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import iodine_aio
from iodine_aio.protocols import answering, sending, streaming, turns, websocket
from tests.clients import connect, open_websocket, read_response
from tests.frames import text_frame
from tests.requests import KEPT


class Time:
    """A clock that stands still unless somebody takes time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for module in (answering, sending, streaming, turns, websocket):
        monkeypatch.setattr(module, "monotonic", time)
    return time


def entries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def ask_twice(app: Any, **options: Any) -> None:
    async with (
        iodine_aio.serve(app, port=0, **options) as server,
        connect(server) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(KEPT)
            await read_response(reader)


async def test_app_that_holds_the_loop_is_named_once(time: Time, caplog):
    """With the time it took, the request, and what to do."""

    def app(env: dict[str, Any]) -> Any:
        time.now += 0.3
        return 200, {}, ""

    await ask_twice(app)

    assert entries(caplog) == [
        "the app held the loop for 300 ms by GET '/', and everybody else waited: let it run in"
        " threads (-t N, or threads=N), or await what takes time in an async def; said once"
    ]


async def test_app_that_is_done_in_time_is_not_named(time: Time, caplog):
    """A quarter of a second is allowed."""

    def app(env: dict[str, Any]) -> Any:
        time.now += 0.25
        return 200, {}, ""

    await ask_twice(app)

    assert entries(caplog) == []


async def test_body_that_holds_the_loop_is_named_once(time: Time, caplog):
    """A generator's pieces are made on the loop, too."""

    def pieces() -> Iterator[bytes]:
        time.now += 0.3
        yield b"slow"

    await ask_twice(lambda env: (200, {"Content-Length": "4"}, pieces()))

    assert [text.partition(",")[0] for text in entries(caplog)] == [
        "the body of a response held the loop for 300 ms"
    ]


@pytest.mark.parametrize("threads", [0, 2])
async def test_callable_body_that_holds_the_loop_is_named_once(time: Time, caplog, threads: int):
    """Threads do not help it: it is called on the loop, and may write from a thread of its own."""

    def write(stream: Any) -> None:
        time.now += 0.3
        stream.write(b"slow")

    await ask_twice(lambda env: (200, {"Content-Length": "4"}, write), threads=threads)

    assert entries(caplog) == [
        "the callable body of a response held the loop for 300 ms, and everybody else waited: let"
        " it write from a thread of its own, or await what takes time in an async def; said once"
    ]


async def test_app_in_a_thread_holds_nobody_up(time: Time, caplog):
    """Whatever time it takes."""
    loop = asyncio.get_running_loop()

    def take_time() -> None:
        time.now += 9

    def app(env: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(take_time)
        return 200, {}, ""

    await ask_twice(app, threads=1)

    assert entries(caplog) == []


@pytest.mark.parametrize("callback", ["on_open", "on_message"])
async def test_handler_that_holds_the_loop_is_named_once(time: Time, caplog, callback: str):
    """By its class, whichever callback it was."""

    class Slow:
        def on_open(self) -> None:
            time.now += 0.4 if callback == "on_open" else 0

        def on_message(self, data: Any) -> None:
            time.now += 0.4 if callback == "on_message" else 0
            self.write(data)  # type: ignore[attr-defined]

    async with open_websocket(Slow) as client:
        for _ in range(2):
            client.send(text_frame("hello"))
            await client.receive()

    assert [text.partition(",")[0] for text in entries(caplog)] == ["Slow held the loop for 400 ms"]
