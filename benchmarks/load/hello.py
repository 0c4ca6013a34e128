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
import time
from statistics import median

from connections import Unanswered, holding
from rounds import add_rounds_options, format_turns, measure, name_columns, take_rounds
from servers import SERVERS, add_servers_option, pin_client, running
from table import format_table


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
    head = name_columns("bare")
    rows = format_turns({name: [turn[:2] for turn in f] for name, f in turns.items()}, "bare")
    if idle:
        head += [f"requests/s, {idle} idle", "CPU us/request", "x without"]
        for row, figures in zip(rows, turns.values(), strict=True):
            row += [f"{median(turn[2] for turn in figures):.0f}"]
            row += [f"{median(turn[3] for turn in figures):.2f}"]
            row += [f"{median(turn[3] / turn[1] for turn in figures):.2f}"]
    print(format_table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_servers_option(parser, SERVERS)
    add_rounds_options(parser, seconds=5)
    parser.add_argument("--idle", type=int, default=0, help="silent ones beside them (default: 0)")
    options = parser.parse_args()
    pin_client()
    turns = take_rounds(options, lambda name: take_turn(name, options))
    print_report(turns, options.idle)


if __name__ == "__main__":
    main()
