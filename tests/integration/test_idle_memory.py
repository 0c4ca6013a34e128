"""What connections cost that do nothing, and that nothing of them is left."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requests import HANDSHAKE, KEPT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

CONNECTIONS = 800
ROUNDS = 3
APP = """
class Echo:
    def on_message(self, data):
        self.write(data)

def app(env):
    if env["upgrade.websocket?"]:
        env["upgrade.websocket"] = Echo
    return 200, {}, ""
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "idle_under_test.py").write_text(APP)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "iodine_aio", "-p", "0", "idle_under_test.py"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        match = re.search(r"127\.0\.0\.1:(\d+)", self._process.stderr.readline())
        assert match is not None
        self.port = int(match[1])

    @property
    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        _, err = self._process.communicate(timeout=20)

        assert (self._process.returncode, err) == (0, "")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    try:
        yield process
    finally:
        process.stop()


def open_idle(server: Process, request: bytes, stack: contextlib.ExitStack) -> None:
    """One that has had its answer, and says nothing more."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    stack.enter_context(sock)
    sock.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = sock.recv(4096)
        assert more
        answer += more


@pytest.mark.parametrize(
    ("request_bytes", "limit"),
    [(KEPT, 4096), (HANDSHAKE, 5 * 1024)],
    ids=["http", "websocket"],
)
def test_idle_connections_are_small_and_leave_nothing(
    server: Process, request_bytes: bytes, limit: int
):
    """Resident memory each, the same in every round; and all descriptors come back."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            open_idle(server, request_bytes, stack)
        before, descriptors = server.memory, server.descriptors - 20
    peaks = []
    for _ in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS):
                open_idle(server, request_bytes, stack)
            peaks.append(server.memory)
        # Its end is seen by the server when it has read it: nobody tells us.
        while server.descriptors > descriptors:
            pass

    assert (peaks[0] - before) / CONNECTIONS < limit
    assert peaks[-1] - peaks[0] < CONNECTIONS * limit / 10
    assert server.descriptors == descriptors
