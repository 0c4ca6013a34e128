"""Workers are replaced while clients ask: nobody is refused, and every answer is counted."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients import read_response
from tests.integration.workers import KEPT, WHO, Workers, serving
from tests.requests import HANDSHAKE
from tests.sockets import read_to_end

pytestmark = [pytest.mark.slow, pytest.mark.one_loop]

VERSION = """
import os

def app(env):
    return 200, {{}}, "{version}"
"""


class Load:
    """Clients that ask without end, and never ask twice.

    Args:
        address: a port, or the path of a unix socket.

    Attributes:
        answers: how often each body came.
        failures: what was not answered.
        connections: how many there were.
    """

    def __init__(self, address: int | str) -> None:
        self._address = address
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.connections = 0
        self._over = False

    async def _ask_on_one(self, keep: bool) -> None:
        """Asks on one connection, as long as it is kept."""
        self.connections += 1
        if isinstance(self._address, str):
            reader, writer = await asyncio.open_unix_connection(self._address)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._address)
        try:
            while not self._over:
                writer.write(KEPT)
                _, fields, body = await read_response(reader)
                self.answers[body.decode()] += 1
                if not keep or fields.get("connection") == "close":
                    break
                await asyncio.sleep(0)
        finally:
            writer.transport.abort()

    async def _ask(self, keep: bool) -> None:
        while not self._over:
            try:
                await self._ask_on_one(keep)
            except (OSError, EOFError) as error:
                self.failures.append(repr(error))

    async def more(self, number: int) -> None:
        """Waits until so many answers more have come."""
        enough = self.answers.total() + number
        while self.answers.total() < enough:
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Asks meanwhile: half of the clients on one connection, half on a new one each time."""
        tasks = [asyncio.create_task(self._ask(number % 2 == 0)) for number in range(8)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.gather(*tasks)


async def restart(server: Workers, number: int = signal.SIGHUP) -> None:
    server.signal(number)
    await asyncio.to_thread(server.read_until, "workers were restarted")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
async def test_rolling_restart_fails_no_request_and_loads_new_code(tmp_path: Path, number: int):
    """Clients that keep connections alive and never retry get every answer."""
    with serving(tmp_path, VERSION.format(version="old"), "-w", "2") as server:
        load = Load(server.port)
        before = server.workers()
        async with load.running():
            await load.more(20)
            server.write(VERSION.format(version="brand new"))
            await restart(server, number)
            between = server.workers()
            await load.more(200)
            await restart(server, number)
        after = server.workers()
        last = server.ask()
        code, lines = server.stop()

    assert load.failures == []
    assert load.answers["old"] > 0
    assert load.answers["brand new"] > 0
    assert last == "brand new"
    assert len(before) == len(between) == len(after) == 2
    assert not before & between
    assert not between & after
    assert (code, lines) == (0, ["2 workers were restarted\n"] * 2)


async def test_five_restarts_under_load(tmp_path: Path):
    """Ten workers come and go within 20,000 requests."""
    with serving(tmp_path, WHO, "-w", "2") as server:
        load = Load(server.port)
        async with load.running():
            for _ in range(5):
                await restart(server)
            await load.more(20_000 - load.answers.total())
        code, _ = server.stop()

    assert load.failures == []
    assert len(load.answers) == 12
    assert code == 0


async def test_restarts_fail_no_request_at_a_unix_socket(tmp_path: Path):
    """All workers accept from one; those that come and go leave nobody waiting."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        with serving(tmp_path, WHO, "-w", "2", "-b", f"unix:{path}") as server:
            load = Load(path)
            async with load.running():
                for _ in range(3):
                    await load.more(500)
                    await restart(server)
                await load.more(500)
            code, _ = server.stop()

    assert load.failures == []
    assert len(load.answers) == 8
    assert code == 0


def ask(sock: socket.socket) -> bytes:
    """One answer on a connection that goes on."""
    sock.sendall(KEPT)
    answer = b""
    while not answer.partition(b"\r\n\r\n")[2]:
        data = sock.recv(4096)
        assert data
        answer += data
    return answer


def test_idle_connection_is_asked_to_close_when_it_asks(tmp_path: Path):
    """The old worker answers it, and says so: a client that never retries loses nothing."""
    with serving(tmp_path, WHO, "-w", "2") as server, server.connect() as idle:
        first = ask(idle)
        server.signal(signal.SIGHUP)
        worker = int(first.rpartition(b"\r\n")[2])
        # Its successor is there, and it accepts no more.
        server.until(lambda: len(server.workers()) == 3 and not _listens(worker))
        second = ask(idle)
        rest = read_to_end(idle)
        server.read_until("workers were restarted")
        code, lines = server.stop()

    assert b"Connection: close" not in first
    assert b"\r\nConnection: close\r\n" in second
    assert second.endswith(str(worker).encode())
    assert rest == b""
    assert (code, len(lines)) == (0, 1)


def _listens(pid: int) -> bool:
    """True if a process has any of the listening sockets open."""
    with open("/proc/net/tcp") as table:
        inodes = {line.split()[9] for line in table if line.split()[3] == "0A"}
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return any(f"socket:[{inode}]" in found for inode in inodes)


async def test_websocket_is_closed_with_1001_and_opened_again(tmp_path: Path):
    """Its client finds the new worker at once."""
    text = """
    import os

    class Greeting:
        def on_open(self):
            self.write(f"{os.getpid():08}")

    def app(env):
        env["upgrade.websocket"] = Greeting
        return 101, {}, ""
    """

    async def open_one(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer, int((await reader.readexactly(10))[2:])

    with serving(tmp_path, text, "-w", "2") as server:
        reader, writer, old = await open_one(server.port)
        server.signal(signal.SIGHUP)
        goodbye = await reader.readexactly(4)
        writer.close()
        _, other, new = await open_one(server.port)
        other.close()  # the other old worker's, perhaps, who waits for its client's goodbye
        await asyncio.to_thread(server.read_until, "workers were restarted")
        code, _ = server.stop()

    assert goodbye == b"\x88\x02\x03\xe9"
    assert old != new
    assert code == 0


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_hundred_restarts_under_load(tmp_path: Path):
    """Of all of them, no request fails."""
    with serving(tmp_path, WHO, "-w", "2") as server:
        load = Load(server.port)
        async with load.running():
            for _ in range(100):
                await restart(server)
        code, _ = server.stop()

    assert load.failures == []
    assert code == 0


def test_connection_idle_for_too_long_is_closed(tmp_path: Path):
    """An old worker does not wait for ever."""
    with (
        serving(tmp_path, WHO, "-w", "2", "--drain-timeout", "0.2") as server,
        server.connect() as idle,
    ):
        ask(idle)
        server.signal(signal.SIGHUP)
        rest = read_to_end(idle)
        server.read_until("workers were restarted")
        code, _ = server.stop()

    assert rest == b""
    assert code == 0


def test_stop_overtakes_a_drain(tmp_path: Path):
    """SIGTERM closes what a rolling restart had left open."""
    words = ("-w", "2", "--drain-timeout", "600")
    with serving(tmp_path, WHO, *words) as server, server.connect() as idle:
        worker = int(ask(idle).rpartition(b"\r\n")[2])
        server.signal(signal.SIGHUP)
        server.until(lambda: len(server.workers()) == 3 and not _listens(worker))
        code, lines = server.stop()
        rest = read_to_end(idle)

        assert rest == b""
        assert (code, lines) == (0, [])
        assert not server.has_orphans()


@pytest.mark.parametrize("text", ["1 / 0", "def app(env, b, c, d): ...", "import os; os._exit(9)"])
def test_code_that_cannot_be_loaded_replaces_nothing(tmp_path: Path, text: str):
    """The old workers go on, and one entry says why; what is mended is loaded."""
    with serving(tmp_path, VERSION.format(version="old"), "-w", "2") as server:
        before = server.workers()
        server.write(text)
        server.signal(signal.SIGHUP)
        entry = server.read_until("no restart, the old workers go on: ")
        between = server.workers()
        answer = server.ask()
        server.write(VERSION.format(version="mended"))
        server.signal(signal.SIGHUP)
        server.read_until("workers were restarted")
        mended = server.ask()
        code, lines = server.stop()

    assert (answer, between) == ("old", before)
    assert mended == "mended"
    assert code == 0
    assert lines == [entry, "2 workers were restarted\n"]


def test_workers_come_and_go_by_signals(tmp_path: Path):
    """TTIN adds one, TTOU takes one away; the last one stays."""
    with serving(tmp_path, WHO, "-w", "2") as server:
        before = server.workers()
        server.signal(signal.SIGTTIN)
        server.until(lambda: len(server.workers()) == 3)
        third = (server.workers() - before).pop()
        server.until(lambda: int(server.ask()) == third)
        for expected in (2, 1):
            server.signal(signal.SIGTTOU)
            server.until(lambda expected=expected: len(server.workers()) == expected)
        server.signal(signal.SIGTTOU)
        answers = {int(server.ask()) for _ in range(40)}
        last = server.workers()
        code, lines = server.stop()

    assert answers == last
    assert len(last) == 1
    assert code == 0
    assert lines == [f"{count} workers from now on\n" for count in (3, 2, 1)]


# Begins when there is no file "wait", and dies where there is one "broken".
SLOW = """
import os, time
import iodine_aio

class Greeting:
    def on_open(self):
        self.write(str(os.getpid()))
        self.close()

while os.path.exists("wait"):
    open("waiting", "a").close()
    time.sleep(0.01)
if os.path.exists("broken"):
    os._exit(1)

iodine_aio.listen({port}, Greeting)

def app(env):
    return 200, {{}}, str(os.getpid())
"""


def ask_raw(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        return int(read_to_end(sock))


def test_worker_goes_while_no_other_serves_yet(tmp_path: Path):
    """Its sockets go to the one that begins, of all listeners, and no client waits in vain."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tmp_path, SLOW.format(port=port), "-w", "2") as server:
        (tmp_path / "wait").touch()
        os.kill(min(server.workers()), signal.SIGKILL)
        server.until((tmp_path / "waiting").exists)
        server.signal(signal.SIGTTOU)
        server.read_until("1 workers from now on")
        server.until(lambda: server.count() == 1)
        (tmp_path / "wait").unlink()
        answers = {int(server.ask()) for _ in range(40)} | {ask_raw(port) for _ in range(40)}
        last = server.workers()
        code, _ = server.stop()

    assert answers == last
    assert code == 0


def test_keeper_that_dies_again_and_again_hands_its_sockets_on(tmp_path: Path):
    """Those of places that were removed before, too: the worker that is left serves all."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tmp_path, SLOW.format(port=port), "-w", "3") as server:
        keeper, survivor, _ = sorted(server.workers())
        server.signal(signal.SIGTTOU)
        server.until(lambda: server.count() == 2)
        (tmp_path / "broken").touch()
        os.kill(keeper, signal.SIGKILL)
        for _ in range(2):  # the second one comes late: its place is empty from now on
            server.read_until("no new worker: ")
        answers = {int(server.ask()) for _ in range(40)} | {ask_raw(port) for _ in range(40)}
        server.stop()

    assert answers == {survivor}


async def test_no_request_fails_while_workers_come_and_go(tmp_path: Path):
    """The sockets of a slot that goes are kept by another worker, and given back."""
    with serving(tmp_path, WHO, "-w", "3") as server:
        load = Load(server.port)
        async with load.running():
            for _ in range(4):
                for number, count in ((signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
                    server.signal(number)
                    await asyncio.to_thread(server.until, lambda c=count: server.count() == c)
                for number, count in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3)):
                    server.signal(number)
                    await asyncio.to_thread(server.until, lambda c=count: server.count() == c)
                await restart(server)
        code, _ = server.stop()

    assert load.failures == []
    assert code == 0


async def test_worker_is_replaced_after_its_number_of_requests(tmp_path: Path):
    """And up to a tenth more; nobody notices."""
    with serving(tmp_path, WHO, "-w", "2", "--max-requests", "100") as server:
        load = Load(server.port)
        async with load.running():
            while len(load.answers) < 6:
                await asyncio.sleep(0.01)
        code, lines = server.stop()

    assert load.failures == []
    assert min(count for _, count in load.answers.most_common()[:-2]) >= 100
    assert code == 0
    assert all("is replaced: it has served its number of requests" in line for line in lines)


def test_worker_that_grew_is_replaced(tmp_path: Path):
    """It says how much memory it has."""
    text = """
    import os

    kept = []

    def app(env):
        if env["PATH_INFO"] == "/grow":
            kept.append(b"x" * (100 << 20))
        return 200, {}, str(os.getpid())
    """
    words = ("-w", "2", "--max-rss", "100", "--worker-timeout", "4")
    with serving(tmp_path, text, *words) as server:
        grown = int(server.ask("/grow"))
        entry = server.read_until("is replaced: it has grown to 1")
        server.until(lambda: grown not in server.workers())
        code, _ = server.stop()

    assert entry.startswith(f"worker {grown} ")
    assert code == 0


def test_preloaded_app_is_imported_once(tmp_path: Path):
    """By the parent, before the fork; a restart keeps it."""
    text = """
    import os

    importer = os.getpid()

    def app(env):
        return 200, {}, str(importer)
    """
    with serving(tmp_path, text, "-w", "2", "--preload") as server:
        first = {int(server.ask()) for _ in range(10)}
        server.signal(signal.SIGHUP)
        server.read_until("workers were restarted")
        second = {int(server.ask()) for _ in range(10)}
        code, _ = server.stop()

    assert first == second == {server.pid}
    assert code == 0


@pytest.mark.parametrize("seed", range(3))
def test_storm_of_signals_has_one_clean_outcome(tmp_path: Path, seed: int):
    """200 of all kinds, a stop among them: exit code 0, and no process is left."""
    rng = random.Random(seed)
    kinds = [signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU]
    with serving(tmp_path, WHO, "-w", "2", "--drain-timeout", "0.2") as server:
        for number in range(200):
            kind = signal.SIGTERM if number == 150 else rng.choice(kinds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, kind) if rng.random() < 0.5 else server.signal(kind)
        code = server.wait()

        assert code == 0
        assert not server.has_orphans()
        assert not [line for line in server.lines if "Traceback" in line]
