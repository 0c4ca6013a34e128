"""A server with workers, in processes of its own."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.sockets import read_to_end

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

# Answers with the process that serves.
WHO = """
import os

def app(env):
    return 200, {}, str(os.getpid())
"""


class Workers:
    """The command line, at work in a process group of its own.

    Args:
        folder: where `app.py` is written, and the command runs.
        text: what `app.py` says.
        words: flags; `-p 0` is added, unless there are binds.
        fds: descriptors that it inherits.
        before: a program that is run first, and executes what its arguments say.
        env: additions to the environment.

    Attributes:
        lines: what stderr said so far.
    """

    def __init__(
        self,
        folder: Path,
        text: str,
        *words: str,
        fds: Sequence[int] = (),
        before: str = "",
        **env: str,
    ) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.write(text)
        words = words if "-b" in words or "LISTEN_FDS" in env else ("-p", "0", *words)
        self.popen = subprocess.Popen(
            [
                sys.executable,
                *(("-c", before) if before else ()),
                *("-W", "error", "-m", "iodine_aio", *words, "app.py"),
            ],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=fds,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **env},
        )

    def write(self, text: str) -> None:
        """Changes the app."""
        (self.folder / "app.py").write_text(textwrap.dedent(text))

    @property
    def pid(self) -> int:
        """Of the parent."""
        return self.popen.pid

    def read_until(self, text: str) -> str:
        """The next line of stderr that has `text` in it."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"no {text!r} in {self.lines}")

    def wait_until_ready(self) -> None:
        """Reads the banner, and where it serves."""
        self.banner = self.read_until("iodine_aio serves on ")
        if found := re.search(r"http://127.0.0.1:(\d+)", self.banner):
            self.port = int(found[1])
        if found := re.search(r"tcp://127.0.0.1:(\d+)", self.banner):
            self.raw_port = int(found[1])

    def signal(self, number: int) -> None:
        """Sends the parent a signal."""
        self.popen.send_signal(number)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, path: str = "/") -> str:
        """What a new connection is answered."""
        with self.connect() as sock:
            sock.sendall(GET.replace(b"/", path.encode(), 1))
            return read_to_end(sock).partition(b"\r\n\r\n")[2].decode()

    def workers(self) -> set[int]:
        """The process ids of the parent's children."""
        done = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.pid)], capture_output=True, check=False
        )
        return {int(pid) for pid in done.stdout.split()} - {self.pid}

    def count(self) -> int:
        """How many children there are."""
        return len(self.workers())

    def until(self, true: object) -> None:
        """Waits until `true()`, for 10 seconds at most."""
        assert callable(true)
        end = time.monotonic() + 10
        while not true():
            assert time.monotonic() < end, f"never true; {self.lines}"
            time.sleep(0.02)

    def wait(self) -> int:
        """The exit code; all of stderr is in `lines` then."""
        _, rest = self.popen.communicate(timeout=30)
        self.lines += rest.splitlines(keepends=True)
        return self.popen.returncode

    def stop(self) -> tuple[int, list[str]]:
        """SIGTERM: the exit code, and what stderr said after the banner."""
        self.signal(signal.SIGTERM)
        code = self.wait()
        return code, self.lines[1:]

    def has_orphans(self) -> bool:
        """True if any process of the group is left."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """Ends all that is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.communicate()


@contextlib.contextmanager
def serving(folder: Path, text: str, *words: str, **env: str) -> Iterator[Workers]:
    """A server that is ready."""
    server = Workers(folder, text, *words, **env)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()
