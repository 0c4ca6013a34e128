"""`run()` where there is no loop: the process is the server."""

import faulthandler
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import iodine_aio
from iodine_aio import on_state
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.serving import listen, make_server
from iodine_aio.supervisor import run_process
from tests.handlers import Echo, hello
from tests.sockets import read_to_end

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


class Process:
    """A Python program that serves, and says where in its banner."""

    def __init__(self, folder: Path, program: str) -> None:
        path = folder / "program.py"
        path.write_text(textwrap.dedent(program))
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def banner(self) -> str:
        assert self.popen.stderr is not None
        line = self.popen.stderr.readline()
        self.port = int(line.partition("127.0.0.1:")[2].partition(" ")[0])
        return line

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def wait(self) -> tuple[int, str, str]:
        out, err = self.popen.communicate(timeout=20)
        return self.popen.returncode, out, err


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate()


@pytest.fixture
def start(processes: list[Process], tmp_path: Path) -> Any:
    def start(program: str) -> Process:
        processes.append(Process(tmp_path, program))
        return processes[-1]

    return start


SERVING = """
    import signal, sys
    import iodine_aio

    def handler(number, frame):
        raise AssertionError

    signal.signal(signal.SIGTERM, handler)
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    server = iodine_aio.run(lambda env: (200, {}, "hello"), port=0)
    after = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    print(before == after, server.running, type(server).__name__)
"""


FAILING = """
    import iodine_aio

    iodine_aio.run(lambda env: 1 // 0, port=0)
"""


@pytest.mark.slow
def test_traceback_of_an_app_begins_with_the_app(start: Any):
    """How `run` found out that no loop was running is no part of it."""
    process = start(FAILING)
    process.banner()
    with process.connect() as sock:
        sock.sendall(HEAD + b"Connection: close\r\n\r\n")
        read_to_end(sock)
    process.popen.send_signal(signal.SIGTERM)
    code, _, errors = process.wait()

    assert code == 0
    assert "ZeroDivisionError" in errors
    assert "no running event loop" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_server_and_the_program_goes_on(start: Any, number: int):
    """One banner, exit code 0, and the program's own signal handlers as they were."""
    process = start(SERVING)
    banner = process.banner()
    with process.connect() as sock:
        sock.sendall(HEAD + b"Connection: close\r\n\r\n")
        answer = read_to_end(sock)
    process.popen.send_signal(number)
    code, out, err = process.wait()

    assert banner.startswith("iodine_aio serves on http://127.0.0.1:")
    assert banner.endswith(f" (pid {process.popen.pid}, Ctrl-C ends it)\n")
    assert answer.endswith(b"hello")
    assert (code, out, err) == (0, "True False Server\n", "")


HOLDING = """
    import asyncio, sys
    import iodine_aio

    async def app(env):
        print("called", flush=True)
        try:
            await asyncio.sleep({seconds})
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
        return 200, {{}}, "late"

    iodine_aio.on_state("start_shutdown", lambda: print("stopping", flush=True))
    iodine_aio.run(app, port=0, stop_timeout=60)
"""


@pytest.mark.slow
def test_requests_in_flight_are_answered(start: Any):
    """SIGTERM lets them finish, closes idle connections, and ends the process."""
    process = start(HOLDING.format(seconds=0.3))
    process.banner()
    with process.connect() as idle, process.connect() as one, process.connect() as two:
        for sock in (one, two):
            sock.sendall(HEAD + b"\r\n")
            assert process.popen.stdout.readline() == "called\n"
        process.popen.send_signal(signal.SIGTERM)
        answers = [read_to_end(sock) for sock in (idle, one, two)]
    code, _, err = process.wait()

    assert answers[0] == b""
    for answer in answers[1:]:
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"late")
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_second_signal_forces(start: Any):
    """Whoever presses Ctrl-C twice does not want to wait."""
    process = start(HOLDING.format(seconds=600))
    process.banner()
    with process.connect() as sock:
        sock.sendall(HEAD + b"\r\n")
        assert process.popen.stdout.readline() == "called\n"
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.stdout.readline() == "stopping\n"
        process.popen.send_signal(signal.SIGINT)
        code, out, _ = process.wait()

    assert (code, out) == (0, "cancelled\n")


@pytest.mark.slow
def test_ctrl_c_in_an_asyncio_program_is_its_own(start: Any):
    """Inside of a loop no signal is taken: KeyboardInterrupt ends `asyncio.run` as ever."""
    process = start("""
        import asyncio, signal, sys
        import iodine_aio

        async def main():
            before = signal.getsignal(signal.SIGINT)
            server = iodine_aio.run(lambda env: (200, {}, "hello"), port=0)
            await server.started()
            assert signal.getsignal(signal.SIGINT) is before
            print(server.url + " ", file=sys.stderr, flush=True)
            await server

        asyncio.run(main())
    """)
    banner = process.banner()
    process.popen.send_signal(signal.SIGINT)
    code, _, err = process.wait()

    assert "serves on" not in banner
    assert code in (-signal.SIGINT, 128 + signal.SIGINT)
    assert err.endswith("KeyboardInterrupt\n")
    assert "unclosed" not in err


