"""Clients of bytes: what goes over the wire is written and read as it is.

`connect` joins a server that is there, `join` as a WebSocket; `connected`, `listening` and
`open_websocket` come with a server of their own, for an app, for a raw handler and for a
WebSocket's. All of them are gone with their block, whatever was not sent or read by then.

`read_head` and `read_response` take one response of a connection that goes on, `Answer`
is one that ended with its connection, `exchange` and `ask` get that.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import iodine_aio
from tests.requests import GET, HANDSHAKE

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


# ---- connections ----


@contextlib.asynccontextmanager
async def connect(server: iodine_aio.Server, **options: Any) -> AsyncIterator[Streams]:
    """A client's reader and writer; `options` are those of asyncio.open_connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, **options)
    try:
        yield reader, writer
    finally:
        # Not close(): it would wait for a server that does not read.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(app: Any, **options: Any) -> AsyncIterator[Streams]:
    """A served app's client; `options` are the server's."""
    async with iodine_aio.serve(app, port=0, **options) as server, connect(server) as streams:
        yield streams


@contextlib.asynccontextmanager
async def listening(handler: Any, **options: Any) -> AsyncIterator[Streams]:
    """A raw listener's client; `handler` is what makes handlers, or the only one."""
    make = handler if callable(handler) else lambda: handler
    async with iodine_aio.listen(0, make, **options) as server, connect(server) as streams:
        yield streams


def reset(writer: asyncio.StreamWriter) -> None:
    """Goes away, as TCP says it without doubt."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# ---- responses ----


async def read_head(reader: asyncio.StreamReader) -> tuple[int, list[tuple[str, str]]]:
    """Status and fields of one response, names in lower case."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines[1:-2]]
    return int(lines[0].split(" ")[1]), [(name.lower(), value) for name, value in pairs]


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, fields as a dict and body of one response with a length."""
    status, fields = await read_head(reader)
    named = dict(fields)
    return status, named, await reader.readexactly(int(named.get("content-length", 0)))


class Answer:
    """A response that ended with its connection.

    Attributes:
        wire: all of its bytes.
        fields: by their names in lower case.
        body: what stands behind the head, chunks and all.
    """

    def __init__(self, wire: bytes) -> None:
        self.wire = wire
        head, _, self.body = wire.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status_line.split()[1])
        self.reason = status_line.split(" ", 2)[2]
        self.fields = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    @property
    def content(self) -> bytes:
        """The body, without its chunks."""
        if self.fields.get("transfer-encoding") != "chunked":
            return self.body
        content, rest = b"", self.body
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            content += rest[:length]
            assert rest[length : length + 2] == b"\r\n"
            rest = rest[length + 2 :]
            if not length:
                assert rest == b""
                return content


async def exchange(server: iodine_aio.Server, *requests: bytes) -> bytes:
    """All that a server says to these writes, until it closes."""
    async with connect(server) as (reader, writer):
        for request in requests:
            writer.write(request)
            await writer.drain()
        return await reader.read()


async def ask(app: Any, request: bytes = GET, **options: Any) -> Answer:
    """An app's answer to one request; `options` are the server's."""
    async with iodine_aio.serve(app, port=0, **options) as server:
        return Answer(await exchange(server, request))


# ---- WebSockets ----


async def shake_hands(
    server: iodine_aio.Server,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """A client's reader, writer, and the status of its handshake; the caller closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HANDSHAKE)
    status, _ = await read_head(reader)
    return reader, writer, status


class WebSocketClient:
    """The other end of a WebSocket, that reads frames and says nothing by itself.

    Attributes:
        server: what it is connected to.
    """

    def __init__(
        self,
        server: iodine_aio.Server,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server = server
        self.reader, self.writer = reader, writer

    def send(self, *frames: bytes) -> None:
        """Writes them at once."""
        self.writer.write(b"".join(frames))

    async def receive(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 15, await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything until the server ends the connection."""
        return await self.reader.read()


@contextlib.asynccontextmanager
async def join(server: iodine_aio.Server, behind: bytes = b"") -> AsyncIterator[WebSocketClient]:
    """One more WebSocket of a server; `behind` is sent in one write with the handshake."""
    async with connect(server) as (reader, writer):
        writer.write(HANDSHAKE + behind)
        status, _ = await read_head(reader)
        assert status == 101
        yield WebSocketClient(server, reader, writer)


@contextlib.asynccontextmanager
async def open_websocket(
    handler: Any, behind: bytes = b"", **options: Any
) -> AsyncIterator[WebSocketClient]:
    """A client whose WebSocket `handler` serves.

    Args:
        handler: the app's choice, a class or an object.
        behind: what is sent in one write with the handshake.
        options: the server's.
    """

    def app(env: iodine_aio.Env) -> Any:
        env["upgrade.websocket"] = handler
        return 0, {}, None

    async with iodine_aio.serve(app, port=0, **options) as server, join(server, behind) as client:
        yield client
