"""Long request bodies on the disk: of a server that is killed, nothing stays."""

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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

APP = """
def app(env):
    return 200, {}, str(len(env["wsgi.input"].read()))
"""
SIZE = 4 * 1024 * 1024
BUFFERED = 64 * 1024  # more than a file object keeps back of what was written last
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % SIZE


class Spooling:
    """A server in a process of its own, whose temporary files go to `spool`."""

    def __init__(self, folder: Path, setup: str = "") -> None:
        self.spool = folder / "spool"
        self.spool.mkdir()
        (folder / "app.py").write_text(setup + APP)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "iodine_aio", "-p", "0", "app:app"],
            cwd=folder,
            env=os.environ | {"TMPDIR": str(self.spool)},
            stderr=subprocess.PIPE,
            text=True,
            umask=0,
        )
        assert self.process.stderr is not None
        banner = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", banner)
        assert found, banner
        self.address = ("127.0.0.1", int(found[1]))

    def spooled(self) -> list[os.stat_result]:
        """What of `spool` the server holds open, with and without a name."""
        held = []
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(descriptor).startswith(str(self.spool)):
                    held.append(descriptor.stat())
        return held

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Spooling]:
    server = Spooling(tmp_path)
    yield server
    server.stop()


def send_half(server: Spooling) -> socket.socket:
    """A client that has sent half of its body, once that is in a file."""
    before = sum(file.st_size for file in server.spooled())
    sock = socket.create_connection(server.address, timeout=20)
    try:
        sock.sendall(HEAD)
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(bytes(SIZE // 2))
        while sum(file.st_size for file in server.spooled()) < before + SIZE // 2 - BUFFERED:
            os.sched_yield()
    except BaseException:
        sock.close()
        raise
    return sock


def test_killed_server_leaves_no_file(server: Spooling):
    """SIGKILL in the middle of two bodies: the files had no name to stay under."""
    with send_half(server), send_half(server):
        held = server.spooled()
        named = list(server.spool.iterdir())
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)

        assert len(held) == 2
        assert named == []
        assert list(server.spool.iterdir()) == []


def test_body_on_the_disk_is_nobody_elses(server: Spooling):
    """Mode 0600 whatever the umask, no name, and whole in the end."""
    with send_half(server) as sock:
        (file,) = server.spooled()
        sock.sendall(bytes(SIZE - SIZE // 2))
        answer = sock.recv(1000)

        assert file.st_mode & 0o777 == 0o600
        assert file.st_nlink == 0
        assert answer.endswith(b"\r\n\r\n%d" % SIZE)
        assert server.spooled() == []


def test_client_that_goes_away_takes_its_file_along(server: Spooling):
    """And the server goes on."""
    send_half(server).close()
    while server.spooled():
        os.sched_yield()
    with send_half(server) as sock:
        sock.sendall(bytes(SIZE - SIZE // 2))

        assert sock.recv(1000).endswith(b"\r\n\r\n%d" % SIZE)


def test_disk_that_is_full_costs_one_request(tmp_path: Path):
    """It is answered by 500, with one entry that says why; the next is served."""
    full = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({SIZE // 4},) * 2)\n"
    server = Spooling(tmp_path, full)
    try:
        with socket.create_connection(server.address, timeout=20) as sock:
            sock.sendall(HEAD)
            sock.recv(1000)
            sock.sendall(bytes(SIZE // 2))
            answer = sock.recv(1000)
        small = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
        with socket.create_connection(server.address, timeout=20) as sock:
            sock.sendall(small)
            other = sock.recv(1000)
        held = server.spooled()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stderr is not None
        entries = [line for line in server.process.stderr if "File too large" in line]

        assert answer.startswith(b"HTTP/1.1 500 ")
        assert other.endswith(b"\r\n\r\n2")
        assert held == []
        assert len(entries) == 1
    finally:
        server.stop()
