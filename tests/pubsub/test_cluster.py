"""Links between processes, over socket pairs within this one."""

import asyncio
import contextlib
import selectors
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from iodine_aio.pubsub import cluster, outbox
from iodine_aio.pubsub.broker import Broker, Message
from iodine_aio.pubsub.cluster import Hub, WorkerLink
from iodine_aio.pubsub.packets import (
    MAX_DATA_BYTES,
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE,
    UNSUBSCRIBE_PATTERN,
    PacketReader,
    encode_announcement,
    encode_publication,
)

Received = list[tuple[str, str | bytes]]


class Process:
    """The other end of a link: it writes packets, and reads what the hub has sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = PacketReader()

    def say(self, *packets: bytes) -> None:
        self.sock.sendall(b"".join(packets))

    def subscribe(self, *channels: str) -> None:
        self.say(*(encode_announcement(SUBSCRIBE, channel) for channel in channels))

    def hear(self) -> list[tuple[int, str]] | Received:
        """Announcements as (kind, channel), messages as (channel, data); until now."""
        heard: list[tuple[int, str]] | Received = []
        with contextlib.suppress(BlockingIOError):
            while data := self.sock.recv(1 << 20, socket.MSG_DONTWAIT):
                for kind, channel, body, _ in self.reader.feed(data):
                    heard.append((kind, channel) if body is None else (channel, body))  # type: ignore[arg-type]
        return heard

    @property
    def cut_off(self) -> bool:
        return self.sock.recv(1, socket.MSG_PEEK) == b""


class Parent:
    """A hub on a selector of its own, that works when it is told to."""

    def __init__(self, max_queued_bytes: int = cluster.MAX_QUEUED_BYTES) -> None:
        self.selector = selectors.DefaultSelector()
        self.hub = Hub(max_queued_bytes)
        self.hub.register(self.selector)
        self.ends: list[socket.socket] = []

    def pair(self, name: str = "a worker", bridge: bool = False) -> socket.socket:
        """A socket whose other end the hub has."""
        ours, theirs = socket.socketpair()
        self.hub.add(ours, name, bridge)
        self.ends.append(theirs)
        return theirs

    def process(self, name: str = "a worker", bridge: bool = False) -> Process:
        return Process(self.pair(name, bridge))

    def work(self) -> None:
        """All that can be done without waiting."""
        while ready := self.selector.select(0):
            for key, mask in ready:
                assert key.data is self.hub
                self.hub.handle(key, mask)

    def close(self) -> None:
        self.hub.close()
        self.selector.close()
        for end in self.ends:
            end.close()


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.close()


@pytest.fixture
def small_parent() -> Iterator[Parent]:
    """Its hub keeps 64 KiB for each process."""
    parent = Parent(64 * 1024)
    yield parent
    parent.close()


# ---- the hub ----


def test_message_reaches_every_other_process_that_has_subscribed(parent: Parent):
    """Not the one it came from, and not those that did not ask."""
    one, two, three, other = (parent.process() for _ in range(4))
    for process in (one, two, three):
        process.subscribe("news")
    other.subscribe("else")
    parent.work()
    one.say(encode_publication("news", "hello"), encode_publication("news", b"\xff"))
    parent.work()

    assert two.hear() == three.hear() == [("news", "hello"), ("news", b"\xff")]
    assert one.hear() == other.hear() == []


def test_message_that_nobody_else_wants_is_not_written(parent: Parent):
    """It costs the hub nothing but to read it."""
    one, two = parent.process(), parent.process()
    one.subscribe("news")
    parent.work()
    one.say(encode_publication("news", "hello"))
    parent.work()

    assert parent.hub.forwarded == 0
    assert two.hear() == []


def test_message_comes_once_to_who_wants_it_twice(parent: Parent):
    """By its name and by two patterns."""
    one, two = parent.process(), parent.process()
    two.subscribe("room.1")
    two.say(*(encode_announcement(SUBSCRIBE_PATTERN, p) for p in ("room.*", "*.1")))
    parent.work()
    one.say(encode_publication("room.1", "x"), encode_publication("room.2", "y"))
    parent.work()

    assert two.hear() == [("room.1", "x"), ("room.2", "y")]


def test_what_is_unsubscribed_comes_no_more(parent: Parent):
    """A channel and a pattern of the same name are two things."""
    one, two = parent.process(), parent.process()
    two.subscribe("a*")
    two.say(encode_announcement(SUBSCRIBE_PATTERN, "a*"))
    parent.work()
    two.say(encode_announcement(UNSUBSCRIBE, "a*"))
    parent.work()
    one.say(encode_publication("a*", "1"), encode_publication("ab", "2"))
    two.say(encode_announcement(UNSUBSCRIBE_PATTERN, "a*"))
    parent.work()
    one.say(encode_publication("a*", "3"))
    parent.work()

    assert two.hear() == [("a*", "1"), ("ab", "2")]


def test_pattern_that_comes_later_is_seen_by_channels_known_before(parent: Parent):
    """Which patterns match a channel is remembered, and forgotten when they change."""
    one, two, three = (parent.process() for _ in range(3))
    two.say(encode_announcement(SUBSCRIBE_PATTERN, "n*"))
    parent.work()
    one.say(encode_publication("news", "1"))
    parent.work()
    three.say(encode_announcement(SUBSCRIBE_PATTERN, "*s"))
    parent.work()
    one.say(encode_publication("news", "2"))
    parent.work()

    assert two.hear() == [("news", "1"), ("news", "2")]
    assert three.hear() == [("news", "2")]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x03\x09\x00\x00",
        encode_announcement(SUBSCRIBE_PATTERN, "[a"),
    ],
)
def test_process_that_writes_garbage_is_cut_off(
    parent: Parent, caplog: pytest.LogCaptureFixture, garbage: bytes
):
    """One entry; what it said before is delivered, and nobody else is affected."""
    bad, one, two = parent.process("worker 7"), parent.process(), parent.process()
    one.subscribe("news")
    parent.work()
    bad.say(encode_publication("news", "before"), garbage, encode_publication("news", "behind"))
    parent.work()
    two.say(encode_publication("news", "after"))
    parent.work()

    assert one.hear() == [("news", "before"), ("news", "after")]
    assert bad.cut_off
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("worker 7 is cut off from the others: ")


def test_process_of_too_many_channels_is_cut_off(parent: Parent, monkeypatch: pytest.MonkeyPatch):
    """The parent's memory is not a worker's to fill."""
    monkeypatch.setattr(cluster, "MAX_CHANNELS", 3)
    bad = parent.process()
    bad.subscribe("a", "b", "c", "a", "d")
    parent.work()

    assert bad.cut_off


def test_process_that_ends_loses_its_own_subscriptions_only(parent: Parent):
    """Its last words are heard, those of others reach the others."""
    one, two, three = (parent.process() for _ in range(3))
    for process in (one, two, three):
        process.subscribe("news")
    parent.work()
    two.say(encode_publication("news", "farewell"))
    two.sock.close()
    one.say(encode_publication("news", "hello"))
    parent.work()

    assert sorted(three.hear()) == [("news", "farewell"), ("news", "hello")]
    assert one.hear() == [("news", "farewell")]


def test_last_words_are_heard_of_a_process_that_is_removed(parent: Parent):
    """The signal of its end may be seen before what it wrote."""
    ours, theirs = socket.socketpair()
    parent.hub.add(ours, "a worker")
    one = parent.process()
    one.subscribe("news")
    parent.work()
    with theirs:
        theirs.sendall(encode_publication("news", "farewell"))
    parent.hub.remove(ours)
    parent.hub.remove(ours)  # twice: it may have been seen already

    assert one.hear() == [("news", "farewell")]
    assert ours.fileno() == -1


def test_process_that_hangs_stalls_nobody_and_grows_nothing(
    small_parent: Parent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """What it cannot take is dropped, counted, and told in one entry."""
    monkeypatch.setattr(outbox, "SILENT_SECONDS", 3600.0)  # longer than a busy machine needs
    parent = small_parent
    one, two, hung = parent.process(), parent.process(), parent.process("worker 3")
    for process in (two, hung):
        process.subscribe("news")
    parent.work()
    heard: Received = []
    most = 0
    for number in range(2000):
        one.say(encode_publication("news", f"{number:<1000}"))
        parent.work()
        heard += two.hear()  # type: ignore[arg-type]
        most = max(most, *(peer.outbox.size for peer in parent.hub._peers.values()))

    assert [int(data) for _, data in heard] == list(range(2000))
    assert most <= 64 * 1024
    assert parent.hub.dropped + parent.hub.forwarded == 4000
    assert parent.hub.dropped > 1000
    assert [record.getMessage() for record in caplog.records] == [
        "worker 3 does not read fast enough: 1 messages were dropped, 1 in all"
    ]


def test_process_that_wakes_up_gets_what_was_kept_in_order(small_parent: Parent):
    """And what is published from then on; each once."""
    parent = small_parent
    one, slow = parent.process(), parent.process()
    slow.subscribe("news")
    parent.work()
    for number in range(2000):
        one.say(encode_publication("news", f"{number:<1000}"))
        parent.work()
    heard: Received = []
    while more := slow.hear():
        heard.extend(more)  # type: ignore[arg-type]
        parent.work()
    one.say(encode_publication("news", "2000"))
    parent.work()
    heard.extend(slow.hear())  # type: ignore[arg-type]
    numbers = [int(data) for _, data in heard]

    assert numbers == [*range(len(numbers) - 1), 2000]
    assert len(numbers) == parent.hub.forwarded == 2001 - parent.hub.dropped


def test_hub_forgets_channels_that_nobody_listens_to_any_more(parent: Parent):
    """Channels that come and go leave nothing behind, nor does a process."""
    hub = parent.hub
    one, two = parent.process(), parent.process()
    for number in range(500):
        for kind in (SUBSCRIBE, SUBSCRIBE_PATTERN, UNSUBSCRIBE, UNSUBSCRIBE_PATTERN):
            one.say(encode_announcement(kind, f"room {number}"))
        parent.work()
    two.subscribe("a", "b")
    parent.work()
    two.sock.close()
    parent.work()

    assert (len(hub._channels), len(hub._patterns), len(hub._peers)) == (0, 0, 1)


def test_bridge_is_handed_everything(parent: Parent):
    """It carries messages elsewhere, whoever listens here."""
    bridge = parent.process("the bridge", bridge=True)
    one = parent.process()
    one.say(encode_publication("news", "x"))
    parent.work()

    assert bridge.hear() == [("news", "x")]


def test_message_of_a_bridge_reaches_those_who_listen(parent: Parent):
    """And not the bridge again, be there one or two."""
    bridge = parent.process("the bridge", bridge=True)
    one, two = parent.process(), parent.process()
    one.subscribe("news")
    parent.work()
    bridge.hear()
    bridge.say(encode_publication("news", "x"))
    parent.work()

    assert one.hear() == [("news", "x")]
    assert two.hear() == bridge.hear() == []


def test_bridge_is_told_of_first_and_last_listener(parent: Parent):
    """Of the whole server; a process that ends listens no more."""
    bridge = parent.process("the bridge", bridge=True)
    one, two = parent.process(), parent.process()
    for process in (one, two):
        process.subscribe("news")
        process.say(encode_announcement(SUBSCRIBE_PATTERN, "n*"))
    parent.work()
    first = bridge.hear()
    one.say(
        encode_announcement(UNSUBSCRIBE, "news"), encode_announcement(UNSUBSCRIBE_PATTERN, "n*")
    )
    parent.work()
    second = bridge.hear()
    two.sock.close()
    parent.work()

    assert first == [(SUBSCRIBE, "news"), (SUBSCRIBE_PATTERN, "n*")]
    assert second == []
    assert bridge.hear() == [(UNSUBSCRIBE, "news"), (UNSUBSCRIBE_PATTERN, "n*")]


def test_new_bridge_is_told_what_is_listened_to(parent: Parent):
    """The one before it has died."""
    one = parent.process()
    one.subscribe("news")
    one.say(encode_announcement(SUBSCRIBE_PATTERN, "n*"))
    parent.work()
    parent.process("the bridge", bridge=True).sock.close()
    parent.work()
    bridge = parent.process("the bridge", bridge=True)

    assert bridge.hear() == [(SUBSCRIBE, "news"), (SUBSCRIBE_PATTERN, "n*")]


def test_hung_bridge_knows_in_the_end_what_is_listened_to(small_parent: Parent):
    """Messages are lost on it, announcements are not."""
    parent = small_parent
    bridge = parent.process("the bridge", bridge=True)
    one = parent.process()
    wanted = set()
    for number in range(2000):
        one.say(encode_publication("news", bytes(1000)))
        one.subscribe(f"room {number}")
        if number % 2:
            one.say(encode_announcement(UNSUBSCRIBE, f"room {number}"))
        else:
            wanted.add(f"room {number}")
        parent.work()
    told: set[str] = set()
    while heard := bridge.hear():
        for first, second in heard:
            if first == SUBSCRIBE:
                told.add(str(second))
            elif first == UNSUBSCRIBE:
                told.discard(str(second))
        parent.work()

    assert parent.hub.dropped > 0
    assert told == wanted


def test_forked_child_closes_the_links_and_leaves_the_selector_alone(parent: Parent):
    """What the child closes stays open in the parent, and watched."""
    ours, theirs = socket.socketpair()
    twin = ours.dup()  # as fork() makes them
    watched = parent.selector.get_map()
    parent.hub.add(ours, "a worker")
    with twin, theirs:
        parent.hub.abandon()

        assert ours.fileno() == -1
        assert ours in [key.fileobj for key in watched.values()]
        assert theirs.send(b"x") == 1


def test_links_added_before_the_selector_are_watched_too():
    """A parent may open them first."""
    with contextlib.ExitStack() as stack:
        hub = Hub()
        pairs = [socket.socketpair() for _ in range(2)]
        for ours, _ in pairs:
            hub.add(ours)
        one, two = (Process(stack.enter_context(theirs)) for _, theirs in pairs)
        selector = stack.enter_context(selectors.DefaultSelector())
        stack.callback(hub.close)
        hub.register(selector)
        two.subscribe("news")
        one.say(encode_publication("news", "x"))
        heard = []
        while not heard:
            for key, mask in selector.select(0):
                hub.handle(key, mask)
            heard = two.hear()

        assert heard == [("news", "x")]


# ---- a worker ----


class Worker:
    """A link, and what it has delivered."""

    def __init__(self, sock: socket.socket, max_queued_bytes: int = 1 << 20) -> None:
        self.received: Received = []
        self.broker: Broker | None = None
        self.link = WorkerLink(sock, self.deliver, max_queued_bytes)

    def deliver(self, message: Message) -> None:
        self.received.append((message.channel, message.data))
        if self.broker is not None:
            self.broker.deliver(message)


@pytest.fixture
async def workers(parent: Parent) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two of them, whose parent works on the same loop."""
    made = Worker(parent.pair()), Worker(parent.pair())
    async with working(parent):
        for worker in made:
            await worker.link.open()
        yield made
        for worker in made:
            await worker.link.close()


