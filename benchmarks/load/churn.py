"""Memory under churn: a million requests, 100,000 WebSockets that come and go.

    python benchmarks/load/churn.py

Requests go over 64 keep-alive connections. A cycle is connect, handshake, one
echo, closing handshake, close; 32 are under way at a time. After each tenth
the server is left alone for a moment and its resident memory is read: what
grows after the first tenth is a leak, or memory in pieces. This measures no
speed: the client is one thread of Python.
"""

import argparse
import time
from collections.abc import Iterator

from connections import (
    CLOSE,
    CLOSED,
    ECHOED,
    HANDSHAKE,
    MESSAGE,
    Unanswered,
    connect,
    read_handshake,
    read_until,
)
from servers import (
    BODY,
    REQUEST,
    SERVERS,
    ServerFailed,
    add_servers_option,
    add_settle_option,
    pin_client,
    report_failure,
    running,
)
from table import format_table

TENTHS = 10
KEPT_ALIVE = 64
PARALLEL_CYCLES = 32


def make_requests(port: int, count: int) -> Iterator[None]:
    """Make `count` requests ten times over; yields after each time."""
    connections = [connect(port, number) for number in range(KEPT_ALIVE)]
    for _ in range(TENTHS):
        for start in range(0, count, KEPT_ALIVE):
            batch = connections[: count - start]
            for connection in batch:
                connection.sendall(REQUEST)
            for connection in batch:
                read_until(connection, BODY)
        yield
    for connection in connections:
        connection.close()


def open_and_close(port: int, count: int) -> Iterator[None]:
    """Run `count` WebSockets from handshake to close ten times over; yields after each."""
    number = 0
    for _ in range(TENTHS):
        for start in range(0, count, PARALLEL_CYCLES):
            batch = []
            for _ in range(min(PARALLEL_CYCLES, count - start)):
                batch.append(connect(port, number))
                batch[-1].sendall(HANDSHAKE)
                number += 1
            for connection in batch:
                read_handshake(connection)
                connection.sendall(MESSAGE)
            for connection in batch:
                read_until(connection, ECHOED)
                connection.sendall(CLOSE)
            for connection in batch:
                read_until(connection, CLOSED)
                # "The server MUST close the underlying TCP connection immediately"
                # - RFC 6455, 5.5.1. So we wait for that.
                if connection.recv(1):
                    raise Unanswered("data after the close frame")
                connection.close()
        yield


def measure(name: str, app: str, count: int, settle_seconds: float) -> list[str]:
    """A row: resident MiB after each tenth, then the growth since the first."""
    work = make_requests if app == "hello" else open_and_close
    sizes = []
    with running(name, app) as server:
        for _ in work(server.port, count // TENTHS):
            time.sleep(settle_seconds)
            sizes.append(server.resident_bytes())
    growth = (sizes[-1] / sizes[0] - 1) * 100
    kind = "requests" if app == "hello" else "WebSockets"
    return [name, kind, *(f"{size / 2**20:.2f}" for size in sizes), f"{growth:+.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_servers_option(parser, ["bare", "iodine_aio", "uvicorn"])
    parser.add_argument("--requests", type=int, default=1_000_000, help="(default: 1000000)")
    parser.add_argument("--cycles", type=int, default=100_000, help="(default: 100000)")
    add_settle_option(parser, 3.0)
    options = parser.parse_args()
    pin_client()
    rows = []
    for app, count in (("hello", options.requests), ("echo", options.cycles)):
        for name in options.servers:
            if count < TENTHS or (app == "echo" and not SERVERS[name].websocket):
                continue
            try:
                rows.append(measure(name, app, count, options.settle))
            except (ServerFailed, Unanswered, OSError) as error:
                report_failure(f"{name} {app}", error)
    print("Resident MiB after each tenth:")
    tenths = [f"{tenth}/{TENTHS}" for tenth in range(1, TENTHS + 1)]
    print(format_table(["server", "kind", *tenths, "growth %"], rows))


if __name__ == "__main__":
    main()
