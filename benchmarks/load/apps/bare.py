"""The floor: uvloop protocols that know their answers beforehand.

    python bare.py PORT {hello,echo,broadcast}

They parse nothing, check nothing and serve nobody but these benchmarks: what
they cost is what any server on uvloop pays before its first line of Python.
"""

import asyncio
import base64
import hashlib
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Hello(asyncio.Protocol):
    """Answers each empty line with the canned response, in one write a read."""

    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))


class Echo(asyncio.Protocol):
    """A WebSocket echo for clients that send one short masked frame at a time."""

    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data.startswith(b"GET "):
            self.answer_head(data)
            return
        size = data[1] & 0x7F
        mask, payload = data[2:6], data[6 : 6 + size]
        unmasked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.transport.write(bytes((data[0], size)) + unmasked)
        if data[0] & 0x0F == 8:
            self.transport.close()

    def answer_head(self, head):
        _, found, rest = head.partition(b"Sec-WebSocket-Key: ")
        if not found:
            self.transport.write(ANSWER)
            return
        key = rest.partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )


class Broadcast(Echo):
    """Writes a frame made ready to everybody, for each message that somebody sends."""

    __slots__ = ()
    transports = set()  # noqa: RUF012 - of all of them

    def connection_made(self, transport):
        self.transport = transport
        self.transports.add(transport)

    def data_received(self, data):
        if data.startswith(b"GET "):
            self.answer_head(data)
            return
        # The mask is of zeros.
        frame = bytes((data[0], data[1] & 0x7F)) + data[6:]
        for transport in self.transports:
            transport.write(frame)

    def connection_lost(self, error):
        self.transports.discard(self.transport)


async def serve(port, protocol):
    server = await asyncio.get_running_loop().create_server(
        protocol, "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


APPS = {"hello": Hello, "echo": Echo, "broadcast": Broadcast}

if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), APPS[sys.argv[2]]))
