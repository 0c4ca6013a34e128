"""Connections that listen to channels, over real sockets."""

import contextlib

from tests.clients import WebSocketClient, connect, open_websocket, read_head
from tests.frames import BINARY, TEXT, frame, text_frame
from tests.requests import HANDSHAKE


class Chat:
    """Says in the room what it hears."""

    def on_open(self):
        self.subscribe("room")

    def on_message(self, data):
        self.publish("room", data)


@contextlib.asynccontextmanager
async def join(server):
    """One more WebSocket of a server."""
    async with connect(server) as (reader, writer):
        writer.write(HANDSHAKE)
        await read_head(reader)
        yield WebSocketClient(server, reader, writer)


async def test_every_subscriber_hears_what_one_publishes():
    """The publisher too, text as text and bytes as binary."""
    async with open_websocket(Chat) as first, join(first.server) as second:
        first.send(text_frame("hä"))
        second.send(frame(BINARY, b"\0\xff"))

        for client in (first, second):
            heard = {await client.receive(), await client.receive()}
            assert heard == {(TEXT, "hä".encode()), (BINARY, b"\0\xff")}
