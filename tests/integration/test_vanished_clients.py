"""Clients whose host is gone: no end of file, no reset, and no answer to a ping."""

import asyncio
import contextlib
import os
import signal
import sys

import iodine_aio
from tests.requests import HANDSHAKE

CLIENT = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(sys.argv[2].encode())
while data := sock.recv(4096):
    if data.endswith(b"\\x89\\x00"):  # a ping
        sock.sendall(b"\\x8a\\x80" + bytes(4))
"""


class Member:
    """A handler that tells when it was opened and how it was closed."""

    def __init__(self):
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self.ends = []

    def on_open(self):
        self.opened.set()

    def on_close(self, code, reason):
        self.ends.append(code)
        self.closed.set()


def serving(handler):
    """An app whose WebSocket `handler` serves."""

    def app(env):
        env["upgrade.websocket"] = handler
        return 0, {}, None

    return app


class Vanishing:
    """A client in a process of its own, that answers pings until it is stopped."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, str(self.port), HANDSHAKE.decode()
        )
        return self

    def vanish(self):
        """Its kernel still takes bytes; nobody reads them."""
        os.kill(self.process.pid, signal.SIGSTOP)

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def vanished_client(member):
    """The server of a client that `member` has served, and that is gone."""
    async with (
        iodine_aio.serve(serving(member), port=0) as server,
        Vanishing(server.port) as client,
    ):
        await member.opened.wait()
        client.vanish()
        yield server


def pass_time(server, seconds):
    """Ticks the server's clock second by second, as if that time had passed."""
    clock = server._service.clock
    for _ in range(seconds):
        clock.advance(clock.now)  # `now` is the end of a tick of one second


async def test_stopped_client_is_closed_after_two_pings_without_answer():
    """120 seconds from its last word by default, and a tick for each third of them."""
    member = Member()
    async with vanished_client(member) as server:
        (connection,) = server.connections
        pass_time(server, 118)
        assert member.ends == []
        assert member.count == 1

        pass_time(server, 6)
        await member.closed.wait()
        pass_time(server, 200)
        await asyncio.sleep(0)

        assert member.ends == [1006]
        assert member.write("anybody?") is False
        assert not server.connections
        assert connection not in connection.registry


async def test_stopped_client_with_unread_messages_is_closed_after_send_timeout():
    """It need not be pinged: it takes nothing."""
    member = Member()
    async with vanished_client(member) as server:
        while member.write(bytes(1 << 18)):
            await asyncio.sleep(0)
        pass_time(server, 2 * 40 + 2)  # what its kernel took meanwhile gave it 40 more
        await member.closed.wait()

        assert member.ends == [1006]
        assert member.pending == 0


async def test_stopped_client_does_not_hold_up_a_stop():
    """It is cut after `close_timeout`, told nothing, and on_close is called once."""
    member = Member()
    async with vanished_client(member) as server:
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        while server.connections:
            pass_time(server, 1)
            await asyncio.sleep(0)
        await stopping

        assert member.ends == [1006]


async def test_peer_that_answers_within_the_time_stays():
    """However late in the interval its answer comes."""
    member = Member()

    async with iodine_aio.serve(serving(member), port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        (connection,) = server.connections
        for _ in range(5):
            pass_time(server, 41)
            assert await reader.readexactly(2) == b"\x89\x00"
            pass_time(server, 30)
            heard_at = connection.heard_at
            writer.write(b"\x8a\x80" + bytes(4))
            while connection.heard_at == heard_at:
                await asyncio.sleep(0)

        assert member.ends == []
        writer.close()
        await member.closed.wait()
