"""Workers die, hang and flood while messages go between them: every message is counted."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import cast

import pytest

from tests.frames import text_frame
from tests.integration.workers import Workers, serving
from tests.requests import HANDSHAKE

pytestmark = [pytest.mark.slow, pytest.mark.one_loop]

MEBIBYTE = 1 << 20
# What the parent may grow by: 8 MiB wait for a worker, and Python takes some more for it.
MOST_GROWTH = 24 * MEBIBYTE

APP = """
import gc
import os
import signal

import iodine_aio
from iodine_aio.homes import broker
from iodine_aio.pubsub.hub import Hub

def tell_of_hub(number, frame):
    (hub,) = (thing for thing in gc.get_objects() if isinstance(thing, Hub))
    waiting = sum(peer.outbox.size + len(peer.outbox._late) for peer in hub._peers.values())
    known = sum(len(peer.channels) + len(peer.patterns) for peer in hub._peers.values())
    counts = len(hub._channels), len(hub._patterns), known, waiting
    os.write(2, f"hub {counts}\\n".encode())

signal.signal(signal.SIGUSR2, tell_of_hub)  # of use in the parent, by --preload

def publish(channel, first, last, size):
    refused = 0
    for number in range(int(first), int(last)):
        refused += not iodine_aio.publish(channel, f"{number:<{size}}")
    return refused

class Person:
    def on_open(self):
        self.write(str(os.getpid()))

    def on_message(self, text):
        match text.split():
            case ["listen", channel]:
                self.subscribe(channel, pattern="*" in channel)
            case ["leave", channel]:
                self.unsubscribe(channel)
            case ["publish", *words]:
                publish(*words)
            case ["publish_in_loop", *words]:
                self.publish_and_say(*words)
            case ["publish_in_thread", *words]:
                self.run(self.publish_and_say, *words)
            case ["count"]:
                self.write(f"channels {broker.channel_count}")

    def publish_and_say(self, *words):
        self.write(f"done {publish(*words)}")

def app(env):
    env["upgrade.websocket"] = Person
    return 101, {}, ""
