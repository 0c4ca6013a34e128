"""Connections under random interleavings of what peers, handlers and the server do.

What must hold in each: on_open once and first, on_close once and last, no callback
during another, nothing written behind the end.
"""

import asyncio
import random
from typing import Any

import pytest

from iodine_aio.protocols.connection import Connection
from iodine_aio.protocols.handlers import adopt
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.tcp import TCPProtocol
from iodine_aio.protocols.websocket import WebSocketProtocol
from iodine_aio.settings import Settings

MASK = bytes(4)
FRAMES = (
    b"\x81\x82" + MASK + b"hi",
    b"\x82\x81" + MASK + b"\xff",
    b"\x01\x81" + MASK + b"a\x89\x80" + MASK + b"\x80\x81" + MASK + b"b",
    b"\x89\x81" + MASK + b"?",
    b"\x8a\x80" + MASK,
    b"\x81\x84" + MASK + b"ha",  # the rest never comes: what follows is swallowed
    b"\x88\x82" + MASK + b"\x03\xe8",
    b"\x81\x01x",  # not masked
    b"\x81\x81" + MASK + b"x" * 1 + (b"\x81\x81" + MASK + b"y") * 400,
)


class Transport(asyncio.Transport):
    """Keeps to asyncio's contract, and holds us to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.protocol: Any = None
        self.incoming = b""
        self.unsent = 0
        self.reading = True
        self.closing = False
        self.lost = False
        self.told = False  # the protocol knows that this is the end
        self.blocked = False  # the peer takes nothing
        self.pausing = False
        self.ended_writing = False

    def write(self, data: Any) -> None:
        assert isinstance(data, bytes)
        assert not self.told, "written behind the end"
        if self.closing:
            return
        assert not self.ended_writing, "written behind write_eof()"
        self.unsent += len(data)
        if not self.blocked:
            self.loop.call_soon(self.send)
        elif self.unsent > 20 and not self.pausing:
            self.pausing = True
            self.protocol.pause_writing()

    def send(self) -> None:
        if self.blocked or self.lost:
            return
        self.unsent = 0
        if self.pausing:
            self.pausing = False
            self.protocol.resume_writing()
        if self.closing:
            self.lose(None)

    def lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = self.closing = True
            self.unsent = 0
            self.loop.call_soon(self.protocol.connection_lost, error)

    def can_read(self) -> bool:
        return self.reading and not self.closing

    def deliver(self) -> None:
        if self.incoming and self.can_read():
            data, self.incoming = self.incoming, b""
            self.protocol.data_received(data)

    def receive_eof(self) -> None:
        if not self.protocol.eof_received():
            self.close()

    def close(self) -> None:
        self.closing = self.told = True
        if not self.unsent:
            self.lose(None)

    def abort(self) -> None:
        self.told = True
        self.lose(None)

    def write_eof(self) -> None:
        self.ended_writing = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closing, "reading resumed behind the end"
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Handler:
    """Does at random what handlers do, and notes what is done to it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.events: list[str] = []
        self.inside = 0
        self.waiting: list[asyncio.Future[None]] = []

    def enter(self, name: str) -> Any:
        # Noted, not raised: what a callback raises is answered by the end of its connection.
        self.events.append(f"{name} during another" if self.inside else name)
        self.inside += 1
        try:
            way = self.chance.randrange(10)
            if way == 0:
                raise ValueError(name)
            if way < 5:
                self.misbehave()
        finally:
            self.inside -= 1
        return self.wait(way) if way in (1, 6) else None

    async def wait(self, way: int) -> None:
        self.inside += 1
        try:
            waiter = asyncio.get_running_loop().create_future()
            self.waiting.append(waiter)
            await waiter
            if way == 1:
                self.misbehave()
                raise ValueError("later")
        finally:
            self.inside -= 1

    def misbehave(self) -> None:
        this: Any = self
        way = self.chance.randrange(9)
        if way == 0:
            this.close()
        elif way == 1:
            this.force_close()
        elif way == 2:
            this.defer(self.enter, "deferred")
        elif way == 3:
            this.each(lambda other: other.write("broadcast"))
        elif way == 4:
            this.each(lambda other: other.close())
        elif way == 5:
            this.each(lambda other: other.force_close())
        else:
            this.write("x" * self.chance.randrange(30))

    def release(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()

    def on_open(self) -> Any:
        return self.enter("open")

    def on_message(self, data: object) -> Any:
        return self.enter("message")

    def on_drained(self) -> Any:
        return self.enter("drained")

    def on_shutdown(self) -> Any:
        return self.enter("shutdown")

    def ping(self) -> Any:
        return self.enter("ping")

    def on_close(self) -> None:
        this: Any = self
        self.events.append("close during another" if self.inside else "close")
        if this.write("too late"):
            self.events.append("written behind the end")
        this.close()
        this.force_close()
        this.defer(self.events.append, "called behind the end")
        this.each(lambda other: other.write("gone"))


class Peer:
    """One connection and its other end."""

    def __init__(self, service: Service, kind: type[Connection], chance: random.Random) -> None:
        self.chance = chance
        self.handler = Handler(chance)
        arguments: tuple[Any, ...] = (service, self.handler, None)
        self.connection = kind(*arguments)  # type: ignore[call-arg]
        adopt(self.handler, self.connection)
        self.transport = Transport(service.loop)
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)

    def act(self) -> None:
        transport = self.transport
        way = self.chance.randrange(12)
        if way < 5:
            for _ in range(self.chance.randrange(1, 4)):
                transport.incoming += self.chance.choice(FRAMES)
            transport.deliver()
        elif way == 5:
            transport.blocked = True
        elif way in (6, 7):
            transport.blocked = False
            transport.send()
        elif way == 8:
            self.handler.release()
        elif way == 9:
            self.handler.misbehave()
        elif way == 10 and self.chance.random() < 0.3:
            transport.lose(ConnectionResetError())
        elif way == 11 and self.chance.random() < 0.3 and transport.can_read():
            transport.receive_eof()
        transport.deliver()


async def live(kind: type[Connection], seed: int) -> None:
    """A few connections of one server, from their beginning to their end."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    failures: list[Any] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    service = Service(None, Settings(soft_limit_bytes=50, hard_limit_bytes=100))
    service.start(loop)
    now = loop.time()
    peers = [Peer(service, kind, chance) for _ in range(3)]
    for _ in range(40):
        way = chance.randrange(30)
        if way == 0:
            now += 40
            service.clock.advance(now)
        elif way == 1:
            for connection in tuple(service.connections):
                connection.shut_down()
        else:
            chance.choice(peers).act()
        if chance.randrange(2):
            await asyncio.sleep(0)
    for peer in peers:
        peer.transport.lose(None)
    for _ in range(2000):
        for peer in peers:
            peer.handler.release()
        await asyncio.sleep(0)
        if all(peer.handler.events[-1:] == ["close"] for peer in peers) and not service.tasks:
            break
    service.clock.stop()
    for _ in range(3):
        await asyncio.sleep(0)

    assert failures == []
    assert not service.connections
    for peer in peers:
        events = peer.handler.events
        assert [event for event in events if " " in event] == []
        assert events.count("open") == 1
        assert events[0] == "open"
        assert events.count("close") == 1
        assert events[-1] == "close"
        assert peer.connection not in peer.connection.registry


@pytest.mark.slow
@pytest.mark.parametrize("kind", [WebSocketProtocol, TCPProtocol])
async def test_any_interleaving_opens_once_and_closes_once_and_last(kind: type[Connection]):
    """Three connections that talk to each other; the seed is in the failure."""
    for seed in range(150):
        try:
            await live(kind, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
