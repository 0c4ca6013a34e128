"""Several processes serve: who answers, who starts, who ends, and what is said of it."""

import errno
import fcntl
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from iodine_aio.supervisor import _pid_file
from tests.integration.redis_server import PROGRAM, RedisServer
from tests.integration.workers import GET, KEPT, WHO, Workers, serving
from tests.sockets import read_to_end

pytestmark = pytest.mark.slow


def ask_at(address: object, family: int = socket.AF_INET) -> str:
    """What a new connection to that address is answered."""
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(address)
        sock.sendall(GET)
        return read_to_end(sock).partition(b"\r\n\r\n")[2].decode()


def refuse_to_start(folder: Path, text: str, *words: str) -> tuple[int, list[str]]:
    """Exit code and lines of a server that does not begin."""
    server = Workers(folder, text, *words)
    try:
        code = server.wait()
        assert not server.has_orphans()
    finally:
        server.kill()
    return code, server.lines


# ---- serving ----


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


def test_number_of_workers_may_come_from_the_platform(tmp_path: Path):
    """$WEB_CONCURRENCY counts where -w is not given."""
    with serving(tmp_path, WHO, WEB_CONCURRENCY="3") as server:
        first = server.count()
        server.stop()
    with serving(tmp_path, WHO, "-w", "2", WEB_CONCURRENCY="3") as server:
        second = server.count()
        server.stop()

    assert (first, second) == (3, 2)


def test_app_is_told_that_it_is_one_of_several(tmp_path: Path):
    """`wsgi.multiprocess`."""
    text = "def app(env):\n    return 200, {}, repr(env['wsgi.multiprocess'])\n"
    with serving(tmp_path, text, "-w", "2") as server:
        several = server.ask()
    with serving(tmp_path, text) as server:
        alone = server.ask()

    assert (several, alone) == ("True", "False")


def test_workers_share_no_chance(tmp_path: Path):
    """Neither ids of connections nor random numbers are the same in two workers."""
    text = """
    import os, random, uuid
    import iodine_aio

    first = random.random()

    class Greeting(iodine_aio.Protocol):
        def on_open(self):
            self.write(f"{os.getpid()} {self.id} {random.random()} {uuid.uuid4()}\\n")
            self.close()

    iodine_aio.listen(0, Greeting)

    def app(env):
        return 200, {}, ""
    """
    with serving(tmp_path, text, "-w", "3", "--preload") as server:
        lines = []
        for _ in range(60):
            with socket.create_connection(("127.0.0.1", server.raw_port), timeout=20) as sock:
                lines.append(read_to_end(sock).decode().split())
        server.stop()

    assert len({pid for pid, *_ in lines}) == 3
    for column in (1, 2, 3):
        assert len({line[column] for line in lines}) == 60
    assert max(int(line[1]) for line in lines) < 2**53


def test_listeners_of_the_app_are_opened_once_for_all(tmp_path: Path):
    """`listen()` in a module that each worker imports: the parent opens, and the port is one."""
    text = """
    import os
    import iodine_aio

    class Greeting:
        def on_open(self):
            self.write(str(os.getpid()))
            self.close()

    with open("port") as file:
        iodine_aio.listen(int(file.read()), Greeting)

    def app(env):
        return 200, {}, ""
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "port").write_text(str(port))
    with serving(tmp_path, text, "-w", "2") as server:
        answers = set()
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
                answers.add(int(read_to_end(sock)))
        workers = server.workers()
        code, lines = server.stop()

    assert answers == workers
    assert (code, lines) == (0, [])


def test_listener_that_new_code_does_not_have_is_closed(tmp_path: Path):
    """After a restart its clients are refused, and do not wait for nobody."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = f"import iodine_aio\niodine_aio.listen({port}, object)\n{WHO}"
    with serving(tmp_path, text, "-w", "2") as server:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
        server.write(WHO + "# without\n")
        server.signal(signal.SIGHUP)
        server.read_until("workers were restarted")

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=20)


