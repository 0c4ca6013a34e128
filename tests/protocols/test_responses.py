"""What an app returns, as its client sees it on the wire."""

import asyncio
import contextlib
import http.client
import inspect
import io
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug import Request

from iodine_aio.protocols.sending import TURN_SECONDS
from iodine_aio.serving import serve
from tests.clients import Answer, ask, connect, exchange, reset
from tests.handlers import Body
from tests.loops import Run
from tests.requests import GET, KEPT

MIB = 1024 * 1024


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


# ---- bodies ----


def generate() -> Iterator[Any]:
    yield "caf\u00e9"
    yield b""
    yield b" au lait"


async def generate_later() -> AsyncIterator[Any]:
    yield "caf\u00e9"
    await asyncio.sleep(0)
    yield b""
    yield b" au lait"


def write_stream(stream: Any) -> None:
    stream.write("caf\u00e9")
    stream << b" au lait"


async def write_stream_later(stream: Any) -> None:
    await stream.send("caf\u00e9")
    await asyncio.sleep(0)
    await stream.send(b" au lait")


CAFE = "caf\u00e9 au lait"


@pytest.mark.parametrize(
    "body",
    [
        CAFE,
        CAFE.encode(),
        bytearray(CAFE.encode()),
        ["caf\u00e9", b" au lait"],
        ("caf\u00e9 au lait",),
    ],
    ids=["str", "bytes", "bytearray", "list", "tuple"],
)
def test_whole_body_has_its_length(run: Run, body: Any):
    """Content-Length is computed in bytes, of UTF-8 where the app gave text."""
    answer = run(ask(lambda env: (200, {}, body)))

    assert answer.status == 200
    assert answer.fields["content-length"] == "13"
    assert answer.body == CAFE.encode()


def test_no_body_is_empty(run: Run):
    """None is a body of length 0."""
    answer = run(ask(lambda env: (200, {}, None)))

    assert answer.fields["content-length"] == "0"
    assert answer.body == b""


@pytest.mark.parametrize(
    "make_body",
    [
        generate,
        generate_later,
        lambda: write_stream,
        lambda: write_stream_later,
    ],
    ids=["generator", "async generator", "callable", "async callable"],
)
def test_body_of_unknown_length_is_chunked(run: Run, make_body: Callable[[], Any]):
    """A body that is not whole goes out in chunks; an empty piece does not end it."""
    answer = run(ask(lambda env: (200, {}, make_body())))

    assert answer.fields["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.fields
    assert answer.content == CAFE.encode()


@pytest.mark.parametrize(
    "make_body",
    [generate, generate_later, lambda: write_stream, lambda: write_stream_later],
    ids=["generator", "async generator", "callable", "async callable"],
)
def test_streamed_body_of_announced_length_is_not_chunked(run: Run, make_body: Any):
    """The app's Content-Length delimits, and is sent once."""
    answer = run(ask(lambda env: (200, {"content-length": "13"}, make_body())))

    assert "transfer-encoding" not in answer.fields
    assert answer.wire.lower().count(b"content-length") == 1
    assert answer.body == CAFE.encode()


@pytest.mark.parametrize("version", [b"1.0", b"1.0 kept"])
def test_http_1_0_client_gets_no_chunks(run: Run, version: bytes):
    """The end of the connection ends the body (RFC 9112, 6.1)."""
    request = b"GET / HTTP/1.0\r\n\r\n"
    if version == b"1.0 kept":
        request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = run(ask(lambda env: (200, {}, generate()), request))

    assert "transfer-encoding" not in answer.fields
    assert answer.fields["connection"] == "close"
    assert answer.body == CAFE.encode()


def test_http_1_0_client_keeps_alive_when_it_asks(run: Run):
    """Connection: keep-alive is confirmed where the length is known."""

    async def main() -> bytes:
        async with serve(lambda env: (200, {}, "x"), port=0) as server:
            return await exchange(
                server, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n"
            )

    wire = run(main())

    assert wire.count(b"HTTP/1.1 200 OK") == 2
    assert wire.count(b"Connection: keep-alive") == 1


def test_open_file_is_sent_from_where_it_stands(run: Run, tmp_path: Path):
    """What is left of a file is its length; it is closed afterwards."""
    path = tmp_path / "numbers"
    path.write_bytes(b"0123456789" * 30_000)
    file = path.open("rb")
    file.seek(5)
    answer = run(ask(lambda env: (200, {}, file)))

    assert answer.fields["content-length"] == "299995"
    assert answer.body == b"0123456789"[5:] + b"0123456789" * 29_999
    assert file.closed


def test_path_is_opened_and_sent(run: Run, tmp_path: Path):
    """An os.PathLike is a file that nobody has opened yet."""
    path = tmp_path / "numbers"
    path.write_bytes(b"0123456789")
    answer = run(ask(lambda env: (200, {}, path)))

    assert answer.fields["content-length"] == "10"
    assert answer.body == b"0123456789"


def test_path_that_is_not_there_answers_500(run: Run, tmp_path: Path, caplog):
    """A file that cannot be opened is the app's fault."""
    answer = run(ask(lambda env: (200, {}, tmp_path / "nothing")))

    assert answer.status == 500
    assert len(errors_in(caplog)) == 1


def test_dict_as_body_answers_500_and_names_json(run: Run, caplog):
    """It is iterable, but nobody means its keys."""
    answer = run(ask(lambda env: (200, {}, {"a": 1})))

    assert answer.status == 500
    assert "response body is dict, must be str (of data: json.dumps)" in caplog.text


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (({"a": 1}, 200), "the app returned 2 values, must return (status, headers, body)"),
        ((200, "body", {}), "headers are str, must be a dict, or pairs of name and value"),
    ],
)
def test_wrong_result_is_told_the_right_one(run: Run, caplog, result: Any, message: str):
    """The log has the cause and the cure in one line."""
    answer = run(ask(lambda env: result))

    assert answer.status == 500
    assert message in caplog.text


