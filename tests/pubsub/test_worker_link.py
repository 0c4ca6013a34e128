"""A worker's link, over socket pairs within this process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from iodine_aio.pubsub.broker import Broker
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.packets import (
    MAX_DATA_BYTES,
    encode_publication,
)
from iodine_aio.pubsub.worker_link import WorkerLink
from tests.loops import until
from tests.pubsub.parents import Parent, Received


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
