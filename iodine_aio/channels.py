"""Publish and subscribe, for all of the process.

There is one broker. It belongs to the thread of one loop, its home: that of the first
server, or, where there is none, the loop that used it first. When that loop has ended,
the next one takes its place. Everybody else's calls are sent there.
"""

import asyncio
import contextlib
import inspect
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, overload

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.service import log_subscriber
from iodine_aio.pubsub.broker import Broker, Message, Subscriber, Subscription
from iodine_aio.settings import Settings

MAX_TURN: Final = 64  # messages to one callback before others get their turn

_Post = Callable[..., bool]

broker: Final = Broker(log_subscriber)

_lock: Final = threading.Lock()
_entered: Final[list["_Home"]] = []  # loops of the servers that run, oldest first
_posted_bytes = 0  # of messages on their way from other threads
_limits = (Settings().max_waiting_messages, Settings().hard_limit_bytes)


class _Home:
    """A loop that the broker may belong to."""

    __slots__ = ("loop", "post", "thread_id")

    def __init__(self, loop: asyncio.AbstractEventLoop, post: _Post) -> None:
        self.loop: Final = loop
        self.thread_id: Final = threading.get_ident()
        self.post: Final = post


_home: _Home | None = None


def _find_home() -> _Home | None:
    """The loop that the broker belongs to, if any runs; may be called from any thread."""
    global _home
    home = _home
    if home is not None and home.loop.is_running():
        return home
    with _lock:
        running = [home for home in (_home, *_entered) if home and home.loop.is_running()]
        if running:
            _home = running[0]
        else:
            try:
                _home = _make_visitor(asyncio.get_running_loop())
            except RuntimeError:
                _home = None
        return _home


def _make_visitor(loop: asyncio.AbstractEventLoop) -> _Home:
    def post(function: Callable[..., object], *args: Any) -> bool:
        try:
            loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # it is closed
            return False
        return True

    return _Home(loop, post)


def _call_home(function: Callable[..., object], *args: Any) -> bool:
    """Calls `function(*args)` in the broker's thread; where no loop runs, here and now."""
    home = _find_home()
    if home is None or home.thread_id == threading.get_ident():
        function(*args)
        return True
    return home.post(function, *args)


def enter_loop(loop: asyncio.AbstractEventLoop, post: _Post, settings: Settings) -> Broker:
    """A server begins to run on `loop`: the broker for its connections.

    The settings of the first of several servers are those of the process.
    """
    with _lock:
        if not _entered:
            _set_limits(settings)
        _entered.append(_Home(loop, post))
    home = _find_home()
    assert home is not None
    return broker if home.loop is loop else _Branch(post)


def leave_loop(loop: asyncio.AbstractEventLoop, post: _Post) -> None:
    """A server on `loop` has stopped."""
    global _home
    with _lock:
        _entered[:] = [home for home in _entered if home.post != post]
        if not _entered:
            _set_limits(Settings())
        if _home is not None and _home.post == post:
            # The loop itself may go on; its server is not to be kept alive for that.
            others = [home for home in _entered if home.loop is loop]
            _home = others[0] if others else _make_visitor(loop)


def _set_limits(settings: Settings) -> None:
    global _limits
    _limits = (settings.max_waiting_messages, settings.hard_limit_bytes)
    broker.max_channels = settings.max_channels
    broker.max_channel_length = settings.max_channel_length


class _Remote:
    """A subscriber whose loop is not the broker's."""

    __slots__ = ("_post", "_subscriber")

    def __init__(self, subscriber: Subscriber, post: _Post) -> None:
        self._subscriber: Final = subscriber
        self._post: Final = post

    def deliver(self, message: Message) -> None:
        self._post(self._subscriber.deliver, message)


class _Branch(Broker):
    """The broker, as the connections of a server see it whose loop is not the broker's."""

    def __init__(self, post: _Post) -> None:
        super().__init__(log_subscriber)
        self._post: Final = post
        self.max_channel_length = broker.max_channel_length

    def check_room(self, channel: str, pattern: bool = False) -> None:
        broker.check_room(channel, pattern)

    def subscribe(
        self,
        channel: str,
        subscriber: Subscriber,
        pattern: bool = False,
        key: object | None = None,
    ) -> None:
        key = key if key is not None else subscriber
        _call_home(broker.subscribe, channel, _Remote(subscriber, self._post), pattern, key)

    def unsubscribe(self, channel: str, key: object, pattern: bool = False) -> None:
        _call_home(broker.unsubscribe, channel, key, pattern)

    def send(self, message: Message, but: object | None = None) -> None:
        _call_home(broker.send, message, but)


