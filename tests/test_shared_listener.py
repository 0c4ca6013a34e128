"""Several accept from one socket: here they are in one process, each with its own listener."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from iodine_aio.shared_listener import SharedListener
from iodine_aio.tallies import Tallies, Tally
from tests.loops import until


class Worker:
    """Accepts, and keeps what it has.

    Attributes:
        connections: transports.
        given_up: how often there was no descriptor.
    """

    def __init__(self, sock: socket.socket, tallies: Tallies) -> None:
        tally = tallies.take()
        assert tally is not None
        self.tally = tally
        self.connections: set[asyncio.BaseTransport] = set()
        self.given_up = 0
        tally.count(self.connections)
        self.listener = SharedListener(sock, self._make_protocol, 1024, tally, self._give_up)

    def _make_protocol(self) -> asyncio.BaseProtocol:
        connections = self.connections

        class Kept(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connections.add(transport)
                self.transport = transport

            def connection_lost(self, exc: Exception | None) -> None:
                connections.discard(self.transport)

        return Kept()

    def _give_up(self) -> None:
        self.given_up += 1


class Clients:
    """Those of one socket."""

    def __init__(self, address: Any, stack: ExitStack) -> None:
        self._address = address
        self.stack = stack

    def connect(self, number: int) -> None:
        for _ in range(number):
            sock = self.stack.enter_context(socket.socket(socket.AF_INET))
            sock.connect(self._address)


@asynccontextmanager
async def working(number: int) -> AsyncIterator[tuple[list[Worker], Tallies, Clients]]:
    """So many workers, and clients to be."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        sock.setblocking(False)
        tallies = Tallies()
        # Copies, as processes have them: a loop has one reader for a descriptor.
        workers = [Worker(stack.enter_context(sock.dup()), tallies) for _ in range(number)]
        for worker in workers:
            await worker.listener.accept()
        try:
            yield workers, tallies, Clients(sock.getsockname(), stack)
        finally:
            for worker in workers:
                worker.listener.close()
            for _ in range(10):  # some are accepted, and not in their set yet
                for worker in workers:
                    for transport in tuple(worker.connections):
                        transport.close()
                await asyncio.sleep(0)


def numbers(workers: list[Worker]) -> list[int]:
    return [len(worker.connections) for worker in workers]


def take(tallies: Tallies) -> Tally:
    """The place of a worker that has nothing, and accepts."""
    tally = tallies.take()
    assert tally is not None
    tally.room()
    return tally


def serving(workers: list[Worker], number: int) -> Callable[[], bool]:
    return lambda: sum(numbers(workers)) == number


async def be_ahead(workers: list[Worker], tallies: Tallies, clients: Clients) -> Tally:
    """Lets the only worker leave some of 10 to another one, which is returned, for a moment."""
    idle = take(tallies)
    clients.connect(10)
    await until(lambda: workers[0].listener._patient_until)
    return idle


async def test_nobody_has_far_more_than_the_others():
    """Whether they came all at once, or one after the other."""
    async with working(3) as (workers, _, clients):
        clients.connect(150)
        await until(serving(workers, 150))
        at_once = numbers(workers)
        for number in range(150):
            clients.connect(1)
            await until(serving(workers, 151 + number))
        after = numbers(workers)

    assert min(at_once) >= 35
    assert min(after) >= 85


async def test_newcomer_has_what_comes_until_it_has_as_much():
    """The others leave it to it, and lose nothing of what they have."""
    async with working(2) as (workers, tallies, clients):
        clients.connect(60)
        await until(serving(workers, 60))
        before = numbers(workers)
        newcomer = Worker(clients.stack.enter_context(workers[0].listener.sock.dup()), tallies)
        await newcomer.listener.accept()
        workers.append(newcomer)
        for number in range(30):
            clients.connect(1)
            await until(serving(workers, 61 + number))
        after = numbers(workers)

    assert after[2] >= 20
    assert after[0] >= before[0]
    assert after[1] >= before[1]


async def test_worker_that_stands_still_is_waited_for_once():
    """Its count is the least, and it never looks: the other one serves everybody."""
    async with working(1) as (workers, tallies, clients):
        take(tallies)
        clients.connect(50)
        await until(serving(workers, 50))
        waited_until = workers[0].listener._patient_until
        for number in range(50):
            clients.connect(1)
            await until(serving(workers, 51 + number))

        assert waited_until
        assert workers[0].listener._patient_until == waited_until


