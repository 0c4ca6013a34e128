"""Published frames that go past transports: what they never overtake, and where they never go."""

import asyncio
import contextlib
import socket

import uvloop

import iodine_aio
from iodine_aio.protocols.handlers import adopt
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.websocket import WebSocketProtocol
from iodine_aio.settings import Settings
from tests.clients import open_websocket
from tests.frames import BINARY, PING, PONG, TEXT, frame, text_frame
from tests.handlers import Chat
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
