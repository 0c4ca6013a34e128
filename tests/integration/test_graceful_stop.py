"""A stop with everything open at once: who sees what."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from tests.clients import read_head
from tests.integration.workers import KEPT, serving
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
    if path == "/stream":
        return 200, {}, stream()
    if path == "/wait":
        await stopping.wait()
    if path == "/never":
        await asyncio.sleep(600)
    return 200, {}, env["wsgi.input"].read() or "answer"
"""

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
            raw = await connect(b"", raw=True)
            await idle.readuntil(b"answer")
            begin = await stream.readuntil(b"begin, \r\n")
            await websocket.readuntil(b"hello\n")
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
                assert await raw.read() == b"farewell\n"
                with contextlib.suppress(ConnectionResetError):
                    assert await never.read() == b""
        code = await asyncio.to_thread(server.wait)
        # The WebSocket, whose client does not answer the close frame, may be another's.
        entries = [line for line in server.lines if "and 1 tasks were cut" in line]

    assert code == 0
    assert len(entries) == 1
