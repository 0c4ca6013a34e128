"""The broker: who gets what, without a loop."""

import asyncio
import fnmatch
import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.broker import MAX_MATCHES, Broker
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.outlets import Outlet


class Ear:
    """Notes what it hears; may do something on the first message."""

    def __init__(self, action=None):
        self.heard = []
        self.action = action

    def deliver(self, message):
        self.heard.append((message.channel, message.data))
        action, self.action = self.action, None
        if action is not None:
            action()


class Socket:
    """A subscriber with an outlet, that takes messages itself while that is shut."""

    numbers = itertools.count(-1, -1)  # of sockets that take nothing: it all goes to `write`

    def __init__(self, error=None, loop=None):
        self.written = []
        self.delivered = []
        self.held = []
        self.open = Outlet(next(self.numbers), self, loop)
        self.outlet = self.open
        self.error = error

    def write(self, data):
        if self.error is not None:
            raise self.error
        self.written.append(data)

    def deliver(self, message):
        self.delivered.append(message.data)

    def flush(self):
        self.written += self.held
        self.held.clear()


class NotedEngine:
    """An engine that writes nothing but notes."""

    def __init__(self):
        self.notes = []

    def subscribe(self, channel, pattern):
        self.notes.append(("subscribe", channel, pattern))

    def unsubscribe(self, channel, pattern):
        self.notes.append(("unsubscribe", channel, pattern))

    def publish(self, message):
        self.notes.append(("publish", message.channel, message.data))


def make_broker():
    def report(subscriber, error):
        raise AssertionError("a subscriber raised") from error

    return Broker(report)


def test_message_reaches_every_subscriber_of_its_channel_and_nobody_else():
    """Whatever it is."""
    broker, first, second, other = make_broker(), Ear(), Ear(), Ear()
    broker.subscribe("room", first)
    broker.subscribe("room", second)
    broker.subscribe("kitchen", other)
    broker.publish("room", "hi")
    broker.publish("room", b"\0")

    assert first.heard == second.heard == [("room", "hi"), ("room", b"\0")]
    assert other.heard == []
    assert (broker.published, broker.delivered, broker.dropped) == (2, 4, 0)


def test_subscribing_twice_delivers_once():
    """The second takes the place of the first, also under a key."""
    broker, ear, earlier, later = make_broker(), Ear(), Ear(), Ear()
    for _ in range(2):
        broker.subscribe("room", ear)
    broker.subscribe("room", earlier, key="mine")
    broker.subscribe("room", later, key="mine")
    broker.publish("room", "hi")

    assert ear.heard == later.heard == [("room", "hi")]
    assert earlier.heard == []


def test_publisher_may_be_left_out():
    """By its key, in channels and in patterns; others do not notice."""
    broker, own, other = make_broker(), Ear(), Ear()
    for key, ear in (("own", own), ("other", other)):
        broker.subscribe("room", ear, key=key)
        broker.subscribe("r*", ear, pattern=True, key=key)
    broker.publish("room", "hi", but="own")
    broker.publish("room", "ho", but="nobody")

    assert own.heard == [("room", "ho")] * 2
    assert other.heard == [("room", "hi")] * 2 + [("room", "ho")] * 2


def test_name_is_a_pattern_only_where_that_was_asked_for():
    """Names that clients choose are names."""
    broker, name, pattern = make_broker(), Ear(), Ear()
    broker.subscribe("room.*", name)
    broker.subscribe("room.*", pattern, pattern=True)
    broker.publish("room.7", "hi")
    broker.publish("room.*", "ho")

    assert name.heard == [("room.*", "ho")]
    assert pattern.heard == [("room.7", "hi"), ("room.*", "ho")]


# What is refused.


@pytest.mark.parametrize("channel", [None, 7, b"room", ("room",)])
def test_channel_must_be_a_str(channel):
    """Nothing is made into one in silence."""
    broker = make_broker()

    with pytest.raises(UsageError, match=r"channel is \w+, must be a str"):
        broker.subscribe(channel, Ear())
    with pytest.raises(UsageError, match=r"channel is \w+, must be a str"):
        broker.publish(channel, "hi")


@pytest.mark.parametrize("size", [0, 256])
def test_channel_has_1_to_255_characters(size):
    """The error names the cure."""
    broker = make_broker()

    with pytest.raises(UsageError, match=f"of {size} characters, .* raise max_channel_length"):
        broker.subscribe("x" * size, Ear())
    with pytest.raises(UsageError, match="max_channel_length"):
        broker.publish("x" * size, "hi")
    broker.subscribe("x" * 255, Ear())


