"""Channels across machines, on a Redis that all of them reach (redis-py, extra `redis`).

A server has two connections there: one that listens, and one that publishes; where it has
workers, they are a process's of its own, the bridge. A message is delivered at home first,
carries its origin, and is dropped when it comes back there. At most once: what may have been
published is never published again.

Redis counts channels over all of its databases, in bytes; see `encode_glob` for patterns.
"""

import asyncio
import contextlib
import importlib.util
import os
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

from iodine_aio.errors import IodineError, ProtocolError, UsageError
from iodine_aio.logs import error_log, printable
from iodine_aio.loop import new_event_loop
from iodine_aio.pubsub.broker import Message
from iodine_aio.pubsub.cluster import MAX_QUEUED_BYTES, Link
from iodine_aio.pubsub.outbox import Losses
from iodine_aio.pubsub.packets import (
    MAX_CHANNEL_BYTES,
    MAX_DATA_BYTES,
    ORIGIN_BYTES,
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE_PATTERN,
    Packet,
    encode_envelope,
    parse_envelope,
)
from iodine_aio.pubsub.patterns import Pattern, compile_pattern
from iodine_aio.pubsub.urls import check_url, describe_url

CONNECT_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 5.0  # without an answer, until a connection is given up
PING_SECONDS: Final = 1.0

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.8  # with a connect, less than the 2 seconds that are promised
_LAST_SECONDS: Final = 1.0  # what waits gets to be published at the end
_BATCH: Final = 500
_LONG_SECONDS: Final = 2.0  # after which a connection was no failure
_PONGS: Final = (b"PONG", [b"pong", b""])
_MAX_NAMES: Final = 1000  # channels in one command