"""


class Person(asyncio.Protocol):
    """A client that listens to a channel, and notes what it hears.

    Attributes:
        heard: messages, oldest first.
        pid: of the worker that serves it.
        ended: its connection is gone.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.pid = 0
        self.ended = False
        self._unread = bytearray()
        self._shaken = False
        self._changed = asyncio.Event()
        self._transport: asyncio.Transport

    @classmethod
    async def join(cls, server: Workers, channel: str = "") -> "Person":
        loop = asyncio.get_running_loop()
        _, person = await loop.create_connection(cls, "127.0.0.1", server.port)
        await person.until(lambda: len(person.heard) == 1)
        person.pid = int(person.heard.pop())
        if channel:
            person.say(f"listen {channel}")
        return person

    @property
    def last(self) -> int:
        """The number it heard last; below 0 if that was a probe."""
        return int(self.heard[-1]) if self.heard else -1

    @property
    def numbers(self) -> list[int]:
        """What it heard, but for probes."""
        return [int(text) for text in self.heard if text[0] != "-"]

    def say(self, *lines: str) -> None:
        self._transport.write(b"".join(map(text_frame, lines)))

    def leave(self) -> None:
        self._transport.abort()

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits until `true()`, asked whenever something is heard."""
        while not true():
            self._changed.clear()
            await self._changed.wait()

    async def hear(self, number: int) -> None:
        """Waits until it has heard this one, or a later one."""
        await self.until(lambda: self.last >= number)

    async def end(self) -> None:
        """Waits until its connection is gone."""
        await self.until(lambda: self.ended)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        unread = self._unread
        unread += data
        position = 0
        if not self._shaken:
            position = unread.find(b"\r\n\r\n") + 4
            if position < 4:
                return
            self._shaken = True
        while len(unread) - position >= 4:
            size, start = unread[position + 1], position + 2
            if size == 126:
                size, start = int.from_bytes(unread[start : start + 2]), start + 2
            if len(unread) < start + size:
                break
            if unread[position] == 0x81:
                self.heard.append(unread[start : start + size].decode())
            position = start + size
        del unread[:position]
        self._changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        self._changed.set()


class Cluster:
    """A server with workers, and people on each of them.

    Attributes:
        probes: how many were published.
    """

    def __init__(self, server: Workers) -> None:
        self.server = server
        self.people: list[Person] = []
        self.probes = 0

    async def join(self, channel: str = "") -> Person:
        person = await Person.join(self.server, channel)
        self.people.append(person)
        return person

    def leave(self) -> None:
        """Everybody goes."""
        for person in self.people:
            person.leave()

    async def stop(self) -> tuple[int, list[str]]:
        """Everybody goes, and the server ends: its exit code, and what it said."""
        self.leave()
        return await asyncio.to_thread(self.server.stop)

    async def people_of_each(self, workers: int, number: int) -> list[list[Person]]:
        """So many listeners to `news` on each worker, those of one together."""
        found: dict[int, list[Person]] = {}
        while len(found) < workers or any(len(people) < number for people in found.values()):
            person = await self.join()
            if len(found.setdefault(person.pid, [])) < number:
                found[person.pid].append(person)
                person.say("listen news")
            else:
                person.leave()
        return list(found.values())

    async def meet(self, publisher: Person, people: Sequence[Person]) -> None:
        """Waits until `people` hear `publisher`; what counts begins then."""
        await self.be_heard(publisher, people)
        self.probes = 0
        for person in (publisher, *people):
            person.heard.clear()

    async def be_heard(self, publisher: Person, people: Sequence[Person]) -> None:
        """Publishes probes until each of `people` has heard one, and a last one for all."""
        first = self.probes
        while not all(person.heard and person.last < -first for person in people):
            self._probe(publisher)
            await asyncio.sleep(0.01)  # a pause: one of the next will do as well
        self._probe(publisher)
        for person in people:
            await person.until(lambda person=person: person.last == -self.probes)  # type: ignore[misc]

    def _probe(self, publisher: Person) -> None:
        self.probes += 1
        publisher.say(f"publish news -{self.probes} -{self.probes - 1} 0")


@contextlib.asynccontextmanager
async def clustered(folder: Path, *words: str) -> AsyncIterator[Cluster]:
    with serving(folder, APP, *words) as server:
        cluster = Cluster(server)
        try:
            yield cluster
        finally:
            cluster.leave()


class Stream:
    """Numbers that one publishes without end, no faster than `pace` hears them.

    Attributes:
        published: how many, from 0 on.
    """

    def __init__(self, publisher: Person, pace: Person, size: int, burst: int = 50) -> None:
        self.published = 0
        self._publisher = publisher
        self._pace = pace
        self._size = size
        self._burst = burst

    async def publish(self, number: int) -> None:
        """So many more."""
        stop = self.published + number
        while self.published < stop:
            last = min(self.published + self._burst, stop)
            self._publisher.say(f"publish news {self.published} {last} {self._size}")
            self.published = last
            await self._pace.hear(last - 1)

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Publishes meanwhile."""
        over = False

        async def go_on() -> None:
            while not over:
                await self.publish(self._burst)

        task = asyncio.create_task(go_on())
        try:
            yield
        finally:
            over = True
            await task


def most_resident_bytes(pid: int) -> int:
    """What a process has ever had in memory at once."""
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found) * 1024


def dropped(lines: Iterable[str], who: str) -> int:
    """How many messages the log says were dropped in all, for one reason."""
    counts = [
        int(found[1])
        for line in lines
        if (found := re.match(f"{who} does not read fast enough: .* (\\d+) in all", line))
    ]
    return max(counts, default=0)


