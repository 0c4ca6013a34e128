"""Files as bodies: sent from the page cache or by a thread, whatever happens to them meanwhile."""

import asyncio
import contextlib
import errno
import gzip
import io
import itertools
import os
import socket
import struct
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import iodine_aio
from iodine_aio.protocols import filing
from iodine_aio.protocols.filing import LOOK_BYTES
from iodine_aio.protocols.http1 import HTTPProtocol
from iodine_aio.protocols.sending import BLOCK_BYTES
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import make_template
from tests.clients import Answer, ask, connect, exchange, read_head, read_response, reset
from tests.requests import GET, KEPT
from tests.transports import FakeLoop, FakeTransport

MIB = 1024 * 1024
ALPHABET = b"abcdefghijklmnopqrstuvwxyz"


def request(*fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} / HTTP/1.1", "Host: a", "Connection: close", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def write_file(path: Path, size: int) -> bytes:
    """Content in which no two blocks are the same."""
    content = os.urandom(size)
    path.write_bytes(content)
    return content


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


def is_open(path: Path) -> bool:
    """True if a descriptor of this process is of the file (its number may be another's soon)."""
    status = path.stat()
    for number in range(3, 512):
        try:
            found = os.fstat(number)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
            return True
    return False


def refuse_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in the page cache."""

    def preadv(*arguments: Any) -> int:
        raise BlockingIOError(errno.EAGAIN, "not cached")

    monkeypatch.setattr(os, "preadv", preadv)


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is not to be written to but by its transport."""
    monkeypatch.setattr(HTTPProtocol, "find_empty_socket", lambda self: -1)


