"""More connections than descriptors: the server turns some away, and goes on."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
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
import os
import iodine_aio

class Greeting:
    def on_open(self):
        self.write("hello")

def app(env):
    return 200, {}, "hello"

iodine_aio.listen(os.environ["RAW_BIND"], Greeting, busy_message="full\\n")
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
        with (
            socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
            socket.create_server(("127.0.0.1", 0), backlog=1024) as raw_listener,
        ):
            self.address = listener.getsockname()
            self.raw_address = raw_listener.getsockname()
            number = str(listener.fileno())
            words = ["-m", "iodine_aio", "-q", "-b", f"fd://{number}", "app_under_test:app"]
            if loop == "asyncio":
                words = ["on_asyncio.py", number]
            self.errors = (folder / "errors").open("w+")
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                pass_fds=[listener.fileno(), raw_listener.fileno()],
                env={**os.environ, "RAW_BIND": f"fd://{raw_listener.fileno()}"},
                stderr=self.errors,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT)),
            )

    def connect(self, raw: bool = False) -> socket.socket:
        return socket.create_connection(self.raw_address if raw else self.address, timeout=20)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

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


def receive(sock: socket.socket) -> bytes:
    """The answer to one request, or what there is of it when the connection ends."""
    received = b""
    with suppress(ConnectionResetError):
        while not received.endswith((b"hello", b"Server Busy.", b"full\n")):
            data = sock.recv(65536)
            if not data:
                break
            received += data
    return received


def ask(sock: socket.socket) -> bytes:
    sock.sendall(KEPT)
    return receive(sock)


def test_every_client_of_a_burst_is_served_or_told_so(overrun: Overrun):
    """300 clients have asked a server of 128 descriptors before it looks."""
    with ExitStack() as stack:
        first = stack.enter_context(overrun.connect())
        assert ask(first).endswith(b"hello")
        overrun.process.send_signal(signal.SIGSTOP)
        clients = [stack.enter_context(overrun.connect()) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(KEPT)
        overrun.process.send_signal(signal.SIGCONT)
        answers = [receive(client) for client in clients]
        served = sum(answer.endswith(b"hello") for answer in answers)
        busy = [answer for answer in answers if answer.endswith(b"Server Busy.")]

        assert 20 <= served < LIMIT
        assert served + len(busy) == CLIENTS
        for answer in busy:
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nConnection: close\r\n" in answer
        assert ask(first).endswith(b"hello")

    for _ in range(200):  # those that closed are let go of one by one
        with overrun.connect() as client:
            if ask(client).endswith(b"hello"):
                break
    else:
        pytest.fail("the server did not recover")

    assert overrun.stop() == (0, [])


def test_clients_that_nobody_can_answer_yet_wait_and_cost_nothing(overrun: Overrun):
    """300 clients say nothing, and so keep all descriptors; then they ask in two pieces."""
    with ExitStack() as stack:
        first = stack.enter_context(overrun.connect())
        assert ask(first).endswith(b"hello")
        before = overrun.cpu_ticks()
        clients = [stack.enter_context(overrun.connect()) for _ in range(CLIENTS)]
        time.sleep(1)  # is what is measured

        assert overrun.cpu_ticks() - before < 50
        assert overrun.descriptors() < LIMIT - 2
        assert ask(first).endswith(b"hello")
        # The last ones wait still: a connection that was closed would refuse the second piece.
        for client in clients[95:-50]:
            client.close()
        for client in clients[-50:]:
            client.sendall(KEPT[:5])
            client.sendall(KEPT[5:])
        for client in clients[-50:]:
            assert receive(client).endswith(b"Server Busy.")

    assert overrun.stop() == (0, [])


def test_every_raw_client_of_a_burst_is_served_or_told_so(overrun: Overrun):
    """The handler greets; the busy message comes whole although nobody read the request."""
    overrun.process.send_signal(signal.SIGSTOP)
    with ExitStack() as stack:
        clients = [stack.enter_context(overrun.connect(raw=True)) for _ in range(CLIENTS // 2)]
        for client in clients:
            client.sendall(KEPT)
        overrun.process.send_signal(signal.SIGCONT)
        answers = []
        for client in clients:
            answers.append(receive(client))
            if answers[-1] == b"full\n":
                client.close()

        assert set(answers) == {b"hello", b"full\n"}
    assert overrun.stop() == (0, [])
