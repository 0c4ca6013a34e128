"""Hello world over keep-alive connections: requests a second, CPU a request.

    python benchmarks/load/hello.py
    python benchmarks/load/hello.py --idle 10000

wrk asks from the client's core. CPU time is what the server's processes used,
user and system, divided by the requests that wrk counted: unlike requests a
second it says the same where the client is the bottleneck. The servers take
turns, a fresh process each time; the medians of the rounds are printed, and
the least and the most CPU of a round, to show what differences mean nothing.
Below 100 % of the core the client, or another program, held the server up, and
its requests a second are no figure of the server's.

With --idle each turn is measured twice: with wrk's connections alone, then
with that many more open that have made a request and are silent.
"""

import argparse
import re
import subprocess
import time
from statistics import median

from connections import Unanswered, holding
from servers import (
    SERVERS,
    Server,
    ServerFailed,
    add_servers_option,
    pin_client,
    report_failure,
    running,
)
from table import format_table

WARM_UP_SECONDS = 1


def run_wrk(port: int, connections: int, seconds: int) -> tuple[int, float]:
    """Requests that wrk saw answered, and the seconds it took."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise Unanswered(f"wrk met errors: {output!r}")
    found = re.search(r"(\d+) requests in ", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if not found or not rate:
        raise Unanswered(f"wrk said {output!r}")
    requests = int(found[1])
    return requests, requests / float(rate[1])


def measure(server: Server, connections: int, seconds: int) -> tuple[float, float]:
    """Requests a second, and CPU microseconds a request."""
    run_wrk(server.port, connections, WARM_UP_SECONDS)
    before = server.cpu_seconds()
    requests, elapsed = run_wrk(server.port, connections, seconds)
    used = server.cpu_seconds() - before
    return requests / elapsed, used / requests * 1e6


def take_turn(name: str, options: argparse.Namespace) -> tuple[float, ...]:
    """Requests a second and CPU a request, and again with the idle ones if asked."""
    with running(name) as server:
        figures = measure(server, options.connections, options.seconds)
        if not options.idle:
            return figures
        with holding(server.port, options.idle) as idle:
            time.sleep(2.0)
            figures += measure(server, options.connections, options.seconds)
            answered = idle.ask_again()
            if answered != options.idle:
                raise Unanswered(f"{options.idle - answered} idle connections were dropped")
        return figures


def print_report(turns: dict[str, list[tuple[float, ...]]], idle: int) -> None:
    """Print medians, and ratios taken within a round or a turn before their median."""
    floor = [turn[1] for turn in turns.get("bare", [])]
    head = ["server", "requests/s", "CPU us/request", "of the rounds", "x bare", "core %"]
    if idle:
        head += [f"requests/s, {idle} idle", "CPU us/request", "x without"]
    rows = []
    for name, figures in turns.items():
        rate, cpu, *with_idle = (median(column) for column in zip(*figures, strict=True))
        costs = [turn[1] for turn in figures]
        ratios = [cost / least for cost, least in zip(costs, floor, strict=bool(floor))]
        row = [name, f"{rate:.0f}", f"{cpu:.2f}", f"{min(costs):.2f}-{max(costs):.2f}"]
        row += [f"{median(ratios):.2f}" if ratios else "-", f"{rate * cpu / 1e4:.0f}"]
        if idle:
            row += [f"{with_idle[0]:.0f}", f"{with_idle[1]:.2f}"]
            row += [f"{median(turn[3] / turn[1] for turn in figures):.2f}"]
        rows.append(row)
    print(format_table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_servers_option(parser, SERVERS)
    parser.add_argument("--connections", type=int, default=64, help="of wrk (default: 64)")
    parser.add_argument("--idle", type=int, default=0, help="silent ones beside them (default: 0)")
    parser.add_argument("--seconds", type=int, default=5, help="of a measurement (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="whose median counts (default: 3)")
    options = parser.parse_args()
    pin_client()
    turns: dict[str, list[tuple[float, ...]]] = {}
    names = list(options.servers)
    for _ in range(options.rounds):
        for name in list(names):
            try:
                turns.setdefault(name, []).append(take_turn(name, options))
            except (ServerFailed, Unanswered) as error:
                report_failure(name, error)
                names.remove(name)
                turns.pop(name, None)
    print_report(turns, options.idle)


if __name__ == "__main__":
    main()