def require_redis() -> None:
    """Looks whether redis-py is there, and does not import it.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("redis") is None:
        raise UsageError("redis-py is not installed: python -m pip install 'iodine_aio[redis]'")


def _import_redis() -> Any:
    """The package redis-py, which is not needed until now."""
    require_redis()
    import redis.asyncio
    import redis.asyncio.retry
    import redis.backoff
    import redis.exceptions
    import redis.retry

    return redis


def encode_glob(pattern: Pattern) -> bytes:
    """A pattern of Redis that matches all that `pattern` does.

    The language is the same but for two things. To Redis `?` and a class stand for one
    byte, so that its `?` does not match "é"; where a character may be longer, it is asked
    for more than is wanted, and the broker's own patterns decide. And to Redis only `^`
    negates a class, here `!` does so too.
    """
    parts: list[str] = []
    anything = False  # a star is due
    for star, (negated, ranges) in pattern.places():
        anything = anything or star
        single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
        if negated or not (single or all(high.isascii() for _, high in ranges)):
            # A byte and whatever follows; its star waits, so that there are no two.
            parts.append("?")
            anything = True
            continue
        parts.append("*" * anything)
        anything = False
        parts.append(_escape(ranges[0][0]) if single else _encode_class(ranges))
    parts.append("*" * (anything or pattern.open_end))
    return "".join(parts).encode()


def _encode_class(ranges: Iterable[tuple[str, str]]) -> str:
    text = ""
    for low, high in ranges:
        if low == high:
            text += _escape(low)
        elif low in "\\]^":  # no backslash works in front of a range
            return "?"
        else:
            text += f"{low}-{high}"
    return f"[{text}]"


def _escape(character: str) -> str:
    return f"\\{character}" if character in "*?[]^-\\" else character


class _Copies:
    """Tells messages from their copies.

    A message that is published once comes once for its channel, where that is subscribed
    to, and once for each pattern that matches; all of them in a row, and no answer to a
    command between them.
    """

    __slots__ = ("_message", "_seen")

    def __init__(self) -> None:
        self._message: tuple[bytes, bytes] | None = None
        self._seen: set[bytes | None] = set()

    def is_copy(self, glob: bytes | None, channel: bytes, value: bytes) -> bool:
        """True if this one came before; `glob` is None of what came for its channel."""
        message = (channel, value)
        seen = self._seen
        # The channel's own comes first. And the same one twice is another message.
        if message != self._message or glob is None or glob in seen:
            self._message = message
            seen.clear()
            seen.add(glob)
            return False
        seen.add(glob)
        return True

    def end_row(self) -> None:
        """What comes now is no copy of what came before."""
        self._message = None


class RedisEngine:
    """The engine of a server: carries messages to other machines, and from them.

    Redis may be away at the start and at any time: messages reach everybody on this server
    all the same; those to others wait, the latest `max_queued_bytes` of them.

    Args:
        url: see `check_url`; what redis-py takes behind a question mark is taken, too.
        deliver: takes messages of others, as `Broker.deliver` does.

    Attributes:
        lost: messages that were not published, or perhaps not.

    Raises:
        UsageError: the URL is malformed, or redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        deliver: Callable[[Message], object],
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self.lost = 0
        self._name: Final = describe_url(check_url(url))
        self._redis: Final = _import_redis()
        self._connections: Final = self._make_pool(url)
        self._deliver: Final = deliver
        self._origin: Final = os.urandom(ORIGIN_BYTES)
        self._channels: Final[set[bytes]] = set()
        self._globs: Final[dict[bytes, set[str]]] = {}  # and the patterns they stand for
        self._changes: Final[dict[tuple[bool, bytes], bool]] = {}  # not said to Redis yet
        self._changed: Final = asyncio.Event()
        self._max_queued_bytes: Final = max_queued_bytes
        self._queue: Final[deque[tuple[bytes, bytes]]] = deque()
        self._queued_bytes = 0
        self._queued: Final = asyncio.Event()
        self._in_flight = 0  # messages whose answer has not come
        self._idle: Final = asyncio.Event()
        self._full: Final = Losses(f"{self._name} does not take messages as fast as they come")
        self._refused: Final = Losses(f"{self._name} refuses messages")
        self._malformed: Final = Losses(f"{self._name} sends malformed messages")
        self._connected = False
        self._connected_event: Final = asyncio.Event()
        self._away_since: float | None = None
        self._told_lost = 0
        self._task: asyncio.Task[None] | None = None

    def _make_pool(self, url: str) -> Any:
        redis = self._redis
        try:
            pool = redis.asyncio.ConnectionPool.from_url(
                url,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=SILENT_SECONDS,
                # It would publish twice, and connect again without a word.
                retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
            )
        except (ValueError, TypeError) as error:
            raise UsageError(f"the URL of Redis is malformed: {error}") from None
        # Replies in the order of the commands, messages among them.
        pool.connection_kwargs["protocol"] = 2
        return pool

    @property
    def connected(self) -> bool:
        """True while Redis is there, and knows what is listened to."""
        return self._connected

    async def open(self) -> None:
        """Begins to connect, on the running loop, and does not wait for it."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ends, when all is published or a second has passed."""
        if self._task is None:
            return
        if self._connected and (self._queue or self._in_flight):
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._idle.wait()
        await _end([self._task], 1.0)
        self._task = None
        left = len(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self.lost += left
        if self.lost > self._told_lost:
            error_log.warning(
                "%s: %d messages of this server were lost", self._name, self.lost - self._told_lost
            )
        for losses in (self._refused, self._malformed):
            losses.tell()

    # What the broker calls.

    def subscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are wanted here from now on."""
        if not pattern:
            name = channel.encode()
            self._channels.add(name)
        else:
            name = encode_glob(compile_pattern(channel))
            self._globs.setdefault(name, set()).add(channel)
        self._change(pattern, name, True)

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are not wanted here any more."""
        if not pattern:
            name = channel.encode()
            self._channels.discard(name)
        else:
            name = encode_glob(compile_pattern(channel))
            patterns = self._globs.get(name, set())
            patterns.discard(channel)
            if patterns:
                return
            self._globs.pop(name, None)
        self._change(pattern, name, False)

    def publish(self, message: Message) -> None:
        """Carries `message` to the other servers, now or when Redis is back."""
        channel = message.channel.encode()
        value = encode_envelope(self._origin, message.data)
        self._queue.append((channel, value))
        self._queued_bytes += len(channel) + len(value)
        while self._queued_bytes > self._max_queued_bytes and len(self._queue) > 1:
            self._forget(*self._queue.popleft())
            self.lost += 1
            self._full.add()
        self._queued.set()

    def _change(self, pattern: bool, name: bytes, wanted: bool) -> None:
        # What takes back something that was not said yet leaves nothing to be said: else
        # channels that come and go while Redis hangs would pile up.
        if self._changes.setdefault((pattern, name), wanted) is not wanted:
            del self._changes[pattern, name]
        self._changed.set()

    def _forget(self, channel: bytes, value: bytes) -> None:
        self._queued_bytes -= len(channel) + len(value)

    # Connecting.

    async def _run(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._work()
            finally:
                self._connected = False
                self.lost += self._in_flight
                self._in_flight = 0
            failures = 0 if time.monotonic() - began > _LONG_SECONDS else min(failures + 1, 10)
            pause = min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1))

    async def _work(self) -> None:
        """Connects, and works with Redis until that fails."""
        redis = self._redis
        listener = self._connections.make_connection()
        speaker = self._connections.make_connection()
        tasks: list[asyncio.Task[None]] = []
        try:
            await listener.connect()
            await speaker.connect()
            self._changes.clear()
            self._changes.update({(False, name): True for name in self._channels})
            self._changes.update({(True, name): True for name in self._globs})
            self._connected_event.clear()
            for work in (self._listen(listener), self._announce(listener), self._speak(speaker)):
                tasks.append(asyncio.create_task(work))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (redis.exceptions.RedisError, OSError) as error:
            self._say_away(error)
        except Exception as error:
            error_log.exception("%s: the connection has failed", self._name)
            self._say_away(error)
        finally:
            await _end(tasks, 0.1)
            for connection in (listener, speaker):
                with contextlib.suppress(redis.exceptions.RedisError, OSError):
                    await connection.disconnect(nowait=True)

    def _say_away(self, error: BaseException) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            error_log.warning(
                "%s cannot be reached (%s): it is tried again, messages stay on this server",
                self._name,
                printable(str(error)),
            )

    def _say_back(self) -> None:
        if self._away_since is None:
            return
        error_log.warning(
            "%s is back after %.1f seconds: %d messages of this server were lost, %d follow;"
            " what others published meanwhile is lost",
            self._name,
            time.monotonic() - self._away_since,
            self.lost - self._told_lost,
            len(self._queue),
        )
        self._away_since = None
        self._told_lost = self.lost

    # Listening.

    async def _announce(self, connection: Any) -> None:
        await self._announce_changes(connection)
        while True:
            # Without an answer reading fails, after SILENT_SECONDS.
            await connection.send_command("PING", check_health=False)
            self._changed.clear()
            # Not wait_for: that of Python 3.11 may take a cancellation for a timeout.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_SECONDS):
                    await self._changed.wait()
            await self._announce_changes(connection)

    async def _announce_changes(self, connection: Any) -> None:
        """Tells Redis what is listened to, and what no more."""
        changes = tuple(self._changes.items())
        self._changes.clear()
        for pattern, wanted, command in (
            (False, False, "UNSUBSCRIBE"),
            (True, False, "PUNSUBSCRIBE"),
            (False, True, "SUBSCRIBE"),
            (True, True, "PSUBSCRIBE"),
        ):
            names = [key[1] for key, value in changes if (key[0], value) == (pattern, wanted)]
            for start in range(0, len(names), _MAX_NAMES):
                await connection.send_command(
                    command, *names[start : start + _MAX_NAMES], check_health=False
                )

    async def _listen(self, connection: Any) -> None:
        copies = _Copies()
        while True:
            response = await connection.read_response(disable_decoding=True)
            if not isinstance(response, list) or response[0] not in (b"message", b"pmessage"):
                copies.end_row()
                if not self._connected and response in _PONGS:
                    # The answers to all that was said before have come.
                    self._connected = True
                    self._connected_event.set()
                    self._say_back()
                continue
            *_, channel, value = response
            glob = response[1] if response[0] == b"pmessage" else None
            if not copies.is_copy(glob, channel, value):
                self._receive(channel, value)

    def _receive(self, channel: bytes, value: bytes) -> None:
        try:
            origin, data = parse_envelope(value)
            name = channel.decode()
        except (ProtocolError, UnicodeDecodeError):
            self._malformed.add()
            return
        if origin != self._origin:
            self._deliver(Message(name, data))

    # Publishing.

    async def _speak(self, connection: Any) -> None:
        await self._connected_event.wait()
        while True:
            if not self._queue:
                self._queued.clear()
                self._idle.set()
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        await self._queued.wait()
                except TimeoutError:
                    # Else a connection that has ended would be noticed by losing a message.
                    await connection.send_command("PING", check_health=False)
                    await connection.read_response()
                    continue
            commands: list[tuple[str, bytes, bytes]] = []
            while self._queue and len(commands) < _BATCH:
                channel, value = self._queue.popleft()
                self._forget(channel, value)
                commands.append(("PUBLISH", channel, value))
            self._in_flight = len(commands)
            await connection.send_packed_command(
                connection.pack_commands(commands), check_health=False
            )
            while self._in_flight:
                try:
                    await connection.read_response()
                except self._redis.exceptions.ResponseError:
                    self._refused.add()
                    self.lost += 1
                    self._told_lost += 1
                self._in_flight -= 1