@pytest.mark.parametrize("data", [None, 7, ["hi"], {"a": 1}])
def test_data_must_be_str_or_bytes(data):
    """Nothing is made into text in silence."""
    with pytest.raises(UsageError, match=r"cannot publish \w+, must be str or bytes"):
        make_broker().publish("room", data)


def test_text_that_is_none_is_refused_where_it_is_published():
    """A lone surrogate has no bytes: no subscriber is to find that out."""
    broker = make_broker()

    with pytest.raises(UsageError, match="data is no text"):
        broker.publish("room", "\ud800")
    with pytest.raises(UsageError, match="channel is no text"):
        broker.subscribe("\ud800", Ear())


@pytest.mark.parametrize("data", [bytearray(b"hi"), memoryview(b"hi")])
def test_what_can_change_is_copied(data):
    """What is published is what was there at that time."""
    broker, ear = make_broker(), Ear()
    broker.subscribe("room", ear)
    broker.publish("room", data)

    assert ear.heard == [("room", b"hi")]
    assert type(ear.heard[0][1]) is bytes


def test_one_channel_too_many_is_refused():
    """The error names the cure; those that exist take more subscribers."""
    broker, engine = make_broker(), NotedEngine()
    broker.use_engine(engine)
    broker.max_channels = 2
    broker.subscribe("a", Ear())
    broker.subscribe("b*", Ear(), pattern=True)
    for pattern in (False, True):
        with pytest.raises(UsageError, match=r"2 channels .* raise max_channels"):
            broker.subscribe("c", Ear(), pattern)
    broker.subscribe("a", Ear())
    broker.subscribe("b*", Ear(), pattern=True)

    assert broker.channel_count == 2
    assert [note[1] for note in engine.notes] == ["a", "b*"]


def test_malformed_pattern_is_refused():
    """And leaves nothing behind."""
    broker = make_broker()

    with pytest.raises(UsageError, match="without its"):
        broker.subscribe("[", Ear(), pattern=True)
    assert broker.channel_count == 0


# While a message is handed over.


