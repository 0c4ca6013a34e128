"""Channels of this process: who listens to them, and what is handed to whom.

A broker belongs to one thread. It calls `deliver` of its subscribers and nothing else of
theirs, in no particular order; what a message becomes on the wire is encoded once.
"""

from collections.abc import Callable
from typing import Final, Protocol

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.patterns import Pattern, compile_pattern
from iodine_aio.wire.events import encode_event
from iodine_aio.wire.frames import BINARY, TEXT, encode_frame
from iodine_aio.wire.framing import encode_chunk

MAX_MATCHES: Final = 1024  # channels whose patterns are remembered
MAX_CHANNELS: Final = 100_000
MAX_CHANNEL_LENGTH: Final = 255


class Message:
    """What was published.

    Attributes:
        channel: where, never a pattern.
        data: a str is text, bytes are binary.
    """

    __slots__ = ("_event", "_event_chunk", "_raw", "_websocket_frame", "channel", "data")

    def __init__(self, channel: str, data: str | bytes) -> None:
        self.channel: Final = channel
        self.data: Final = data
        # None until somebody needs it.
        self._raw: bytes | None = None
        self._websocket_frame: bytes | None = None
        self._event: bytes | None = None
        self._event_chunk: bytes | None = None

    @property
    def raw(self) -> bytes:
        """`data` as a raw connection gets it."""
        if self._raw is None:
            data = self.data
            self._raw = data.encode() if isinstance(data, str) else data
        return self._raw

    @property
    def websocket_frame(self) -> bytes:
        """`data` as a WebSocket gets it: one frame."""
        if self._websocket_frame is None:
            opcode = TEXT if isinstance(self.data, str) else BINARY
            self._websocket_frame = encode_frame(opcode, self.raw)
        return self._websocket_frame

    @property
    def event(self) -> bytes:
        """`data` as an event stream gets it: its lines, and an empty one."""
        if self._event is None:
            data = self.data
            # An event is text: what is none is made one, since many wait for it.
            self._event = encode_event(
                data if isinstance(data, str) else data.decode("utf-8", "replace")
            )
        return self._event

    @property
    def event_chunk(self) -> bytes:
        """`event` in the chunked coding."""
        if self._event_chunk is None:
            self._event_chunk = encode_chunk(self.event)
        return self._event_chunk

    def __repr__(self) -> str:
        return f"Message({self.channel!r}, {self.data!r})"


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
    """Whoever listens to a channel."""

    def deliver(self, message: Message) -> None:
        """Takes a message, at once and without raising."""


class Engine(Protocol):
    """Carries messages between this process and others.

    It is told of a channel, or a pattern, when its first subscriber comes and when its
    last one goes. What comes from elsewhere it hands to `Broker.deliver`.
    """

    def subscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are wanted here from now on."""

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are not wanted here any more."""

    def publish(self, message: Message) -> None:
        """Carries `message`, which was delivered here, to the others."""


class CarryingEngine(Engine, Protocol):
    """An engine that works on a loop."""

    async def open(self) -> None:
        """Begins to work on the running loop; others may be out of reach for now."""

    async def close(self) -> None:
        """Ends, when what was published has left, or does not within a second."""


class ProcessEngine:
    """The engine of a process that is alone: there is nobody else."""

    def subscribe(self, channel: str, pattern: bool) -> None:
        pass

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        pass

    def publish(self, message: Message) -> None:
        pass


_Subscribers = dict[object, Subscriber]


class Broker:
    """Who listens to what.

    Attributes:
        engine: carries messages to other processes.
        report: is called with a subscriber and with what its `deliver` raised.
        max_channels, max_channel_length: what `subscribe` and `publish` refuse is beyond.
        published: messages published here.
        delivered: messages handed to subscribers here, once for each of them.
        dropped: messages that a subscriber was too slow for.
    """

    def __init__(self, report: Callable[[Subscriber, Exception], object]) -> None:
        self.engine: Engine = ProcessEngine()
        self.report: Final = report
        self.max_channels = MAX_CHANNELS
        self.max_channel_length = MAX_CHANNEL_LENGTH
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

    def attach(self, engine: Engine) -> None:
        """Has `engine` carry messages from now on, and tells it what is wanted here."""
        self.engine = engine
        for channel in self._channels:
            engine.subscribe(channel, False)
        for channel in self._patterns:
            engine.subscribe(channel, True)

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
        if pattern:
            known = self._patterns.get(channel)
            subscribers = None if known is None else known[1]
        else:
            subscribers = self._channels.get(channel)
        if subscribers is not None:
            subscribers[key] = subscriber
            return
        self.check_room(channel, pattern)
        if pattern:
            self._patterns[channel] = (compile_pattern(channel), {key: subscriber})
            self._matches.clear()
        else:
            self._channels[channel] = {key: subscriber}
        self.engine.subscribe(channel, pattern)

    def unsubscribe(self, channel: str, key: object, pattern: bool = False) -> None:
        """Ends the subscription of `key`, if there is one."""
        if pattern:
            known = self._patterns.get(channel)
            subscribers = None if known is None else known[1]
        else:
            subscribers = self._channels.get(channel)
        if subscribers is None or subscribers.pop(key, None) is None or subscribers:
            return
        if pattern:
            del self._patterns[channel]
            self._matches.clear()
        else:
            del self._channels[channel]
        self.engine.unsubscribe(channel, pattern)

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
        # A copy, since some may come and go meanwhile.
        if but is not None and but in subscribers:
            subscribers = subscribers.copy()
            del subscribers[but]
        receivers = tuple(subscribers.values())
        for subscriber in receivers:
            try:
                subscriber.deliver(message)
            except Exception as error:  # the others are to have it all the same
                self.report(subscriber, error)
        self.delivered += len(receivers)

    def _find_matches(self, channel: str) -> tuple[_Subscribers, ...]:
        """Subscribers of the patterns that `channel` matches."""
        matches = self._matches.get(channel)
        if matches is None:
            matches = tuple(s for pattern, s in self._patterns.values() if pattern.matches(channel))
            if len(self._matches) >= MAX_MATCHES:
                self._matches.clear()
            self._matches[channel] = matches
        return matches


def _check_text(name: str, text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{name} is no text: {error}") from None
