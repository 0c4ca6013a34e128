"""Resident memory of an idle connection: HTTP keep-alive, and WebSocket.

    python benchmarks/load/memory.py
    python benchmarks/load/memory.py --connections 19000

Each connection has made one exchange (a request, or handshake and echo) and
is silent. What the server's processes grew by, beyond what they had after a
few connections that came and went, is divided by the number of connections.
At the end each connection is asked once more, while all are open. Memory that
the kernel keeps for the sockets is nobody's resident memory, and not counted.
"""

import argparse
import time

from connections import Unanswered, holding
from servers import (
    SERVERS,
    ServerFailed,
    add_servers_option,
    add_settle_option,
    pin_client,
    report_failure,
    running,
)
from table import format_table

WARM_UP_CONNECTIONS = 64


def measure(name: str, app: str, connections: int, settle_seconds: float) -> list[str]:
    """A row of the table, for one server and one kind of connection."""
    with running(name, app) as server:
        with holding(server.port, WARM_UP_CONNECTIONS, app):
            pass
        time.sleep(settle_seconds)
        before = server.resident_bytes()
        with holding(server.port, connections, app) as idle:
            time.sleep(settle_seconds)
            after = server.resident_bytes()
            answered = idle.ask_again()
    kind = "HTTP" if app == "hello" else "WebSocket"
    each = (after - before) / connections / 1024
    row = [name, kind, f"{before / 2**20:.1f}", f"{after / 2**20:.1f}", f"{each:.2f}"]
    return [*row, f"{answered} of {connections}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_servers_option(parser, ["bare", "iodine_aio", "uvicorn"])
    parser.add_argument("--connections", type=int, default=10_000, help="(default: 10000)")
    add_settle_option(parser, 4.0)
    options = parser.parse_args()
    pin_client()
    rows = []
    for app in ("hello", "echo"):
        for name in options.servers:
            if app == "echo" and not SERVERS[name].websocket:
                continue
            try:
                rows.append(measure(name, app, options.connections, options.settle))
            except (ServerFailed, Unanswered) as error:
                report_failure(f"{name} {app}", error)
    head = ["server", "kind", "MiB before", "MiB with", "KiB each", "answered again"]
    print(format_table(head, rows))


if __name__ == "__main__":
    main()
