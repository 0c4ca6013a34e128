"""Clients that ask and do not read: what is kept for them is bounded, and nobody else waits.

The sockets have small buffers, so that little is needed to fill them; the clock is moved
by hand.
"""

import asyncio
import contextlib
import socket
import struct
import sys

import pytest

import iodine_aio
from tests.loops import until
from tests.requests import HANDSHAKE

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
BIG = 30 * MIB
PIECE = bytes(64 * KIB)
# What one write may hold before the protocol is told that its client takes no more.
HIGH_WATER = 64 * KIB
GET = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(app, **options):
    """A server whose connections have send buffers of 32 KiB."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * KIB)
    address = listener.getsockname()
    async with iodine_aio.serve(app, bind=f"fd://{listener.detach()}", **options) as server:
        server.address = address
        yield server


async def connect(server, sent, closing):
    """A client's socket with a receive buffer of 32 KiB; `closing` ends it."""
    loop = asyncio.get_running_loop()
    sock = closing.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * KIB)
    sock.setblocking(False)
    await loop.sock_connect(sock, server.address)
    await loop.sock_sendall(sock, sent)
    return sock


async def receive(sock, size):
    """The next `size` bytes, fewer if the connection ends."""
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < size and (data := await loop.sock_recv(sock, size - len(received))):
        received += data
    return received


def let_pass(server, seconds):
    """Makes it later for the server, twice: who took something meanwhile is let off once."""
    clock = server._service.clock
    for _ in range(2):
        clock.advance(clock.now + seconds)


class Body:
    """A body of 30 MiB that counts what was pulled of it, and how often it was closed."""

    def __init__(self):
        self.pulled = self.closed = 0

    def pull(self, size):
        self.pulled += size
        return bytes(size) if self.pulled <= BIG else b""

    def close(self):
        self.closed += 1


class Iterable(Body):
    def __iter__(self):
        return iter(lambda: self.pull(len(PIECE)), b"")


class AsyncIterable(Body):
    async def __aiter__(self):
        while piece := self.pull(len(PIECE)):
            yield piece


class File(Body):
    read = Body.pull


class Streamer(Body):
    async def __call__(self, stream):
        while self.pulled < BIG and await stream.send(PIECE):
            self.pulled += len(PIECE)


@pytest.mark.parametrize("make_body", [Iterable, AsyncIterable, File, Streamer])
async def test_fifty_clients_that_do_not_read_cost_little(make_body):
    """Of 30 MiB for each less than 1 MiB is made; all are dropped, others served meanwhile."""
    bodies = []

    def app(env):
        if env["PATH_INFO"] == "/small":
            return 200, {}, "small"
        bodies.append(make_body())
        return 200, {}, bodies[-1]

    async with serving(app) as server:
        with contextlib.ExitStack() as closing:
            for _ in range(50):
                await connect(server, GET % b"big", closing)
            await until(lambda: len(bodies) == 50 and all(c.paused for c in server.connections))
            slow = list(server.connections)
            most = max(one.transport.get_write_buffer_size() for one in slow)
            other = await connect(server, GET % b"small", closing)
            served = await receive(other, 1000)

            assert len(slow) == 50
            assert most <= HIGH_WATER + 2 * len(PIECE) + 100
            assert max(body.pulled for body in bodies) < MIB
            assert served.endswith(b"small")
            assert all(one in server.connections for one in slow)

            let_pass(server, server.settings.send_timeout)
            await until(lambda: not server.connections and all(body.closed for body in bodies))
            await until(lambda: not server._service.tasks)

            assert [body.closed for body in bodies] == [1] * 50


async def test_stream_outlives_a_client_that_takes_a_little_not_one_that_takes_nothing():
    """However much the app, that never waits, writes meanwhile."""
    streams = []

    def app(env):
        return 200, {"rack.hijack": streams.append}, None

    async with serving(app) as server:
        with contextlib.ExitStack() as closing:
            sock = await connect(server, GET % b"", closing)
            await until(lambda: streams)
            (connection,) = server.connections
            while not connection.paused:
                streams[0].write(PIECE)
                await asyncio.sleep(0)
            clock = server._service.clock
            for _ in range(5):
                taken = connection.transport.get_write_buffer_size()
                while connection.transport.get_write_buffer_size() >= taken:
                    await receive(sock, 16 * KIB)
                    await asyncio.sleep(0)
                streams[0].write(PIECE * 2)
                clock.advance(clock.now + server.settings.send_timeout)
                await asyncio.sleep(0)

            assert list(server.connections) == [connection]

            streams[0].write(PIECE)
            let_pass(server, server.settings.send_timeout)
            await until(lambda: not server.connections)

            assert streams[0].closed


# WebSockets.


class Member:
    """Says to all others what it hears, and notes its end."""

    def __init__(self, members):
        self.ends = []
        self.refused = 0
        members.append(self)

    def on_message(self, data):
        self.each(self.tell(data))

    def tell(self, data):
        def write(other):
            other.refused += not other.write(data)

        return write

    def on_close(self, code, reason):
        self.ends.append(code)


class Subscriber(Member):
    """Publishes what it hears to all others."""

    def on_open(self):
        self.subscribe("chat")

    def on_message(self, data):
        self.publish("chat", data, to_self=False)


@contextlib.asynccontextmanager
async def chat(members, count, kind=Member, **options):
    """A server and the sockets of so many members of one chat."""

    def app(env):
        env["upgrade.websocket"] = kind(members)
        return 0, {}, None

    async with serving(app, **options) as server:
        with contextlib.ExitStack() as closing:
            socks = [await connect(server, HANDSHAKE, closing) for _ in range(count)]
            for sock in socks:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += await receive(sock, 1)
            yield server, socks


