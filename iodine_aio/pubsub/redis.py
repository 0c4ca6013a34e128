"""Channels across machines, on a Redis that all of them reach (redis-py, extra `redis`).

A server has two connections there: one that listens, and one that publishes; where it has
workers, they are a process's of its own, the bridge. A message is delivered at home first,
carries its origin, and is dropped when it comes back there. At most once: what may have been
published is never published again.

Redis counts channels over all of its databases, in bytes; see `encode_glob` for patterns.
"""

import asyncio
import contextlib
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from iodine_aio.errors import ProtocolError
from iodine_aio.logs import error_log, printable
from iodine_aio.pubsub.connections import import_redis, make_pool
from iodine_aio.pubsub.globs import Copies, encode_glob
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.outbox import MAX_QUEUED_BYTES, Losses
from iodine_aio.pubsub.packets import ORIGIN_BYTES, encode_envelope, parse_envelope
from iodine_aio.pubsub.patterns import compile_pattern
from iodine_aio.pubsub.urls import check_url, describe_url

PING_SECONDS: Final = 1.0

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.8  # with a connect, less than the 2 seconds that are promised
_LAST_SECONDS: Final = 1.0  # what waits gets to be published at the end
_BATCH: Final = 500
_LONG_SECONDS: Final = 2.0  # after which a connection was no failure
_PONGS: Final = (b"PONG", [b"pong", b""])
_MAX_NAMES: Final = 1000  # channels in one command


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
        self._redis: Final = import_redis()
        self._connections: Final = make_pool(url)
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
        connections: list[Any] = []
        tasks: list[asyncio.Task[None]] = []
        try:
            for _ in range(2):
                connections.append(self._connections.make_connection())
                await connections[-1].connect()
            listener, speaker = connections
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
            # redis-py raises these, too, of what it cannot read.
            self._say_away(error, error)
        finally:
            await _end(tasks, 0.1)
            for connection in connections:
                with contextlib.suppress(redis.exceptions.RedisError, OSError):
                    await connection.disconnect(nowait=True)

    def _say_away(self, error: Exception, trace: Exception | None = None) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            error_log.warning(
                "%s cannot be reached (%s): it is tried again, messages stay on this server",
                self._name,
                printable(str(error)),
                exc_info=trace,
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
        copies = Copies()
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