# ---- beginning ----


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("1 / 0", 3, "importing 'app.py' failed: ZeroDivisionError"),
        ("app = 7", 3, "is of type int, not callable"),
        ("def app(a, b, c, d): ...", 3, "takes 4 arguments, an app takes one"),
        ("import os; os._exit(9)", 5, "ended with exit code 9 before it was ready"),
        ("import os; os.kill(os.getpid(), 9)", 5, "was ended by SIGKILL before it was ready"),
        (
            "import iodine_aio\n"
            "def app(env): ...\n"
            "iodine_aio.on_state('on_start', lambda: 1 / 0)\n",
            5,
            "a hook of on_start raised ZeroDivisionError",
        ),
        (
            "import iodine_aio\ndef app(env): ...\niodine_aio.listen('192.0.2.1:3000', object)\n",
            4,
            "cannot listen on 192.0.2.1:3000",
        ),
    ],
)
@pytest.mark.parametrize("words", [["-w", "2"], ["-w", "2", "--preload"]])
def test_server_whose_workers_cannot_start_does_not(
    tmp_path: Path, text: str, code: int, message: str, words: list[str]
):
    """One line with the cause, and the exit code of one process."""
    if "_exit" in text or "os.kill" in text:
        words = words[:2]  # would be the end of the parent
    ended, lines = refuse_to_start(tmp_path, text, *words)

    assert ended == code
    assert len(lines) == 1
    assert lines[0].startswith("iodine_aio: ")
    assert message in lines[0]


def test_busy_address_shows_before_the_app_is_imported(tmp_path: Path):
    """Of another server with workers, too, although its sockets share their port."""
    with serving(tmp_path, WHO, "-w", "2") as server:
        folder = tmp_path / "other"
        folder.mkdir()
        code, lines = refuse_to_start(folder, "1 / 0", "-w", "2", "-b", f"127.0.0.1:{server.port}")

        assert code == 4
        assert len(lines) == 1
        assert "address already in use" in lines[0]


def test_stop_while_workers_start_is_clean(tmp_path: Path):
    """SIGTERM ends workers that are still importing."""
    text = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"
    server = Workers(tmp_path, "import sys\nsys.stdout = sys.stderr\n" + text, "-w", "2")
    try:
        server.read_until("importing")
        server.signal(signal.SIGTERM)
        code = server.wait()

        assert code == 0
        assert not server.has_orphans()
    finally:
        server.kill()


# ---- dying ----


def test_killed_worker_is_replaced_at_once(tmp_path: Path):
    """The others serve meanwhile, and who waited for the dead one is served by the next."""
    with serving(tmp_path, WHO, "-w", "2") as server:
        before = server.workers()
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        answers = {int(server.ask()) for _ in range(40)}
        server.until(lambda: server.count() == 2)
        after = server.workers()
        code, lines = server.stop()

    assert victim not in answers
    assert len(after - before) == 1
    assert lines == [f"worker {victim} was ended by SIGKILL; another takes its place\n"]
    assert code == 0


def test_worker_that_dies_again_and_again_is_replaced_ever_later(tmp_path: Path):
    """Its clients are served by the others, and the log stays short."""
    text = """
    import os, sys

    if os.path.exists("broken"):
        sys.stdout = sys.stderr
        os._exit(1)
    """
    with serving(tmp_path, text + WHO.replace("\n", "\n    "), "-w", "2") as server:
        (tmp_path / "broken").touch()
        victim = min(server.workers())
        survivor = max(server.workers())
        os.kill(victim, signal.SIGKILL)
        server.read_until("no new worker: ")
        begin = time.monotonic()
        answers = Counter(int(server.ask()) for _ in range(40))
        server.read_until("no new worker: ")
        server.read_until("no new worker: ")
        seconds = time.monotonic() - begin
        (tmp_path / "broken").unlink()
        server.until(lambda: server.count() == 2)
        server.until(lambda: int(server.ask()) != survivor)
        code, _ = server.stop()

    assert answers == {survivor: 40}
    assert seconds > 1
    assert code == 0


def test_workers_end_when_their_parent_was_killed(tmp_path: Path):
    """Within 2 seconds, though clients are connected; the port is free."""
    with serving(tmp_path, WHO, "-w", "2") as server, server.connect() as idle:
        idle.sendall(KEPT)
        idle.recv(4096)
        begin = time.monotonic()
        server.signal(signal.SIGKILL)
        server.until(lambda: not _group_lives(server))
        seconds = time.monotonic() - begin
        with socket.create_server(("127.0.0.1", server.port)):
            pass

        assert seconds < 2
        assert read_to_end(idle) == b""


SLOW_TO_COME = """
import os, pathlib, time

if pathlib.Path("slow").exists():
    os.write(2, b"imports\\n")
    time.sleep(600)

def app(env):
    if env["PATH_INFO"] == "/hang":
        os.write(2, b"hangs\\n")
        time.sleep(600)
    return 200, {}, "here"
"""


