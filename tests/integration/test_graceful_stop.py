"""A stop with everything open at once: who sees what."""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from tests.clients import read_head
from tests.integration.workers import KEPT, Workers, serving
from tests.requests import HANDSHAKE

pytestmark = [pytest.mark.slow, pytest.mark.one_loop]

APP = """
import asyncio
import iodine_aio

stopping = asyncio.Event()
iodine_aio.on_state("start_shutdown", stopping.set)

class Farewell:
    def on_open(self):
        self.write("hello\\n")

    def on_shutdown(self):
        self.write("farewell\\n")

iodine_aio.listen(0, Farewell)

async def stream():
    yield "begin, "
    await stopping.wait()
    yield "end"

async def app(env):
    path = env["PATH_INFO"]
    if env["upgrade.websocket?"]:
        env["upgrade.websocket"] = Farewell
    if env["upgrade.sse?"]:
        env["upgrade.sse"] = Farewell
    if path == "/stream":
        return 200, {}, stream()
    if path == "/wait":
        await stopping.wait()
    if path == "/never":
        await asyncio.sleep(600)
    return 200, {}, env["wsgi.input"].read() or "answer"
"""

EVENTS = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst"


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
async def test_everybody_is_told_in_his_own_way(tmp_path: Path, words: list[str]):
    """Idle ones end, what was begun is finished, handlers say farewell, the rest is cut."""
    several = bool(words)
    words = [*words, "--preload", "--stop-timeout", "1.5"]
    with serving(tmp_path, APP, *words) as server:
        async with contextlib.AsyncExitStack() as stack:

            async def connect(sent: bytes, raw: bool = False) -> asyncio.StreamReader:
                port = server.raw_port if raw else server.port
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.transport.abort)
                writer.write(sent)
                writers[reader] = writer
                return reader

            writers: dict[asyncio.StreamReader, asyncio.StreamWriter] = {}
            silent = await connect(b"")
            idle = await connect(KEPT)
            upload = await connect(UPLOAD)
            head = await connect(KEPT[:20])
            waiting = await connect(KEPT.replace(b"/", b"/wait", 1))
            stream = await connect(KEPT.replace(b"/", b"/stream", 1))
            never = await connect(KEPT.replace(b"/", b"/never", 1))
            websocket = await connect(HANDSHAKE)
            events = await connect(EVENTS)
            raw = await connect(b"", raw=True)
            await idle.readuntil(b"answer")
            begin = await stream.readuntil(b"begin, \r\n")
            await websocket.readuntil(b"hello\n")
            await events.readuntil(b"data: hello\ndata: \n\n\r\n")
            await raw.readuntil(b"hello\n")
            # Those that were not heard of until now are, by all workers, before the signal.
            for _ in range(20):
                await (await connect(KEPT)).readuntil(b"answer")

            server.signal(signal.SIGTERM)
            rest_of_websocket = await websocket.readuntil(b"farewell\n")
            writers[upload].write(b" last")
            writers[head].write(KEPT[20:])
            async with asyncio.timeout(10):
                assert await silent.read() == b""
                assert await idle.read() == b""
                for reader, body in ((upload, b"first last"), (head, b"answer")):
                    status, fields = await read_head(reader)
                    assert status == 200
                    # Another worker may not have heard of the stop yet, and end it after.
                    assert several or dict(fields)["connection"] == "close"
                    assert await reader.read() == body
                status, fields = await read_head(waiting)
                assert (status, dict(fields)["connection"]) == (200, "close")
                assert await waiting.read() == b"answer"
                assert b"Connection: close" not in begin
                assert await stream.read() == b"3\r\nend\r\n0\r\n\r\n"
                assert rest_of_websocket == b"\x81\x09farewell\n"
                assert await websocket.read(4) == b"\x88\x02\x03\xe9"
                farewell = b"data: farewell\ndata: \n\n"
                assert await events.read() == b"%x\r\n%b\r\n0\r\n\r\n" % (len(farewell), farewell)
                assert await raw.read() == b"farewell\n"
                with contextlib.suppress(ConnectionResetError):
                    assert await never.read() == b""
        code = await asyncio.to_thread(server.wait)
        # The WebSocket, whose client does not answer the close frame, may be another's.
        cut = [
            line for line in server.lines if "cut after 1.5 seconds: 1 HTTP connection, " in line
        ]

    assert code == 0
    assert len(cut) == 1


STUCK = """
import asyncio
import os
import iodine_aio

class Stuck:
    def on_open(self):
        self.write("hello\\n")

    async def on_shutdown(self):
        await asyncio.sleep(600)

iodine_aio.listen(0, Stuck)

async def app(env):
    if env["upgrade.websocket?"]:
        env["upgrade.websocket"] = Stuck
    elif env["upgrade.sse?"]:
        env["upgrade.sse"] = Stuck
    else:
        os.write(2, b"called\\n")
        await asyncio.sleep(600)
    return 200, {}, ""
"""


