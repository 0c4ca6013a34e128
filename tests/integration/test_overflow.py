"""More connections than descriptors: the server turns some away, and goes on."""

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

LIMIT = 128
CLIENTS = 300
KEPT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

APP = """
def app(env):
    return 200, {}, "hello"
"""

ON_ASYNCIO = """
import asyncio, signal, sys
import iodine_aio
from app_under_test import app

async def main():
    async with iodine_aio.serve(app, bind="fd://" + sys.argv[1]) as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop_soon)
        await server

asyncio.run(main())
"""


class Overrun:
    """A server of few descriptors, in a process of its own."""

    def __init__(self, folder: Path, loop: str) -> None:
        (folder / "app_under_test.py").write_text(APP)
        (folder / "on_asyncio.py").write_text(ON_ASYNCIO)
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            self.port = listener.getsockname()[1]
            number = str(listener.fileno())
            words = ["-m", "iodine_aio", "-q", "-b", f"fd://{number}", "app_under_test:app"]
            if loop == "asyncio":
                words = ["on_asyncio.py", number]
            self.errors = (folder / "errors").open("w+")
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                pass_fds=[listener.fileno()],
                stderr=self.errors,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT)),
            )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def cpu_ticks(self) -> int:
        """Processor time that it took, in hundredths of a second."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def stop(self) -> tuple[int, list[str]]:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.errors.seek(0)
        return code, self.errors.readlines()


LOOPS = ["uvloop", "asyncio"]


@pytest.fixture(params=LOOPS)
def overrun(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Overrun]:
    overrun = Overrun(tmp_path, request.param)
    yield overrun
    if overrun.process.poll() is None:
        overrun.process.kill()
        overrun.process.wait()
    overrun.errors.close()


def ask(sock: socket.socket) -> bytes:
    """The answer to one request, or what there is of it when the connection ends."""
    received = b""
    try:
        sock.sendall(KEPT)
        while not received.endswith((b"hello", b"Server Busy.")):
            data = sock.recv(65536)
            if not data:
                break
            received += data
    except (ConnectionResetError, BrokenPipeError):
        return b""
    return received


def test_overrun_server_turns_away_and_recovers(overrun: Overrun):
    """300 clients of a server that has 128 descriptors."""
    with ExitStack() as stack:
        first = stack.enter_context(overrun.connect())
        assert ask(first).endswith(b"hello")
        before = overrun.cpu_ticks()

        clients = [stack.enter_context(overrun.connect()) for _ in range(CLIENTS)]
        answers = [ask(client) for client in clients]
        served = sum(answer.endswith(b"hello") for answer in answers)
        busy = [answer for answer in answers if answer.endswith(b"Server Busy.")]

        assert ask(first).endswith(b"hello")
        assert 20 <= served < LIMIT
        assert busy
        for answer in busy:
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nConnection: close\r\n" in answer
        assert overrun.cpu_ticks() - before < 100

    for _ in range(200):  # those that closed are let go of one by one
        with overrun.connect() as client:
            if ask(client).endswith(b"hello"):
                break
    else:
        pytest.fail("the server did not recover")
    code, lines = overrun.stop()

    assert code == 0
    assert len(lines) < 100
