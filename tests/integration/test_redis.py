"""Servers on several machines, as it were: each with a broker of its own, and a real Redis.

It is killed, and comes back; what arrives is counted.
"""

import asyncio
import selectors
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from iodine_aio import homes
from iodine_aio.pubsub.broker import Broker
from iodine_aio.pubsub.engine import ProcessEngine
from iodine_aio.pubsub.hub import Hub
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.patterns import compile_pattern
from iodine_aio.pubsub.publisher import Publisher
from iodine_aio.pubsub.redis import RedisEngine
from iodine_aio.pubsub.worker_link import WorkerLink
from tests.clients import open_websocket
from tests.handlers import Chat
from tests.integration.redis_server import PROGRAM, RedisServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not on PATH"),
]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class Ear:
    """A subscriber that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | bytes]] = []

    def deliver(self, message: Message) -> None:
        self.heard.append((message.channel, message.data))

    @property
    def data(self) -> list[str | bytes]:
        return [data for _, data in self.heard]


class Machine:
    """A server's part that publishes and subscribes."""

    def __init__(self, url: str, max_queued_bytes: int = 1 << 20) -> None:
        self.broker = Broker(lambda subscriber, error: None)
        self.engine = RedisEngine(url, self.broker.deliver, max_queued_bytes)
        self.broker.use_engine(self.engine)

    def listen(self, channel: str, pattern: bool = False) -> Ear:
        ear = Ear()
        self.broker.subscribe(channel, ear, pattern)
        return ear


async def until(condition: Callable[[], object]) -> None:
    """Waits for what other processes do; the test's own limit ends it."""
    while not condition():
        await asyncio.sleep(0.002)


@pytest.fixture
async def machines(redis: RedisServer) -> AsyncIterator[tuple[Machine, Machine]]:
    """Two, connected."""
    made = Machine(redis.url), Machine(redis.url)
    for machine in made:
        await machine.engine.open()
    await until(lambda: all(machine.engine.connected for machine in made))
    yield made
    for machine in made:
        await machine.engine.close()


