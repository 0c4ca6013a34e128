"""Several addresses of several kinds, served by one process and by workers."""

import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.workers import GET, WHO, Workers, serving
from tests.sockets import read_to_end

pytestmark = pytest.mark.slow

WORDS = [[], ["-w", "2"]]


def ask(family: int, address: object) -> int:
    """The process that answers there."""
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(address)
        sock.sendall(GET)
        return int(read_to_end(sock).partition(b"\r\n\r\n")[2])


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, as unix sockets need it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def processes(server: Workers) -> set[int]:
    """Who may answer."""
    return server.workers() or {server.pid}


@pytest.mark.parametrize("words", WORDS)
def test_all_kinds_at_once(tmp_path: Path, short: Path, words: list[str]):
    """-b as often as one likes: IPv4, IPv6, a unix socket with a mode, a descriptor."""
    path = short / "server.sock"
    with socket.create_server(("127.0.0.1", 0)) as given:
        binds = ("127.0.0.1:0", "[::1]:0", f"unix:{path}?mode=660", f"fd://{given.fileno()}")
        flags = [word for bind in binds for word in ("-b", bind)]
        server = Workers(tmp_path, WHO, *words, *flags, fds=[given.fileno()])
        inherited = given.getsockname()
    try:
        server.wait_until_ready()
        port6 = int(server.banner.partition("[::1]:")[2].split(",")[0])
        allowed = processes(server)
        answers = {
            ask(socket.AF_INET, ("127.0.0.1", server.port)),
            ask(socket.AF_INET6, ("::1", port6)),
            ask(socket.AF_UNIX, str(path)),
            ask(socket.AF_INET, inherited),
        }
        mode = stat.S_IMODE(path.stat().st_mode)
        code, lines = server.stop()
    finally:
        server.kill()

    assert answers <= allowed
    assert mode == 0o660
    assert server.banner.count("unix:") == 1
    assert (code, lines) == (0, [])
    assert not path.exists()


@pytest.mark.parametrize("words", WORDS)
def test_unix_socket_of_a_dead_server_is_replaced(tmp_path: Path, short: Path, words: list[str]):
    """It was killed, and left its file; one that lives is left alone."""
    flags = [*words, "-b", f"unix:{short}/server.sock"]
    with serving(tmp_path, WHO, *flags) as first:
        second = Workers(tmp_path, WHO, *flags)
        refused = second.wait()
        still = ask(socket.AF_UNIX, f"{short}/server.sock") in processes(first)
        os.killpg(first.pid, signal.SIGKILL)
        first.popen.wait()
        with serving(tmp_path, WHO, *flags) as third:
            answer = ask(socket.AF_UNIX, f"{short}/server.sock")
            allowed = processes(third)
            code, _ = third.stop()

    assert refused == 4
    assert len(second.lines) == 1
    assert "a server answers there" in second.lines[0]
    assert still
    assert answer in allowed
    assert code == 0


def test_unix_socket_outlives_its_workers(tmp_path: Path, short: Path):
    """The file is the parent's: no worker removes it, in a restart or when it dies."""
    path = short / "server.sock"
    with serving(tmp_path, WHO, "-w", "2", "-b", f"unix:{path}") as server:
        before = path.stat().st_ino
        server.signal(signal.SIGHUP)
        server.read_until("workers were restarted")
        os.kill(min(server.workers()), signal.SIGTERM)
        server.read_until("another takes its place")
        answer = ask(socket.AF_UNIX, str(path))
        after = path.stat().st_ino
        server.stop()

    assert answer
    assert before == after
    assert not path.exists()


ACTIVATED = """
import os, sys
os.dup2({fd}, 3)
os.set_inheritable(3, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Manager:
    """What systemd is to a service: it opens the socket, and hears what is said."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.sock.settimeout(20)

    def hear(self) -> str:
        return self.sock.recv(4096).decode()

    def hear_until(self, state: str) -> list[str]:
        """All that is said, to `state` and with it."""
        heard = [self.hear()]
        while heard[-1].split("\n")[0] != state:
            heard.append(self.hear())
        return heard


@pytest.mark.parametrize("words", WORDS)
def test_systemd_opens_the_socket_and_is_told(tmp_path: Path, short: Path, words: list[str]):
    """Socket activation, and READY, WATCHDOG and STOPPING on the way."""
    manager = Manager(short)
    with manager.sock, socket.create_server(("127.0.0.1", 0)) as given:
        program = ACTIVATED.format(fd=given.fileno())
        env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000", "LISTEN_FDS": "1"}
        server = Workers(tmp_path, WHO, *words, fds=[given.fileno()], before=program, **env)
        try:
            ready = manager.hear_until("READY=1")
            server.wait_until_ready()
            manager.hear_until("WATCHDOG=1")
            manager.hear_until("WATCHDOG=1")
            answer = ask(socket.AF_INET, given.getsockname())
            allowed = processes(server)
            if words:
                server.signal(signal.SIGHUP)
                reload = manager.hear_until("RELOADING=1")[-1]
                manager.hear_until("READY=1")
                assert reload.split("\n")[1].startswith("MONOTONIC_USEC=")
            code, _ = server.stop()
            manager.hear_until("STOPPING=1")
        finally:
            server.kill()

    assert ready[-1] == "READY=1"
    assert answer in allowed
    assert code == 0