@contextlib.asynccontextmanager
async def working(parent: Parent) -> AsyncIterator[None]:
    """The parent works meanwhile."""

    async def work() -> None:
        while True:
            parent.work()
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    yield
    task.cancel()


async def until(condition: object) -> None:
    """Lets the loop turn until a function says yes; the test's own limit ends it."""
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0)


async def test_worker_hears_what_another_publishes(workers: tuple[Worker, Worker]):
    """Text and binary, in order, and once."""
    one, two = workers
    two.link.subscribe("news", False)
    two.link.subscribe("room.*", True)
    await until_heard(one, two, "news")
    expected: Received = []
    for number in range(1000):
        one.link.publish(Message("news", f"{number}"))
        one.link.publish(Message("room.1", b"%d" % number))
        one.link.publish(Message("else", "no"))
        expected += [("news", f"{number}"), ("room.1", b"%d" % number)]
    await until(lambda: len(two.received) >= len(expected))

    assert two.received == expected
    assert one.received == []


async def until_heard(one: Worker, two: Worker, channel: str) -> None:
    """A subscription of `two` is known to the hub: what `one` publishes arrives."""
    while not two.received:
        one.link.publish(Message(channel, "?"))
        await asyncio.sleep(0)
    mark = Message(channel, "!")
    one.link.publish(mark)
    await until(lambda: two.received[-1][1] == "!")
    two.received.clear()