async def test_message_reaches_every_machine_once(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """The publisher's own at once, and not again when its echo comes; in order."""
    one, two = machines
    ears = one.listen("news"), two.listen("news")
    await until(lambda: redis.listeners("news") == 2)
    for number in range(1000):
        one.broker.publish("news", f"{number}")
    at_once = len(ears[0].heard)
    await until(lambda: len(ears[1].heard) >= 1000)
    two.broker.publish("news", "end")
    await until(lambda: ears[0].data[-1] == "end")
    expected = [*map(str, range(1000)), "end"]

    assert at_once == 1000
    assert ears[0].data == ears[1].data == expected


async def test_redis_is_reached_over_tcp(redis: RedisServer):
    """As everywhere but here: a relay has the port, so that Redis needs none."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    ended: list[None] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(
            redis.url.removeprefix("unix://")
        )
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        ended.append(None)

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        made = [Machine(f"redis://127.0.0.1:{port}") for _ in range(2)]
        for machine in made:
            await machine.engine.open()
        ear = made[1].listen("news")
        await until(lambda: redis.listeners("news") == 1)
        made[0].broker.publish("news", "hello")
        await until(lambda: ear.heard)
        for machine in made:
            await machine.engine.close()
        await until(lambda: len(ended) == 4)

    assert ear.data == ["hello"]


async def test_text_and_binary_stay_apart(redis: RedisServer, machines: tuple[Machine, Machine]):
    """A str is text, bytes are binary, even those that could be text."""
    one, two = machines
    ear = two.listen("news")
    await until(lambda: redis.listeners("news") == 1)
    sent: list[str | bytes] = ["grüezi", b"hello", b"\xff\x00", "", b"", "\x89iodine1t"]
    for data in sent:
        one.broker.publish("news", data)
    await until(lambda: len(ear.heard) == len(sent))

    assert ear.data == sent


async def test_message_of_redis_cli_is_text(redis: RedisServer, machines: tuple[Machine, Machine]):
    """It has no envelope; what cannot be text is bytes, a cut envelope is nothing."""
    one, _ = machines
    ear = one.listen("news")
    await until(lambda: redis.listeners("news") == 1)
    for value in ("grüezi", "grüezi", b"\xff", b"\x89iodine1", "end"):
        redis.command("PUBLISH", "news", value)
    await until(lambda: ear.heard and ear.data[-1] == "end")

    assert ear.data == ["grüezi", "grüezi", b"\xff", "end"]


async def test_message_comes_once_to_each_of_overlapping_subscriptions(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """Redis sends a copy for the channel and for each pattern."""
    one, two = machines
    ears = [two.listen("room.1"), two.listen("room.*", True), two.listen("*1", True)]
    await until(lambda: redis.listeners("room.1") == 1 and redis.patterns == 2)
    for data in ("x", "x", "y"):
        redis.command("PUBLISH", "room.1", data)
        redis.command("PUBLISH", "room.2", data)
        redis.command("PUBLISH", "room.31", data)
    one.broker.publish("room.1", "end")
    await until(lambda: ears[0].heard and ears[0].data[-1] == "end")

    assert ears[0].data == ["x", "x", "y", "end"]
    assert len(ears[1].heard) == 10
    assert len(ears[2].heard) == 7


PATTERNS = [
    *("*", "a*", "*a", "?", "??", "a?b", "[a-c]", "[^a-c]", "[!a]*", "[é-ï]", "é*", "*é", "?é"),
    *("\\*", "a\\?b", "[]]", "[]-a]", "[x-]", "[\\]a]", "a-b", "[\\^]", "a^b", "a**b", "*?*"),
]
CHANNELS = [
    *("a", "b", "d", "é", "aé", "éa", "aéb", "axb", "ab", "a?b", "*", "]", "^", "-", "x", "_"),
    *("a-b", "a^b", "a\\b", "🙂", "a🙂b", "axxb", "\n", "a\nb", "A", "[", "\\"),
]


async def test_patterns_match_what_they_match_at_home(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """Redis counts bytes, and knows no `!`; nobody notices."""
    one, two = machines
    at_home = {pattern: one.listen(pattern, True) for pattern in PATTERNS}
    abroad = {pattern: two.listen(pattern, True) for pattern in PATTERNS}
    end = two.listen("end of all")
    await until(lambda: redis.listeners("end of all") == 1)
    for channel in CHANNELS:
        one.broker.publish(channel, "x")
    one.broker.publish("end of all", "")
    await until(lambda: end.heard)

    assert len({len(ear.heard) for ear in at_home.values()}) > 5
    for pattern in PATTERNS:
        assert abroad[pattern].heard == at_home[pattern].heard, pattern


@pytest.mark.parametrize("pattern", ["a?b", "[!a]x", "[é-ï]", "[]-a]b"])
async def test_pattern_alone_misses_nothing(
    redis: RedisServer, machines: tuple[Machine, Machine], pattern: str
):
    """None is served by what another one has asked for."""
    one, two = machines
    ear = two.listen(pattern, True)
    await until(lambda: redis.patterns == 1)
    sent = ["aéb", "a🙂b", "éx", "zx", "é", "ï", "^b", "ax"]
    for channel in sent:
        one.broker.publish(channel, "")
    expected = [(channel, "") for channel in sent if compile_pattern(pattern).matches(channel)]
    await until(lambda: len(ear.heard) >= len(expected))

    assert expected
    assert ear.heard == expected


async def test_channel_is_left_with_its_last_subscriber(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """Redis sends nothing that nobody wants."""
    one, _ = machines
    ear, other = one.listen("news"), one.listen("news")
    await until(lambda: redis.listeners("news") == 1)
    one.broker.unsubscribe("news", ear)
    one.broker.unsubscribe("news", other)
    await until(lambda: redis.listeners("news") == 0)


async def test_ten_thousand_channels_are_subscribed_to_and_left(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """In a few commands."""
    one, _ = machines
    ears = {f"room {n}": one.listen(f"room {n}") for n in range(10_000)}
    await until(lambda: redis.listeners("room 9999") == 1)
    before = len(redis.command("PUBSUB", "CHANNELS", "room *"))
    for channel, ear in ears.items():
        one.broker.unsubscribe(channel, ear)
    await until(lambda: redis.listeners("room 9999") == 0)

    assert before == 10_000
    assert redis.command("PUBSUB", "CHANNELS", "room *") == []


async def test_server_with_a_redis_that_is_down_serves_and_goes_on_trying(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """One entry; messages reach everybody here, and others when it is there."""
    redis = RedisServer(tmp_path)
    one, two = Machine(redis.url), Machine(redis.url)
    ear, far = one.listen("news"), two.listen("news")
    await one.engine.open()
    for number in range(5):
        one.broker.publish("news", f"{number}")
    at_home = list(ear.data)
    await until(lambda: caplog.records)
    with redis:
        await two.engine.open()
        await until(lambda: one.engine.connected and two.engine.connected)
        await until(lambda: redis.listeners("news") == 2)
        one.broker.publish("news", "end")
        await until(lambda: far.heard and far.data[-1] == "end")
        await one.engine.close()
        await two.engine.close()

    assert at_home == [*"01234"]
    assert ear.data == [*"01234", "end"]
    assert len(far.data) == len(set(far.data))
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "cannot be reached" in line]) == 1
    assert len([line for line in lines if "is back" in line and " 0 messages " in line]) == 1


async def test_redis_that_is_killed_and_comes_back(
    redis: RedisServer, machines: tuple[Machine, Machine], caplog: pytest.LogCaptureFixture
):
    """Both are subscribed again within two seconds; nothing comes twice; the log counts."""
    one, two = machines
    home, far = one.listen("news"), two.listen("news")
    pattern = two.listen("n*", True)
    await until(lambda: redis.listeners("news") == 2 and redis.patterns == 1)
    loop = asyncio.get_running_loop()
    sent = 0

    async def publish_for(seconds: float) -> None:
        nonlocal sent
        end = loop.time() + seconds
        while loop.time() < end:
            one.broker.publish("news", f"{sent}")
            sent += 1
            await asyncio.sleep(0.001)

    for _ in range(2):
        await publish_for(0.1)
        redis.kill()
        await publish_for(0.3)
        redis.start()
        began = loop.time()
        await until(lambda: redis.listeners("news") == 2 and redis.patterns == 1)
        seconds = loop.time() - began
        await publish_for(0.1)

        assert seconds < 2
    one.broker.publish("news", "end")
    await until(lambda: far.data[-1] == "end")
    await until(lambda: pattern.data[-1] == "end")
    arrived = [int(data) for data in far.data[:-1]]
    back = [r.getMessage() for r in caplog.records if "is back after" in r.getMessage()]

    assert home.data == [*map(str, range(sent)), "end"]
    assert arrived == sorted(set(arrived))
    assert pattern.data == far.data
    # What one published while two was not yet subscribed again is lost, too.
    assert sent - len(arrived) >= one.engine.lost
    assert arrived[0] == 0
    assert len(back) == 4  # two machines, two times
    told = sum(int(line.split(": ")[1].split()[0]) for line in back)
    assert told == one.engine.lost + two.engine.lost


async def test_messages_that_wait_for_redis_are_bounded_and_follow_in_order(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
):
    """The latest ones; what was displaced is told."""
    one, two = Machine(redis.url, 50_000), Machine(redis.url)
    far = two.listen("news")
    redis.kill()
    await one.engine.open()
    for number in range(1000):
        one.broker.publish("news", f"{number:<1000}")
    waiting = 1000 - one.engine.lost
    redis.start()
    await two.engine.open()
    await until(lambda: two.engine.connected)
    one.broker.publish("news", "1000")
    await until(lambda: far.data and far.data[-1] == "1000")
    arrived = [int(data) for data in far.data]
    for machine in (one, two):
        await machine.engine.close()

    assert 40 < waiting < 50
    assert arrived == sorted(set(arrived))
    assert arrived[0] >= 1000 - waiting
    assert any("messages were dropped" in record.getMessage() for record in caplog.records)


async def test_redis_that_stands_still_holds_up_nobody(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """Local delivery goes on; the rest follows when it goes on, once each."""
    one, two = machines
    home, far = one.listen("news"), two.listen("news")
    await until(lambda: redis.listeners("news") == 2)
    redis.pause()
    for number in range(100):
        one.broker.publish("news", f"{number}")
        one.listen(f"room {number}")
        await asyncio.sleep(0)
    at_home = list(home.data)
    redis.resume()
    await until(lambda: len(far.heard) >= 100)
    await until(lambda: redis.listeners("room 99") == 1)

    assert at_home == far.data == [*map(str, range(100))]


async def test_what_was_published_last_has_left_when_the_engine_is_closed(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """A server that stops says what it had to say."""
    one, two = machines
    far = two.listen("news")
    await until(lambda: redis.listeners("news") == 1)
    for number in range(2000):
        one.broker.publish("news", f"{number}")
    await one.engine.close()
    await until(lambda: len(far.heard) >= 2000)

    assert far.data == [*map(str, range(2000))]


async def test_publisher_of_another_process_reaches_the_servers(
    redis: RedisServer, machines: tuple[Machine, Machine]
):
    """Text and binary, from a thread's program and from a coroutine's."""
    one, two = machines
    ears = one.listen("news"), two.listen("ne*", True)
    await until(lambda: redis.listeners("news") == 1 and redis.patterns == 1)
    async with Publisher(redis.url) as publisher:
        counts = [await asyncio.to_thread(publisher.publish, "news", data) for data in ("a", b"b")]
        counts.append(await publisher.publish_async("news", "c"))
        counts.append(await publisher.publish_async("nobody", "c"))
    await until(lambda: all(len(ear.heard) == 3 for ear in ears))

    assert counts == [2, 2, 2, 0]
    assert ears[0].data == ears[1].data == ["a", b"b", "c"]


async def test_publisher_goes_on_when_redis_is_back(redis: RedisServer):
    """It says that it was away, by an exception; nothing is left of that."""
    async with Publisher(redis.url) as publisher:
        publisher.publish("news", "x")
        await publisher.publish_async("news", "x")
        redis.kill()
        with pytest.raises(ConnectionError):
            publisher.publish("news", "x")
        with pytest.raises(ConnectionError):
            await publisher.publish_async("news", "x")
        redis.start()

        assert publisher.publish("news", "x") == 0
        assert await publisher.publish_async("news", "x") == 0


async def test_subscription_that_redis_refuses_makes_no_flood(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
):
    """It is tried again and again, and told once."""
    redis.command("ACL", "SETUSER", "default", "resetchannels")
    machine = Machine(redis.url)
    machine.listen("news")
    await machine.engine.open()
    await until(lambda: caplog.records)
    redis.command("ACL", "SETUSER", "default", "allchannels")
    await until(lambda: machine.engine.connected)
    await machine.engine.close()
    lines = [record.getMessage() for record in caplog.records]

    assert len([line for line in lines if "cannot be reached" in line]) == 1
    assert len(lines) == 2


async def test_server_with_redis_url_carries_messages_of_its_connections(redis: RedisServer):
    """From a WebSocket here to another machine, and back; and stops doing so in the end."""
    other = Machine(redis.url)
    ear = other.listen("room")
    await other.engine.open()
    async with open_websocket(Chat, redis_url=redis.url) as client:
        await until(lambda: redis.listeners("room") == 2)
        client.send(b"\x81\x82\x00\x00\x00\x00hi")
        own = await client.receive()
        await until(lambda: ear.heard)
        other.broker.publish("room", b"there")
        theirs = await client.receive()
        redis.command("PUBLISH", "room", "cli")
        plain = await client.receive()
    await until(lambda: len(ear.heard) == 3)
    await other.engine.close()

    assert (own, theirs, plain) == ((1, b"hi"), (2, b"there"), (1, b"cli"))
    assert ear.data == ["hi", b"there", "cli"]
    assert isinstance(homes.broker.engine, ProcessEngine)


async def test_server_that_stops_leaves_redis_to_the_next_of_its_process(redis: RedisServer):
    """One of them is connected at a time."""
    other = Machine(redis.url)
    ear = other.listen("room")
    await other.engine.open()
    async with (
        open_websocket(Chat, redis_url=redis.url) as first,
        open_websocket(Chat, redis_url=redis.url) as second,
    ):
        await until(lambda: redis.listeners("room") == 2)
        await first.server.stop(0)
        await until(lambda: homes.broker.engine._engine.connected)  # type: ignore[attr-defined]
        await until(lambda: redis.listeners("room") == 2)
        second.send(b"\x81\x82\x00\x00\x00\x00hi")
        own = await second.receive()
        await until(lambda: ear.heard)
        other.broker.publish("room", b"there")
        theirs = await second.receive()
    await other.engine.close()

    assert (own, theirs) == ((1, b"hi"), (2, b"there"))
    assert ear.data == ["hi", b"there"]


PROGRAM_OF_WORKERS = """
import os, iodine_aio

def app(env):
    iodine_aio.publish("news", "hello")
    return 200, {}, str(os.getpid())
"""


@pytest.mark.one_loop
async def test_workers_publish_through_one_bridge(redis: RedisServer, tmp_path: Path):
    """Three requests to a server of two workers are three messages elsewhere; it ends cleanly."""
    (tmp_path / "web.py").write_text(PROGRAM_OF_WORKERS)
    other = Machine(redis.url)
    far = other.listen("news")
    await other.engine.open()
    await until(lambda: redis.listeners("news") == 1)
    before = redis.connections
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iodine_aio", "-p", "0", "-w", "2", "--redis", redis.url, "web.py"),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        banner = (await process.stderr.readline()).decode()
        port = int(banner.split("http://127.0.0.1:")[1].split()[0].rstrip(","))
        await until(lambda: redis.connections == before + 2)
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()
        await until(lambda: len(far.heard) >= 3)
        process.terminate()
        errors = (await process.stderr.read()).decode()
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await other.engine.close()

    assert far.data == ["hello"] * 3
    assert (code, errors) == (0, "")
    assert redis.connections == before - 2


BRIDGE = """
import socket, sys
from iodine_aio.pubsub.bridge import run_bridge
run_bridge(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
"""


class Bridged:
    """A parent's hub with two workers' links, and a bridge that is a process of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.selector = selectors.DefaultSelector()
        self.hub = Hub()
        self.hub.register(self.selector)
        self.brokers = [self.make_worker() for _ in range(2)]
        self.start_bridge()

    def make_worker(self) -> tuple[Broker, WorkerLink]:
        ours, theirs = socket.socketpair()
        self.hub.add(ours)
        broker = Broker(lambda subscriber, error: None)
        link = WorkerLink(theirs, broker.deliver)
        broker.use_engine(link)
        return broker, link

    def start_bridge(self) -> None:
        self.sock, theirs = socket.socketpair()
        self.hub.add(self.sock, "the bridge", bridge=True)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", BRIDGE, str(theirs.fileno()), self.url],
                pass_fds=[theirs.fileno()],
            )

    async def work(self) -> None:
        """What a parent does all the time."""
        while True:
            for key, mask in self.selector.select(0):
                self.hub.handle(key, mask)
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.work())
        for _, link in self.brokers:
            await link.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for _, link in self.brokers:
            await link.close()
        self.task.cancel()
        self.hub.close()
        self.selector.close()
        try:
            # It has lost its link: it ends by itself.
            await asyncio.to_thread(self.process.wait, 10)
        finally:
            self.process.kill()
            self.process.wait()