@pytest.mark.parametrize("busy", ["imports", "hangs"])
def test_workers_that_do_not_answer_end_when_their_parent_was_killed(tmp_path: Path, busy: str):
    """Within 2 seconds, though one still imports its app, or its app holds the loop."""
    with serving(tmp_path, SLOW_TO_COME, "-w", "2") as server, server.connect() as client:
        if busy == "imports":
            (tmp_path / "slow").touch()
            server.signal(signal.SIGHUP)
        else:
            client.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
        server.read_until(busy)
        begin = time.monotonic()
        server.signal(signal.SIGKILL)
        server.until(lambda: not _group_lives(server))

        assert time.monotonic() - begin < 3


def _group_lives(server: Workers) -> bool:
    """True if a process of the group is more than a zombie."""
    done = subprocess.run(
        ["ps", "-o", "stat=", "-g", str(server.pid)], capture_output=True, text=True, check=False
    )
    return any(not state.startswith("Z") for state in done.stdout.split())


HANGING = """
import os, time

def app(env):
    if env["PATH_INFO"] == "/hang":
        os.write(2, b"called\\n")
        time.sleep(600)
    return 200, {}, str(os.getpid())
"""


def test_worker_that_hangs_is_killed_and_replaced(tmp_path: Path):
    """Its loop said nothing for --worker-timeout seconds."""
    words = ("-w", "2", "--worker-timeout", "2")
    with serving(tmp_path, HANGING, *words) as server, server.connect() as sock:
        before = server.workers()
        sock.sendall(GET.replace(b"/", b"/hang", 1))
        entry = server.read_until("its loop stood still for 2.")
        rest = read_to_end(sock)
        victim = int(entry.split()[1])
        server.until(lambda: server.count() == 2 and victim not in server.workers())
        code, lines = server.stop()

    assert rest == b""
    assert victim in before
    assert code == 0
    assert f"worker {victim} was ended by SIGKILL; another takes its place\n" in lines


def test_worker_that_is_told_to_end_is_replaced(tmp_path: Path):
    """SIGTERM to one worker: it finishes what it has begun."""
    text = """
    import asyncio, os

    async def app(env):
        os.write(2, b"called %d\\n" % os.getpid())
        await asyncio.sleep(0.5)
        return 200, {}, str(os.getpid())
    """
    with serving(tmp_path, text, "-w", "2") as server, server.connect() as sock:
        sock.sendall(GET)
        pid = int(server.read_until("called").split()[1])
        os.kill(pid, signal.SIGTERM)
        answer = read_to_end(sock)
        server.until(lambda: server.count() == 2 and pid not in server.workers())
        code, _ = server.stop()

    assert answer.endswith(str(pid).encode())
    assert code == 0


# ---- stopping ----


SLOW = """
import asyncio, os
import iodine_aio

iodine_aio.on_state("start_shutdown", lambda: os.write(2, b"stopping\\n"))

async def app(env):
    os.write(2, b"called\\n")
    await asyncio.sleep(float(env["QUERY_STRING"]))
    return 200, {}, "late"
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_by_all_workers(tmp_path: Path, number: int):
    """Ctrl-C reaches every process of a terminal: the workers leave that to their parent."""
    with serving(tmp_path, SLOW, "-w", "2") as server, ExitStack() as stack:
        sockets = [stack.enter_context(server.connect()) for _ in range(6)]
        for sock in sockets:
            sock.sendall(KEPT.replace(b"/", b"/?0.5", 1))
        for _ in sockets:
            server.read_until("called")
        os.killpg(server.pid, number) if number == signal.SIGINT else server.signal(number)
        answers = [read_to_end(sock) for sock in sockets]
        code = server.wait()

        assert all(b"\r\nConnection: close\r\n" in answer for answer in answers)
        assert all(answer.endswith(b"late") for answer in answers)
        assert code == 0
        assert not server.has_orphans()


def test_second_signal_forces_all_workers(tmp_path: Path):
    """Whoever presses Ctrl-C twice does not want to wait."""
    words = ("-w", "2", "--stop-timeout", "600")
    with serving(tmp_path, SLOW, *words) as server, server.connect() as sock:
        sock.sendall(KEPT.replace(b"/", b"/?600", 1))
        server.read_until("called")
        server.signal(signal.SIGINT)
        server.read_until("stopping")
        server.signal(signal.SIGINT)
        code = server.wait()

        assert code == 0
        assert not server.has_orphans()


def test_worker_that_hangs_does_not_hold_up_a_stop(tmp_path: Path):
    """It is killed soon after the deadline."""
    words = ("-w", "2", "--stop-timeout", "0.2")
    with serving(tmp_path, HANGING, *words) as server, server.connect() as sock:
        sock.sendall(GET.replace(b"/", b"/hang", 1))
        server.read_until("called")
        begin = time.monotonic()
        code, lines = server.stop()
        seconds = time.monotonic() - begin

        assert code == 0
        assert seconds < 6
        assert [line for line in lines if "was killed: it had not ended in time" in line]
        assert not server.has_orphans()


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_hang_up_of_a_terminal(tmp_path: Path, words: list[str]):
    """One process ends gracefully; nohup's are left alone; with workers it is a restart."""
    with serving(tmp_path, WHO, *words) as server:
        before = server.workers()
        server.signal(signal.SIGHUP)
        if words:
            server.read_until("workers were restarted")
            assert not before & server.workers()
            server.signal(signal.SIGTERM)
        code = server.wait()

        assert code == 0
        assert ("SIGHUP ends a process that serves alone" in "".join(server.lines)) == (not words)