async def test_what_is_said_before_the_link_opens_is_not_lost(parent: Parent):
    """A program subscribes when it is imported."""
    one, two = Worker(parent.pair()), Worker(parent.pair())
    two.link.subscribe("news", False)
    one.link.publish(Message("news", "early"))
    async with working(parent):
        await two.link.open()
        await until(lambda: parent.hub._channels)
        await one.link.open()
        await until(lambda: two.received)
        await one.link.close()
        await two.link.close()

    assert two.received == [("news", "early")]


async def test_one_turn_of_the_loop_makes_one_write(parent: Parent):
    """However many messages are published in it."""
    sock = parent.pair()
    worker = Worker(sock)
    await worker.link.open()
    transport = worker.link._link._transport
    assert transport is not None
    writes: list[bytes] = []

    class Noting:
        def write(self, data: bytes) -> None:
            writes.append(data)

    worker.link._link._transport = Noting()  # type: ignore[assignment]
    for number in range(100):
        worker.link.publish(Message("news", f"{number}"))
    await asyncio.sleep(0)
    worker.link._link._transport = transport
    await worker.link.close()

    assert len(writes) == 1


async def test_publisher_faster_than_the_parent_loses_messages_and_nothing_else(
    parent: Parent, caplog: pytest.LogCaptureFixture
):
    """The queue is bounded; what it took arrives in order, and so does what comes later."""
    one, two = Worker(parent.pair(), 64 * 1024), Worker(parent.pair())
    two.link.subscribe("news", False)
    await one.link.open()
    await two.link.open()
    await asyncio.sleep(0)
    parent.work()
    for number in range(3000):
        one.link.publish(Message("news", f"{number:<1000}"))
        if number % 100 == 99:
            await asyncio.sleep(0)
    dropped = one.link.dropped
    one.link.subscribe("late", False)
    async with working(parent):
        await until(lambda: len(two.received) >= 3000 - dropped)
        await until(lambda: "late" in parent.hub._channels)
        one.link.publish(Message("news", "3000"))
        await until(lambda: len(two.received) > 3000 - dropped)
        await one.link.close()
        await two.link.close()
    numbers = [int(data) for _, data in two.received]

    assert dropped > 1000
    assert one.link.dropped == dropped
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 3000
    assert "the parent does not read fast enough: 1 messages" in caplog.records[0].getMessage()
    assert len(caplog.records) == 2