async def test_server_with_workers_has_one_subscriber_connection(redis: RedisServer):
    """The bridge's: messages come through it once to each worker that listens, and leave."""
    other = Machine(redis.url)
    far = other.listen("news")
    await other.engine.open()
    async with Bridged(redis.url) as server:
        (one, _), (two, _) = server.brokers
        ears = Ear(), Ear()
        one.subscribe("news", ears[0])
        two.subscribe("news", ears[1])
        two.subscribe("n*", ears[1], pattern=True)
        await until(lambda: redis.listeners("news") == 2)
        await until(lambda: redis.patterns == 1)
        one.publish("news", "from one")
        await until(lambda: len(ears[1].heard) == 2 and len(far.heard) == 1)
        other.broker.publish("news", b"from afar")
        await until(lambda: len(ears[0].heard) == 2 and len(ears[1].heard) == 4)
        one.publish("news", "end")
        await until(lambda: len(ears[1].heard) == 6 and len(far.heard) == 3)
    await other.engine.close()

    assert ears[0].data == ["from one", b"from afar", "end"]
    assert ears[1].data == [d for d in ears[0].data for _ in range(2)]
    assert far.data == ears[0].data
    assert server.process.returncode == 0


async def test_bridge_that_is_killed_is_replaced_without_loss_between_workers(redis: RedisServer):
    """Its successor is told by the hub what to subscribe to."""
    async with Bridged(redis.url) as server:
        (one, _), (two, _) = server.brokers
        ear = Ear()
        two.subscribe("news", ear)
        await until(lambda: redis.listeners("news") == 1)
        server.process.kill()
        server.process.wait()
        for number in range(10):
            one.publish("news", f"{number}")
        await until(lambda: len(ear.heard) == 10)
        server.hub.remove(server.sock)
        await until(lambda: redis.listeners("news") == 0)
        server.start_bridge()
        await until(lambda: redis.listeners("news") == 1)
        redis.command("PUBLISH", "news", "from afar")
        await until(lambda: ear.data[-1] == "from afar")

    assert ear.data == [*"0123456789", "from afar"]
