"""Subscriptions of the process, of no connection: to a callback, or for ``async for``.

The broker never waits for one: messages go through an inbox, and are taken from it in the
subscriber's own loop.
"""

import asyncio
import contextlib
import inspect
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from iodine_aio import homes
from iodine_aio.errors import UsageError
from iodine_aio.homes import broker, call_home, find_home
from iodine_aio.logs import Failures
from iodine_aio.pubsub.broker import Subscription
from iodine_aio.pubsub.message import Message

MAX_TURN: Final = 64  # messages to one callback before others get their turn


class _Inbox:
    """Messages that wait for one reader, bounded: what comes when it is full is dropped.

    Attributes:
        loop: where `wake` is called, None while that is not known.
        wake: is called when a message has come, or the end.
        ended: nothing is taken any more.
        dropped: messages that came while it was full.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            self.loop = asyncio.get_running_loop()
        self.wake: Callable[[], object] | None = None
        self.ended = False
        self.dropped = 0
        self._messages: Final[deque[Message]] = deque()
        self._bytes = 0
        self._lock: Final = threading.Lock()

    @property
    def idle(self) -> bool:
        """True if nothing waits, and something may still come."""
        return not self._messages and not self.ended

    def deliver(self, message: Message) -> None:
        """Is called by the broker."""
        with self._lock:
            if self.ended:
                return
            if len(self._messages) >= homes.limits[0] or self._bytes > homes.limits[1]:
                self.dropped += 1
                broker.dropped += 1
                return
            self._messages.append(message)
            self._bytes += len(message.data)
        self.call_reader()

    def call_reader(self) -> None:
        """Wakes the reader, in its loop."""
        wake = self.wake
        if wake is None:
            return
        loop = self.loop
        if loop is None:
            home = find_home()
            if home is None:
                return
            loop = home.loop
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self.ended = True
            call_home(broker.drop_ended)

    def take(self) -> Message | None:
        """The oldest message."""
        with self._lock:
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._bytes -= len(message.data)
            return message

    def end(self) -> None:
        """Takes no more, and forgets what waits."""
        with self._lock:
            self.ended = True
            self._messages.clear()
            self._bytes = 0


class _Listening(Subscription):
    """A subscription of the process, whose messages go through an inbox."""

    __slots__ = ("__weakref__", "_inbox")

    def __init__(self, channel: str, pattern: bool) -> None:
        super().__init__(channel, pattern)
        self._inbox: Final = _Inbox()

    @property
    def dropped(self) -> int:
        return self._inbox.dropped

    def cancel(self) -> None:
        inbox = self._inbox
        if not inbox.ended:
            inbox.end()
            inbox.call_reader()
            call_home(broker.unsubscribe, self.channel, inbox, self.pattern)


class Called(_Listening):
    """Messages go to a callback, one after the other."""

    __slots__ = ("_busy", "_callback", "_failures")

    def __init__(self, channel: str, pattern: bool, callback: Callable[[Message], object]) -> None:
        super().__init__(channel, pattern)
        self._callback: Final = callback
        self._busy: asyncio.Task[None] | None = None
        self._failures: Final = Failures(f"a subscriber of {channel!r} raised")
        self._inbox.wake = self._call
        call_home(broker.subscribe, channel, self._inbox, pattern)

    def _call(self) -> None:
        if self._busy is not None:
            return
        for _ in range(MAX_TURN):
            message = self._inbox.take()
            if message is None:
                if self._inbox.ended:
                    self._failures.tell()
                return
            try:
                result = self._callback(message)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit() would end us, by anybody's message
                self._failures.add(error)
                continue
            if inspect.isawaitable(result):
                self._busy = asyncio.get_running_loop().create_task(self._finish(result))
                return
        self._inbox.call_reader()

    async def _finish(self, result: Any) -> None:
        try:
            await result
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._failures.add(error)
        finally:
            self._busy = None
            self._inbox.call_reader()


class Messages(_Listening):
    """What is published to a channel, for ``async for``.

    Messages wait here while the loop's body is busy, `max_waiting_messages` at most: what
    comes when it is full is dropped, and counted in `dropped`. It ends when it is
    closed, when nobody holds it any more (as after a ``break``), and with its loop.
    """

    __slots__ = ("_waiter",)

    def __init__(self, channel: str, pattern: bool) -> None:
        super().__init__(channel, pattern)
        self._waiter: asyncio.Future[None] | None = None
        call_home(broker.subscribe, channel, self._inbox, pattern)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        inbox = self._inbox
        if self._waiter is not None:
            raise UsageError(f"two loops read the messages of {self.channel!r}: subscribe twice")
        while (message := inbox.take()) is None:
            if inbox.ended or (inbox.loop is not None and inbox.loop.is_closed()):
                raise StopAsyncIteration
            inbox.loop = asyncio.get_running_loop()
            self._waiter = waiter = inbox.loop.create_future()
            inbox.wake = lambda waiter=waiter: waiter.done() or waiter.set_result(None)
            try:
                # Looked at again: from another thread it may have come before `wake` was there.
                if inbox.idle:
                    await waiter
            finally:
                inbox.wake = self._waiter = None
        return message

    async def aclose(self) -> None:
        """Ends it, and a loop that waits for the next message."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()
