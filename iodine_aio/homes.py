"""The broker of the process, and the loop that it belongs to.

There is one broker. It belongs to the thread of one loop, its home: that of the first
server, or, where there is none, the loop that used it first. When that loop has ended,
the next one takes its place. Everybody else's calls are sent there.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

from iodine_aio.protocols.service import log_subscriber
from iodine_aio.pubsub.broker import Broker, Subscriber
from iodine_aio.pubsub.message import Message
from iodine_aio.settings import Settings

_Post = Callable[..., bool]

broker: Final = Broker(log_subscriber)

_lock: Final = threading.Lock()
_entered: Final[list["_Home"]] = []  # loops of the servers that run, oldest first
# Messages and bytes that may wait for one subscriber.
limits = (Settings().max_waiting_messages, Settings().hard_limit_bytes)


class _Home:
    """A loop that the broker may belong to."""

    __slots__ = ("loop", "post", "thread_id")

    def __init__(self, loop: asyncio.AbstractEventLoop, post: _Post) -> None:
        self.loop: Final = loop
        self.thread_id: Final = threading.get_ident()
        self.post: Final = post


_home: _Home | None = None


def find_home() -> _Home | None:
    """The loop that the broker belongs to, if any runs; may be called from any thread."""
    global _home
    home = _home
    if home is not None and home.loop.is_running():
        return home
    with _lock:
        former = _home
        running = [home for home in (_home, *_entered) if home and home.loop.is_running()]
        if running:
            _home = running[0]
        else:
            try:
                _home = _make_visitor(asyncio.get_running_loop())
            except RuntimeError:
                _home = None
        home = _home
    if former is not None and former is not home and former.loop.is_closed():
        _drop_ended(home)  # a server that was not stopped has left its connections behind
    return home


def _drop_ended(home: _Home | None) -> None:
    if home is None or home.thread_id == threading.get_ident():
        broker.drop_ended()
    else:
        home.post(broker.drop_ended)


def _make_visitor(loop: asyncio.AbstractEventLoop) -> _Home:
    def post(function: Callable[..., object], *args: Any) -> bool:
        try:
            loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # it is closed
            return False
        return True

    return _Home(loop, post)


def call_home(function: Callable[..., object], *args: Any) -> bool:
    """Calls `function(*args)` in the broker's thread; where no loop runs, here and now."""
    home = find_home()
    if home is None or home.thread_id == threading.get_ident():
        function(*args)
        return True
    return home.post(function, *args)


def enter_loop(loop: asyncio.AbstractEventLoop, post: _Post, settings: Settings) -> Broker:
    """A server begins to run on `loop`: the broker for its connections.

    The settings of the first of several servers are those of the process.
    """
    with _lock:
        _entered[:] = [home for home in _entered if not home.loop.is_closed()]
        if not _entered:
            _set_limits(settings)
        _entered.append(_Home(loop, post))
    home = find_home()
    assert home is not None
    return broker if home.loop is loop else _Branch(loop, post)


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
    global limits
    limits = (settings.max_waiting_messages, settings.hard_limit_bytes)
    broker.max_channels = settings.max_channels
    broker.max_channel_length = settings.max_channel_length


class _Remote:
    """A subscriber whose loop is not the broker's."""

    __slots__ = ("_branch", "_subscriber")

    def __init__(self, subscriber: Subscriber, branch: "_Branch") -> None:
        self._subscriber: Final = subscriber
        self._branch: Final = branch

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._branch.loop

    def deliver(self, message: Message) -> None:
        self._branch.call(self._subscriber.deliver, message)


class _Branch(Broker):
    """The broker, as the connections of a server see it whose loop is not the broker's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, post: _Post) -> None:
        super().__init__(log_subscriber)
        self.loop: Final = loop
        self._post: Final = post
        self._ended = False
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
        call_home(broker.subscribe, channel, _Remote(subscriber, self), pattern, key)

    def unsubscribe(self, channel: str, key: object, pattern: bool = False) -> None:
        call_home(broker.unsubscribe, channel, key, pattern)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Calls `function(*args)` in the server's loop; is called in the broker's thread."""
        if not self._post(function, *args) and not self._ended:
            self._ended = True  # all its connections are dropped at once
            broker.drop_ended()

    def send(self, message: Message, but: object | None = None) -> None:
        call_home(broker.send, message, but)