def test_one_entry_says_what_was_cut(tmp_path: Path):
    """How many there were of each kind, whatever listener they came by."""
    with (
        serving(tmp_path, STUCK, "--stop-timeout", "0.2") as server,
        contextlib.ExitStack() as stack,
    ):
        for sent in [KEPT] * 2 + [HANDSHAKE] + [EVENTS] * 3 + [b""]:
            port = server.port if sent else server.raw_port
            sock = socket.create_connection(("127.0.0.1", port), timeout=20)
            stack.enter_context(sock)
            sock.sendall(sent)
            if sent == KEPT:
                server.read_until("called")
            else:
                read_until(sock, b"hello")
        code, lines = server.stop()

    assert code == 0
    assert [line for line in lines if line != "called\n"] == [
        "cut after 0.2 seconds:"
        " 2 HTTP connections, 1 WebSocket, 3 event streams, 1 raw connection, 7 tasks\n"
    ]


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_entry_says_what_a_second_signal_has_cut(tmp_path: Path, words: list[str]):
    """It did not wait for the deadline, and says so."""
    text = STUCK + 'iodine_aio.on_state("start_shutdown", lambda: os.write(2, b"stopping\\n"))\n'
    with serving(tmp_path, text, *words) as server, server.connect() as sock:
        sock.sendall(KEPT)
        server.read_until("called")
        server.signal(signal.SIGTERM)
        server.read_until("stopping")
        server.signal(signal.SIGTERM)
        code = server.wait()

    assert code == 0
    assert [line for line in server.lines if line.startswith("cut ")] == [
        "cut at once: 1 HTTP connection, 1 task\n"
    ]


def read_until(sock: socket.socket, end: bytes) -> None:
    data = b""
    while end not in data:
        more = sock.recv(4096)
        assert more
        data += more


STUBBORN = """
import asyncio
import os
import iodine_aio

async def stay():
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

async def app(env):
    os.write(2, b"called\\n")
    await stay()

kept = []
iodine_aio.on_state("on_start", lambda: kept.append(asyncio.create_task(stay())))
"""


def stop_amid_a_request(folder: Path, text: str, *words: str) -> list[str]:
    """What a server says that stops while its app is called; it ends cleanly, and all of it."""
    with serving(folder, text, *words) as server:
        with server.connect() as sock:
            sock.sendall(KEPT)
            server.read_until("called")
            code, lines = server.stop()

        assert not server.has_orphans()
    assert code == 0
    assert not [line for line in lines if "was killed" in line]
    return lines


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_task_that_swallows_its_end_does_not_outlive_the_deadline(tmp_path: Path, words: list[str]):
    """One signal is enough, the exit code is 0, and the log names the task."""
    lines = stop_amid_a_request(tmp_path, STUBBORN, *words, "--stop-timeout", "0.2")

    assert "given up, since they do not end when they are cancelled: app, stay\n" in lines


HELD = """
import asyncio
import os
import time
import iodine_aio

async def app(env):
    os.write(2, b"called\\n")
    await asyncio.to_thread(time.sleep, 600)

async def wait():
    await asyncio.sleep(600)

async def wait_again():
    await asyncio.sleep(600)

iodine_aio.on_state("start_shutdown", wait)
iodine_aio.on_state("on_finish", wait_again)
"""


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_neither_hooks_nor_threads_outlive_the_deadline(tmp_path: Path, words: list[str]):
    """What asyncio, and Python at its exit, would wait for."""
    lines = stop_amid_a_request(tmp_path, HELD, *words, "--stop-timeout", "1")

    for name in ("wait", "wait_again"):
        assert f"a hook was cut, it had not ended in time: {name}\n" in lines


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_systemd_is_told_when_a_stop_begins(tmp_path: Path, words: list[str]):
    """STOPPING=1, while the last requests are still answered."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify")
        manager.settimeout(20)
        words = [*words, "--stop-timeout", "600"]
        with (
            serving(tmp_path, STUCK, *words, NOTIFY_SOCKET=f"{folder}/notify") as server,
            server.connect() as sock,
        ):
            sock.sendall(KEPT)
            server.read_until("called")
            states = [manager.recv(100)]
            server.signal(signal.SIGTERM)
            states.append(manager.recv(100))
            server.signal(signal.SIGTERM)
            code = server.wait()

    assert states == [b"READY=1", b"STOPPING=1"]
    assert code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_signals_that_go_on_to_the_very_end_change_nothing(
    tmp_path: Path, words: list[str], number: int
):
    """It ends cleanly, says no word, and leaves no file, whenever the last one comes."""
    with serving(tmp_path, APP, *words, "--pid-file", "pid") as server:
        while server.popen.poll() is None:
            server.signal(number)
        assert server.popen.stderr is not None
        said = server.popen.stderr.read()

    assert server.popen.returncode == 0
    assert said == ""
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_restarts_asked_to_the_very_end_change_nothing(tmp_path: Path, words: list[str]):
    """What ends is not restarted, and does not die of the signal."""
    with serving(tmp_path, APP, *words) as server:
        server.signal(signal.SIGTERM)
        while server.popen.poll() is None:
            server.signal(signal.SIGUSR1)

    assert server.popen.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_it_serves_ends_it_without_a_word(tmp_path: Path, number: int):
    """By the signal, as who has started it expects; no traceback of what was imported."""
    os.mkfifo(tmp_path / "begun")
    server = Workers(tmp_path, "open('begun', 'w').close()\nimport time\ntime.sleep(600)\n")
    try:
        with open(tmp_path / "begun"):
            server.signal(number)
        _, said = server.popen.communicate(timeout=20)
    finally:
        server.popen.kill()
        server.popen.wait()

    assert server.popen.returncode == -number
    assert said == ""
