"""Sockets that all workers accept from: each has its share, and waits for none that cannot."""

import os
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workers import KEPT, WHO, Workers

pytestmark = pytest.mark.slow


class Clients:
    """Connections that stay open."""

    def __init__(self, address: Any, stack: ExitStack) -> None:
        self._address = address
        self._stack = stack

    def connect(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        sock = self._stack.enter_context(socket.socket(family))
        sock.settimeout(20)
        sock.connect(self._address)
        return sock

    def ask(self) -> int:
        """The process that answers a new one."""
        return ask(self.connect())

    def ask_at_once(self, number: int) -> Counter[int]:
        """How many of so many new ones each process answers."""
        sockets = [self.connect() for _ in range(number)]
        return Counter(map(ask, sockets))


def ask(sock: socket.socket) -> int:
    sock.sendall(KEPT)
    return int(sock.recv(4096).rpartition(b"\r\n\r\n")[2])


@contextmanager
def serving_at(folder: Path, kind: str, *words: str) -> Iterator[tuple[Workers, Clients]]:
    """A server with a unix socket, or one that it has inherited, and clients to be."""
    with ExitStack() as stack:
        short = stack.enter_context(tempfile.TemporaryDirectory())
        given = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        address: Any = f"{short}/s" if kind == "unix" else given.getsockname()
        bind = f"unix:{short}/s" if kind == "unix" else f"fd://{given.fileno()}"
        server = Workers(folder, WHO, "-b", bind, *words, fds=[given.fileno()])
        try:
            server.wait_until_ready()
            yield server, Clients(address, stack)
        finally:
            server.kill()


@pytest.mark.parametrize("kind", ["unix", "fd"])
@pytest.mark.parametrize("words", [[], ["--preload"]])
def test_connections_are_spread_evenly(tmp_path: Path, kind: str, words: list[str]):
    """500 at once, and 500 one after the other: none of 4 workers has below 15 in a hundred."""
    with serving_at(tmp_path, kind, "-w", "4", *words) as (_, clients):
        at_once = clients.ask_at_once(500)
        each = Counter(clients.ask() for _ in range(500))
    served = at_once + each

    assert len(served) == 4
    assert min(at_once.values()) >= 75
    assert min(served.values()) >= 150
    assert served.total() == 1000


@pytest.mark.parametrize("kind", ["unix", "fd"])
def test_eight_workers_have_their_share_of_what_comes_one_by_one(tmp_path: Path, kind: str):
    """Whoever happens to be woken up first."""
    with serving_at(tmp_path, kind, "-w", "8") as (_, clients):
        served = Counter(clients.ask() for _ in range(800))

    assert len(served) == 8
    assert min(served.values()) >= 60


def test_worker_that_is_stopped_holds_up_nobody(tmp_path: Path):
    """It has least, and takes nothing; when it goes on, it has its share again."""
    with serving_at(tmp_path, "unix", "-w", "3") as (server, clients):
        stopped = min(server.workers())
        os.kill(stopped, signal.SIGSTOP)
        meanwhile = Counter(clients.ask() for _ in range(200))
        os.kill(stopped, signal.SIGCONT)
        later = Counter(clients.ask() for _ in range(200))
        code, lines = server.stop()

    assert stopped not in meanwhile
    assert min(meanwhile.values()) >= 60
    assert later[stopped] >= 60
    assert (code, lines) == (0, [])


def test_worker_that_dies_is_followed_by_one_that_has_its_share(tmp_path: Path):
    """The others serve meanwhile, and wait for nobody who is dead."""
    with serving_at(tmp_path, "unix", "-w", "2") as (server, clients):
        clients.ask_at_once(100)
        before = server.workers()
        dead = min(before)
        os.kill(dead, signal.SIGKILL)
        server.read_until("another takes its place")
        answers = Counter(clients.ask() for _ in range(20))
        server.until(lambda: server.count() == 2)
        (successor,) = server.workers() - before
        server.until(lambda: clients.ask() == successor)
        answers += Counter(clients.ask() for _ in range(100))

    assert dead not in answers
    assert answers[successor] >= 60


def test_workers_of_a_restart_have_their_share(tmp_path: Path):
    """Old ones that still drain, full of clients, are not waited for, and count for nobody."""
    with serving_at(tmp_path, "unix", "-w", "2", "--drain-timeout", "0.2") as (server, clients):
        before = clients.ask_at_once(50)
        server.signal(signal.SIGHUP)
        server.read_until("workers were restarted")
        after = Counter(clients.ask() for _ in range(200))

    assert not set(before) & set(after)
    assert len(after) == 2
    assert min(after.values()) >= 60
