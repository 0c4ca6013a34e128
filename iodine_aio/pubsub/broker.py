"""Channels of this process: who listens to them, and what is handed to whom.

A broker belongs to one thread. It calls `deliver` of its subscribers, in no particular
order, or writes to the outlet of those that have one.
"""

from collections.abc import Callable
from typing import Final, Protocol

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.engine import Engine, ProcessEngine
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.outlets import Outlet, Outlets, Writable, find_running_loop
from iodine_aio.pubsub.patterns import Pattern, compile_pattern

MAX_MATCHES: Final = 1024  # channels whose patterns are remembered
MAX_CHANNELS: Final = 100_000
MAX_CHANNEL_LENGTH: Final = 255


class Subscription:
    """Somebody listens to a channel; `cancel` ends it, and so does the end of the listener.

    Attributes:
        channel: a name; if `pattern`, what names may look like.
    """

    __slots__ = ("channel", "pattern")

    def __init__(self, channel: str, pattern: bool) -> None:
        self.channel: Final = channel
        self.pattern: Final = pattern

    @property
    def dropped(self) -> int:
        """Messages that came while too many waited to be taken."""
        return 0

    def cancel(self) -> None:
        """No more messages; may be called from any thread, and twice."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.channel!r}{' (pattern)' * self.pattern}>"


class Subscriber(Protocol):
    """Whoever listens to a channel.

    One that is a WebSocket may have an attribute `outlet`: an `Outlet` for its frames, or
    None for now. One that belongs to a loop has it as its attribute `loop`.
    """

    def deliver(self, message: Message) -> None:
        """Takes a message, at once and without raising."""


class Holder(Protocol):
    """A subscriber that holds back what it wrote itself, which goes before any message."""

    def flush(self) -> None:
        """Writes it."""


_Plan = tuple[Outlets, tuple[Subscriber, ...]]


class _Subscribers(dict[object, Subscriber]):
    """Those of one channel, by key; and what is done for each message, once that is known."""

    __slots__ = ("_loop", "plan")

    def __init__(self) -> None:
        self.plan: _Plan | None = None
        self._loop: object | None = None  # that the plan is for

    def find_plan(self) -> _Plan:
        """Parts the subscribers that have an outlet in the loop that runs from the others."""
        loop = find_running_loop()
        plan = self.plan
        if plan is not None and self._loop is loop:
            return plan
        outlets: list[Outlet] = []
        others: list[Subscriber] = []
        for subscriber in self.values():
            outlet = getattr(subscriber, "outlet", None)
            if outlet is None or outlet.loop is not loop:
                others.append(subscriber)
            else:
                outlets.append(outlet)
        self._loop = loop
        self.plan = plan = Outlets(outlets), tuple(others)
        return plan


class Broker:
    """Who listens to what.

    Attributes:
        engine: carries messages to other processes.
        report: is called with a subscriber, or its transport, and with what it raised.
        max_channels, max_channel_length: what `subscribe` and `publish` refuse is beyond.
        published: messages published here.
        delivered: messages handed to subscribers here, once for each of them.
        dropped: messages that a subscriber was too slow for.
        holders: subscribers that hold something back now.
    """

    def __init__(self, report: Callable[[Subscriber | Writable, Exception], object]) -> None:
        self.engine: Engine = ProcessEngine()
        self.report: Final = report
        self.max_channels = MAX_CHANNELS
        self.max_channel_length = MAX_CHANNEL_LENGTH
        self.holders: Final[set[Holder]] = set()
        self.published = 0
        self.delivered = 0
        self.dropped = 0
        self._channels: Final[dict[str, _Subscribers]] = {}
        self._patterns: Final[dict[str, tuple[Pattern, _Subscribers]]] = {}
        self._matches: Final[dict[str, tuple[_Subscribers, ...]]] = {}

    @property
    def channel_count(self) -> int:
        """How many channels and patterns have a subscriber here."""
        return len(self._channels) + len(self._patterns)

    def has(self, channel: str, pattern: bool = False) -> bool:
        """True if the channel, or the very pattern, has a subscriber here."""
        return channel in (self._patterns if pattern else self._channels)

    def use_engine(self, engine: Engine) -> None:
        """Lets `engine` carry messages from now on, and tells it what is listened to here."""
        self.engine = engine
        for channel in self._channels:
            engine.subscribe(channel, False)
        for pattern in self._patterns:
            engine.subscribe(pattern, True)

    # What may be asked for; may be called from any thread.

    def check_channel(self, channel: object, pattern: bool = False) -> None:
        """Refuses what is no channel.

        Raises:
            UsageError: `channel` is no str, empty, too long, or a malformed pattern.
        """
        if not isinstance(channel, str):
            raise UsageError(f"channel is {type(channel).__name__}, must be a str")
        if not 0 < len(channel) <= self.max_channel_length:
            raise UsageError(
                f"channel of {len(channel)} characters, must be 1 to {self.max_channel_length}:"
                " shorten it, or raise max_channel_length"
            )
        _check_text("channel", channel)
        if pattern:
            compile_pattern(channel)

    def check_room(self, channel: str, pattern: bool = False) -> None:
        """Refuses one channel too many.

        Raises:
            UsageError: there are `max_channels`, and this is another one.
        """
        if self.channel_count >= self.max_channels and not self.has(channel, pattern):
            raise UsageError(
                f"{self.max_channels} channels have subscribers already: unsubscribe from some,"
                " or raise max_channels"
            )

    def make_message(self, channel: str, data: str | bytes) -> Message:
        """The message that says `data` in `channel`.

        Raises:
            UsageError: `channel` is no channel, or `data` neither str nor bytes.
        """
        self.check_channel(channel)
        if isinstance(data, str):
            _check_text("data", data)
        elif isinstance(data, (bytearray, memoryview)):
            data = bytes(data)
        elif not isinstance(data, bytes):
            raise UsageError(f"cannot publish {type(data).__name__}, must be str or bytes")
        return Message(channel, data)

    # What happens; in the broker's thread.

    def subscribe(
        self,
        channel: str,
        subscriber: Subscriber,
        pattern: bool = False,
        key: object | None = None,
    ) -> None:
        """Hands messages of `channel` to `subscriber` from now on.

        Args:
            channel: a name; with `pattern`, what names may look like.
            key: whose subscription it is, `subscriber` unless said; its earlier one to the
                same channel is replaced.

        Raises:
            UsageError: `channel` is no channel, or one too many.
        """
        self.check_channel(channel, pattern)
        if key is None:
            key = subscriber
        subscribers = self._find(channel, pattern)
        if subscribers is not None:
            subscribers[key] = subscriber
            subscribers.plan = None
            return
        self.check_room(channel, pattern)
        subscribers = _Subscribers()
        subscribers[key] = subscriber
        if pattern:
            self._patterns[channel] = (compile_pattern(channel), subscribers)
            self._matches.clear()
        else:
            self._channels[channel] = subscribers
        self.engine.subscribe(channel, pattern)

    def unsubscribe(self, channel: str, key: object, pattern: bool = False) -> None:
        """Ends the subscription of `key`, if there is one."""
        subscribers = self._find(channel, pattern)
        if subscribers is None or subscribers.pop(key, None) is None:
            return
        subscribers.plan = None
        if subscribers:
            return
        if pattern:
            del self._patterns[channel]
            self._matches.clear()
        else:
            del self._channels[channel]
        self.engine.unsubscribe(channel, pattern)

    def drop_ended(self) -> None:
        """Ends the subscriptions of those whose loop was closed before they left."""
        groups = [(False, *item) for item in self._channels.items()]
        groups += [(True, text, known[1]) for text, known in self._patterns.items()]
        for pattern, channel, subscribers in groups:
            for key in [key for key, one in subscribers.items() if _has_ended(one)]:
                self.unsubscribe(channel, key, pattern)
        self.holders.difference_update([one for one in self.holders if _has_ended(one)])

    def renew(self, channel: str, pattern: bool = False) -> None:
        """Looks anew at outlets: a subscriber of the channel has got one, or has none any more."""
        subscribers = self._find(channel, pattern)
        if subscribers is not None:
            subscribers.plan = None

    def publish(self, channel: str, data: str | bytes, but: object | None = None) -> None:
        """Hands `data` to the subscribers of `channel`, here and elsewhere.

        Args:
            but: whose subscriptions are left out.

        Raises:
            UsageError: `channel` is no channel, or `data` neither str nor bytes.
        """
        self.send(self.make_message(channel, data), but)

    def send(self, message: Message, but: object | None = None) -> None:
        """Publishes a message that was made before."""
        self.published += 1
        self.deliver(message, but)
        self.engine.publish(message)

    def deliver(self, message: Message, but: object | None = None) -> None:
        """Hands `message` to its subscribers of this process, once for each subscription."""
        subscribers = self._channels.get(message.channel)
        if subscribers is not None:
            self._hand_over(message, subscribers, but)
        if self._patterns:
            for subscribers in self._find_matches(message.channel):
                self._hand_over(message, subscribers, but)

    def _hand_over(self, message: Message, subscribers: _Subscribers, but: object | None) -> None:
        for holder in tuple(self.holders):
            if holder in subscribers:
                holder.flush()
        # The plan of now, since some may come and go meanwhile.
        outlets, others = subscribers.find_plan()
        self.delivered += len(outlets) + len(others)
        omitted = None if but is None else subscribers.get(but)
        closed: Outlet | None = None
        if omitted is not None:
            self.delivered -= 1
            if omitted in others:
                rest = list(others)
                rest.remove(omitted)
                others = tuple(rest)
            else:
                closed = getattr(omitted, "outlet", None)
        if outlets:
            outlets.write(message.websocket_frame, closed, self.report)
        for subscriber in others:
            try:
                subscriber.deliver(message)
            except Exception as error:
                self.report(subscriber, error)

    def _find(self, channel: str, pattern: bool) -> _Subscribers | None:
        if not pattern:
            return self._channels.get(channel)
        known = self._patterns.get(channel)
        return None if known is None else known[1]

    def _find_matches(self, channel: str) -> tuple[_Subscribers, ...]:
        """Subscribers of the patterns that `channel` matches."""
        matches = self._matches.get(channel)
        if matches is None:
            matches = tuple(s for pattern, s in self._patterns.values() if pattern.matches(channel))
            if len(self._matches) >= MAX_MATCHES:
                self._matches.clear()
            self._matches[channel] = matches
        return matches


def _has_ended(subscriber: object) -> bool:
    loop = getattr(subscriber, "loop", None)
    return loop is not None and loop.is_closed()


def _check_text(name: str, text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{name} is no text: {error}") from None