def test_nohup_keeps_one_process_alive(tmp_path: Path):
    """A SIGHUP that was ignored before is ignored still."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = Workers(tmp_path, WHO)
    finally:
        signal.signal(signal.SIGHUP, previous)
    try:
        server.wait_until_ready()
        server.signal(signal.SIGHUP)
        answer = server.ask()
        code, _ = server.stop()
    finally:
        server.kill()

    assert answer == str(server.pid)
    assert code == 0


def test_one_process_has_nothing_to_restart(tmp_path: Path):
    """SIGUSR1 says so, and it goes on."""
    with serving(tmp_path, WHO) as server:
        server.signal(signal.SIGUSR1)
        server.read_until("SIGUSR1 restarts workers, and there are none: add -w N; said once")
        server.signal(signal.SIGUSR1)
        answer = server.ask()
        code, lines = server.stop()

    assert answer == str(server.pid)
    assert code == 0
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("signal.signal(signal.SIGUSR1, lambda *_: os.write(2, b'ours\\n'))", "ours"),
        ("faulthandler.register(signal.SIGUSR1)", "most recent call first"),
    ],
)
def test_app_has_the_restart_signal_that_it_claims(tmp_path: Path, claim: str, said: str):
    """Where one process serves."""
    with serving(tmp_path, f"import faulthandler, os, signal\n{claim}\n{WHO}") as server:
        server.signal(signal.SIGUSR1)
        server.read_until(said)
        answer = server.ask()
        code, lines = server.stop()

    assert answer == str(server.pid)
    assert code == 0
    assert not [line for line in lines if "SIGUSR1" in line]


# ---- what the parent does beside ----


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_pid_file_is_there_as_long_as_the_server(tmp_path: Path, words: list[str]):
    """With the id of the one to send signals to; an old one is replaced."""
    path = tmp_path / "server.pid"
    path.write_text("1\n")
    with serving(tmp_path, WHO, *words, "--pid-file", str(path)) as server:
        text = path.read_text()
        code, _ = server.stop()

    assert text == f"{server.pid}\n"
    assert not path.exists()
    assert code == 0


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_pid_file_that_cannot_be_written_is_one_line(tmp_path: Path, words: list[str]):
    """And exit code 5."""
    code, lines = refuse_to_start(tmp_path, WHO, *words, "--pid-file", "missing/server.pid")

    assert code == 5
    assert lines == [
        "iodine_aio: pid file 'missing/server.pid' cannot be written: No such file or directory\n"
    ]


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_pid_file_of_a_server_that_runs_is_left_to_it(tmp_path: Path, words: list[str]):
    """The second one says whose it is."""
    path = tmp_path / "server.pid"
    with serving(tmp_path, WHO, *words, "--pid-file", str(path)) as server:
        code, lines = refuse_to_start(tmp_path, WHO, *words, "--pid-file", str(path))
        text = path.read_text()

    assert code == 5
    assert lines == [
        f"iodine_aio: pid file {str(path)!r} is of a server that runs, pid {server.pid}:"
        " stop it, or choose another file\n"
    ]
    assert text == f"{server.pid}\n"


def test_pid_file_of_a_killed_server_holds_up_nobody(tmp_path: Path):
    """Though its workers live for a moment: it was the parent's."""
    path = tmp_path / "server.pid"
    with serving(tmp_path, WHO, "-w", "2", "--pid-file", str(path)) as server:
        for worker in server.workers():
            os.kill(worker, signal.SIGSTOP)  # so that they are there for sure
        os.kill(server.pid, signal.SIGKILL)
        server.popen.wait(10)
        with serving(tmp_path, WHO, "--pid-file", str(path)) as another:
            text = path.read_text()
            another.stop()

    assert text == f"{another.pid}\n"