def test_file_without_descriptor_is_chunked(run: Run):
    """Of an io.BytesIO nobody asks the size."""
    answer = run(ask(lambda env: (200, {}, io.BytesIO(b"0123456789"))))

    assert answer.content == b"0123456789"


def test_text_file_is_sent_as_utf_8(run: Run):
    """A file of text is an iterable of its lines."""
    answer = run(ask(lambda env: (200, {}, io.StringIO("caf\u00e9\nau lait"))))

    assert answer.content == "caf\u00e9\nau lait".encode()


def test_hijack_field_is_handed_the_stream_behind_the_head(run: Run):
    """`rack.hijack` writes what it likes, after its call too, until it closes."""
    streams: list[Any] = []

    async def main() -> Answer:
        def start(stream: Any) -> None:
            streams.append(stream)
            stream.write("first ")
            asyncio.get_running_loop().call_soon(finish, stream)

        def finish(stream: Any) -> None:
            stream.write(b"last")
            stream.close()

        return await ask(lambda env: (200, {"X-A": "b", "rack.hijack": start}, None), KEPT)

    answer = run(main())

    assert answer.fields["connection"] == "close"
    assert answer.fields["x-a"] == "b"
    assert "rack.hijack" not in answer.fields
    assert answer.body == b"first last"
    assert streams[0].closed


def test_status_may_be_text_as_in_wsgi(run: Run):
    """The reason is the app's own."""
    answer = run(ask(lambda env: ("200 Fine", {}, "")))

    assert (answer.status, answer.reason) == (200, "Fine")


def test_list_of_values_is_one_line_each(run: Run):
    """Set-Cookie cannot be joined."""
    answer = run(ask(lambda env: (200, {"Set-Cookie": ["a=1", "b=2"]}, "")))

    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in answer.wire


# ---- responses without a body ----


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("make_body", [lambda: "text", generate], ids=["whole", "generator"])
def test_status_that_forbids_a_body_ends_with_its_head(run: Run, status: int, make_body: Any):
    """Neither body nor chunks, whatever the app returned (RFC 9112, 6.3)."""
    answer = run(ask(lambda env: (status, {}, make_body())))

    assert answer.status == status
    assert answer.body == b""
    assert "transfer-encoding" not in answer.fields


@pytest.mark.parametrize(
    "make_body", [lambda: CAFE, generate, generate_later], ids=["str", "generator", "async"]
)
def test_head_is_get_without_the_body(run: Run, make_body: Any):
    """The fields of GET, and nothing behind them (RFC 9110, 9.3.2)."""
    app = lambda env: (200, {}, make_body())  # noqa: E731
    answer = run(ask(app, GET.replace(b"GET", b"HEAD")))
    whole = run(ask(app))

    assert answer.body == b""
    assert answer.fields.keys() == whole.fields.keys()


