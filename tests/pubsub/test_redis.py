"""What needs no Redis of the engine for Redis; the rest is in integration/test_redis.py."""

import asyncio
import contextlib
import importlib.util
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.connections import make_pool
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.publisher import Publisher
from iodine_aio.pubsub.redis import RedisEngine
from iodine_aio.settings import Settings

NOWHERE = "unix:///nonexistent/redis.sock"


@pytest.mark.parametrize("make", [Publisher, lambda url: RedisEngine(url, print)])
@pytest.mark.parametrize("url", ["http://x", "redis://x?socket_timeout=soon", "redis://x?no=3"])
def test_malformed_url_is_refused_at_once(make: object, url: str):
    """Not when it first connects."""
    assert callable(make)
    with pytest.raises(UsageError, match="the URL of Redis"):
        make(url)


@pytest.mark.parametrize("url", ["redis://x", "rediss://x", NOWHERE, "redis://x?protocol=3"])
def test_connection_of_every_kind_speaks_resp2(url: str):
    """In RESP3 messages would come between the replies, out of their order."""
    assert make_pool(url).make_connection().protocol == 2


async def test_connection_that_cannot_be_made_is_tried_again_and_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Whatever is wrong: an engine that had ended would keep silent about it."""
    engine = RedisEngine(NOWHERE, print)
    refusals = itertools.count(1)
    twice = asyncio.Event()

    def make_connection() -> None:
        if next(refusals) == 2:
            twice.set()
        raise RuntimeError("no such parser")

    monkeypatch.setattr(engine._connections, "make_connection", make_connection)
    await engine.open()
    await twice.wait()
    await engine.close()

    assert "no such parser" in caplog.text


async def test_queue_for_a_redis_that_is_away_is_bounded(caplog: pytest.LogCaptureFixture):
    """The latest messages wait; what they have displaced is counted and told."""
    engine = RedisEngine(NOWHERE, print, max_queued_bytes=10_000)
    for number in range(100):
        engine.publish(Message("news", f"{number:<1000}"))
    waiting = [int(value[-1000:]) for _, value in engine._queue]

    assert waiting == list(range(100 - len(waiting), 100))
    assert engine.lost == 100 - len(waiting) == 91
    assert engine._queued_bytes <= 10_000
    assert len(caplog.records) == 1


async def test_channels_that_come_and_go_while_redis_is_away_leave_nothing():
    """Ten thousand a second would pile up."""
    engine = RedisEngine(NOWHERE, print)
    for number in range(1000):
        for pattern in (False, True):
            engine.subscribe(f"room {number}", pattern)
            engine.unsubscribe(f"room {number}", pattern)

    assert (engine._changes, engine._channels, engine._globs) == ({}, set(), {})


async def test_two_patterns_that_are_one_to_redis_are_counted():
    """It is unsubscribed from with the last of them."""
    engine = RedisEngine(NOWHERE, print)
    engine.subscribe("a?", True)
    engine.subscribe("a[^x]", True)
    engine.unsubscribe("a?", True)
    kept = set(engine._globs)
    engine.unsubscribe("a[^x]", True)

    assert kept == {b"a?*"}
    assert engine._globs == {}


@contextlib.asynccontextmanager
async def port_that_says(reply: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port that answers whatever comes, and what came first on each connection."""
    came: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(4096))
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], came


@pytest.mark.parametrize(
    "reply", [b"$x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*x\r\n", b"-NOAUTH no\r\n", b"\xff"]
)
async def test_what_is_no_redis_is_told_of_once(reply: bytes, caplog: pytest.LogCaptureFixture):
    """It is tried again and again, and the log is not filled."""
    async with port_that_says(reply) as (port, came):
        engine = RedisEngine(f"redis://127.0.0.1:{port}", print)
        await engine.open()
        async with asyncio.timeout(20):
            while len(came) < 4:
                await asyncio.sleep(0.002)
        await engine.close()
    (line,) = [record.getMessage() for record in caplog.records]

    assert "cannot be reached" in line
    assert "tried again" in line


def test_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch):
    """The extra is an extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'iodine_aio\[redis\]'"):
        Publisher(NOWHERE)


def test_password_does_not_show_in_settings():
    """They may be printed."""
    assert "secret" not in repr(Settings(redis_url="redis://:secret@example.org"))


@pytest.mark.slow
def test_redis_is_not_imported_until_it_is_used():
    """It takes a fifth of a second, and is not there as a rule."""
    program = "import sys, iodine_aio, iodine_aio.cli; sys.exit('redis' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