def test_pid_file_that_cannot_be_locked_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Some file systems have no locks."""

    def lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lock)
    path = tmp_path / "server.pid"
    with _pid_file(str(path)):
        text = path.read_text()

    assert text == f"{os.getpid()}\n"
    assert "No locks available" in caplog.text


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_url_that_redis_does_not_know_ends_the_start(tmp_path: Path, words: list[str]):
    """With its cause, and once."""
    code, lines = refuse_to_start(tmp_path, WHO, "-q", *words, "--redis", "redis://a?foo=1")

    assert code == 5
    assert len([line for line in lines if "the URL of Redis is malformed" in line]) == 1
    assert not [line for line in lines if "Traceback" in line]


def test_flags_that_replace_workers_need_some(tmp_path: Path):
    """Without any they do nothing, and say so."""
    with serving(tmp_path, WHO, "--max-requests", "5", "--max-rss", "100") as server:
        server.stop()

    assert [line for line in server.lines if "replaces workers" in line] == [
        "--max-requests replaces workers, and there are none: add -w N\n",
        "--max-rss replaces workers, and there are none: add -w N\n",
    ]


HOOKS = """
import os
import iodine_aio

kind = {"first": os.getpid()}

def note(state):
    with open("states", "a") as file:
        file.write(("parent" if os.getpid() == kind["first"] else "worker") + " " + state + "\\n")

async def note_async(state):
    note(state)

for state in (
    "pre_start before_fork after_fork enter_child enter_master on_start on_parent_crush"
    " on_child_crush start_shutdown on_finish"
).split():
    iodine_aio.on_state(state, lambda state=state: note(state))
iodine_aio.on_state("before_fork", lambda: note_async("async before_fork"))

def app(env):
    return 200, {}, str(os.getpid())
"""


def test_hooks_are_called_in_both_kinds_of_process(tmp_path: Path):
    """Where the parent knows them: each in the process whose state it is."""
    with serving(tmp_path, HOOKS, "-w", "2", "--preload") as server:
        os.kill(min(server.workers()), signal.SIGKILL)
        server.read_until("another takes its place")
        server.until(lambda: _states(tmp_path).count("worker on_start") == 3)
        code, _ = server.stop()
    states = Counter(_states(tmp_path))

    assert code == 0
    assert states == {
        "parent pre_start": 1,
        "parent before_fork": 3,
        "parent async before_fork": 3,
        "parent after_fork": 3,
        "worker after_fork": 3,
        "worker enter_child": 3,
        "parent enter_master": 1,
        "worker on_start": 3,
        "parent on_child_crush": 1,
        "parent start_shutdown": 1,
        "worker start_shutdown": 2,
        "worker on_finish": 2,
        "parent on_finish": 1,
    }


def test_workers_are_told_of_the_death_of_their_parent(tmp_path: Path):
    """`on_parent_crush`; what the parent does not know is called in the workers alone."""
    with serving(tmp_path, HOOKS, "-w", "2") as server:
        server.signal(signal.SIGKILL)
        server.until(lambda: not _group_lives(server))
    states = Counter(_states(tmp_path))

    # Each worker imported the module: each is the first to itself.
    assert states == {
        f"parent {state}": 2
        for state in ("pre_start", "on_start", "on_parent_crush", "start_shutdown", "on_finish")
    }


def _states(folder: Path) -> list[str]:
    return (folder / "states").read_text().splitlines()


EMBEDDED = """
import atexit, os, sys
import iodine_aio

print("begins", flush=True)
atexit.register(lambda: print("exit of", os.getpid(), flush=True))

class Page:
    def call(self, env):
        return 200, {{}}, str(os.getpid())

