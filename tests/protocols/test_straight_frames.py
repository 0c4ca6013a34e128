"""Published frames that go past transports: what they never overtake, and where they never go."""

import asyncio
import contextlib
import gc
import random
import socket
import weakref
from typing import Any

import pytest
import uvloop

import iodine_aio
from iodine_aio.protocols.handlers import adopt
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.websocket import WebSocketProtocol
from iodine_aio.settings import Settings
from iodine_aio.wire.frames import encode_frame
from tests.clients import open_websocket
from tests.frames import BINARY, PING, PONG, TEXT, close_frame, frame, text_frame
from tests.handlers import Chat, WebSocketRecorder
from tests.loops import until
from tests.requests import HANDSHAKE


def take_all(client):
    """What has arrived by now."""
    taken = b""
    with contextlib.suppress(BlockingIOError):
        while data := client.recv(1 << 20):
            taken += data
    return taken


def get(size):
    return b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % size


async def test_responses_that_wait_go_before_what_is_published():
    """A WebSocket that takes over is told behind its on_open that its client lags."""
    received = bytearray()
    asked = answered = 0

    class Hasty:
        def on_open(self):
            self.subscribe("room")
            received.extend(take_all(client))  # its socket has room again
            self.publish("room", "first")
            self.publish("room", "second")

    def app(env):
        nonlocal answered
        answered += 1
        if env["PATH_INFO"] == "/chat":
            env["upgrade.websocket"] = Hasty
            return 0, {}, None
        return 200, {}, bytes(int(env["PATH_INFO"][1:]))

    def all_answered():
        return answered == asked

    async with iodine_aio.serve(app, port=0) as server:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setblocking(False)
            await until(lambda: server.connections)
            (connection,) = server.connections
            # Some waits, and not so much that the next request would not be looked at.
            while connection.pending() < 20_000:
                await loop.sock_sendall(client, get(20_000))
                asked += 1
                await until(all_answered)
            assert not connection.paused
            await loop.sock_sendall(client, get(50_000) + HANDSHAKE)
            while not received.endswith(b"\x81\x06second"):
                received += await loop.sock_recv(client, 1 << 20)

    responses, _, frames = received.partition(b"HTTP/1.1 101 ")
    assert frames.endswith(b"\r\n\r\n\x81\x05first\x81\x06second")
    assert responses.count(b"HTTP/1.1 200 ") == asked + 1
    assert responses.count(0) == asked * 20_000 + 50_000


async def test_ping_that_comes_while_something_waits_is_answered_when_all_is_sent():
    """In the read in which the socket got full; the last of several."""
    size = 16 << 20

    class Talker(Chat):
        def on_message(self, data):
            self.publish("room", bytes(size) if data == "go" else data)

    async with open_websocket(Talker, hard_limit_bytes=2 * size) as client:
        client.send(text_frame("go"), frame(PING, b"1"), frame(PING, b"2"))
        assert (await client.receive())[0] == BINARY

        assert await client.receive() == (PONG, b"2")
        client.send(frame(PING, b"3"), text_frame("end"))
        assert await client.receive() == (PONG, b"3")
        assert await client.receive() == (TEXT, b"end")


async def test_subscriber_is_read_on_while_little_waits_for_it():
    """Not while more than 64 KiB do, as with any other connection."""
    heard = []

    class Listener(Chat):
        def on_message(self, data):
            heard.append(data)

    async with open_websocket(Listener) as client:
        (connection,) = client.server.connections
        client.writer.transport.pause_reading()
        while not connection.pending:
            iodine_aio.publish("room", bytes(1000))
        client.send(text_frame("one"))
        await until(lambda: heard)
        assert 0 < connection.pending < 64 * 1024

        for _ in range(65):
            iodine_aio.publish("room", bytes(1000))
        assert connection.pending > 64 * 1024
        await until(lambda: not connection.transport.is_reading())
        client.send(text_frame("two"))
        iodine_aio.publish("room", "end")
        client.writer.transport.resume_reading()
        while await client.receive() != (TEXT, b"end"):
            pass
        await until(lambda: heard == ["one", "two"])


async def test_connection_that_only_calls_back_is_not_told_of_each_byte_that_waits():
    """Nothing goes past its transport, so it reads on while a little waits, as others do."""

    class Caller:
        def on_open(self):
            self.subscribe("room", self.write_it)

        def write_it(self, message):
            self.write(message.data)

    class Joiner(Caller):
        def on_message(self, data):
            self.subscribe("kitchen")
            self.write("joined")

    async with open_websocket(Joiner) as client:
        (connection,) = client.server.connections
        transport = connection.transport
        iodine_aio.publish("room", "hi")
        assert await client.receive() == (TEXT, b"hi")
        assert transport.get_write_buffer_limits()[1] >= 64 * 1024

        client.send(text_frame("go"))
        assert await client.receive() == (TEXT, b"joined")
        if isinstance(asyncio.get_running_loop(), uvloop.Loop):
            assert transport.get_write_buffer_limits()[1] == 0
            assert connection.outlet is not None