async def test_worker_that_cannot_keep_up_holds_up_nobody():
    """It looks again and again, and takes nothing."""
    async with working(1) as (workers, tallies, clients):
        idle = take(tallies)
        clients.connect(500)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while sum(numbers(workers)) < 500:
            idle.room()
            await asyncio.sleep(0)
        seconds = loop.time() - begin

    assert seconds < 500 * 0.001  # far below what one look for each of them takes


async def test_worker_that_is_far_ahead_leaves_what_comes_for_a_moment():
    """Somebody else has the time to take it; if nobody does, it is served all the same."""
    async with working(1) as (workers, tallies, clients):
        await be_ahead(workers, tallies, clients)
        meanwhile = numbers(workers)
        await until(serving(workers, 10))

    assert meanwhile[0] <= 5


async def test_nobody_looks_where_nobody_comes():
    """Not even who is far ahead has a timer."""
    async with working(1) as (workers, tallies, clients):
        idle = await be_ahead(workers, tallies, clients)
        await until(serving(workers, 10))
        before: dict[int, int] = {}
        while before != idle.turns():  # it comes to rest
            before = idle.turns()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", ["pause", "close"])
async def test_nothing_is_accepted_after_the_end(end: str):
    """Nor does anybody wait for it, in whatever it was at that moment."""
    async with working(2) as (workers, tallies, clients):
        clients.connect(40)
        await until(serving(workers, 40))
        idle = take(tallies)  # from now on both are far ahead
        clients.connect(2)
        await asyncio.sleep(0.002)
        before = numbers(workers)
        for worker in workers:
            getattr(worker.listener, end)()
        clients.connect(10)
        await asyncio.sleep(0.05)

        assert numbers(workers) == before
        assert idle.room() > 1000  # as if it were alone


async def test_pause_ends():
    """What came meanwhile is served."""
    async with working(2) as (workers, _, clients):
        clients.connect(10)
        await until(serving(workers, 10))
        for worker in workers:
            worker.listener.pause()
        clients.connect(50)
        for worker in workers:
            await worker.listener.accept()
        await until(serving(workers, 60))

        assert min(numbers(workers)) >= 20


async def test_lack_of_descriptors_is_told(monkeypatch: pytest.MonkeyPatch):
    """It has left the queue, and cannot come back."""
    async with working(1) as (workers, tallies, clients):
        tally = await be_ahead(workers, tallies, clients)
        worker = workers[0]

        async def fail() -> None:
            raise OSError("no descriptor")

        monkeypatch.setattr(worker.listener._listener, "accept", fail)
        tally.leave()
        await until(lambda: worker.given_up)

        assert worker.given_up == 1


async def test_pause_is_not_undone_by_what_was_decided_before_it():
    """As when descriptors are used up in the turn in which it meant to accept again."""
    async with working(2) as ((first, second), _, clients):
        second.listener.pause()
        second.tally.room()  # it is waited for, all the same
        others = set(range(20))
        first.connections.update(others)  # type: ignore[arg-type]
        clients.connect(1)
        await until(lambda: len(first.connections) == len(others) + 1)
        await until(lambda: first.listener._next is None)  # it only watches now
        first.connections -= others  # type: ignore[arg-type]
        go_on = first.listener._go_on

        def go_on_and_pause() -> None:
            go_on()
            first.listener.pause()

        first.listener._go_on = go_on_and_pause  # type: ignore[method-assign]
        clients.connect(2)
        await until(lambda: first.listener._going_on is not None)
        assert first.listener._going_on is not None
        await first.listener._going_on
        await second.listener.accept()
        await until(lambda: len(second.connections) == 2)

        assert len(first.connections) == 1


async def test_accepting_that_is_begun_twice_at_once_is_ended_by_one_pause():
    async with working(2) as ((first, second), _, clients):
        first.listener.pause()
        second.listener.pause()
        await asyncio.gather(first.listener.accept(), first.listener.accept())
        first.listener.pause()
        clients.connect(2)
        await second.listener.accept()
        await until(lambda: len(second.connections) == 2)

        assert not first.connections
