"""Rounds of wrk: the servers take turns, the medians of the rounds count.

wrk asks from the client's core. CPU time is what the server's processes used,
user and system, divided by the requests that wrk counted.
"""

import argparse
import re
import subprocess
from collections.abc import Callable
from statistics import median

from connections import Unanswered
from servers import Server, ServerFailed, report_failure

WARM_UP_SECONDS = 1


def add_rounds_options(parser: argparse.ArgumentParser, seconds: int) -> None:
    """Options of every benchmark that asks by wrk."""
    parser.add_argument("--connections", type=int, default=64, help="of wrk (default: 64)")
    parser.add_argument(
        "--seconds", type=int, default=seconds, help=f"of a measurement (default: {seconds})"
    )
    parser.add_argument("--rounds", type=int, default=3, help="whose median counts (default: 3)")


def run_wrk(port: int, connections: int, seconds: int, path: str = "/") -> tuple[int, float]:
    """Requests that wrk saw answered, and the seconds it took."""
    url = f"http://127.0.0.1:{port}{path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise Unanswered(f"wrk met errors: {output!r}")
    found = re.search(r"(\d+) requests in ", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if not found or not rate:
        raise Unanswered(f"wrk said {output!r}")
    requests = int(found[1])
    return requests, requests / float(rate[1])


def measure(server: Server, connections: int, seconds: int, path: str = "/") -> tuple[float, float]:
    """Requests a second, and CPU microseconds a request."""
    run_wrk(server.port, connections, WARM_UP_SECONDS, path)
    before = server.cpu_seconds()
    requests, elapsed = run_wrk(server.port, connections, seconds, path)
    used = server.cpu_seconds() - before
    return requests / elapsed, used / requests * 1e6


def take_rounds(
    options: argparse.Namespace, take_turn: Callable[[str], tuple[float, ...]]
) -> dict[str, list[tuple[float, ...]]]:
    """Figures of each round by server; a server that fails once is left out."""
    turns: dict[str, list[tuple[float, ...]]] = {}
    names = list(options.servers)
    for _ in range(options.rounds):
        for name in list(names):
            try:
                turns.setdefault(name, []).append(take_turn(name))
            except (ServerFailed, Unanswered) as error:
                report_failure(name, error)
                names.remove(name)
                turns.pop(name, None)
    return turns


def format_turns(turns: dict[str, list[tuple[float, ...]]], floor: str) -> list[list[str]]:
    """Rows of medians; ratios to the server `floor` are taken within a round.

    A turn is requests a second, then CPU microseconds a request.
    """
    least = [turn[1] for turn in turns.get(floor, [])]
    rows = []
    for name, figures in turns.items():
        rate, cpu = (median(column) for column in zip(*figures, strict=True))
        costs = [turn[1] for turn in figures]
        ratios = [cost / low for cost, low in zip(costs, least, strict=bool(least))]
        row = [name, f"{rate:.0f}", f"{cpu:.2f}", f"{min(costs):.2f}-{max(costs):.2f}"]
        rows.append([*row, f"{median(ratios):.2f}" if ratios else "-", f"{rate * cpu / 1e4:.0f}"])
    return rows


def name_columns(floor: str) -> list[str]:
    """The head of the rows of `format_turns`."""
    return ["server", "requests/s", "CPU us/request", "of the rounds", f"x {floor}", "core %"]