def text_frame(size):
    """As a client sends it, under a mask of zeros."""
    return b"\x82\xfe" + struct.pack("!H", size) + bytes(4) + bytes(size)


async def talk(socks, rounds, size, silent):
    """The first of them speaks, the others hear it all; the most that waited for `silent`."""
    speaker, *others = socks
    most = 0
    for _ in range(rounds):
        await asyncio.get_running_loop().sock_sendall(speaker, text_frame(size))
        heard = await asyncio.gather(*(receive(sock, size + 4) for sock in others))
        most = max(most, silent.pending)

        assert all(len(data) == size + 4 for data in heard)
    return most


@pytest.mark.parametrize("policy", ["close", "drop"])
async def test_one_of_a_hundred_subscribers_never_reads(policy):
    """What is kept for it is bounded; the others get everything; it hears 1008, or misses some."""
    members = []
    soft, hard, size, rounds = 64 * KIB, 256 * KIB, 16 * KIB - 4, 60
    limits = {"soft_limit_bytes": soft, "hard_limit_bytes": hard, "hard_limit_policy": policy}
    async with chat(members, 100, **limits) as (server, socks):
        stuck, *others = socks
        most = await talk(others, rounds, size, members[0])
        assert hard < most <= hard + 2 * (size + 4)
        assert members[0].refused > 1
        assert not any(member.refused for member in members[1:])

        if policy == "drop":
            received = len(await receive(stuck, (rounds - members[0].refused) * (size + 4)))
            assert received % (size + 4) == 0
            assert members[0].ends == []
        else:
            let_pass(server, server.settings.close_timeout)
            await until(lambda: members[0].ends)

            assert members[0].ends == [1008]
            assert members[0].pending == 0
            assert members[1].count == 99


@pytest.mark.parametrize("policy", ["close", "drop"])
async def test_one_of_a_hundred_that_a_channel_is_published_to_never_reads(policy):
    """The same; what it does not get is counted, and its subscription ends with it."""
    members = []
    soft, hard, size, rounds = 64 * KIB, 256 * KIB, 16 * KIB - 4, 60
    limits = {"soft_limit_bytes": soft, "hard_limit_bytes": hard, "hard_limit_policy": policy}
    async with chat(members, 100, Subscriber, **limits) as (server, socks):
        stuck, *others = socks
        broker = server._service.broker
        delivered, dropped = broker.delivered, broker.dropped
        most = await talk(others, rounds, size, members[0])
        assert hard < most <= hard + 2 * (size + 4)

        missed = broker.dropped - dropped
        if policy == "drop":
            received = len(await receive(stuck, (rounds - missed) * (size + 4)))
            assert 1 < missed < rounds
            assert received == (rounds - missed) * (size + 4)
            assert broker.delivered - delivered == rounds * 99
        else:
            assert missed == 1
            assert broker.delivered - delivered < rounds * 99
            assert len(broker._channels["chat"]) == 99
            let_pass(server, server.settings.close_timeout)
            await until(lambda: members[0].ends)

            assert members[0].ends == [1008]


async def test_subscriber_below_the_limit_that_never_reads_is_dropped():
    """After `send_timeout`, with what was kept for it; on_close hears 1006."""
    members = []
    async with chat(members, 2) as (server, (_, speaker)):
        loop = asyncio.get_running_loop()
        while members[0].pending < 128 * KIB:
            await loop.sock_sendall(speaker, text_frame(16 * KIB))
            await asyncio.sleep(0)
        let_pass(server, server.settings.send_timeout)
        await until(lambda: members[0].ends)

        assert members[0].ends == [1006]
        assert members[0].pending == 0
        assert members[1].ends == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks how much of a socket was taken")
async def test_subscriber_that_reads_slowly_is_not_dropped_though_its_socket_has_no_room_yet():
    """It has once a third of it was taken, which may last longer than `send_timeout`."""
    members = []
    async with chat(members, 1, Subscriber) as (server, (sock,)):
        (connection,) = server.connections
        ours = connection.transport.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
        while not connection._paused:
            iodine_aio.publish("chat", bytes(KIB))
        clock = server._service.clock
        for _ in range(2):
            await receive(sock, 48 * KIB)  # less is not always told to the sender
            clock.advance(clock.now + server.settings.send_timeout)

            assert connection._paused
            assert connection.is_open
        let_pass(server, server.settings.send_timeout)
        await until(lambda: members[0].ends)

        assert members[0].ends == [1006]


async def test_a_hundred_thousand_pings_unread_keep_nothing():
    """Pongs stop when their reader does, and so does reading; then all goes on."""
    members = []
    async with chat(members, 1) as (server, (sock,)):
        loop = asyncio.get_running_loop()
        (connection,) = server.connections
        pings = (b"\x89\xfd" + bytes(4) + bytes(125)) * 1000
        flood = asyncio.ensure_future(_send_often(sock, pings, 100))
        most = 0
        while not (connection._paused and not connection.transport.is_reading()):
            most = max(most, connection.pending)
            await asyncio.sleep(0)
        kept = len(connection._unread) + connection.pending

        assert not flood.done()
        assert max(most, kept) < 512 * KIB
        assert connection._queue is None

        pongs = 0
        while not flood.done() or connection.pending:
            pongs += len(await loop.sock_recv(sock, MIB))
        await loop.sock_sendall(sock, b"\x89\x81" + bytes(4) + b"!")
        tail = b""
        while not tail.endswith(b"\x8a\x01!"):
            tail = await loop.sock_recv(sock, MIB)
            pongs += len(tail)

        assert (pongs - 3) % 127 == 0
        assert pongs - 3 <= 100_000 * 127


async def _send_often(sock, data, count):
    for _ in range(count):
        await asyncio.get_running_loop().sock_sendall(sock, data)
