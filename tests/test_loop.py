import asyncio
import contextlib
import io
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import IO, Any

import aiohttp
import pytest
from aiohttp import web

import iodine_aio.loop
from iodine_aio.loop import Loop, new_event_loop
from iodine_aio.sendfile import BLOCK_BYTES

# No period that a shifted or doubled block could hide behind, and more than buffers hold.
CONTENT = b"".join(index.to_bytes(4, "big") for index in range(2_000_000))


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main, 30))


def this_loop() -> Loop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    return loop


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "content.bin")
        path.write_bytes(CONTENT)
        yield path


@pytest.fixture
def file(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        yield file


async def read_all(sock: socket.socket) -> bytes:
    received = bytearray()
    while block := await this_loop().sock_recv(sock, 1 << 20):
        received += block
    return bytes(received)


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


class Recorder(asyncio.Protocol):
    """Writes down what a transport tells its protocol."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.arrived = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.arrived.set()

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")


class BufferedRecorder(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = bytearray(3)
        self.received = bytearray()
        self.arrived = asyncio.Event()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        if len(self.received) >= 6:
            self.arrived.set()


Exchange = Callable[[asyncio.Transport, Any, socket.socket], Awaitable[None]]


def with_transport(exchange: Exchange, protocol: type[asyncio.BaseProtocol] = Recorder) -> None:
    """Run `exchange` on a transport, its protocol and the socket at the other end."""

    async def main() -> None:
        with socket_pair() as (ours, theirs):
            transport, made = await this_loop().create_unix_connection(protocol, sock=ours)
            try:
                await exchange(transport, made, theirs)
            finally:
                transport.abort()
                await asyncio.sleep(0)

    run(main())


# sock_sendfile


def test_sock_sendfile_sends_the_whole_file(file: IO[bytes]):
    """More than the socket's buffers hold arrives byte for byte, and is counted."""

    async def main() -> None:
        with socket_pair() as (ours, theirs):
            reader = asyncio.create_task(read_all(theirs))
            sent = await this_loop().sock_sendfile(ours, file)
            ours.close()

            assert await reader == CONTENT
            assert sent == len(CONTENT)
            assert file.tell() == len(CONTENT)

    run(main())


@pytest.mark.parametrize("count", [1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7])
def test_sock_sendfile_sends_a_part(file: IO[bytes], count: int):
    """Offset and count are bytes, and the position is left behind what was sent."""

    async def main() -> None:
        with socket_pair() as (ours, theirs):
            reader = asyncio.create_task(read_all(theirs))
            sent = await this_loop().sock_sendfile(ours, file, 5, count)
            ours.close()

            assert await reader == CONTENT[5 : 5 + count]
            assert sent == count
            assert file.tell() == 5 + count

    run(main())


def test_count_beyond_the_end_stops_there(file: IO[bytes]):
    """A file shorter than was announced ends the transfer; the count tells."""

    async def main() -> None:
        with socket_pair() as (ours, _theirs):
            sent = await this_loop().sock_sendfile(ours, file, len(CONTENT) - 10, 100)

            assert sent == 10

    run(main())


def test_empty_file_sends_nothing(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.touch()

    async def main() -> None:
        with socket_pair() as (ours, _theirs), empty.open("rb") as file:
            assert await this_loop().sock_sendfile(ours, file) == 0

    run(main())


def test_file_without_descriptor_is_read_and_sent():
    """BytesIO has no descriptor; its position moves all the same."""

    async def main() -> None:
        with socket_pair() as (ours, theirs):
            file = io.BytesIO(CONTENT)
            reader = asyncio.create_task(read_all(theirs))
            sent = await this_loop().sock_sendfile(ours, file, 3, 1_000_000)
            ours.close()

            assert await reader == CONTENT[3:1_000_003]
            assert (sent, file.tell()) == (1_000_000, 1_000_003)

    run(main())


def test_pipe_is_read_and_sent():
    """A pipe has a descriptor that os.sendfile refuses."""

    async def main() -> None:
        with socket_pair() as (ours, theirs):
            source, sink = os.pipe()
            os.write(sink, b"through a pipe")
            os.close(sink)
            with os.fdopen(source, "rb") as file:
                sent = await this_loop().sock_sendfile(ours, file)

            assert sent == 14
            assert await this_loop().sock_recv(theirs, 100) == b"through a pipe"

    run(main())


def test_no_fallback_without_descriptor():
    async def main() -> None:
        unavailable = pytest.raises(asyncio.SendfileNotAvailableError)
        with socket_pair() as (ours, _theirs), unavailable:
            await this_loop().sock_sendfile(ours, io.BytesIO(b"x"), fallback=False)

    run(main())


@pytest.mark.parametrize(
    ("offset", "count", "error"),
    [
        (0, 0, ValueError),
        (0, -1, ValueError),
        (0, 1.5, TypeError),
        (-1, None, ValueError),
        ("0", None, TypeError),
    ],
)
def test_bad_offset_or_count_is_refused(
    file: IO[bytes], offset: Any, count: Any, error: type[Exception]
):
    async def main() -> None:
        with socket_pair() as (ours, _theirs), pytest.raises(error, match="must be"):
            await this_loop().sock_sendfile(ours, file, offset, count)

    run(main())


def test_text_file_is_refused(path: Path):
    async def main() -> None:
        refused = pytest.raises(ValueError, match="binary mode")
        with socket_pair() as (ours, _theirs), path.open() as file, refused:
            await this_loop().sock_sendfile(ours, file)  # type: ignore[arg-type]

    run(main())


def test_datagram_socket_is_refused(file: IO[bytes]):
    async def main() -> None:
        refused = pytest.raises(ValueError, match="SOCK_STREAM")
        with socket.socket(type=socket.SOCK_DGRAM) as sock, refused:
            sock.setblocking(False)
            await this_loop().sock_sendfile(sock, file)

    run(main())


def test_blocking_socket_is_refused_in_debug_mode(file: IO[bytes]):
    async def main() -> None:
        this_loop().set_debug(True)
        with socket_pair() as (ours, _theirs):
            ours.setblocking(True)
            with pytest.raises(ValueError, match="non-blocking"):
                await this_loop().sock_sendfile(ours, file)

    run(main())


def test_tls_socket_is_refused(file: IO[bytes]):
    async def main() -> None:
        with socket_pair() as (ours, _theirs):
            context = ssl.create_default_context()
            sock = context.wrap_socket(ours, server_hostname="x", do_handshake_on_connect=False)
            with sock, pytest.raises(TypeError, match="SSLSocket"):
                await this_loop().sock_sendfile(sock, file)

    run(main())


def test_cancelled_sock_sendfile_leaves_the_socket_usable(file: IO[bytes]):
    """What was sent is told by the position, and no writer stays behind."""

    async def main() -> None:
        loop = this_loop()
        with socket_pair() as (ours, theirs):
            sending = asyncio.create_task(loop.sock_sendfile(ours, file))
            received = await loop.sock_recv(theirs, 1000)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

            assert not loop.remove_writer(ours)
            ours.shutdown(socket.SHUT_WR)
            received += await read_all(theirs)
            assert received == CONTENT[: file.tell()]

    run(main())


def test_peer_that_vanishes_is_a_connection_error(file: IO[bytes]):
    async def main() -> None:
        loop = this_loop()
        with socket_pair() as (ours, theirs):
            sending = asyncio.create_task(loop.sock_sendfile(ours, file))
            await loop.sock_recv(theirs, 1000)
            theirs.close()
            with pytest.raises(ConnectionError):
                await sending

            assert file.tell() > 0

    run(main())


# sendfile


def test_sendfile_follows_what_was_written(file: IO[bytes]):
    """Bytes that were still pending go out first; the protocol then has its place again."""

    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        head = b"h" * 3_000_000
        transport.write(head)
        assert transport.get_write_buffer_size() > 0
        reader = asyncio.create_task(read_all(theirs))
        limits = transport.get_write_buffer_limits()
        sent = await this_loop().sendfile(transport, file, 7)

        assert sent == len(CONTENT) - 7
        assert protocol.calls == ["pause", "resume"]
        assert transport.get_protocol() is protocol
        assert transport.get_write_buffer_limits() == limits
        assert transport.is_reading()
        transport.write(b"tail")
        transport.close()
        assert await reader == head + CONTENT[7:] + b"tail"

    with_transport(exchange)


def test_protocol_below_its_high_water_is_not_told_of_a_pause(file: IO[bytes]):
    """asyncio's streams assert that every resume was preceded by a pause."""

    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        transport.set_write_buffer_limits(10_000_000)
        transport.write(b"h" * 3_000_000)
        assert transport.get_write_buffer_size() > 0
        reader = asyncio.create_task(read_all(theirs))
        await this_loop().sendfile(transport, file, 0, 10)
        transport.close()
        await reader

        assert protocol.calls == ["lost"]

    with_transport(exchange)


def test_cancelled_while_draining_tells_the_protocol_of_the_pause(file: IO[bytes]):
    """The transport still has what is pending, so a resume will come: a pause must precede it."""

    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        transport.set_write_buffer_limits(10_000_000)
        transport.write(b"h" * 3_000_000)
        sending = asyncio.create_task(this_loop().sendfile(transport, file))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

        assert protocol.calls == ["pause"]
        assert transport.get_protocol() is protocol
        transport.close()
        assert await read_all(theirs) == b"h" * 3_000_000
        assert protocol.calls == ["pause", "resume", "lost"]

    with_transport(exchange)


def test_what_arrives_meanwhile_is_read_afterwards(file: IO[bytes]):
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        await this_loop().sock_sendall(theirs, b"early")
        reader = asyncio.create_task(read_all(theirs))
        await this_loop().sendfile(transport, file)
        assert not protocol.received
        await protocol.arrived.wait()

        assert protocol.received == b"early"
        transport.close()
        await reader

    with_transport(exchange)


def test_paused_reading_stays_paused(file: IO[bytes]):
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        transport.pause_reading()
        await this_loop().sendfile(transport, file, 0, 10)

        assert not transport.is_reading()

    with_transport(exchange)


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
def test_protocol_that_resumes_reading_is_given_the_data(
    file: IO[bytes], protocol_class: type[asyncio.BaseProtocol]
):
    """A stream's consumer may resume reading on its own account; nothing gets lost."""

    async def exchange(transport: Any, protocol: Any, theirs: socket.socket) -> None:
        sending = asyncio.create_task(this_loop().sendfile(transport, file))
        received = await this_loop().sock_recv(theirs, 1000)
        transport.resume_reading()
        await this_loop().sock_sendall(theirs, b"abcdef")
        await protocol.arrived.wait()

        assert not sending.done()
        assert protocol.received == b"abcdef"
        reader = asyncio.create_task(read_all(theirs))
        await sending
        transport.close()
        assert received + await reader == CONTENT

    with_transport(exchange, protocol_class)


def test_file_without_descriptor_is_written_to_the_transport():
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        reader = asyncio.create_task(read_all(theirs))
        file = io.BytesIO(CONTENT)
        sent = await this_loop().sendfile(transport, file, 9)
        transport.close()

        assert await reader == CONTENT[9:]
        assert sent == len(CONTENT) - 9
        assert file.tell() == len(CONTENT)

    with_transport(exchange)


def test_no_fallback_on_a_transport():
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await this_loop().sendfile(transport, io.BytesIO(b"x"), fallback=False)

        assert transport.get_protocol() is protocol

    with_transport(exchange)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("way", ["abort", "close"])
def test_transport_closed_meanwhile_is_a_connection_error(file: IO[bytes], native: bool, way: str):
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        source = file if native else io.BytesIO(CONTENT)
        sending = asyncio.create_task(this_loop().sendfile(transport, source))
        received = await this_loop().sock_recv(theirs, 1000)
        getattr(transport, way)()
        reader = asyncio.create_task(read_all(theirs))
        with pytest.raises(ConnectionError):
            await sending

        assert CONTENT.startswith(received + await reader)
        assert protocol.calls[-1] == "lost"
        assert protocol.calls.count("lost") == 1

    with_transport(exchange)


def test_closed_while_draining_is_a_connection_error(file: IO[bytes]):
    """What was written before the close is delivered, nothing of the file is."""

    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        transport.write(b"h" * 3_000_000)
        sending = asyncio.create_task(this_loop().sendfile(transport, file))
        await asyncio.sleep(0)
        transport.close()
        assert await read_all(theirs) == b"h" * 3_000_000
        with pytest.raises(ConnectionError):
            await sending

    with_transport(exchange)


def test_peer_that_vanishes_from_a_transport_is_a_connection_error(file: IO[bytes]):
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        sending = asyncio.create_task(this_loop().sendfile(transport, file))
        await this_loop().sock_recv(theirs, 1000)
        theirs.close()
        with pytest.raises(ConnectionError):
            await sending

        assert transport.get_protocol() in (protocol, None)

    with_transport(exchange)


def test_second_sendfile_on_a_transport_is_refused(file: IO[bytes], path: Path):
    """Two files at once would be mixed up on the wire."""

    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        sending = asyncio.create_task(this_loop().sendfile(transport, file))
        received = await this_loop().sock_recv(theirs, 1000)
        with path.open("rb") as other, pytest.raises(RuntimeError, match="already"):
            await this_loop().sendfile(transport, other)
        reader = asyncio.create_task(read_all(theirs))
        await sending
        transport.close()

        assert received + await reader == CONTENT

    with_transport(exchange)


def test_closing_transport_is_refused(file: IO[bytes]):
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        transport.close()
        with pytest.raises(RuntimeError, match="closing"):
            await this_loop().sendfile(transport, file)

    with_transport(exchange)


def test_tls_transport_is_not_implemented(file: IO[bytes]):
    """aiohttp and others catch NotImplementedError, read the file and write it."""

    class TLSTransport(asyncio.Transport):
        def is_closing(self) -> bool:
            return False

    transport = TLSTransport({"sslcontext": ssl.create_default_context()})
    with pytest.raises(NotImplementedError):
        run(new_sendfile(transport, file))


async def new_sendfile(transport: asyncio.BaseTransport, file: IO[bytes]) -> int:
    return await this_loop().sendfile(transport, file)


# aiohttp's FileResponse


@contextlib.asynccontextmanager
async def file_server(path: Path, outcomes: list[Any]) -> Any:
    """An aiohttp server with one file; how each transfer ended is written down."""
    ended = asyncio.Condition()

    async def send_file(request: web.Request) -> web.StreamResponse:
        response = web.FileResponse(path)
        try:
            await response.prepare(request)
            outcomes.append("sent")
        except BaseException as error:
            outcomes.append(error)
            raise
        finally:
            async with ended:
                ended.notify_all()
        return response

    app = web.Application()
    app.router.add_get("/", send_file)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0], ended
    finally:
        await runner.cleanup()


def test_file_response_arrives_whole_and_in_ranges(path: Path, monkeypatch: pytest.MonkeyPatch):
    """One connection carries a file, a range and a file again; aiohttp never falls back."""

    async def refuse(*_: Any) -> None:
        raise AssertionError("aiohttp fell back to reading")

    monkeypatch.setattr(web.FileResponse, "_sendfile_fallback", refuse)

    async def main() -> None:
        async with file_server(path, []) as ((host, port), _), aiohttp.ClientSession() as session:
            url = f"http://{host}:{port}/"
            for value, expected in [
                (None, CONTENT),
                ("bytes=100-299", CONTENT[100:300]),
                ("bytes=-1", CONTENT[-1:]),
                ("bytes=5-", CONTENT[5:]),
                (None, CONTENT),
            ]:
                headers = {"Range": value} if value else {}
                async with session.get(url, headers=headers) as response:
                    assert response.status == (206 if value else 200)
                    assert await response.read() == expected

    run(main())


def test_file_responses_at_the_same_time(path: Path):
    async def main() -> None:
        async with file_server(path, []) as ((host, port), _), aiohttp.ClientSession() as session:

            async def get() -> bytes:
                async with session.get(f"http://{host}:{port}/") as response:
                    return await response.read()

            bodies = await asyncio.gather(*[get() for _ in range(8)])

            assert all(body == CONTENT for body in bodies)

    run(main())


async def request_slowly(host: str, port: int) -> tuple[asyncio.StreamReader, Any]:
    # A small buffer, so that the kernel holds little of the file.
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await this_loop().sock_connect(sock, (host, port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return reader, writer


def test_file_response_to_a_slow_reader(path: Path):
    """Others are served while one client takes a little at a time."""

    async def main() -> None:
        outcomes: list[Any] = []
        async with file_server(path, outcomes) as ((host, port), _):
            reader, writer = await request_slowly(host, port)
            await reader.readuntil(b"\r\n\r\n")
            received = await reader.readexactly(1000)
            async with aiohttp.request("GET", f"http://{host}:{port}/") as response:
                assert await response.read() == CONTENT
            assert outcomes == ["sent"]
            received += await reader.read(-1)
            writer.close()

            assert received == CONTENT
            assert outcomes == ["sent", "sent"]

    run(main())


@pytest.mark.parametrize("linger", [True, False])
def test_client_that_vanishes_ends_the_file_response(path: Path, linger: bool):
    """Whether it goes by RST or by FIN, the handler ends with a ConnectionError."""

    async def main() -> None:
        outcomes: list[Any] = []
        async with file_server(path, outcomes) as ((host, port), ended):
            reader, writer = await request_slowly(host, port)
            await reader.readuntil(b"\r\n\r\n")
            if linger:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()
            async with ended:
                await ended.wait_for(lambda: outcomes)

            assert isinstance(outcomes[0], ConnectionError)

    run(main())


def test_no_descriptor_is_left_open(path: Path):
    async def exchange(transport: Any, protocol: Recorder, theirs: socket.socket) -> None:
        before = set(os.listdir("/dev/fd"))
        with path.open("rb") as file:
            reader = asyncio.create_task(read_all(theirs))
            await this_loop().sendfile(transport, file)

        assert set(os.listdir("/dev/fd")) == before
        transport.close()
        await reader

    with_transport(exchange)


# policies


def run_python(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", source], capture_output=True, text=True, timeout=30
    )


def test_import_warns_of_nothing_and_sets_no_policy():
    finished = run_python(
        "import asyncio, asyncio.events as events, iodine_aio.loop\n"
        "assert events._event_loop_policy is None\n"
        "assert 'EventLoopPolicy' not in vars(iodine_aio.loop)\n",
        "-W",
        "error",
    )

    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="policies went with Python 3.16")
def test_install_makes_ours_the_default_loop():
    finished = run_python(
        "import asyncio, iodine_aio.loop as l\n"
        "l.install()\n"
        "async def main(): print(type(asyncio.get_running_loop()) is l.Loop)\n"
        "asyncio.run(main())\n",
        "-W",
        "always::DeprecationWarning",
    )

    assert finished.stdout == "True\n"
    if sys.version_info >= (3, 12):
        assert "asyncio.run(main(), loop_factory=iodine_aio.new_event_loop)" in finished.stderr
    else:
        assert finished.stderr == ""


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'policy'"):
        _ = iodine_aio.loop.policy


@pytest.mark.parametrize(
    ("pretence", "said"),
    [
        ("sys.platform = 'win32'", "Linux, macOS and BSD, not on Windows"),
        ("sys.modules['uvloop'] = None", "pip install uvloop"),
    ],
)
def test_import_without_uvloop_says_why_in_one_line(pretence: str, said: str):
    finished = run_python(
        f"import asyncio, socket, ssl, sys\n{pretence}\n"
        "try: import iodine_aio.loop\n"
        "except ImportError as error: print(error)\n"
    )

    assert said in finished.stdout
    assert finished.stdout.count("\n") == 1