{run}
print("returned", type(server).__name__, server.running, server.url, flush=True)
"""


@pytest.mark.parametrize(
    "run",
    [
        "server = iodine_aio.run(Page(), port=0, workers=2)",
        "iodine_aio.workers = 2; server = iodine_aio.run(Page(), port=0)",
        "iodine_aio.processes = 2; server = iodine_aio.run(Page(), port=0)",
    ],
)
def test_program_forks_with_the_app_that_it_was_given(tmp_path: Path, run: str):
    """Only the parent comes back from `run`, and does what it wanted done at its exit."""
    path = tmp_path / "program.py"
    path.write_text(EMBEDDED.format(run=run))
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            banner = process.stderr.readline()
            port = int(re.findall(r"127.0.0.1:(\d+)", banner)[0])
            answers = {ask_at(("127.0.0.1", port)) for _ in range(40)}
        finally:
            process.terminate()
        out, err = process.communicate(timeout=20)

    assert len(answers) == 2
    assert str(process.pid) not in answers
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [
        "begins",
        f"returned Server False http://127.0.0.1:{port}",
        f"exit of {process.pid}",
    ]


def test_message_reaches_the_subscribers_of_other_workers(tmp_path: Path):
    """Published by one process, heard in both."""
    text = """
    import os
    import iodine_aio

    class Listener(iodine_aio.Protocol):
        def on_open(self):
            self.subscribe("news")
            self.write(f"{os.getpid()}\\n")

    iodine_aio.listen(0, Listener)

    def app(env):
        said = "probe" if env["PATH_INFO"] == "/probe" else f"from {os.getpid()}"
        iodine_aio.publish("news", f"{said}\\n")
        return 200, {}, str(os.getpid())
    """
    with serving(tmp_path, text, "-w", "2", "--preload") as server, ExitStack() as stack:
        listeners = []
        address = ("127.0.0.1", server.raw_port)
        while len({pid for pid, _ in listeners}) < 2:
            sock = stack.enter_context(socket.create_connection(address, timeout=20))
            lines = sock.makefile()
            listeners.append((lines.readline(), lines))

        def all_hear() -> bool:
            server.ask("/probe")
            return len(select.select([lines for _, lines in listeners], [], [], 0)[0]) == len(
                listeners
            )

        server.until(all_hear)  # what a worker listens to reaches the others after a while
        publishers = [server.ask() for _ in range(10)]
        heard = [
            list(itertools.islice((line for line in lines if line != "probe\n"), 10))
            for _, lines in listeners
        ]
        code, errors = server.stop()

    for received in heard:
        assert sorted(received) == sorted(f"from {pid}\n" for pid in publishers)
    assert (code, errors) == (0, [])


CHANNELS = """
import os
import iodine_aio

class Listener(iodine_aio.Protocol):
    def on_open(self):
        self.subscribe("news")
        self.write("begins\\n")

iodine_aio.listen(0, Listener)

def app(env):
    if env["QUERY_STRING"]:
        iodine_aio.publish("news", env["QUERY_STRING"] + "\\n")
    return 200, {}, str(os.getpid())
"""


@pytest.mark.skipif(PROGRAM is None, reason="redis-server is not on PATH")
def test_servers_with_workers_share_a_redis(tmp_path: Path):
    """Each has one bridge, which is replaced when it dies, and ends last."""
    other = tmp_path / "other"
    other.mkdir()
    with RedisServer(tmp_path) as redis:
        words = ("-w", "2", "--preload", "--redis", redis.url)
        with serving(tmp_path, CHANNELS, *words) as one, serving(other, CHANNELS, *words) as two:
            address = ("127.0.0.1", two.raw_port)
            with socket.create_connection(address, timeout=20) as sock, sock.makefile() as lines:
                heard = [lines.readline()]
                one.until(lambda: redis.listeners("news") == 1)
                one.ask("/?first")
                heard.append(lines.readline())
                two.ask("/?second")
                heard.append(lines.readline())
                (bridge,) = two.workers() - _all_workers(two)
                os.kill(bridge, signal.SIGKILL)
                two.read_until("the bridge to Redis has ended; another takes its place")
                two.until(lambda: redis.listeners("news") == 0)
                two.until(lambda: redis.listeners("news") == 1)
                one.ask("/?third")
                heard.append(lines.readline())
            ends = [one.stop(), two.stop()]

            assert heard == ["begins\n", "first\n", "second\n", "third\n"]
            assert [code for code, _ in ends] == [0, 0]
            assert not one.has_orphans()
            assert not two.has_orphans()


def _all_workers(server: Workers) -> set[int]:
    """The two that answer requests."""
    found: set[int] = set()
    while len(found) < 2:
        found.add(int(server.ask("/quiet")))
    return found
