"""Broadcast of 64 bytes to many WebSockets of one process: CPU a delivery.

    python benchmarks/load/broadcast.py
    python benchmarks/load/broadcast.py --connections 10000
    python benchmarks/load/broadcast.py --servers bare iodine_aio --connections 100 10000
    python benchmarks/load/broadcast.py --servers iodine_aio iodine_aio-w2
    python benchmarks/load/broadcast.py --stuck

One connection sends a message, the server sends it to all, that one included. When
everybody has it the next one is sent. CPU time is what the server's processes used, user
and system, divided by the deliveries that the client counted; what is theirs, and not the
kernel's, stands beside it. The two workers of `-w2` share
the one core that the others have: their parent and the way between them count, and each of
them must have a fair part of the connections.

With `--stuck` one connection stops reading, and `FILL_ROUNDS` messages of 64 KiB fill what
the kernel and the server keep for it: from then on it misses all. Then a message of 64 bytes
is sent every 50 milliseconds. What counts is when the others have these, and what the
server's memory grows by meanwhile, both beside the same where all read.
"""

import argparse
import contextlib
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from connections import TIMEOUT_SECONDS, Unanswered, connect, shake_hands
from servers import (
    APPS,
    Kind,
    Server,
    ServerFailed,
    add_servers_option,
    bare_command,
    iodine_command,
    pin_client,
    raise_descriptor_limit,
    report_failure,
    running,
    uvicorn_command,
)
from table import format_table

BYTES = 64
FILL_BYTES = 65535
FILL_ROUNDS = 80
STUCK_INTERVAL_SECONDS = 0.05
FAIR_PART = 0.25  # of the connections that are a worker's if all workers have as many
WARM_UP_ROUNDS = 5


def script_command(name: str) -> "Kind":
    def command(port: int, app: str, folder: Path) -> list[str]:
        return [sys.executable, str(APPS / name), str(port)]

    return Kind(command)


def starlette_command(port: int, app: str, folder: Path) -> list[str]:
    return uvicorn_command(port, "app", folder, module="broadcast_starlette")


def workers_command(port: int, app: str, folder: Path) -> list[str]:
    command = iodine_command(port, "publish", folder)
    return [*command[:-1], "-w", "2", command[-1]]


KINDS: dict[str, Kind] = {
    "bare": Kind(lambda port, app, folder: bare_command(port, "broadcast", folder)),
    "iodine_aio": Kind(lambda port, app, folder: iodine_command(port, "publish", folder)),
    "iodine_aio-w2": Kind(workers_command),
    "iodine_aio-each": Kind(lambda port, app, folder: iodine_command(port, "each", folder)),
    "websockets": script_command("broadcast_websockets.py"),
    "aiohttp": script_command("broadcast_aiohttp.py"),
    "picows": script_command("broadcast_picows.py"),
    "starlette": Kind(starlette_command),
    "socketify": script_command("broadcast_socketify.py"),
    "node-ws": Kind(lambda port, app, folder: ["node", str(APPS / "broadcast_ws.js"), str(port)]),
}


def encode_text(size: int) -> tuple[bytes, int]:
    """A text message as a client sends it, and how long it is when it comes back."""
    if size < 126:
        return bytes((0x81, 0x80 | size)) + bytes(4) + b"x" * size, 2 + size
    return b"\x81\xfe" + size.to_bytes(2, "big") + bytes(4) + b"x" * size, 4 + size


class Audience:
    """The client's ends of all connections.

    Attributes:
        connections: the first of them speaks.
    """

    def __init__(self, port: int, count: int) -> None:
        self.connections: list[socket.socket] = []
        self._poll = select.epoll()
        try:
            for number in range(count):
                connection = connect(port, number)
                self.connections.append(connection)
                shake_hands(connection)
                connection.setblocking(False)
                self._poll.register(connection, select.EPOLLIN)
        except BaseException:
            self.close()
            raise
        self._by_number = {c.fileno(): c for c in self.connections}

    def close(self) -> None:
        """Ends all of them."""
        self._poll.close()
        for connection in self.connections:
            connection.close()

    def stop_reading(self, connection: socket.socket) -> None:
        """Nothing more is read from `connection`."""
        self._poll.unregister(connection)
        del self._by_number[connection.fileno()]

    def send(self, frame: bytes) -> None:
        """Says something."""
        self.connections[0].sendall(frame)

    def receive(self, size: int) -> list[float]:
        """Reads `size` bytes from each; when each had the last of them."""
        left = dict.fromkeys(self._by_number, size)
        times = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while left:
            if time.monotonic() > deadline:
                raise Unanswered(f"{len(left)} of {len(self._by_number)} did not get it all")
            for number, _ in self._poll.poll(1.0, 1024):
                with contextlib.suppress(BlockingIOError):
                    data = self._by_number[number].recv(65536)
                    if not data:
                        raise Unanswered("the server closed a connection")
                    if left.get(number, 0) < len(data):
                        raise Unanswered("the server sent more than it was told to")
                    left[number] -= len(data)
                    if not left[number]:
                        del left[number]
                        times.append(time.monotonic())
        return times


@contextlib.contextmanager
def listening(port: int, count: int) -> Iterator[Audience]:
    audience = Audience(port, count)
    try:
        yield audience
    finally:
        audience.close()