# ---- a length that is not true ----


@pytest.mark.parametrize(
    "make_body", [lambda: "abc", lambda: ["abc"], lambda: iter(["abc"])], ids=["str", "list", "it"]
)
def test_body_shorter_than_announced_closes(run: Run, caplog, make_body: Any):
    """Only the end of the connection tells the client that something is missing."""
    answer = run(ask(lambda env: (200, {"Content-Length": "10"}, make_body()), KEPT + KEPT))

    assert answer.wire.count(b"HTTP/1.1") == 1
    assert answer.fields["content-length"] == "10"
    assert answer.body == b"abc"
    assert len(errors_in(caplog)) == 1


@pytest.mark.parametrize(
    "make_body", [lambda: "abcde", lambda: iter(["ab", "cde"])], ids=["str", "generator"]
)
def test_body_longer_than_announced_is_cut(run: Run, make_body: Any):
    """The rest would be taken for the next response."""

    async def main() -> bytes:
        async with serve(lambda env: (200, {"Content-Length": "3"}, make_body()), port=0) as server:
            return await exchange(server, KEPT, GET)

    wire = run(main())

    assert wire.count(b"\r\n\r\nabc") == 2
    assert b"abcd" not in wire


# ---- what cannot be sent ----


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"A": "b\r\nC: d"}, ""),
        (200, {"A": "b\nC: d"}, ""),
        (200, {"A": "b\rC: d"}, ""),
        (200, {"A": "b\0"}, ""),
        (200, {"A": ["b", "c\r\nd"]}, ""),
        (200, {"A\r\nB": "c"}, ""),
        (200, {"A\0": "c"}, ""),
        (200, {"A B": "c"}, ""),
        (200, {"": "c"}, ""),
        ("200 Fine\r\nA: b", {}, ""),
        ("200 Fine\0", {}, ""),
        (200, {"Content-Length": "3\r\n"}, ""),
        (200, {"Content-Length": "+3"}, "abc"),
        (200, [("Content-Length", "3"), ("Content-Length", "4")], "abc"),
        (200, {"A": "\u20ac"}, ""),
        (200, {"A": 1}, ""),
        (200, {"A": "b" * 8192}, ""),
        (200, {f"A{i}": "b" * 90 for i in range(100)}, ""),
        (200, ["A"], ""),
        (200, 7, ""),
        (99, {}, ""),
        (101, {}, ""),
        (600, {}, ""),
        ("Fine", {}, ""),
        (None, {}, ""),
        (200, {}, 7),
        (200, {}, [7]),
    ],
)
def test_response_that_cannot_be_sent_answers_500(
    run: Run, caplog, status: Any, headers: Any, body: Any
):
    """Nothing of it goes out, one entry is logged, and the connection stays."""

    async def main() -> bytes:
        app = lambda env: (status, headers, body)  # noqa: E731
        async with serve(app, port=0) as server:
            return await exchange(server, KEPT, GET)

    wire = run(main())

    assert wire.count(b"HTTP/1.1 500 Internal Server Error\r\n") == 2
    assert wire.count(b"HTTP/1.1") == 2
    assert b"Fine" not in wire
    assert len(errors_in(caplog)) == 2


@pytest.mark.parametrize("result", [None, 7, "text", (200,), (200, {}), (200, {}, "", ""), object])
def test_app_that_returns_no_response_answers_500(run: Run, caplog, result: Any):
    """The client learns nothing, the log what was returned."""
    answer = run(ask(lambda env: result))

    assert answer.status == 500
    assert answer.body == b"Internal Server Error"
    assert len(errors_in(caplog)) == 1


def fail(env: dict[str, Any]) -> Any:
    raise ValueError("secret")