async def _end(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    """Cancels tasks until they have ended, again after so many seconds."""
    # In Python 3.11 wait_for, which redis-py sends by, may lose a cancellation.
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=seconds)
    for task in tasks:
        if not task.cancelled():
            task.exception()


# The bridge: a process between the hub of a parent and Redis.


def run_bridge(sock: socket.socket, url: str) -> None:
    """Carries messages between a hub and Redis, until the link ends or SIGTERM comes.

    What a process does that was forked for it. SIGINT is left to the parent.

    Args:
        sock: the other end is the hub's, added there with `bridge=True`.
        url: see `check_url`.

    Raises:
        UsageError: the URL is malformed, or redis-py is not installed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_bridge(sock, url))


async def _bridge(sock: socket.socket, url: str) -> None:
    ended = asyncio.Event()
    too_long = Losses(f"longer than {MAX_DATA_BYTES} bytes")

    def pass_on(message: Message) -> None:
        if len(message.data) > MAX_DATA_BYTES or len(message.channel) > MAX_CHANNEL_BYTES // 4:
            too_long.add()
        else:
            link.publish(message.channel, message.data)

    def receive(packet: Packet) -> None:
        kind, channel, data, _ = packet
        if data is not None:
            engine.publish(Message(channel, data))
        elif kind in (SUBSCRIBE, SUBSCRIBE_PATTERN):
            engine.subscribe(channel, kind == SUBSCRIBE_PATTERN)
        else:
            engine.unsubscribe(channel, kind == UNSUBSCRIBE_PATTERN)

    engine = RedisEngine(url, pass_on)
    link = Link(sock, receive, ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await link.open()
    await engine.open()
    await ended.wait()
    await engine.close()
    await link.close()
    too_long.tell()


# Any other process.


class Publisher:
    """Publishes to the servers that share a Redis, from a process that is no server.

        publisher = iodine_aio.Publisher("redis://localhost")
        publisher.publish("news", "hello")  # in a coroutine: await publisher.publish_async(...)

    May be used by several threads. It connects when it first publishes.

    Args:
        url: what the servers have, ``redis://host:port``, ``rediss://...``, ``unix:///path``.

    Raises:
        UsageError: the URL is malformed, or redis-py is not installed.
    """

    def __init__(self, url: str) -> None:
        self._name: Final = describe_url(check_url(url))
        self._url: Final = url
        self._redis: Final = _import_redis()
        self._origin: Final = os.urandom(ORIGIN_BYTES)
        self._client: Any = self._make_client(self._redis, self._redis)
        self._async_client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _make_client(self, package: Any, retry: Any) -> Any:
        try:
            return package.Redis.from_url(
                self._url,
                socket_connect_timeout=SILENT_SECONDS,
                socket_timeout=SILENT_SECONDS,
                # It would publish twice.
                retry=retry.retry.Retry(self._redis.backoff.NoBackoff(), 0),
            )
        except (ValueError, TypeError) as error:
            raise UsageError(f"the URL of Redis is malformed: {error}") from None

    def publish(self, channel: str, data: str | bytes) -> int:
        """Publishes `data`, and waits until Redis has it.

        Returns:
            How many servers it was handed to.

        Raises:
            UsageError: `channel` is no channel, or `data` neither str nor bytes.
            ConnectionError: Redis cannot be reached, or does not answer; it may have the
                message all the same.
            IodineError: Redis refuses.
        """
        value = self._encode(channel, data)
        try:
            return int(self._client.publish(channel.encode(), value))
        except (self._redis.exceptions.RedisError, OSError) as error:
            raise self._translate(error) from error

    async def publish_async(self, channel: str, data: str | bytes) -> int:
        """Publishes `data`, as `publish` does, without holding the loop."""
        value = self._encode(channel, data)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._async_client = self._make_client(self._redis.asyncio, self._redis.asyncio)
            self._loop = loop
        try:
            return int(await self._async_client.publish(channel.encode(), value))
        except (self._redis.exceptions.RedisError, OSError) as error:
            raise self._translate(error) from error

    def _encode(self, channel: object, data: object) -> bytes:
        if not isinstance(channel, str) or not channel or len(channel) > MAX_CHANNEL_BYTES:
            raise UsageError(f"channel is {channel!r:.80}, must be a str of a character or more")
        if isinstance(data, (bytearray, memoryview)):
            data = bytes(data)
        elif not isinstance(data, (str, bytes)):
            raise UsageError(f"cannot publish {type(data).__name__}, must be str or bytes")
        try:
            channel.encode()
            value = encode_envelope(self._origin, data)
        except UnicodeEncodeError as error:
            raise UsageError(f"channel is no text: {error}") from None
        if len(value) > MAX_DATA_BYTES:
            raise UsageError(f"message of {len(value)} bytes, at most {MAX_DATA_BYTES}")
        return value

    def _translate(self, error: Exception) -> Exception:
        redis = self._redis.exceptions
        text = f"{self._name}: {printable(str(error))}"
        if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
            return ConnectionError(text)
        return IodineError(text)

    def close(self) -> None:
        """Closes the connections of `publish`."""
        self._client.close()

    async def aclose(self) -> None:
        """Closes all connections."""
        self.close()
        if self._async_client is not None:
            await self._async_client.aclose()
            self._async_client = self._loop = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