def refuse_sendfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's system has pages of its own."""

    def sendfile(*arguments: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", sendfile)


def limit_sendfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket takes another number of bytes each time, and often none."""
    sizes = itertools.cycle([1, 0, 4095, 4096, 100_000, 0, 0, 16 * 1024, MIB])
    sendfile = os.sendfile

    def send_some(out: int, file: int, offset: int, size: int) -> int:
        most = next(sizes)
        if not most:
            raise BlockingIOError(errno.EAGAIN, "full")
        return sendfile(out, file, offset, min(most, size))

    monkeypatch.setattr(os, "sendfile", send_some)


def forget_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third look into the page cache finds nothing there."""
    looks = itertools.count(1)
    preadv = os.preadv

    def look(*arguments: Any) -> int:
        if next(looks) % 3 == 0:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", look)


WAYS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "sendfile": lambda monkeypatch: None,
    "thread": refuse_waiting,
    "transport": refuse_direct,
    "copies": refuse_sendfile,
    "some": limit_sendfile,
    "forgotten": forget_some,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which bytes get from the disk to the client."""
    WAYS[request.param](monkeypatch)


@contextlib.asynccontextmanager
async def serving_slowly(app: Any, **options: Any) -> AsyncIterator[iodine_aio.Server]:
    """A server whose connections have send buffers of 16 KiB, full after a piece of a file."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    async with iodine_aio.serve(app, bind=f"fd://{listener.detach()}", **options) as server:
        yield server


@contextlib.contextmanager
def slow_socket(server: iodine_aio.Server) -> Iterator[socket.socket]:
    """A client's socket that takes little before its program reads."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.connect(("127.0.0.1", server.port))
        sock.setblocking(False)
        yield sock


async def pause(server: iodine_aio.Server) -> Any:
    """The only connection, once its client does not take what is sent."""
    while not server.connections or not next(iter(server.connections)).paused:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    return next(iter(server.connections))


# ---- what is a file ----


async def test_path_is_sent_as_a_file(tmp_path: Path):
    """With the type of its name, and validators."""
    (tmp_path / "letters.txt").write_bytes(ALPHABET)
    answer = await ask(lambda env: (200, {}, tmp_path / "letters.txt"))

    assert (answer.status, answer.body) == (200, ALPHABET)
    assert answer.fields["content-type"] == "text/plain; charset=utf-8"
    assert answer.fields["content-length"] == "26"
    assert {"etag", "last-modified", "accept-ranges"} <= answer.fields.keys()


async def test_open_file_is_sent_from_where_it_stands(tmp_path: Path):
    """As wsgi.file_wrapper has it; its parts count from there."""
    (tmp_path / "letters").write_bytes(ALPHABET)

    def app(env: iodine_aio.Env) -> Any:
        file = open(tmp_path / "letters", "rb")  # noqa: SIM115 - closed by the server
        assert file.read(10) == ALPHABET[:10]
        return 200, {}, file

    async with iodine_aio.serve(app, port=0) as server:
        whole = Answer(await exchange(server, GET))
        part = Answer(await exchange(server, request("Range: bytes=2-3")))

    assert (whole.status, whole.body) == (200, b"klmnopqrstuvwxyz")
    assert (part.status, part.body) == (206, b"mn")
    assert part.fields["content-range"] == "bytes 2-3/16"


async def test_temporary_file_is_sent_with_what_was_just_written():
    """Its buffer is flushed; a NamedTemporaryFile is a file, too."""

    def app(env: iodine_aio.Env) -> Any:
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed by the server
        file.write(ALPHABET)
        file.seek(20)
        return 200, {}, file

    answer = await ask(app)

    assert (answer.body, answer.fields["content-length"]) == (ALPHABET[20:], "6")


async def test_file_that_only_has_a_number_is_read_by_its_own_method(tmp_path: Path):
    """A GzipFile's number is the compressed file's."""
    packed_path = tmp_path / "letters.gz"
    with gzip.open(packed_path, "wb") as packed:
        packed.write(ALPHABET * 100)
    answer = await ask(lambda env: (200, {}, gzip.open(packed_path)))  # noqa: SIM115

    assert answer.content == ALPHABET * 100


async def test_bytes_io_is_sent_chunked():
    """It has no descriptor at all."""
    answer = await ask(lambda env: (200, {}, io.BytesIO(ALPHABET)))

    assert answer.content == ALPHABET


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
async def test_path_that_is_no_regular_file_is_a_500_at_once(
    tmp_path: Path, make: Callable[[Path], None]
):
    """A FIFO has no writer who would end the waiting."""
    make(tmp_path / "it")
    answer = await ask(lambda env: (200, {}, tmp_path / "it"))

    assert answer.status == 500


# ---- ranges, conditions, the app's own fields ----


async def test_apps_own_fields_win(tmp_path: Path):
    """And its entity tag is the one that conditions are compared with."""
    (tmp_path / "letters.txt").write_bytes(ALPHABET)
    own = {
        "ETag": '"mine"',
        "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT",
        "Content-Type": "text/x-mine",
        "Content-Encoding": "mine",
        "Content-Length": "5",
        "X-Own": "kept",
    }

    def app(env: iodine_aio.Env) -> Any:
        return 200, own, tmp_path / "letters.txt"

    async with iodine_aio.serve(app, port=0) as server:
        whole = Answer(await exchange(server, GET))
        known = Answer(await exchange(server, request('If-None-Match: "mine"')))
        part = Answer(await exchange(server, request('If-Range: "mine"', "Range: bytes=-2")))

    assert whole.body == ALPHABET
    assert whole.fields["content-length"] == "26"
    assert {name.lower() for name in own} <= whole.fields.keys()
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Encoding", "X-Own"):
        assert whole.wire.count(f"\r\n{name}: {own[name]}\r\n".encode()) == 1
    assert (known.status, known.body) == (304, b"")
    assert known.fields["x-own"] == "kept"
    assert (part.status, part.body) == (206, b"yz")


async def test_app_may_end_the_connection_and_say_the_date(tmp_path: Path):
    """As with every other body."""
    (tmp_path / "letters.txt").write_bytes(ALPHABET)
    own = {"Connection": "close", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}

    async with iodine_aio.serve(lambda env: (200, own, tmp_path / "letters.txt"), port=0) as server:
        answer = Answer(await exchange(server, KEPT))

    assert answer.fields["connection"] == "close"
    assert answer.wire.count(b"Date: ") == 1
    assert answer.fields["date"] == own["Date"]


async def test_head_has_the_fields_of_get(tmp_path: Path):
    """And opens no file for long."""
    (tmp_path / "letters.txt").write_bytes(ALPHABET)

    async with iodine_aio.serve(lambda env: (200, {}, tmp_path / "letters.txt"), port=0) as server:
        got = Answer(await exchange(server, GET))
        before = descriptors()
        head = Answer(await exchange(server, request(method="HEAD")))
        after = descriptors()

    assert head.body == b""
    assert {**head.fields, "date": ""} == {**got.fields, "date": ""}
    assert after == before


@pytest.mark.parametrize(("status", "method"), [(404, "GET"), (200, "POST"), (203, "GET")])
async def test_other_answers_are_sent_whole(tmp_path: Path, status: int, method: str):
    """Conditions and ranges are of a 200 to GET (RFC 9110, 13.2.1)."""
    (tmp_path / "page.html").write_bytes(ALPHABET)
    answer = await ask(
        lambda env: (status, {}, tmp_path / "page.html"),
        request("Range: bytes=0-1", "If-None-Match: *", "Content-Length: 0", method=method),
    )

    assert (answer.status, answer.body) == (status, ALPHABET)
    assert answer.fields["content-type"] == "text/html; charset=utf-8"
    assert "etag" not in answer.fields


async def test_app_that_wants_no_ranges_gets_none(tmp_path: Path):
    """Accept-Ranges: none (RFC 9110, 14.3)."""
    (tmp_path / "letters").write_bytes(ALPHABET)
    answer = await ask(
        lambda env: (200, {"Accept-Ranges": "none"}, tmp_path / "letters"),
        request("Range: bytes=0-1"),
    )

    assert (answer.status, answer.body) == (200, ALPHABET)


# ---- X-Sendfile ----


async def test_named_file_is_sent_and_the_name_is_not(tmp_path: Path):
    """The app's body is closed, its fields stay."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "letters.txt").write_bytes(ALPHABET)

    def app(env: iodine_aio.Env) -> Any:
        path = str(tmp_path / "private" / "letters.txt")
        return 200, {"X-Sendfile": path, "X-Own": "kept"}, "not this"

    async with iodine_aio.serve(app, port=0, sendfile=(tmp_path / "private",)) as server:
        whole = Answer(await exchange(server, GET))
        part = Answer(await exchange(server, request("Range: bytes=1-2")))

    assert (whole.status, whole.body) == (200, ALPHABET)
    assert whole.fields["x-own"] == "kept"
    assert "x-sendfile" not in whole.fields
    assert (part.status, part.body) == (206, b"bc")


@pytest.mark.parametrize("name", ["root_x/a", "root/../a", "root/link", "root/missing", "root"])
async def test_named_file_lies_in_a_permitted_folder(tmp_path: Path, name: str):
    """Else it is the app's fault, and nothing of the file is sent."""
    for folder in ("root", "root_x"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_bytes(ALPHABET)
    (tmp_path / "a").write_bytes(ALPHABET)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "a")
    answer = await ask(
        lambda env: (200, {"X-Sendfile": f"{tmp_path}/{name}"}, ""), public=tmp_path / "root"
    )

    assert answer.status == 500
    assert ALPHABET not in answer.wire


@pytest.mark.parametrize(
    ("fields", "status", "body"),
    [
        (["Range: bytes=1-2"], 206, b"bc"),
        (["Range: bytes=-2"], 206, b"yz"),
        (["Range: bytes=26-"], 416, b"Range Not Satisfiable"),
        (["Range: bytes=1-2", 'If-Range: "own"'], 206, b"bc"),
        (["Range: bytes=1-2", 'If-Range: "other"'], 200, ALPHABET),
        (['If-None-Match: "own"'], 304, b""),
        (['If-Match: "other"'], 412, b"Precondition Failed"),
        (["If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"], 304, b""),
    ],
)
@pytest.mark.parametrize("body_kind", ["str", "file"])
async def test_named_file_obeys_conditions_and_ranges(
    tmp_path: Path, fields: list[str], status: int, body: bytes, body_kind: str
):
    """As a static one, by the tag that the app gave; the app's own body and length are nothing."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "letters.txt").write_bytes(ALPHABET)
    (tmp_path / "other").write_bytes(b"other")
    opened = []

    def app(env: iodine_aio.Env) -> Any:
        headers = {"X-Sendfile": str(tmp_path / "root" / "letters.txt"), "ETag": '"own"'}
        if body_kind == "str":
            return 200, headers | {"Content-Length": "8"}, "not this"
        opened.append(file := (tmp_path / "other").open("rb"))
        return 200, headers, file

    if any("Modified" in field for field in fields):
        os.utime(tmp_path / "root" / "letters.txt", (1_000_000_000, 1_000_000_000))
    answer = await ask(app, request(*fields), sendfile=(tmp_path / "root",))

    assert (answer.status, answer.body) == (status, body)
    assert "x-sendfile" not in answer.fields
    assert all(file.closed for file in opened)


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_name_is_not_told_where_no_file_is_sent(tmp_path: Path, status: int):
    """A framework that answers a condition itself leaves the field in; paths are nobody's news."""
    (tmp_path / "a").write_bytes(ALPHABET)
    headers = {"X-Sendfile": str(tmp_path / "a"), "ETag": '"own"'}
    answer = await ask(lambda env: (status, headers, ""), sendfile=(tmp_path,))

    assert (answer.status, answer.body) == (status, b"")
    assert answer.fields["etag"] == '"own"'
    assert "x-sendfile" not in answer.fields


async def test_part_that_a_framework_has_cut_is_cut_out_of_the_named_file(tmp_path: Path):
    """It says 206, of a body that is not sent."""
    (tmp_path / "a").write_bytes(ALPHABET)

    def app(env: iodine_aio.Env) -> Any:
        headers = {"X-Sendfile": str(tmp_path / "a"), "Content-Range": "bytes 1-2/26"}
        return 206, headers | {"Content-Length": "2"}, "??"

    answer = await ask(app, request("Range: bytes=1-2"), sendfile=(tmp_path,))

    assert (answer.status, answer.reason, answer.body) == (206, "Partial Content", b"bc")
    assert answer.wire.count(b"Content-Range: bytes 1-2/26\r\n") == 1


@pytest.mark.parametrize("spell", [str, lambda text: text.encode().decode("latin-1")])
@pytest.mark.parametrize("name", ["h\u00fctte", "\u96ea"])
async def test_name_of_other_letters_is_found_in_either_spelling(
    tmp_path: Path, name: str, spell: Any
):
    """A plain str, or the bytes of it in a str, as PEP 3333 says."""
    (tmp_path / name).write_bytes(ALPHABET)
    headers = {"X-Sendfile": spell(str(tmp_path / name))}
    answer = await ask(lambda env: (200, headers, ""), sendfile=(tmp_path,))

    assert (answer.status, answer.body) == (200, ALPHABET)


async def test_named_file_is_the_proxys_matter_where_no_folder_is_set():
    """The field passes, as every other."""
    answer = await ask(lambda env: (200, {"X-Sendfile": "/a"}, "body"))

    assert (answer.body, answer.fields["x-sendfile"]) == (b"body", "/a")


# ---- on the way ----


@pytest.mark.usefixtures("way")
async def test_every_byte_arrives_in_order(tmp_path: Path):
    """Pipelined too, beside answers that are not of files."""
    content = write_file(tmp_path / "large", 3 * MIB)

    def app(env: iodine_aio.Env) -> Any:
        return 200, {}, (tmp_path / "large" if env["PATH_INFO"] == "/" else "small")

    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        writer.write(KEPT + KEPT.replace(b" / ", b" /small ") + KEPT)
        bodies = [(await read_response(reader))[2] for _ in range(3)]

    assert bodies == [content, b"small", content]


@pytest.mark.usefixtures("way")
async def test_parts_arrive_in_order(tmp_path: Path):
    """Spans of a large file, each behind its head."""
    content = write_file(tmp_path / "large", MIB)
    answer = await ask(
        lambda env: (200, {}, tmp_path / "large"),
        request("Range: bytes=0-99999, 200000-299999, 900000-"),
    )
    boundary = answer.fields["content-type"].partition("boundary=")[2].encode()
    parts = answer.body.split(b"--" + boundary)

    assert answer.status == 206
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [
        content[:100000] + b"\r\n",
        content[200000:300000] + b"\r\n",
        content[900000:] + b"\r\n",
    ]


async def test_slow_reader_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What waits for a client that does not read is a block, not the file."""
    path = tmp_path / "large"
    write_file(path, 16 * MIB)
    sizes: list[int] = []

    async with (
        iodine_aio.serve(lambda env: (200, {}, path), port=0) as server,
        connect(server, limit=1024) as (reader, writer),
    ):
        writer.write(KEPT)
        await read_head(reader)
        (connection,) = server.connections
        while not connection.paused:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        sizes.append(connection.pending())  # type: ignore[attr-defined]

    assert 0 < sizes[0] <= 256 * 1024


@pytest.mark.usefixtures("way")
async def test_file_is_closed_when_its_client_leaves(tmp_path: Path):
    """Paused, or while a block is being read."""
    path = tmp_path / "large"
    write_file(path, 16 * MIB)

    async with iodine_aio.serve(lambda env: (200, {}, path), port=0) as server:
        before = descriptors()
        for _ in range(3):
            async with connect(server, limit=1024) as (reader, writer):
                writer.write(KEPT)
                await read_head(reader)
                reset(writer)
        while server.connections or descriptors() > before:
            await asyncio.sleep(0)


async def test_file_is_closed_when_the_server_is_aborted_while_a_block_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The thread still needs the descriptor: it is closed once the block is there."""
    path = tmp_path / "large"
    write_file(path, MIB)
    refuse_waiting(monkeypatch)
    loop = asyncio.get_running_loop()
    reading = asyncio.Event()
    pread, go_on = os.pread, threading.Event()

    def slow(*arguments: Any) -> bytes:
        loop.call_soon_threadsafe(reading.set)
        go_on.wait(10)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", slow)
    async with iodine_aio.serve(lambda env: (200, {}, path), port=0) as server:
        async with connect(server) as (_, writer):
            writer.write(KEPT)
            await reading.wait()
            server.abort()
            while server.connections:
                await asyncio.sleep(0)
            open_while_read = is_open(path)
        go_on.set()
        while is_open(path):
            await asyncio.sleep(0)

    assert open_while_read


async def test_disk_that_fails_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A block that cannot be read is not sent as another."""
    path = tmp_path / "large"
    write_file(path, MIB)
    refuse_waiting(monkeypatch)

    def pread(*arguments: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    answer = await ask(lambda env: (200, {}, path))

    assert (answer.status, answer.body) == (200, b"")
    assert caplog.text.count("a file cannot be read") == 1


async def test_large_file_lets_others_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However fast its client is: as much in a turn, then whoever waits."""
    path = tmp_path / "large"
    write_file(path, 8 * MIB)
    turns: list[int] = []
    monkeypatch.setattr(filing, "FILE_TURN_BYTES", MIB)

    class Fast:
        """A socket that takes everything."""

        paused = False
        sent = 0

        def __init__(self) -> None:
            self.service: Any = self
            self.block = memoryview(bytearray(MIB // 4))
            self.loop = self
            self.complete: bool | None = None

        def put(self, data: bytes) -> None:
            self.sent += len(data)

        def flush(self) -> None:
            pass

        def find_empty_socket(self) -> int:
            return -1

        def pause_early(self, early: bool) -> None:
            pass

        def call_soon(self, function: Callable[[], None]) -> None:
            turns.append(self.sent)
            self.next = function

        def response_sent(self, complete: bool) -> None:
            self.complete = complete

    outlet = Fast()
    body = filing.FileBody(path.open("rb"), [(0, 8 * MIB)])
    sender = filing.FileSender(outlet, body, filing.Framing(8 * MIB, False))  # type: ignore[arg-type]
    sender.start()
    while outlet.complete is None:
        outlet.next()

    assert turns == [number * MIB for number in range(1, 8)]
    assert outlet.complete


# ---- past the transport ----


class FakeSocket:
    """The socket of a transport."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


class BusyTransport(FakeTransport):
    """One in which bytes wait, or that is secured."""

    def __init__(self, descriptor: int = 7, waiting: int = 0, secured: bool = False) -> None:
        super().__init__()
        self.sock = FakeSocket(descriptor)
        self.waiting, self.secured = waiting, secured

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self.sock, "sslcontext": object() if self.secured else None}.get(name)


def find_socket(transport: BusyTransport, put: bytes = b"") -> int:
    service = Service(None, Settings())
    service.start(FakeLoop())  # type: ignore[arg-type]
    protocol = HTTPProtocol(service, make_template(("127.0.0.1", 3000), None))
    protocol.connection_made(transport)
    if put:
        protocol.put(put)
    return protocol.find_empty_socket()


def test_nothing_is_sent_past_what_waits_or_what_closes():
    """Blocks would overtake others, go out in the clear, or into somebody else's connection."""
    closing = BusyTransport()
    closing.close()

    assert find_socket(BusyTransport()) == 7
    assert find_socket(BusyTransport(waiting=1)) == -1
    assert find_socket(BusyTransport(secured=True)) == -1
    assert find_socket(closing) == -1


def test_what_was_kept_back_goes_first():
    """The head stands before its body."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = BusyTransport(ours.fileno())
        found = find_socket(transport, b"kept back")
        received = theirs.recv(100)

    assert found == transport.sock.descriptor
    assert received == b"kept back"
    assert transport.written == b""


def test_what_the_socket_has_no_room_for_waits_in_the_transport(monkeypatch: pytest.MonkeyPatch):
    """Nobody waits for a socket, whatever timeout the program has set for all of them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while ours.send(bytes(4096)):
                pass
        transport = BusyTransport(ours.fileno())
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(1000)
        try:
            found = find_socket(transport, b"kept back")
        finally:
            socket.setdefaulttimeout(timeout)

    assert found == -1
    assert transport.written == b"kept back"


# ---- sockets that are full ----


@pytest.mark.usefixtures("way")
async def test_slow_client_gets_every_byte_in_order(tmp_path: Path):
    """Files, parts and small answers, in a row, through a socket that is full all the time."""
    content = write_file(tmp_path / "large", MIB // 2)

    def app(env: iodine_aio.Env) -> Any:
        return 200, {}, (tmp_path / "large" if env["PATH_INFO"] == "/" else "small")

    part = KEPT.replace(b"\r\n\r\n", b"\r\nRange: bytes=1000-400000\r\n\r\n")
    head = KEPT.replace(b"GET", b"HEAD")
    small = KEPT.replace(b" / ", b" /small ")
    loop = asyncio.get_running_loop()
    async with serving_slowly(app) as server:
        with slow_socket(server) as sock:
            await loop.sock_sendall(sock, KEPT + small + head + part + KEPT + small + GET)
            received = bytearray()
            while data := await loop.sock_recv(sock, 8192):
                received += data

    bodies = []
    for bodiless in (False, False, True, False, False, False, False):
        block, _, rest = bytes(received).partition(b"\r\n\r\n")
        length = 0 if bodiless else Answer(block + b"\r\n\r\n").fields["content-length"]
        bodies.append(rest[: int(length)])
        received = bytearray(rest[int(length) :])
    assert bodies == [content, b"small", b"", content[1000:400001], content, b"small", content]
    assert not received


async def test_connection_is_as_it_was_after_a_file(tmp_path: Path):
    """It pauses no earlier than others do."""
    content = write_file(tmp_path / "large", MIB)
    loop = asyncio.get_running_loop()
    async with serving_slowly(lambda env: (200, {}, tmp_path / "large")) as server:
        with slow_socket(server) as sock:
            await loop.sock_sendall(sock, KEPT)
            connection = await pause(server)
            early = connection.transport.get_write_buffer_limits()
            received = b""
            while not received.endswith(content[-100:]):
                received += await loop.sock_recv(sock, MIB)
            await loop.sock_sendall(sock, KEPT.replace(b"GET", b"HEAD"))
            await loop.sock_recv(sock, MIB)
            late = connection.transport.get_write_buffer_limits()

    assert early == (0, 0)
    assert late == (16 * 1024, 64 * 1024)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [1, 20_000, 100_000, 300_000])
async def test_file_is_closed_wherever_its_client_leaves(tmp_path: Path, size: int):
    """Before the first byte of it, on the way, before the last."""
    path = tmp_path / "large"
    write_file(path, 300_000)
    loop = asyncio.get_running_loop()
    async with serving_slowly(lambda env: (200, {}, path)) as server:
        with slow_socket(server) as sock:
            await loop.sock_sendall(sock, KEPT + KEPT)
            received = 0
            while received < size:
                received += len(await loop.sock_recv(sock, min(4096, size - received)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while server.connections or is_open(path):
            await asyncio.sleep(0)


async def test_client_that_takes_nothing_is_left(tmp_path: Path):
    """Within twice the time to send; its file is closed, and others are served."""
    path = tmp_path / "large"
    write_file(path, MIB)
    loop = asyncio.get_running_loop()
    async with serving_slowly(lambda env: (200, {}, path)) as server:
        with slow_socket(server) as sock:
            await loop.sock_sendall(sock, KEPT)
            await pause(server)
            clock = server._service.clock
            for _ in range(2):
                clock.advance(clock.now + 1000)
            while server.connections or is_open(path):
                await asyncio.sleep(0)
        answer = Answer(await exchange(server, request("Range: bytes=0-1")))

    assert answer.status == 206


# ---- files that change ----


async def receive_some(sock: socket.socket) -> tuple[bytes, bool]:
    """The bytes of one response, as many as come, and whether a reset ended them."""
    loop = asyncio.get_running_loop()
    received = bytearray()
    try:
        while data := await loop.sock_recv(sock, 65536):
            received += data
    except ConnectionResetError:
        return bytes(received).partition(b"\r\n\r\n")[2], True
    return bytes(received).partition(b"\r\n\r\n")[2], False


async def change_while_sent(
    path: Path, requests: bytes, change: Callable[[], object]
) -> tuple[bytes, bool]:
    """As `receive_some`, from a file that is changed when its client is in arrears."""
    async with serving_slowly(lambda env: (200, {}, path)) as server:
        with slow_socket(server) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, requests)
            await pause(server)
            change()
            return await receive_some(sock)


@pytest.mark.usefixtures("way")
async def test_file_that_shrinks_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Nothing is padded, nothing hangs; what the socket holds of its last page is zeros."""
    path = tmp_path / "large"
    content = write_file(path, MIB)
    received, _ = await change_while_sent(path, KEPT + KEPT, lambda: os.truncate(path, 1000))

    assert 0 < len(received) < len(content)
    assert all(is_one in (ours, 0) for is_one, ours in zip(received, content, strict=False))
    assert "a file became shorter" in caplog.text
    assert not is_open(path)


@pytest.mark.usefixtures("way")
async def test_file_that_is_overwritten_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Half of the one and half of the other must not look like either."""
    path = tmp_path / "large"
    content = write_file(path, MIB)

    def overwrite() -> None:
        write_file(path, len(content))
        os.utime(path, (1, 1))

    received, _ = await change_while_sent(path, KEPT + KEPT, overwrite)

    assert 0 < len(received) < len(content)
    assert "a file was overwritten while it was sent" in caplog.text
    assert not is_open(path)


@pytest.mark.usefixtures("way")
async def test_file_that_grows_is_cut_at_its_announced_length(tmp_path: Path):
    """As a log does; the next response stands where the announced length ends."""
    path = tmp_path / "large"
    content = write_file(path, MIB)

    def append() -> None:
        with path.open("ab") as file:
            file.write(ALPHABET * 1000)

    received, _ = await change_while_sent(path, KEPT + request("Range: bytes=-5"), append)

    assert received[: len(content)] == content
    assert Answer(received[len(content) :]).body == b"vwxyz"


@pytest.mark.usefixtures("way")
async def test_file_that_is_replaced_is_sent_as_it_was(tmp_path: Path):
    """Its name is another file's now, its descriptor is not."""
    path = tmp_path / "large"
    content = write_file(path, MIB)
    write_file(tmp_path / "new", 1000)
    received, was_reset = await change_while_sent(
        path, GET, lambda: os.replace(tmp_path / "new", path)
    )

    assert received == content
    assert not was_reset


@pytest.mark.parametrize("shorter", [False, True], ids=["overwritten", "shorter"])
async def test_change_behind_the_last_byte_resets_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shorter: bool
):
    """All that was announced is on its way, zeros among it perhaps: its end would be a lie."""
    path = tmp_path / "large"
    write_file(path, 100_000)
    sendfile = os.sendfile

    def send_and_change(*arguments: int) -> int:
        sent = sendfile(*arguments)
        if shorter:
            os.truncate(path, 1000)
        else:
            os.utime(path, (1, 1))
        return sent

    monkeypatch.setattr(os, "sendfile", send_and_change)
    loop = asyncio.get_running_loop()
    async with iodine_aio.serve(lambda env: (200, {}, path), port=0) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, KEPT + KEPT)
            _, was_reset = await receive_some(sock)

    assert was_reset


async def test_kernel_that_cannot_send_a_file_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The rest of it is copied."""
    content = write_file(tmp_path / "large", 3 * MIB)
    asked: list[int] = []

    def sendfile(out: int, file: int, offset: int, size: int) -> int:
        asked.append(offset)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", sendfile)
    answer = await ask(lambda env: (200, {}, tmp_path / "large"))

    assert answer.body == content
    assert asked == [0]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="Linux has it")
async def test_file_in_memory_is_sent(monkeypatch: pytest.MonkeyPatch):
    """tmpfs is a file system of its own kind."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        content = write_file(Path(file.name), 3 * MIB)
        answer = await ask(lambda env: (200, {}, Path(file.name)))

    assert answer.body == content


# ---- what the page cache has ----


async def test_kernel_sends_no_more_than_was_found_in_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The loop would wait for the disk: what is missing is read by a thread."""
    path = tmp_path / "large"
    content = write_file(path, 2 * MIB)
    missing = LOOK_BYTES + 300_000
    asked: list[tuple[int, int]] = []
    sent = [0]  # where the kernel had come to; it may take less than it is asked to
    read: list[int] = []
    preadv, pread, sendfile = os.preadv, os.pread, os.sendfile

    def look(file: int, blocks: Any, offset: int, *flags: int) -> int:
        if offset >= missing and offset not in read:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return preadv(file, blocks, offset, *flags)

    def note_sent(out: int, file: int, offset: int, size: int) -> int:
        asked.append((offset, offset + size))
        count = sendfile(out, file, offset, size)
        sent.append(offset + count)
        return count

    def note_read(file: int, size: int, offset: int) -> bytes:
        read.append(offset)
        return pread(file, size, offset)

    monkeypatch.setattr(os, "preadv", look)
    monkeypatch.setattr(os, "sendfile", note_sent)
    monkeypatch.setattr(os, "pread", note_read)
    answer = await ask(lambda env: (200, {}, path))

    assert answer.body == content
    assert asked[0] == (0, 3 * LOOK_BYTES)
    assert all(end <= 3 * LOOK_BYTES for _, end in asked)
    assert read == list(range(sent[-1], 2 * MIB, BLOCK_BYTES))
