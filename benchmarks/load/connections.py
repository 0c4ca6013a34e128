"""Raw client connections: opened by the thousand, asked once, then left idle.

    python connections.py PORT COUNT {hello,echo}

The program opens COUNT connections, makes one exchange on each and prints how
many were answered. After each line on stdin it makes one more exchange on
each and prints again. It ends when stdin does. It is a process of its own so
that its descriptors and its memory are not the benchmark's.
"""

import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

from servers import BODY, REQUEST, pin_client, raise_descriptor_limit

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# The answer to the key above, from the example of RFC 6455, 1.3.
ACCEPTED = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
# With a mask of zeros a payload is its own masked form.
MESSAGE = b"\x81\x85\x00\x00\x00\x00hello"
ECHOED = b"\x81\x05hello"
CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
CLOSED = b"\x88\x02\x03\xe8"

# One client address has some 28,000 ports, less those that wait out an
# earlier connection. 127.0.0.0/8 has more addresses.
SOURCES = 16
TIMEOUT_SECONDS = 20.0
IP_BIND_ADDRESS_NO_PORT = 24  # not in the socket module before Python 3.12


class Unanswered(Exception):
    """The server closed, or sent something else than it was asked for."""


def connect(port: int, number: int) -> socket.socket:
    """Connect to 127.0.0.1:port from the source address whose turn it is."""
    connection = socket.socket()
    connection.settimeout(TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The port is chosen at connect(), when the other end is known as well.
    connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    connection.bind((f"127.0.0.{2 + number % SOURCES}", 0))
    # Our close is a reset, after which neither end holds the port in TIME_WAIT.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.connect(("127.0.0.1", port))
    return connection


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Read until what was read ends with `end`."""
    received = connection.recv(65536)
    while not received.endswith(end):
        data = connection.recv(65536)
        if not data:
            raise Unanswered(f"closed after {received[:200]!r}")
        received += data
    return received


def request(connection: socket.socket) -> None:
    """Make one HTTP request and read its answer."""
    connection.sendall(REQUEST)
    read_until(connection, BODY)


def read_handshake(connection: socket.socket) -> None:
    """Read the 101 that answers `HANDSHAKE`."""
    head = read_until(connection, b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 ") or ACCEPTED not in head:
        raise Unanswered(f"no WebSocket: {head[:200]!r}")


def shake_hands(connection: socket.socket) -> None:
    """Make a WebSocket of the connection."""
    connection.sendall(HANDSHAKE)
    read_handshake(connection)


def exchange_echo(connection: socket.socket) -> None:
    """Send a message over a WebSocket and read its echo."""
    connection.sendall(MESSAGE)
    read_until(connection, ECHOED)


EXCHANGES: dict[str, Callable[[socket.socket], None]] = {"hello": request, "echo": exchange_echo}


class IdleConnections:
    """Connections held open by a process of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read_answered(self) -> int:
        line = self.process.stdout.readline()
        if not line:
            raise Unanswered("the idle connections broke, see above")
        return int(line)

    def ask_again(self) -> int:
        """Make one more exchange on each connection; how many were answered."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read_answered()


@contextlib.contextmanager
def holding(port: int, count: int, app: str = "hello") -> Iterator[IdleConnections]:
    """Hold `count` connections open, each of which has made one exchange.

    Raises:
        Unanswered: one of them was refused, or got no answer.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, str(port), str(count), app],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        idle = IdleConnections(process)
        idle.read_answered()
        yield idle


def main(port: int, count: int, app: str) -> None:
    pin_client()
    limit = raise_descriptor_limit()
    if count > limit - 16:
        raise SystemExit(f"{count} connections need more descriptors than the hard limit, {limit}")
    exchange = EXCHANGES[app]
    connections = []
    for number in range(count):
        connection = connect(port, number)
        if app == "echo":
            shake_hands(connection)
        exchange(connection)
        connections.append(connection)
    print(count, flush=True)
    for _ in sys.stdin:
        answered = 0
        for connection in connections:
            with contextlib.suppress(OSError, Unanswered):
                exchange(connection)
                answered += 1
        print(answered, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
