"""What needs no Redis of the engine for Redis; the rest is in integration/test_redis.py."""

import importlib.util
import subprocess
import sys

import pytest

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.broker import Message
from iodine_aio.pubsub.patterns import compile_pattern
from iodine_aio.pubsub.redis import Publisher, RedisEngine, _Copies, encode_glob
from iodine_aio.settings import Settings

NOWHERE = "unix:///nonexistent/redis.sock"


@pytest.mark.parametrize(
    ("pattern", "glob"),
    [
        ("room.*", b"room.*"),
        ("*", b"*"),
        ("**a**", b"*a*"),
        ("", b""),
        ("[a-z0-9_]", b"[a-z0-9_]"),
        ("[x]", b"x"),
        ("\\*\\?\\[\\\\", b"\\*\\?\\[\\\\"),
        ("[]^-]", b"[\\]\\^\\-]"),
        ("[]-a]", b"?"),
        ("é", "é".encode()),
        ("a?b", b"a?*b"),
        ("a???", b"a???*"),
        ("a?*?", b"a??*"),
        ("[^a]x", b"?*x"),
        ("[!a]x", b"?*x"),
        ("[a-é]x", b"?*x"),
    ],
)
def test_pattern_becomes_one_of_redis(pattern: str, glob: bytes):
    """Where a character may be longer than a byte, one that asks for more."""
    assert encode_glob(compile_pattern(pattern)) == glob


def test_copies_of_a_message_are_told_from_the_same_said_twice():
    """A channel's own comes first, then one for each pattern, in any order."""
    copies = _Copies()
    rows = [
        (None, b"a", b"1", False),
        (b"p", b"a", b"1", True),
        (b"q", b"a", b"1", True),
        (None, b"a", b"1", False),
        (b"q", b"a", b"1", True),
        (b"p", b"a", b"1", True),
        (b"p", b"b", b"1", False),
        (b"q", b"b", b"1", True),
        (b"q", b"b", b"1", False),
        (b"p", b"b", b"1", True),
        (b"p", b"b", b"2", False),
    ]

    assert [copies.is_copy(*row[:3]) for row in rows] == [row[3] for row in rows]


def test_message_behind_an_answer_is_no_copy():
    """Between them something was subscribed to, or no more."""
    copies = _Copies()
    first = copies.is_copy(b"p", b"a", b"1")
    copies.end_row()
    second = copies.is_copy(b"q", b"a", b"1")

    assert (first, second) == (False, False)


@pytest.mark.parametrize("make", [Publisher, lambda url: RedisEngine(url, print)])
@pytest.mark.parametrize("url", ["http://x", "redis://x?socket_timeout=soon"])
def test_malformed_url_is_refused_at_once(make: object, url: str):
    """Not when it first connects."""
    assert callable(make)
    with pytest.raises(UsageError, match="the URL of Redis"):
        make(url)


@pytest.mark.parametrize(
    ("channel", "data"),
    [("", "x"), (b"news", "x"), ("c" * 70_000, "x"), ("\ud800", "x"), ("news", 3), ("news", None)],
)
def test_publisher_refuses_what_is_no_message(channel: object, data: object):
    """As publish() of a server does."""
    with Publisher(NOWHERE) as publisher, pytest.raises(UsageError):
        publisher.publish(channel, data)  # type: ignore[arg-type]


def test_publisher_without_redis_raises_connection_error():
    """The caller decides whether to try again; the URL's place is named."""
    with (
        Publisher(NOWHERE) as publisher,
        pytest.raises(ConnectionError, match="Redis at /nonexistent"),
    ):
        publisher.publish("news", "x")


async def test_async_publisher_without_redis_raises_connection_error():
    """In a coroutine, too."""
    async with Publisher(NOWHERE) as publisher:
        with pytest.raises(ConnectionError, match="Redis at /nonexistent"):
            await publisher.publish_async("news", "x")


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