# What a program may do.


def publish(channel: str, data: str | bytes) -> bool:
    """Sends `data` to all that listen to `channel`, wherever they are.

    May be called from any thread; what one thread publishes arrives in its order. A
    message arrives at most once, and only where there was a subscriber at that time.

    Returns:
        False if it was dropped: no loop runs yet, so that nobody can listen; or other
        threads publish faster than the loop sends.

    Raises:
        UsageError: `channel` is no channel, or `data` neither str nor bytes.
    """
    global _posted_bytes
    message = broker.make_message(channel, data)
    home = _find_home()
    if home is None:
        return False
    if home.thread_id == threading.get_ident():
        broker.send(message)
        return True
    with _lock:
        if _posted_bytes > _limits[1]:
            broker.dropped += 1
            return False
        _posted_bytes += len(message.data)
    if home.post(_send_posted, message):
        return True
    _forget_posted(message)
    return False


def _send_posted(message: Message) -> None:
    _forget_posted(message)
    broker.send(message)


def _forget_posted(message: Message) -> None:
    global _posted_bytes
    with _lock:
        _posted_bytes -= len(message.data)


@overload
def subscribe(channel: str, callback: None = None, pattern: bool = False) -> "Messages": ...


@overload
def subscribe(
    channel: str, callback: Callable[[Message], object], pattern: bool = False
) -> Subscription: ...


def subscribe(
    channel: str,
    callback: Callable[[Message], object] | None = None,
    pattern: bool = False,
) -> Subscription:
    """Listens to `channel` from now on, until it is cancelled.

    May be called before any loop runs, and from any thread.

    Args:
        channel: a name; with `pattern`, what names may look like: `*` is anything, `?`
            any character, `[a-z]` one of these, a backslash takes the meaning away.
        callback: is called with each `Message`, one after the other; plain or `async
            def`. It runs on the loop in which this was called, else on the server's.

    Returns:
        With a callback what `unsubscribe` takes; else the messages, for ``async for``.

    Raises:
        UsageError: `channel` is no channel or one too many, or `callback` cannot be called.
    """
    broker.check_channel(channel, pattern)
    broker.check_room(channel, pattern)
    if callback is None:
        return Messages(channel, pattern)
    if not callable(callback):
        raise UsageError(f"callback is {type(callback).__name__}, must be a function")
    return _Called(channel, pattern, callback)


def unsubscribe(subscription: Subscription) -> None:
    """Ends what `subscribe` has begun.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(subscription, Subscription):
        raise UsageError(
            f"cannot unsubscribe from {type(subscription).__name__}, must be what subscribe"
            " returned"
        )
    subscription.cancel()


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

    def deliver(self, message: Message) -> None:
        """Is called by the broker."""
        with self._lock:
            if self.ended:
                return
            if len(self._messages) >= _limits[0] or self._bytes > _limits[1]:
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
            home = _find_home()
            if home is None:
                return
            loop = home.loop
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self.ended = True

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
            _call_home(broker.unsubscribe, self.channel, inbox, self.pattern)


class _Called(_Listening):
    """Messages go to a callback, one after the other."""

    __slots__ = ("_busy", "_callback")

    def __init__(self, channel: str, pattern: bool, callback: Callable[[Message], object]) -> None:
        super().__init__(channel, pattern)
        self._callback: Final = callback
        self._busy: asyncio.Task[None] | None = None
        self._inbox.wake = self._call
        _call_home(broker.subscribe, channel, self._inbox, pattern)

    def _call(self) -> None:
        if self._busy is not None:
            return
        for _ in range(MAX_TURN):
            message = self._inbox.take()
            if message is None:
                return
            try:
                result = self._callback(message)
            except Exception as error:
                error_log.error("a subscriber of %r raised", self.channel, exc_info=error)
                continue
            if inspect.isawaitable(result):
                self._busy = asyncio.get_running_loop().create_task(self._finish(result))
                return
        self._inbox.call_reader()

    async def _finish(self, result: Any) -> None:
        try:
            await result
        except Exception as error:
            error_log.error("a subscriber of %r raised", self.channel, exc_info=error)
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
        _call_home(broker.subscribe, channel, self._inbox, pattern)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        inbox = self._inbox
        if self._waiter is not None:
            raise UsageError(f"two loops read the messages of {self.channel!r}: subscribe twice")
        while (message := inbox.take()) is None:
            if inbox.ended:
                raise StopAsyncIteration
            inbox.loop = asyncio.get_running_loop()
            self._waiter = waiter = inbox.loop.create_future()
            inbox.wake = lambda waiter=waiter: waiter.done() or waiter.set_result(None)
            try:
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