async def test_killed_worker_costs_the_others_no_message(tmp_path: Path):
    """SIGKILL amid a stream: everybody else hears all of it, its own clients what comes later."""
    async with clustered(tmp_path, "-w", "3") as cluster:
        (publisher, one), others, victims = await cluster.people_of_each(3, 2)
        await cluster.meet(publisher, [one, *others, *victims])
        stream = Stream(publisher, others[0], 20)
        async with stream.flowing():
            await victims[0].hear(500)
            os.kill(victims[0].pid, signal.SIGKILL)
            for victim in victims:
                await victim.end()
            returned = [await cluster.join("news") for _ in range(6)]
            await others[0].hear(stream.published + 1000)
        for person in (publisher, one, *others, *returned):
            await person.hear(stream.published - 1)
        code, lines = await cluster.stop()

    for person in (publisher, one, *others):
        assert person.numbers == list(range(stream.published))
    for victim in victims:
        assert victim.numbers == list(range(len(victim.numbers)))
    for person in returned:
        assert person.numbers == list(range(person.numbers[0], stream.published))
        assert person.numbers[0] >= max(len(victim.numbers) for victim in victims)
    assert code == 0
    assert lines == [f"worker {victims[0].pid} was ended by SIGKILL; another takes its place\n"]


async def test_publisher_that_is_killed_leaves_no_gap(tmp_path: Path):
    """What it had said is heard up to the same message by all, and nothing of it twice."""
    async with clustered(tmp_path, "-w", "3") as cluster:
        (publisher,), (one,), (two,) = await cluster.people_of_each(3, 1)
        await cluster.meet(publisher, [one, two])
        publisher.say(*(f"publish news {number} {number + 1} 20" for number in range(60_000)))
        await one.hear(2000)
        os.kill(publisher.pid, signal.SIGKILL)
        await publisher.end()
        await cluster.be_heard(one, [one, two])
        await cluster.be_heard(two, [one, two])
        code, _ = await cluster.stop()

    assert one.numbers == two.numbers == list(range(len(one.numbers)))
    assert 2000 < len(one.numbers) < 60_000
    assert code == 0


async def test_worker_that_hangs_holds_up_nobody_and_wakes_up_to_an_order(tmp_path: Path):
    """SIGSTOP amid 48 MiB: the others hear all; what it is spared is bounded, and counted."""
    async with clustered(tmp_path, "-w", "3") as cluster:
        (publisher,), (one,), (stopped,) = await cluster.people_of_each(3, 1)
        await cluster.meet(publisher, [one, stopped])
        processes = [cluster.server.pid, publisher.pid, one.pid]
        stream = Stream(publisher, one, 4096)
        await stream.publish(1000)
        await stopped.hear(999)
        before = [most_resident_bytes(pid) for pid in processes]
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            await stream.publish(12_000)
            after = [most_resident_bytes(pid) for pid in processes]
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        await cluster.be_heard(publisher, [stopped])
        woken = len(stopped.numbers)
        await stream.publish(1000)
        for person in (publisher, one, stopped):
            await person.hear(stream.published - 1)
        code, lines = await cluster.stop()

    lost = dropped(lines, f"worker {stopped.pid}")
    assert one.numbers == publisher.numbers == list(range(stream.published))
    assert all(new - old < MOST_GROWTH for old, new in zip(before, after, strict=True))
    assert stopped.numbers[:woken] == list(range(woken))
    assert stopped.numbers[woken:] == list(range(stream.published - 1000, stream.published))
    assert len(stopped.heard) + lost == stream.published + cluster.probes
    assert lost > 5000
    assert code == 0


async def test_worker_that_hangs_for_too_long_is_replaced_amid_a_stream(tmp_path: Path):
    """The others hear all of it; its clients see their end, and hear what comes later."""
    async with clustered(tmp_path, "-w", "3", "--worker-timeout", "2") as cluster:
        (publisher,), (one,), (stopped,) = await cluster.people_of_each(3, 1)
        await cluster.meet(publisher, [one, stopped])
        stream = Stream(publisher, one, 20)
        async with stream.flowing():
            await stopped.hear(500)
            os.kill(stopped.pid, signal.SIGSTOP)
            await stopped.end()
            returned = await cluster.join("news")
            await returned.until(lambda: returned.last >= 0)
            await returned.hear(returned.last + 500)
        for person in (publisher, one, returned):
            await person.hear(stream.published - 1)
        code, lines = await cluster.stop()

    assert one.numbers == publisher.numbers == list(range(stream.published))
    assert stopped.numbers == list(range(len(stopped.numbers)))
    assert returned.numbers == list(range(returned.numbers[0], stream.published))
    assert returned.numbers[0] >= len(stopped.numbers)
    assert f"worker {stopped.pid} was killed: its loop stood still for 2." in lines[0]
    assert lines[1:] == [f"worker {stopped.pid} was ended by SIGKILL; another takes its place\n"]
    assert code == 0