def check_parts(server: Server, count: int, workers: int) -> None:
    """Refuses a measurement of workers one of which has next to nothing to do."""
    held = sorted((server.count_sockets(pid) for pid in server.list_pids()), reverse=True)
    if held[workers - 1] < FAIR_PART * count / workers:
        raise Unanswered(f"its processes hold {held} sockets of {count} connections")


def measure(name: str, count: int, seconds: float) -> tuple[float, float, float]:
    """Deliveries a second, CPU microseconds a delivery, and how much of that is user time."""
    frame, size = encode_text(BYTES)
    with running(name, kinds=KINDS, body=b"") as server, listening(server.port, count) as audience:
        time.sleep(0.5)  # until the last is known to all servers as one of them
        check_parts(server, count, 2 if name.endswith("-w2") else 1)
        for _ in range(WARM_UP_ROUNDS):
            audience.send(frame)
            audience.receive(size)
        before, user_before, deliveries = server.cpu_seconds(), server.user_seconds(), 0
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            audience.send(frame)
            audience.receive(size)
            deliveries += count
        used, user = server.cpu_seconds() - before, server.user_seconds() - user_before
    return deliveries / elapsed, used / deliveries * 1e6, user / deliveries * 1e6


def measure_stuck(server: Server, count: int, seconds: float, stuck: bool) -> list[str]:
    """What the others waited in milliseconds, and the MiB that the server grew by.

    Median and 99th percentile; while it was filled, and then.
    """
    frame, size = encode_text(BYTES)
    filling, filling_size = encode_text(FILL_BYTES)
    waited: list[float] = []
    with listening(server.port, count) as audience:
        time.sleep(0.5)
        audience.send(frame)
        audience.receive(size)
        if stuck:
            audience.stop_reading(audience.connections[-1])
        before = server.resident_bytes()
        for _ in range(FILL_ROUNDS):
            audience.send(filling)
            audience.receive(filling_size)
        filled = most = server.resident_bytes()
        ends = time.monotonic() + seconds
        while (now := time.monotonic()) < ends:
            audience.send(frame)
            waited += [got - now for got in audience.receive(size)]
            most = max(most, server.resident_bytes())
            time.sleep(max(0.0, now + STUCK_INTERVAL_SECONDS - time.monotonic()))
    waited.sort()
    percentiles = [waited[int(len(waited) * share)] * 1e3 for share in (0.5, 0.99)]
    grown = [(filled - before) / 2**20, (most - filled) / 2**20]
    return [f"{figure:.1f}" for figure in percentiles + grown]


def compare(options: argparse.Namespace, count: int) -> list[list[str]]:
    """Rows of medians; ratios to `bare` are taken within a round."""
    turns: dict[str, list[tuple[float, float, float]]] = {}
    names = list(options.servers)
    for _ in range(options.rounds):
        for name in list(names):
            try:
                turns.setdefault(name, []).append(measure(name, count, options.seconds))
            except (ServerFailed, Unanswered, OSError) as error:
                report_failure(f"{name}, {count} connections", error)
                names.remove(name)
                turns.pop(name, None)
    least = [cpu for _, cpu, _ in turns.get("bare", [])]
    rows = []
    for name, figures in turns.items():
        costs = [cpu for _, cpu, _ in figures]
        ratios = [cost / low for cost, low in zip(costs, least, strict=bool(least))]
        row = [name, str(count), f"{median(rate for rate, _, _ in figures):.0f}"]
        row += [f"{1e6 / median(costs):.0f}"]
        row += [f"{median(costs):.2f}", f"{min(costs):.2f}-{max(costs):.2f}"]
        row += [f"{median(user for _, _, user in figures):.2f}"]
        rows.append([*row, f"{median(ratios):.2f}" if ratios else "-"])
    return rows


def compare_stuck(options: argparse.Namespace, count: int) -> list[list[str]]:
    """Rows with and without a connection that does not read."""
    kinds = {"iodine_aio": script_command("broadcast_drops.py")}
    rows = []
    for _ in range(options.rounds):
        for stuck in (False, True):
            try:
                with running("iodine_aio", kinds=kinds, body=b"") as server:
                    figures = measure_stuck(server, count, options.seconds, stuck)
            except (ServerFailed, Unanswered, OSError) as error:
                report_failure(f"{count} connections", error)
                continue
            rows.append(["all but one" if stuck else "all", str(count), *figures])
    return rows


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_servers_option(parser, KINDS, KINDS)
    parser.add_argument(
        "--connections", type=int, nargs="+", default=[1000], help="(default: 1000)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="whose median counts (default: 3)")
    parser.add_argument(
        "--stuck", action="store_true", help="one connection of iodine_aio's stops reading"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options = parse_options()
    pin_client()
    raise_descriptor_limit()
    rows: list[list[str]] = []
    for count in options.connections:
        rows += compare_stuck(options, count) if options.stuck else compare(options, count)
    if options.stuck:
        head = ["who reads", "connections", "median ms", "p99 ms", "MiB to fill", "MiB then"]
    else:
        head = ["server", "connections", "deliveries/s", "a CPU second"]
        head += ["CPU us each", "of the rounds", "user", "x bare"]
    print(format_table(head, rows))


if __name__ == "__main__":
    main()
