"""Pipelined requests: what a batch of 16 costs in system calls.

    python benchmarks/load/pipelining.py

One connection sends 16 requests in one packet, reads 16 answers, and does so
again. strace watches the server's reads and writes of TCP sockets, those of
its event loop's own descriptors left out. One send a batch is what a server
reaches that joins its answers; one a request is what it costs not to.
A read that finds nothing (EAGAIN) is counted apart.

strace must be allowed to attach to a process of the same user.
"""

import argparse
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from connections import Unanswered, connect
from servers import (
    BODY,
    REQUEST,
    SERVERS,
    Server,
    ServerFailed,
    add_servers_option,
    pin_client,
    report_failure,
    running,
)
from table import format_table

READS = {"read", "readv", "recvfrom", "recvmsg"}
SENDS = {"write", "writev", "sendto", "sendmsg", "sendmmsg", "sendfile"}
# 1234 sendto(7<TCP:[127.0.0.1:80->127.0.0.2:40000]>, ...) = 99
CALL = re.compile(r"^(\d+) +(\w+)\(\d+<TCP:")
RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>")
RESULT = re.compile(r" = (-?\d+)(?: E\w+ .*)?$")


def count_calls(trace: Iterable[str]) -> Counter[str]:
    """Reads, reads of nothing, and sends, in lines of `strace -f -yy`."""
    counts: Counter[str] = Counter()
    unfinished: dict[str, str] = {}
    for line in trace:
        if call := CALL.search(line):
            name = call[2]
            if line.rstrip().endswith("<unfinished ...>"):
                unfinished[call[1]] = name
                continue
        elif resumed := RESUMED.search(line):
            # Absent where the call was of another descriptor.
            name = unfinished.pop(resumed[1], "")
        else:
            continue
        result = RESULT.search(line.rstrip())
        if name in READS:
            counts["reads" if result and int(result[1]) > 0 else "empty"] += 1
        elif name in SENDS:
            counts["sends"] += 1
    return counts


def send_batches(port: int, depth: int, batches: int) -> None:
    """Make the batches on one connection, each after the last one's answers."""
    with connect(port, 0) as connection:
        batch = REQUEST * depth
        for _ in range(batches):
            connection.sendall(batch)
            answered, tail = 0, b""
            while answered < depth:
                data = connection.recv(65536)
                if not data:
                    raise Unanswered(f"closed after {answered} of {depth}")
                seen = tail + data
                answered += seen.count(BODY)
                # Enough to find a body that two reads share, too short to hold one.
                tail = seen[-len(BODY) + 1 :]


def wait_until_attached(strace: subprocess.Popen[str], processes: int) -> None:
    """Read the line that strace says for each process once it sees its calls."""
    for _ in range(processes):
        line = strace.stderr.readline()
        if " attached" not in line:
            raise OSError(line.strip())


def trace_batches(server: Server, depth: int, batches: int) -> Counter[str]:
    """Run the batches with strace on the server's processes, and count."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "trace")
        command = ["strace", "-f", "-yy", "-s", "0", "-o", str(output)]
        command += ["-e", "trace=" + ",".join(sorted(READS | SENDS))]
        pids = server.list_pids()
        for pid in pids:
            command += ["-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            try:
                wait_until_attached(strace, len(pids))
                send_batches(server.port, depth, batches)
            finally:
                strace.send_signal(signal.SIGINT)
        with output.open() as trace:
            return count_calls(trace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_servers_option(parser, SERVERS)
    parser.add_argument("--depth", type=int, default=16, help="requests in a batch (default: 16)")
    parser.add_argument("--batches", type=int, default=500, help="(default: 500)")
    options = parser.parse_args()
    pin_client()
    rows = []
    for name in options.servers:
        try:
            with running(name) as server:
                counts = trace_batches(server, options.depth, options.batches)
        except (ServerFailed, Unanswered, OSError) as error:
            report_failure(name, error)
            continue
        columns = ("reads", "empty", "sends")
        rows.append([name, *(f"{counts[column] / options.batches:.2f}" for column in columns)])
    print(f"System calls on TCP sockets for a batch of {options.depth} requests:")
    print(format_table(["server", "reads", "reads of nothing", "sends"], rows))


if __name__ == "__main__":
    main()