async def test_channels_that_come_and_go_leave_nothing_behind(tmp_path: Path):
    """10,000 in two workers, and 200 clients: hub and brokers know the one that is left."""
    async with clustered(tmp_path, "-w", "2", "--preload") as cluster:
        (stays, one), (two, other) = await cluster.people_of_each(2, 2)
        for person in (one, two, other):
            person.say("leave news")
        for begin in range(0, 5000, 500):
            for person in (one, two):
                for number in range(begin, begin + 500):
                    person.say(f"listen {person.pid}.{number}", f"leave {person.pid}.{number}")
            guests = [begin + number for number in range(20)]
            await asyncio.gather(*(come_and_go(cluster.server, guest) for guest in guests))
        await asyncio.to_thread(until_hub_has, cluster.server, (1, 0, 1, 0))
        counts = [await count_channels(person) for person in (one, two)]
        two.say("publish news 0 1 20", "publish news 1 2 20")
        await stays.hear(1)
        code, _ = await cluster.stop()

    assert counts == [1, 0]
    assert stays.numbers == [0, 1]
    assert code == 0


async def come_and_go(server: Workers, number: int) -> None:
    """A client that subscribes, by name and by pattern, and leaves at once."""
    person = await Person.join(server)
    person.say(f"listen guest.{number}", f"listen *.{number}", "listen news")
    person.leave()


async def count_channels(person: Person) -> int:
    """How many there are in its worker."""
    person.say("count")
    await person.until(lambda: "channels" in "".join(person.heard[-1:]))
    return int(person.heard.pop().split()[1])


def until_hub_has(server: Workers, counts: tuple[int, int, int, int]) -> None:
    """Waits until it knows of so many channels, patterns, and listeners, and nothing waits."""

    def is_so() -> bool:
        server.signal(signal.SIGUSR2)
        return server.read_until("hub (") == f"hub {counts}\n"

    server.until(is_so)


@pytest.mark.parametrize(
    ("verb", "size", "most"),
    [
        ("publish_in_loop", 500, MOST_GROWTH),
        # 16 MiB of it wait for the loop besides, or half as much more, in objects of Python's.
        ("publish_in_thread", 60, 2 * MOST_GROWTH),
    ],
)
async def test_publisher_faster_than_the_hub_loses_what_is_counted(
    tmp_path: Path, verb: str, size: int, most: int
):
    """200,000 messages in one go: in order, none twice, and arrived + dropped = published."""
    async with clustered(tmp_path, "-w", "2") as cluster:
        (publisher, other), (one, two) = await cluster.people_of_each(2, 2)
        await cluster.meet(publisher, [other, one, two])
        for person in (publisher, other):
            person.say("leave news")
            await count_channels(person)  # it has been done then
        processes = [publisher.pid, cluster.server.pid, one.pid]
        before = [most_resident_bytes(pid) for pid in processes]
        publisher.say(f"{verb} news 0 200000 {size}")
        await publisher.until(lambda: "done" in "".join(publisher.heard[-1:]))
        # What publish() does not take, as it says, where a thread is far ahead of its loop.
        refused = int(publisher.heard[-1].split()[1])
        await cluster.be_heard(publisher, [one, two])
        after = [most_resident_bytes(pid) for pid in processes]
        code, lines = await cluster.stop()

    lost = dropped(lines, "the parent") + dropped(lines, f"worker {one.pid}")
    assert one.heard == two.heard
    assert one.numbers == sorted(set(one.numbers))
    assert len(one.heard) + lost + refused == 200_000 + cluster.probes
    assert len(one.numbers) > 10_000
    growth = [new - old for old, new in zip(before, after, strict=True)]
    assert growth[0] < most
    assert max(growth[1:]) < MOST_GROWTH
    assert code == 0
