"""Several processes serve: who answers, who starts, who ends, and what is said of it."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.workers import KEPT, WHO, serving

pytestmark = pytest.mark.slow


def test_workers_serve_and_one_signal_ends_them_all(tmp_path: Path):
    """The parent itself answers nobody; one banner, exit code 0, nothing is left."""
    with serving(tmp_path, WHO, "-w", "2") as server:
        workers = server.workers()
        answers = {int(server.ask()) for _ in range(40)}
        code, lines = server.stop()

        assert f"(pid {server.pid}, 2 workers, Ctrl-C ends it)" in server.banner
        assert len(workers) == 2
        assert answers == workers
        assert (code, lines) == (0, [])
        assert not server.has_orphans()


def test_connections_are_spread_evenly(tmp_path: Path):
    """1,000 connections over 4 workers: none has below 15 in a hundred."""
    with serving(tmp_path, WHO, "-w", "4") as server, ExitStack() as stack:
        sockets = [stack.enter_context(server.connect()) for _ in range(1000)]
        served: Counter[bytes] = Counter()
        for sock in sockets:
            sock.sendall(KEPT)
        for sock in sockets:
            served[sock.recv(4096).rpartition(b"\r\n\r\n")[2]] += 1

    assert len(served) == 4
    assert min(served.values()) >= 150
    assert sum(served.values()) == 1000