async def fail_later(env: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    raise ValueError("secret")


def leave(env: dict[str, Any]) -> Any:
    raise SystemExit(3)


async def cancel(env: dict[str, Any]) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("app", [fail, fail_later, leave, cancel])
def test_app_that_raises_answers_500_and_goes_on(run: Run, caplog, app: Any):
    """No traceback reaches the client, and the next request is served."""

    async def main() -> bytes:
        async with serve(app, port=0) as server:
            return await exchange(server, KEPT, GET)

    wire = run(main())

    assert wire.count(b"HTTP/1.1 500") == 2
    assert b"secret" not in wire
    assert b"Traceback" not in wire
    assert len(errors_in(caplog)) == 2


def generate_and_fail() -> Iterator[bytes]:
    yield b"half"
    raise ValueError("secret")


async def generate_and_fail_later() -> AsyncIterator[bytes]:
    yield b"half"
    raise ValueError("secret")


def write_and_fail(stream: Any) -> None:
    stream.write(b"half")
    raise ValueError("secret")


async def write_and_fail_later(stream: Any) -> None:
    await stream.send(b"half")
    raise ValueError("secret")


@pytest.mark.parametrize(
    "make_body",
    [
        generate_and_fail,
        generate_and_fail_later,
        lambda: write_and_fail,
        lambda: write_and_fail_later,
        lambda: iter([b"half", 7]),
    ],
)
def test_half_a_response_does_not_look_whole(run: Run, caplog, make_body: Any):
    """A body that raises has no last chunk, and its connection ends."""
    answer = run(ask(lambda env: (200, {}, make_body()), KEPT))

    assert answer.body == b"4\r\nhalf\r\n"
    assert len(errors_in(caplog)) == 1


def test_half_a_response_until_close_is_a_reset(run: Run, caplog):
    """A 1.0 client would take an orderly end for the end of the body."""

    def body() -> Iterator[bytes]:
        yield b"x" * 65536
        raise ValueError("secret")

    with pytest.raises(ConnectionResetError):
        run(ask(lambda env: (200, {}, body()), b"GET / HTTP/1.0\r\n\r\n"))

    assert len(errors_in(caplog)) == 1


# ---- close() ----


@pytest.mark.parametrize(
    ("method", "status", "headers", "pieces"),
    [
        ("GET", 200, {}, ["a", "b"]),
        ("GET", 200, {}, []),
        ("GET", 200, {"Content-Length": "1"}, ["a", "b"]),
        ("GET", 200, {"Content-Length": "9"}, ["a", "b"]),
        ("GET", 200, {}, ["a", ValueError("late")]),
        ("GET", 200, {}, [ValueError("at once")]),
        ("GET", 200, {}, [7]),
        ("HEAD", 200, {}, ["a", "b"]),
        ("GET", 204, {}, ["a"]),
        ("GET", 304, {}, ["a"]),
        ("GET", "nonsense", {}, ["a"]),
        ("GET", 600, {}, ["a"]),
        ("GET", 200, {"A": "b\n"}, ["a"]),
        ("GET", 200, {"A": "\u20ac"}, ["a"]),
        ("GET", 200, {"A": "b" * 9000}, ["a"]),
        ("GET", 200, {"rack.hijack": lambda stream: stream.close()}, ["a"]),
    ],
)
def test_body_is_closed_once_on_every_path(
    run: Run, method: str, status: Any, headers: Any, pieces: list[Any]
):
    """A body that stays open leaks what it holds (PEP 3333)."""
    body = Body(*pieces)
    run(ask(lambda env: (status, headers, body), GET.replace(b"GET", method.encode())))

    assert body.closed == 1


class LaterBody:
    """An async iterable that counts how often it was closed."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = list(pieces)
        self.closed = 0

    def __aiter__(self) -> "LaterBody":
        return self

    async def __anext__(self) -> Any:
        if not self.pieces:
            raise StopAsyncIteration
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("method", "status", "headers", "pieces"),
    [
        ("GET", 200, {}, ["a", "b"]),
        ("GET", 200, {"Content-Length": "9"}, ["a"]),
        ("GET", 200, {}, ["a", ValueError("late")]),
        ("HEAD", 200, {}, ["a", "b"]),
        ("GET", 204, {}, ["a"]),
        ("GET", 304, {}, ["a"]),
        ("GET", 200, {"A": "b\n"}, ["a"]),
        ("GET", 600, {}, ["a"]),
    ],
)
def test_async_body_is_closed_once_on_every_path(
    run: Run, method: str, status: Any, headers: Any, pieces: list[Any]
):
    """`aclose()` is what `close()` is to a plain iterable."""
    body = LaterBody(*pieces)
    run(ask(lambda env: (status, headers, body), GET.replace(b"GET", method.encode())))

    assert body.closed == 1


def test_close_that_raises_does_not_spoil_the_response(run: Run, caplog):
    """It is logged; the response is whole already."""

    class Failing(Body):
        def close(self) -> None:
            raise ValueError("too late")

    answer = run(ask(lambda env: (200, {}, Failing("a"))))

    assert answer.content == b"a"
    assert len(errors_in(caplog)) == 1


# ---- pieces ----


@pytest.mark.parametrize("kind", ["generator", "callable"])
async def test_piece_is_sent_before_the_next_is_computed(kind: str):
    """Even on the loop, where it holds up everybody; a callable says so by `flush`."""
    arrived = threading.Event()

    def generate_two() -> Iterator[str]:
        yield "first"
        yield str(arrived.wait(20))

    def write_two(stream: Any) -> None:
        for piece in generate_two():
            stream.write(piece)
            stream.flush()

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, generate_two() if kind == "generator" else write_two

    def read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            sock.sendall(GET)
            data = b""
            while b"first" not in data:
                data += sock.recv(MIB)
            arrived.set()
            while more := sock.recv(MIB):
                data += more
            return data

    async with serve(app, port=0) as server:
        data = await asyncio.to_thread(read, server.port)

    assert b"True" in data


async def test_generator_that_takes_its_time_lets_others_in():
    """Between two of its pieces: its turn is not as long as many of them take."""
    order: list[str] = []

    def app(env: dict[str, Any]) -> Any:
        def body() -> Iterator[bytes]:
            asyncio.get_running_loop().call_soon(order.append, "somebody else")
            ready = time.monotonic() + 2 * TURN_SECONDS
            while time.monotonic() < ready:
                pass
            yield b"1"
            order.append("the next piece")
            yield b"2"

        return 200, {}, body()

    answer = await ask(app, GET)

    assert answer.content == b"12"
    assert order == ["somebody else", "the next piece"]


# ---- clients that go away, or read slowly ----


def test_slow_reader_holds_memory_flat(run: Run):
    """A generator is pulled no further than the client takes, buffers apart."""
    piece = b"x" * 65536
    pulled = 0

    def app(env: dict[str, Any]) -> Any:
        def body() -> Iterator[bytes]:
            nonlocal pulled
            for _ in range(64 * MIB // len(piece)):
                pulled += len(piece)
                yield piece

        return 200, {"Content-Length": str(64 * MIB)}, body()

    async def main() -> tuple[int, int]:
        taken = most = 0
        async with serve(app, port=0) as server:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            with sock:
                await loop.sock_connect(sock, ("127.0.0.1", server.port))
                await loop.sock_sendall(sock, GET)
                while data := await loop.sock_recv(sock, MIB):
                    taken += len(data)
                    most = max(most, pulled - taken)
        return taken, most

    taken, most = run(main())

    assert taken > 64 * MIB
    assert most < 16 * MIB


def endless(closed: asyncio.Event) -> Iterator[bytes]:
    """A body of 64 KiB after 64 KiB, that says when it is closed."""
    try:
        while True:
            yield b"x" * 65536
    finally:
        closed.set()


def test_client_that_goes_away_closes_the_generator(run: Run):
    """What nobody reads is not generated."""

    async def main() -> None:
        closed = asyncio.Event()

        async with serve(lambda env: (200, {}, endless(closed)), port=0) as server:
            async with connect(server) as (reader, writer):
                writer.write(KEPT)
                await reader.readexactly(1000)
                reset(writer)
            await closed.wait()

    run(main())


def test_client_that_goes_away_closes_the_async_generator(run: Run):
    """Its finally block is reached, whatever it waits for."""

    async def main() -> None:
        closed = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async with serve(lambda env: (200, {}, body()), port=0) as server:
            async with connect(server) as (reader, writer):
                writer.write(KEPT)
                await reader.readuntil(b"first")
                reset(writer)
            await closed.wait()

    run(main())


def test_async_app_is_cancelled_when_its_client_goes_away(run: Run, caplog):
    """Nobody waits for the answer any more."""

    async def main() -> None:
        called, cancelled = asyncio.Event(), asyncio.Event()

        async def app(env: dict[str, Any]) -> Any:
            called.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with serve(app, port=0) as server:
            async with connect(server) as (_, writer):
                writer.write(KEPT)
                await called.wait()
                reset(writer)
            await cancelled.wait()

    run(main())

    assert errors_in(caplog) == []


def test_half_closed_client_gets_its_answer(run: Run):
    """The end of what it sends is not the end of what it reads."""

    async def main() -> Answer:
        called, release = asyncio.Event(), asyncio.Event()

        async def app(env: dict[str, Any]) -> Any:
            called.set()
            await release.wait()
            return 200, {}, "answer"

        async with serve(app, port=0) as server, connect(server) as (reader, writer):
            writer.write(KEPT)
            writer.write_eof()
            await called.wait()
            asyncio.get_running_loop().call_soon(release.set)
            return Answer(await reader.read())

    assert run(main()).body == b"answer"


def test_half_closed_client_is_dropped_after_a_while(run: Run):
    """TCP cannot tell it from one that has gone: the app is cancelled in the end."""

    async def main() -> bytes:
        cancelled = asyncio.Event()

        async def app(env: dict[str, Any]) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with (
            serve(app, port=0, half_close_timeout=0.05) as server,
            connect(server) as (reader, writer),
        ):
            writer.write(KEPT)
            writer.write_eof()
            await cancelled.wait()
            with contextlib.suppress(ConnectionResetError):
                return await reader.read()
            return b""

    assert run(main()) == b""


def test_client_that_takes_nothing_is_dropped(run: Run):
    """`send_timeout` ends a response that nobody reads."""

    async def main() -> None:
        closed = asyncio.Event()

        async with serve(
            lambda env: (200, {}, endless(closed)), port=0, send_timeout=0.05
        ) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                sock.sendall(KEPT)
                await closed.wait()

                assert not server.connections

    run(main())


# ---- order, and writes ----


def test_pipelined_answers_keep_their_order(run: Run):
    """A slow answer holds back the fast ones behind it."""
    slow_done = False

    def app(env: dict[str, Any]) -> Any:
        if env["PATH_INFO"] == "/slow":
            return later()
        return 200, {}, f"{env['PATH_INFO']} {slow_done};"

    async def later() -> Any:
        nonlocal slow_done
        for _ in range(5):
            await asyncio.sleep(0)
        slow_done = True
        return 200, {}, "/slow;"

    async def main() -> bytes:
        async with serve(app, port=0) as server:
            paths = [b"/a", b"/slow", b"/b", b"/c"]
            requests = [b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths]
            return await exchange(server, b"".join(requests) + GET)

    bodies = [part.partition(b"\r\n\r\n")[2] for part in run(main()).split(b"HTTP/1.1 ")[1:]]

    assert bodies == [b"/a False;", b"/slow;", b"/b True;", b"/c True;", b"/ True;"]


class Counting:
    """A transport that counts what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def test_one_write_answers_sixteen_pipelined_requests(run: Run):
    """A write is a system call: a read's answers go out together."""

    async def main() -> tuple[int, int]:
        async with (
            serve(lambda env: (200, {}, "x"), port=0) as server,
            connect(server) as (reader, writer),
        ):
            writer.write(KEPT)
            await reader.readuntil(b"\r\n\r\nx")
            (connection,) = server.connections
            counting = Counting(connection.transport)  # type: ignore[attr-defined]
            connection.transport = counting  # type: ignore[attr-defined]
            writer.write(KEPT * 16)
            for _ in range(16):
                await reader.readuntil(b"\r\n\r\nx")
            return counting.writes, len(server.connections)

    assert run(main()) == (1, 1)


# ---- request bodies ----


def post(body: bytes, *fields: bytes) -> bytes:
    lines = [b"POST /?a=1 HTTP/1.1", b"Host: a", b"Connection: close", *fields]
    lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def read_input(env: dict[str, Any]) -> Any:
    data = env["wsgi.input"].read()
    return 200, {"X-Length": env["CONTENT_LENGTH"]}, data


@pytest.mark.parametrize(
    "request_",
    [
        post(b"0123456789"),
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\n0123\r\n6;x=y\r\n456789\r\n0\r\nTrailer: z\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("limit", [1, 5, 512])
def test_request_body_is_read_from_the_input(run: Run, request_: bytes, limit: int):
    """Whole, from its start, kept in memory or in a file."""
    answer = run(ask(read_input, request_, spool_body_bytes=limit))

    assert answer.fields["x-length"] == "10"
    assert answer.body == b"0123456789"


def test_request_without_body_has_an_empty_input(run: Run):
    """An app may always read."""
    answer = run(ask(lambda env: (200, {}, env["rack.input"].read() + b"."), GET))

    assert answer.body == b"."


def spool_files() -> int:
    """Descriptors of ours that are files without a name."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").endswith("(deleted)")
    return count


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")
def test_long_request_body_is_kept_in_a_nameless_file(run: Run):
    """Nothing of it stays on the disk, nor open once it is answered."""
    envs: list[dict[str, Any]] = []
    before = spool_files()

    def app(env: dict[str, Any]) -> Any:
        envs.append(env)
        return 200, {}, str(spool_files() - before)

    async def main() -> tuple[Answer, int]:
        async with serve(app, port=0, spool_body_bytes=1000) as server:
            answer = Answer(await exchange(server, post(b"x" * 1001)))
            return answer, spool_files() - before

    answer, after = run(main())

    assert answer.body == b"1"
    assert envs[0]["wsgi.input"].closed
    assert after == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")
def test_half_a_request_body_is_not_kept(run: Run):
    """A client that goes away takes its file with it."""
    before = spool_files()

    async def main() -> int:
        async with serve(read_input, port=0, spool_body_bytes=10, body_timeout=0.05) as server:
            async with connect(server) as (reader, writer):
                writer.write(post(b"x" * 1000)[:-1])
                await reader.read()
            return spool_files() - before

    assert run(main()) == 0


def test_expectation_is_answered_before_the_body(run: Run):
    """The client waits for 100 before it sends the body (RFC 9110, 10.1.1)."""

    async def main() -> tuple[bytes, bytes]:
        async with serve(read_input, port=0) as server, connect(server) as (reader, writer):
            request = post(b"0123", b"Expect: 100-continue")
            writer.write(request[:-4])
            interim = await reader.readuntil(b"\r\n\r\n")
            writer.write(request[-4:])
            return interim, await reader.read()

    interim, final = run(main())

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert final.startswith(b"HTTP/1.1 200 OK\r\n")
    assert final.endswith(b"\r\n\r\n0123")


def test_expectation_is_not_answered_once_the_body_is_there(run: Run):
    """A client that did not wait needs no 100."""
    answer = run(ask(read_input, post(b"0123", b"Expect: 100-continue")))

    assert answer.status == 200
    assert answer.body == b"0123"


def test_body_beyond_its_limit_answers_413_before_it_is_read(run: Run):
    """The announced length is enough to refuse."""
    answer = run(ask(read_input, post(b"0123456789")[:-5], max_body_bytes=9))

    assert answer.status == 413
    assert answer.fields["connection"] == "close"


# ---- timeouts ----


@pytest.mark.parametrize(
    ("option", "request_"),
    [
        ("head_timeout", b"GET / HTTP/1.1\r\nHo"),
        ("body_timeout", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n0123"),
    ],
)
def test_request_that_stands_still_answers_408(run: Run, option: str, request_: bytes):
    """It would hold its connection for ever."""
    options: dict[str, Any] = {option: 0.05, "keep_alive_timeout": 0}
    answer = run(asyncio.wait_for(ask(read_input, request_, **options), 1))

    assert answer.status == 408
    assert answer.fields["connection"] == "close"


def test_head_deadline_counts_from_its_first_byte(run: Run):
    """A client that sends a byte now and then does not move it."""

    async def main() -> bytes:
        async with (
            serve(read_input, port=0, head_timeout=0.1, keep_alive_timeout=0) as server,
            connect(server) as (reader, writer),
        ):
            answer = asyncio.ensure_future(reader.read())
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=0.01)
            return await answer

    assert run(asyncio.wait_for(main(), 1)).startswith(b"HTTP/1.1 408 ")


def test_silent_connection_is_closed_without_a_word(run: Run):
    """Silence before a request is no fault."""

    async def main() -> bytes:
        async with serve(read_input, port=0, keep_alive_timeout=0.05) as server:
            return await exchange(server)

    assert run(main()) == b""


# ---- rack.hijack ----


def test_hijack_gives_the_socket_and_what_was_read(run: Run):
    """From then on it is the app's alone; what it returns is not looked at."""
    leftovers: list[bytes] = []

    def app(env: dict[str, Any]) -> Any:
        sock = env["rack.hijack"]()
        leftovers.append(env["rack.hijack_leftover"])
        sock.send(b"mine")
        sock.close()

    async def main() -> bytes:
        async with serve(app, port=0) as server:
            return await exchange(server, KEPT + b"\x00early")

    assert run(main()) == b"mine"
    assert leftovers == [b"\x00early"]


def test_hijacked_socket_may_block(run: Run, caplog):
    """A thread of the app's own reads and writes as it likes."""
    threads: list[threading.Thread] = []

    def echo(sock: socket.socket) -> None:
        with sock:
            sock.setblocking(True)
            sock.sendall(b"ready")
            while data := sock.recv(100):
                sock.sendall(data.upper())

    def app(env: dict[str, Any]) -> Any:
        threads.append(threading.Thread(target=echo, args=(env["rack.hijack"](),)))
        threads[0].start()
        return 200, {}, "is not looked at"

    async def main() -> tuple[bytes, int]:
        async with serve(app, port=0) as server, connect(server) as (reader, writer):
            writer.write(KEPT)
            await reader.readuntil(b"ready")
            writer.write(b"one ")
            one = await reader.readexactly(4)
            writer.write(b"two")
            writer.write_eof()
            return one + await reader.read(), len(server.connections)

    received = run(main())
    threads[0].join(10)

    assert received == (b"ONE TWO", 0)
    assert errors_in(caplog) == []


def test_hijack_behind_pipelined_answers_sends_them_first(run: Run):
    """What was answered before is not lost."""

    def app(env: dict[str, Any]) -> Any:
        if env["PATH_INFO"] == "/":
            return 200, {}, "first"
        with env["rack.hijack"]() as sock:
            sock.send(b"second")
        return None

    async def main() -> bytes:
        async with serve(app, port=0) as server:
            return await exchange(server, KEPT + KEPT.replace(b"/ ", b"/x ", 1))

    assert run(main()).endswith(b"\r\n\r\nfirstsecond")


# ---- readers of env and of responses, written by others ----


def test_werkzeug_reads_env(run: Run):
    """One dict is a WSGI environ as well."""

    def app(env: dict[str, Any]) -> Any:
        request = Request(env)
        parts = [request.method, request.args["a"], request.form["b"], request.url]
        return 200, {}, " ".join(parts)

    form = b"b=x+y"
    answer = run(
        ask(app, post(form, b"Content-Type: application/x-www-form-urlencoded", b"X-F: 1"))
    )

    assert answer.body == b"POST 1 x y http://a/?a=1"


def test_werkzeug_reads_a_chunked_body(run: Run):
    """`wsgi.input_terminated` tells it that the input has an end."""

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, Request(env).get_data()

    request = (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\n0123\r\n0\r\n\r\n"
    )
    answer = run(ask(app, request))

    assert answer.body == b"0123"


def test_http_client_reads_chunks_and_keeps_alive(run: Run):
    """The standard library's client sees two whole responses on one connection."""

    def client(port: int) -> list[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        bodies = []
        for _ in range(2):
            connection.request("GET", "/")
            bodies.append(connection.getresponse().read())
        connection.close()
        return bodies

    async def main() -> list[bytes]:
        async with serve(lambda env: (200, {}, generate()), port=0) as server:
            return await asyncio.to_thread(client, server.port)

    assert run(main()) == [CAFE.encode()] * 2


def test_async_body_that_never_waits_leaves_the_loop_to_others(run: Run):
    """However fast its client reads."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 4000

    async def main() -> int:
        turns = 0
        async with serve(lambda _: (200, {}, endless()), port=0) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            while turns < 100:
                await reader.read(1 << 20)
                turns += 1
            writer.transport.abort()
        return turns

    assert run(asyncio.wait_for(main(), 20)) == 100


def test_async_app_that_exits_is_answered_by_500(run: Run):
    """sys.exit() in a task would end the loop."""

    async def app(env: Any) -> Any:
        await asyncio.sleep(0)
        raise SystemExit(3)

    async def main() -> bytes:
        async with serve(app, port=0) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
        return answer

    assert run(asyncio.wait_for(main(), 20)).startswith(b"HTTP/1.1 500 ")


async def test_stream_that_is_cut_before_its_first_step_leaves_no_coroutine_behind():
    """Python would say of it that it was never awaited."""
    made: list[Any] = []

    async def write(stream: Any) -> None:
        stream.write(b"never")

    def begin(stream: Any) -> Any:
        made.append(write(stream))
        next(iter(server.connections)).abort()
        return made[0]

    async with (
        serve(lambda env: (200, {}, begin), port=0) as server,
        connect(server) as (reader, writer),
    ):
        writer.write(GET)
        await reader.read()
        while inspect.getcoroutinestate(made[0]) != inspect.CORO_CLOSED:
            await asyncio.sleep(0)