async def test_message_that_no_packet_can_carry_stays_at_home(
    workers: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
):
    """It is counted and told; the link goes on."""
    one, two = workers
    two.link.subscribe("news", False)
    await until_heard(one, two, "news")
    one.link.publish(Message("news", bytes(MAX_DATA_BYTES + 1)))
    one.link.publish(Message("news", "next"))
    await until(lambda: two.received)

    assert two.received == [("news", "next")]
    assert one.link.dropped == 1
    assert len(caplog.records) == 1


async def test_engine_falls_silent_when_the_parent_is_gone(
    parent: Parent, caplog: pytest.LogCaptureFixture
):
    """One entry; whatever is said to it afterwards is forgotten."""
    worker = Worker(parent.pair())
    await worker.link.open()
    parent.hub.close()
    await until(lambda: worker.link._link._transport is None)
    for number in range(100):
        worker.link.publish(Message("news", "x"))
        worker.link.subscribe(f"{number}", False)
    size = worker.link._link._outbox.size
    await worker.link.close()

    assert size == 0
    assert [record.getMessage() for record in caplog.records] == [
        "the parent is gone: messages stay in this process"
    ]


async def test_worker_listens_no_more_to_a_parent_that_writes_garbage(
    caplog: pytest.LogCaptureFixture,
):
    """What came before it is delivered."""
    ours, theirs = socket.socketpair()
    worker = Worker(theirs)
    await worker.link.open()
    with ours:
        ours.sendall(encode_publication("news", "x") + b"garbage")
        await until(lambda: worker.link._link._transport is None)
    await worker.link.close()

    assert worker.received == [("news", "x")]
    assert [record.getMessage() for record in caplog.records] == [
        "the parent writes nonsense: packet of 1734439522 bytes, at most 16842754",
        "the parent is gone: messages stay in this process",
    ]