async def test_handler_that_is_kept_keeps_no_transport():
    """Its connection is over."""

    class Kept(WebSocketRecorder, Chat):
        def on_open(self):
            Chat.on_open(self)

    handler = Kept()
    async with open_websocket(handler) as client:
        (connection,) = client.server.connections
        transport = weakref.ref(connection.transport)
        client.send(close_frame(1000))
        await handler.closed
    gc.collect()

    assert transport() is None


async def test_subscriber_without_a_transport_yet_hears_nothing():
    """What a thread subscribes may come before the connection is made."""
    service = Service(None, Settings())
    service.start(asyncio.get_running_loop())
    handler = Chat()
    connection = WebSocketProtocol(service, handler, None)
    adopt(handler, connection)
    handler.subscribe("room")
    service.broker.publish("room", "hi")

    assert service.broker.delivered == 1
    service.clock.stop()


class Peer:
    """One connection and its client, and what that must hear by now.

    Args:
        everybody: all of them; it adds itself when it is open.
    """

    def __init__(self, service: Service, chance: random.Random, everybody: "list[Peer]") -> None:
        self.chance = chance
        self.everybody = everybody
        self.expected = bytearray()
        self.channels: set[str] = set()
        self.handler: Any = Talker(self)
        self.connection = WebSocketProtocol(service, self.handler, None)
        adopt(self.handler, self.connection)
        self.ours, self.client = socket.socketpair()
        for sock in (self.ours, self.client):
            sock.setblocking(False)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.connection, self.ours)

    def act(self) -> None:
        """What handlers do: write, publish, come and go, each a few times."""
        for _ in range(self.chance.randrange(4)):
            way = self.chance.randrange(16)
            if way < 5:
                self.say(self.chance.choice(self.everybody))
            elif way < 14:
                self.publish(self.chance.choice("ab"), way < 11)
            else:
                channel = self.chance.choice("ab?")
                if channel in self.channels:
                    self.channels.remove(channel)
                    self.handler.unsubscribe(channel, channel == "?")
                else:
                    self.channels.add(channel)
                    self.handler.subscribe(channel, pattern=channel == "?")

    def make_text(self) -> str:
        size = self.chance.choice((1, 10, 100, 1000, 20_000, 40_000, 100_000))
        return (f"{self.chance.randrange(10**8):08}" * (size // 8 + 1))[:size]

    def say(self, other: "Peer") -> None:
        text = self.make_text()
        other.expected += encode_frame(TEXT, text.encode())
        other.handler.write(text)

    def publish(self, channel: str, to_self: bool) -> None:
        text = self.make_text()
        for other in self.everybody:
            if to_self or other is not self:
                times = len({channel, "?"} & other.channels)
                other.expected += encode_frame(TEXT, text.encode()) * times
        self.handler.publish(channel, text, to_self)

    def read(self, size: int) -> None:
        with contextlib.suppress(BlockingIOError):
            data = self.client.recv(size)
            in_order = data == self.expected[: len(data)]
            assert in_order  # two texts so long are compared, not explained
            del self.expected[: len(data)]


class Talker:
    """Acts when it is called."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def on_open(self) -> None:
        self.peer.everybody.append(self.peer)
        self.peer.act()

    def on_message(self, data: Any) -> Any:
        self.peer.act()
        return self.act_later() if data == "later" else None

    async def act_later(self) -> None:
        await asyncio.sleep(0)
        self.peer.act()


async def talk(seed: int) -> None:
    chance = random.Random(seed)
    service = Service(None, Settings(hard_limit_bytes=1 << 30))
    service.start(asyncio.get_running_loop())
    peers: list[Peer] = []
    try:
        for _ in range(4):
            await Peer(service, chance, peers).open()
        await exchange_all(chance, peers)
    finally:
        for connection in tuple(service.connections):
            connection.abort()
        await until(lambda: not service.connections)
        service.clock.stop()
        for peer in peers:
            peer.client.close()
    assert service.broker.dropped == 0


async def exchange_all(chance: random.Random, peers: list[Peer]) -> None:
    for _ in range(150):
        peer = chance.choice(peers)
        way = chance.randrange(4)
        if way == 0:
            with contextlib.suppress(BlockingIOError):
                peer.client.send(text_frame("now") + text_frame("later") + text_frame("now"))
        elif way == 1:
            peer.act()
        else:
            peer.read(chance.choice((10, 1000, 1 << 20)))
        if chance.randrange(2):
            await asyncio.sleep(0)
    quiet = 0
    while quiet < 10:  # what waits for its turn comes within fewer
        for peer in peers:
            peer.read(1 << 20)
        quiet = 0 if any(peer.expected for peer in peers) else quiet + 1
        await asyncio.sleep(0)


@pytest.mark.slow
async def test_every_byte_comes_in_the_order_of_writes_and_publications():
    """Whoever makes them, however slowly their clients read; the seed is in the failure."""
    for seed in range(30):
        try:
            await talk(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
