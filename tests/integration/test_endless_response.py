"""A gigabyte to a client that is slower than its server: memory stays flat."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

MIB = 1024 * 1024
SIZE = 1024 * MIB

APP = """
PIECE = bytes(64 * 1024)
COUNT = (1 << 30) // len(PIECE)

def app(env):
    if env["PATH_INFO"] == "/async":
        return 200, {}, generate_later()
    return 200, {"Content-Length": str(1 << 30)}, generate()

def generate():
    for _ in range(COUNT):
        yield PIECE[:65536]

async def generate_later():
    for _ in range(COUNT):
        yield PIECE[:65536]
"""

ON_ASYNCIO = """
import asyncio, signal, sys
import iodine_aio
from app import app

async def main():
    async with iodine_aio.serve(app, port=0) as server:
        print("iodine_aio serves on", server.url, file=sys.stderr, flush=True)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop_soon)
        await server

asyncio.run(main())
"""


def resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def read_slowly(port: int, target: bytes, pid: int) -> tuple[int, int]:
    """Takes all of a response through a small buffer: its size, and how much `pid` grew."""
    piece = bytearray(MIB)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)
        taken = looked = sock.recv_into(piece)
        before = most = resident_bytes(pid)
        while count := sock.recv_into(piece):
            taken += count
            if taken - looked > 8 * MIB:  # a client that does something between its reads
                looked = taken
                most = max(most, resident_bytes(pid))
    return taken, most - before


@pytest.mark.parametrize("words", [["-m", "iodine_aio", "-p", "0", "app:app"], ["on_asyncio.py"]])
@pytest.mark.parametrize("target", [b"/", b"/async"])
def test_gigabyte_to_a_slow_reader_holds_memory_flat(
    words: list[str], target: bytes, tmp_path: Path
):
    """What is generated waits for the client, not in the memory."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "on_asyncio.py").write_text(ON_ASYNCIO)
    process = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        try:
            banner = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", banner)
            assert found, banner
            taken, grown = read_slowly(int(found[1]), target, process.pid)
            process.send_signal(signal.SIGTERM)
            code = process.wait(20)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    assert taken > SIZE
    assert grown < 8 * MIB
    assert code == 0