async def test_last_words_are_written_when_a_link_is_closed(parent: Parent):
    """Those of this turn of the loop, and those that waited for a busy parent."""
    one, two = Worker(parent.pair()), parent.process()
    two.subscribe("news")
    await one.link.open()
    for number in range(500):
        one.link.publish(Message("news", f"{number:<1000}"))
    closing = asyncio.create_task(one.link.close())
    heard: Received = []
    while not closing.done() or parent.selector.select(0):
        await asyncio.sleep(0)
        parent.work()
        heard += two.hear()  # type: ignore[arg-type]

    assert [int(data) for _, data in heard] == list(range(500))


@pytest.mark.slow
async def test_link_to_a_hung_parent_ends_all_the_same(parent: Parent):
    """After a second; what was not written is lost."""
    worker = Worker(parent.pair())
    await worker.link.open()
    for _ in range(900):
        worker.link.publish(Message("news", bytes(1000)))
    await worker.link.close()

    assert worker.link._link._transport is None


async def test_link_that_was_never_opened_can_be_closed(parent: Parent):
    """A start may fail before it."""
    sock = parent.pair()
    await Worker(sock).link.close()

    assert sock.fileno() == -1


async def test_brokers_of_two_processes_are_one(workers: tuple[Worker, Worker]):
    """What was subscribed to before the link was there counts; the publisher hears it once."""
    first, second = (Broker(lambda subscriber, error: None) for _ in workers)
    heard: list[list[str]] = [[], []]
    for number, broker in enumerate((first, second)):
        broker.subscribe("news", Ear(heard[number]))
        broker.subscribe("ne*", Ear(heard[number]), pattern=True)
    for worker, broker in zip(workers, (first, second), strict=True):
        worker.broker = broker
        broker.use_engine(worker.link)
    second.subscribe("ready", Ear(heard[1]))
    while "ready" not in heard[1]:
        first.publish("ready", "ready")
        await asyncio.sleep(0)
    first.publish("news", "hello")
    await until(lambda: heard[1][-1] == "hello")
    second.publish("news", "hi")
    await until(lambda: heard[0][-1] == "hi")

    assert heard[0] == ["hello", "hello", "hi", "hi"]
    assert [data for data in heard[1] if data != "ready"] == ["hello", "hello", "hi", "hi"]


class Ear:
    """A subscriber that notes what it hears."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def deliver(self, message: Message) -> None:
        self.heard.append(str(message.data))