def run_in_thread(server: Any) -> list[BaseException | None]:
    """Runs `server` as a process's only one, stops it from outside; what it raised."""
    raised: list[BaseException | None] = []

    def target() -> None:
        try:
            run_process(server, banner=False)
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
            sock.sendall(HEAD + b"Connection: close\r\n\r\n")
            assert read_to_end(sock).endswith(b"hello")
    finally:
        server.stop_soon()
        thread.join(10)
    return raised


def test_process_may_be_run_in_any_thread():
    """Only the main one can take signals; `stop_soon` ends it elsewhere."""
    server = make_server(hello, port=0)
    server.open()

    assert run_in_thread(server) == [None]
    assert not server.running


def test_blocking_run_returns_the_stopped_server(capfd):
    """In the main thread, ended by the program itself."""
    iodine_aio.run_after(0.01, lambda: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    server = iodine_aio.run(hello, port=0)

    assert not server.running
    assert signal.getsignal(signal.SIGTERM) is before
    assert capfd.readouterr().err.count("iodine_aio serves on http://127.0.0.1:") == 1


def test_restart_signal_does_not_end_a_program_that_serves(caplog):
    """It is refused while `run` lasts, and is what it was before behind that."""
    iodine_aio.run_after(0.01, lambda: signal.raise_signal(signal.SIGUSR1))
    iodine_aio.run_after(0.02, lambda: signal.raise_signal(signal.SIGTERM))
    iodine_aio.run(hello, port=0)

    assert [record.getMessage() for record in caplog.records] == [
        "SIGUSR1 restarts workers, and there are none: add -w N; said once"
    ]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_restart_signal_is_left_to_who_has_claimed_it(caplog, tmp_path: Path):
    """A handler of the program, or of the interpreter, which shows what hangs."""
    taken: list[int] = []
    iodine_aio.run_after(0.01, lambda: signal.raise_signal(signal.SIGUSR1))
    iodine_aio.run_after(0.02, lambda: signal.raise_signal(signal.SIGTERM))
    previous = signal.signal(signal.SIGUSR1, lambda number, _: taken.append(number))
    try:
        iodine_aio.run(hello, port=0)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    iodine_aio.run_after(0.01, lambda: signal.raise_signal(signal.SIGUSR1))
    iodine_aio.run_after(0.02, lambda: signal.raise_signal(signal.SIGTERM))
    with open(tmp_path / "shown", "w+") as shown:
        faulthandler.register(signal.SIGUSR1, shown)
        try:
            iodine_aio.run(hello, port=0)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        shown.seek(0)
        stack = shown.read()

    assert taken == [signal.SIGUSR1]
    assert "most recent call first" in stack
    assert caplog.records == []


def test_prepared_listener_is_run_without_an_app(capfd):
    """`listen()`, then `run()`."""

    listen(0, Echo)
    iodine_aio.run_after(0.01, lambda: signal.raise_signal(signal.SIGINT))
    server = iodine_aio.run()

    assert len(server.urls) == 1
    assert server.url in capfd.readouterr().err


def test_run_without_anything_is_refused():
    """Neither app nor listener."""
    with pytest.raises(UsageError, match=r"nothing to serve: give an app, or listen\(\) before"):
        iodine_aio.run()


def test_busy_port_is_an_error_of_one_line():
    """Cause and cure, before any loop was made."""
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        pytest.raises(OSError, match="cannot listen on") as caught,
    ):
        iodine_aio.run(hello, port=sock.getsockname()[1])

    assert "\n" not in caught.value.strerror
    assert "use port 0 for a free one" in caught.value.strerror


def test_hook_that_raises_ends_run():
    """Nothing was served, and nothing is left open."""

    def fail() -> None:
        raise ValueError("no database")

    on_state("pre_start", fail)
    with pytest.raises(StartupError, match="a hook of pre_start raised ValueError: no data"):
        iodine_aio.run(hello, port=0)


@pytest.mark.parametrize("name", ["workers", "processes"])
async def test_running_loop_is_not_forked(monkeypatch: pytest.MonkeyPatch, name: str):
    """What was set on the package is for programs that are nothing but the server."""
    monkeypatch.setattr(iodine_aio, name, 2)
    async with iodine_aio.run(hello, port=0) as server:
        workers = server.settings.workers

    assert workers == 1


@pytest.mark.parametrize("begin", [iodine_aio.run, iodine_aio.serve])
async def test_workers_in_a_running_loop_are_refused(begin: Any):
    """Said, not ignored."""
    with pytest.raises(UsageError, match="workers is 2, but a program with a running loop cannot"):
        begin(hello, port=0, workers=2)


def test_workers_outside_of_the_main_thread_are_refused():
    """Signals reach the main thread alone."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            iodine_aio.run(hello, port=0, workers=2)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(10)

    assert [type(error) for error in raised] == [UsageError]


async def test_threads_of_the_package_are_a_default(monkeypatch: pytest.MonkeyPatch):
    """An argument goes before it."""
    monkeypatch.setattr(iodine_aio, "threads", 3)
    async with iodine_aio.run(hello, port=0) as one:
        first = one.settings.threads
    async with iodine_aio.run(hello, port=0, threads=5) as other:
        second = other.settings.threads

    assert (first, second) == (3, 5)