def test_subscriber_that_raises_affects_nobody_else():
    """It is reported; the others have the message."""
    reports = []
    broker = Broker(lambda subscriber, error: reports.append((subscriber, str(error))))
    ears = [Ear(), Ear(lambda: 1 // 0), Ear()]
    for ear in ears:
        broker.subscribe("room", ear)
    broker.publish("room", "hi")

    assert [ear.heard for ear in ears] == [[("room", "hi")]] * 3
    assert reports == [(ears[1], "integer division or modulo by zero")]


@pytest.mark.parametrize("pattern", [False, True])
def test_subscribers_may_come_and_go_while_a_message_is_handed_over(pattern):
    """Those who were there have it once; those who come have the next."""
    broker, newcomer = make_broker(), Ear()

    def change():
        broker.unsubscribe("room", ears[0], pattern)
        broker.unsubscribe("room", ears[1], pattern)
        broker.subscribe("room", newcomer, pattern)
        broker.publish("room", "inner")

    ears = [Ear(change), Ear(), Ear()]
    for ear in ears:
        broker.subscribe("room", ear, pattern)
    broker.publish("room", "outer")

    assert ears[0].heard == [("room", "outer")]
    assert sorted(ears[2].heard) == [("room", "inner"), ("room", "outer")]
    assert newcomer.heard == [("room", "inner")]


# Outlets.


@pytest.mark.parametrize("pattern", [False, True])
def test_outlet_is_written_one_frame_that_all_share(pattern):
    """As many writes as there are subscribers, of one object; nobody is asked to deliver."""
    broker, sockets, ear = make_broker(), [Socket() for _ in range(100)], Ear()
    for listener in (*sockets, ear):
        broker.subscribe("room", listener, pattern)
    broker.publish("room", "hi")

    assert [socket.written for socket in sockets] == [[b"\x81\x02hi"]] * 100
    assert len({id(socket.written[0]) for socket in sockets}) == 1
    assert not any(socket.delivered for socket in sockets)
    assert ear.heard == [("room", "hi")]
    assert broker.delivered == 101


@pytest.mark.parametrize("pattern", [False, True])
def test_subscriber_whose_outlet_is_shut_delivers_itself(pattern):
    """From when the broker is told to look anew, and until it is again."""
    broker, socket, other = make_broker(), Socket(), Socket()
    for listener in (socket, other):
        broker.subscribe("room", listener, pattern)
    broker.publish("room", "1")
    socket.outlet = None
    broker.renew("room", pattern)
    broker.publish("room", "2")
    socket.outlet = socket.open
    broker.renew("room", pattern)
    broker.publish("room", "3")

    assert socket.written == [b"\x81\x011", b"\x81\x013"]
    assert socket.delivered == ["2"]
    assert len(other.written) == 3


def test_outlet_is_shut_while_its_loop_does_not_run():
    """A loop that ended has closed its descriptors, whose numbers may be anything's now."""
    loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    broker, socket, plain = make_broker(), Socket(loop=loop), Socket()
    for listener in (socket, plain):
        broker.subscribe("room", listener)

    async def publish(text):
        broker.publish("room", text)

    loop.run_until_complete(publish("1"))
    loop.close()
    broker.publish("room", "2")
    other.run_until_complete(publish("3"))
    other.close()

    assert socket.written == [b"\x81\x011"]
    assert socket.delivered == ["2", "3"]
    assert plain.written == [b"\x81\x012"]
    assert plain.delivered == ["1", "3"]


def test_publisher_whose_loop_does_not_run_may_be_left_out():
    """Its outlet is shut."""
    loop = asyncio.new_event_loop()
    broker, publisher, other = make_broker(), Socket(loop=loop), Socket()
    for listener in (publisher, other):
        broker.subscribe("room", listener)
    broker.publish("room", "hi", but=publisher)
    loop.close()

    assert (publisher.written, publisher.delivered, len(other.written)) == ([], [], 1)


def test_outlet_is_written_nothing_once_its_subscriber_has_left():
    """Nor before the one who comes has come."""
    broker, stays, goes, comes = make_broker(), Socket(), Socket(), Socket()
    broker.subscribe("room", stays)
    broker.subscribe("room", goes)
    broker.publish("room", "1")
    broker.unsubscribe("room", goes)
    broker.subscribe("room", comes)
    broker.publish("room", "2")

    assert [len(socket.written) for socket in (stays, goes, comes)] == [2, 1, 1]


@pytest.mark.parametrize("open_", [True, False])
def test_publisher_with_an_outlet_may_be_left_out(open_):
    """Whether it is open or shut."""
    broker, publisher, other = make_broker(), Socket(), Socket()
    if not open_:
        publisher.outlet = None
    for listener in (publisher, other):
        broker.subscribe("room", listener)
    broker.publish("room", "hi", but=publisher)

    assert (publisher.written, publisher.delivered, len(other.written)) == ([], [], 1)
    assert broker.delivered == 1


def test_what_a_subscriber_holds_back_goes_before_a_message():
    """Of those who get it; the others hold it on."""
    broker, holder, other = make_broker(), Socket(), Socket()
    broker.subscribe("room", holder)
    broker.subscribe("kitchen", other)
    for socket in (holder, other):
        socket.held.append(b"first")
        broker.holders.add(socket)
    broker.publish("room", "hi")

    assert holder.written == [b"first", b"\x81\x02hi"]
    assert other.written == []


def test_outlet_that_raises_affects_nobody_else():
    """It is reported."""
    reported = []
    broker = Broker(lambda outlet, error: reported.append((outlet, str(error))))

    sockets = [Socket(RuntimeError("no")), Socket()]
    for socket in sockets:
        broker.subscribe("room", socket)
    broker.publish("room", "hi")

    assert reported == [(sockets[0], "no")]
    assert len(sockets[1].written) == 1


# The engine.


def test_engine_is_told_of_a_channels_first_and_last_subscriber():
    """Not of those between; a pattern is another channel than its name."""
    broker, engine = make_broker(), NotedEngine()
    broker.use_engine(engine)
    first, second = Ear(), Ear()
    broker.subscribe("room", first)
    broker.subscribe("room", second)
    broker.subscribe("room", first, pattern=True)
    broker.unsubscribe("room", first)
    broker.unsubscribe("room", first)
    broker.unsubscribe("room", second)
    broker.unsubscribe("room", first, pattern=True)
    broker.unsubscribe("kitchen", first)

    assert engine.notes == [
        ("subscribe", "room", False),
        ("subscribe", "room", True),
        ("unsubscribe", "room", False),
        ("unsubscribe", "room", True),
    ]
    assert broker.channel_count == 0


def test_engine_that_comes_later_is_told_of_what_is_there():
    """Programs subscribe when they are imported, before a worker has its link."""
    broker, engine, ear = make_broker(), NotedEngine(), Ear()
    broker.subscribe("room", ear)
    broker.subscribe("r*", ear, pattern=True)
    broker.use_engine(engine)
    broker.unsubscribe("room", ear)

    assert engine.notes == [
        ("subscribe", "room", False),
        ("subscribe", "r*", True),
        ("unsubscribe", "room", False),
    ]


def test_engine_carries_what_is_published_here_and_not_what_it_brought():
    """Else two processes would send one message to and fro for ever."""
    broker, engine, ear = make_broker(), NotedEngine(), Ear()
    broker.use_engine(engine)
    broker.subscribe("room", ear)
    broker.publish("room", "ours", but=ear)
    broker.deliver(Message("room", "theirs"))

    assert engine.notes[1:] == [("publish", "room", "ours")]
    assert ear.heard == [("room", "theirs")]


# What it costs.


def test_publishing_to_a_channel_without_subscribers_hands_nothing_over():
    """Nor is anything written or encoded, nor left behind."""
    broker, ear, socket = make_broker(), Ear(), Socket()
    socket.held.append(b"first")
    broker.holders.add(socket)
    for listener in (ear, socket):
        broker.subscribe("kitchen", listener)
        broker.subscribe("k*", listener, pattern=True)
    message = Message("room", "hi")
    broker.send(message)

    assert (ear.heard, socket.written, socket.delivered) == ([], [], [])
    assert (broker.published, broker.delivered) == (1, 0)
    assert broker.channel_count == 2
    assert message._raw is message._websocket_frame is message._event is None


def test_channels_whose_patterns_are_remembered_are_bounded():
    """Publishing to a million rooms keeps none of them."""
    broker, ear = make_broker(), Ear()
    broker.subscribe("room.*", ear, pattern=True)
    for number in range(3 * MAX_MATCHES):
        broker.publish(f"room.{number}", "hi")

    assert len(broker._matches) <= MAX_MATCHES
    assert len(ear.heard) == 3 * MAX_MATCHES


CHANNELS = ["a", "b", "ab", "a*", "*", "?b"]
KEYS = st.integers(0, 3)


class BesideModel(RuleBasedStateMachine):
    """A broker does what a list of subscriptions does, that is gone through for each message."""

    def __init__(self):
        super().__init__()
        self.broker = make_broker()
        self.broker.engine = self.engine = NotedEngine()
        self.model = {}
        self.expected = []
        self.heard = []

    @rule(channel=st.sampled_from(CHANNELS), key=KEYS, pattern=st.booleans())
    def subscribe(self, channel, key, pattern):
        """Somebody comes, or comes again."""
        ear = Ear()
        ear.heard = self.heard
        self.broker.subscribe(channel, ear, pattern, key)
        self.model[channel, key, pattern] = ear

    @rule(channel=st.sampled_from(CHANNELS), key=KEYS, pattern=st.booleans())
    def unsubscribe(self, channel, key, pattern):
        """Somebody goes, or was not there."""
        self.broker.unsubscribe(channel, key, pattern)
        self.model.pop((channel, key, pattern), None)

    @rule(channel=st.sampled_from(CHANNELS), but=KEYS | st.none(), data=st.text("xy", max_size=3))
    def publish(self, channel, but, data):
        """Everybody it is for hears it."""
        self.broker.publish(channel, data, but)
        for name, key, pattern in self.model:
            match = fnmatch.fnmatchcase(channel, name) if pattern else name == channel
            if match and key != but:
                self.expected.append((channel, data))

    @invariant()
    def same(self):
        """What was heard, what was counted, and what the engine knows."""
        assert self.heard == self.expected
        assert self.broker.delivered == len(self.expected)
        wanted = {(name, pattern) for name, _, pattern in self.model}
        known = set()
        for kind, channel, pattern in self.engine.notes:
            if kind == "subscribe":
                assert (channel, pattern) not in known
                known.add((channel, pattern))
            elif kind == "unsubscribe":
                known.remove((channel, pattern))
        assert known == wanted
        assert self.broker.channel_count == len(wanted)


TestBesideModel = pytest.mark.slow(BesideModel.TestCase)
TestBesideModel.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
