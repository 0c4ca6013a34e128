"""WSGI apps, as PEP 3333 says: on the pool, and on the loop."""

import asyncio
import contextlib
import gzip
import io
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

import iodine_aio
from iodine_aio.apps.threads import Delivery
from tests.clients import Answer, connect, exchange, read_response

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

threaded_or_not = pytest.mark.parametrize("threads", [4, 0], ids=["pool", "loop"])


@contextlib.asynccontextmanager
async def serving(app: Any, threads: int) -> AsyncIterator[iodine_aio.Server]:
    """Serves a WSGI app that wsgiref watches."""
    checked = validator(app)
    async with iodine_aio.serve(checked, port=0, threads=threads, interface="wsgi") as server:
        yield server


async def ask(app: Any, threads: int, request: bytes = GET) -> Answer:
    async with serving(app, threads) as server:
        return Answer(await exchange(server, request))


def respond(start: Any, *headers: tuple[str, str], status: str = "200 OK") -> Any:
    return start(status, [("Content-Type", "text/plain"), *headers])


def replace_by_error(start: Any) -> None:
    """Has an error's page take the place of a response; where it is too late, that raises."""
    try:
        raise ZeroDivisionError("too late")
    except ZeroDivisionError:
        start("500 Sorry", [("Content-Type", "text/plain")], sys.exc_info())


class Pieces:
    """An iterable that notes which thread asks for its pieces, and which closes it."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = list(pieces)
        self.pulled_by: list[int] = []
        self.closed_by: list[int] = []
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.pulled_by.append(threading.get_ident())
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed_by.append(threading.get_ident())
        self.closed.set()


class SlowToClose(Pieces):
    """The same; its `close` takes until `may_close` is set."""

    def __init__(self, *pieces: Any) -> None:
        super().__init__(*pieces)
        self.may_close = threading.Event()

    def close(self) -> None:
        assert self.may_close.wait(10)
        super().close()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


# ---- whole responses ----


@threaded_or_not
async def test_list_is_one_response_with_its_length(threads: int):
    """The status with its reason, the headers, the pieces joined."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response, ("X-One", "1"), status="200 Fine")
        return [b"a", b"", b"bc"]

    async with iodine_aio.serve(app, port=0, threads=threads) as server:
        answer = Answer(await exchange(server, GET))

    assert (answer.status, answer.reason, answer.body) == (200, "Fine", b"abc")
    assert answer.fields["x-one"] == "1"
    assert answer.fields["content-length"] == "3"


@threaded_or_not
async def test_generator_may_call_start_response_itself(threads: int):
    """As late as before its first piece."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        respond(start_response, ("Content-Length", "3"))
        yield b""
        yield b"abc"

    assert (await ask(app, threads)).body == b"abc"


async def test_generator_whose_first_piece_is_all_of_it_is_not_streamed(
    monkeypatch: pytest.MonkeyPatch,
):
    """It says how long its body is when that piece is asked for."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        respond(start_response, ("Content-Length", "3"))
        yield b"abc"

    monkeypatch.delattr(Delivery, "stream")

    assert (await ask(app, 1)).body == b"abc"


@threaded_or_not
async def test_class_is_an_app_whose_objects_are_the_bodies(threads: int):
    """PEP 3333, "The Application/Framework Side"."""

    class App:
        def __init__(self, environ: dict[str, Any], start_response: Any) -> None:
            self.start = start_response

        def __iter__(self) -> Iterator[bytes]:
            respond(self.start)
            yield b"of an object"

    async with iodine_aio.serve(App, port=0, threads=threads) as server:
        answer = Answer(await exchange(server, GET))

    assert answer.content == b"of an object"


@threaded_or_not
async def test_body_is_closed_once_by_the_thread_that_pulled_it(threads: int):
    """What it holds may belong to its thread."""
    body = Pieces(b"abc", b"def")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return body

    async with serving(app, threads) as server:
        answer = Answer(await exchange(server, GET))
        await until(body.closed)

    assert answer.content == b"abcdef"
    assert len(body.closed_by) == 1
    assert set(body.closed_by) == set(body.pulled_by)
    assert (body.closed_by[0] == threading.get_ident()) is (threads == 0)


@threaded_or_not
@pytest.mark.parametrize("request_", [GET, HEAD], ids=["GET", "HEAD"])
async def test_empty_body_is_closed_too(threads: int, request_: bytes):
    """In every case."""
    body = Pieces()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return body

    async with serving(app, threads) as server:
        answer = Answer(await exchange(server, request_))
        await until(body.closed)

    assert (answer.status, answer.body) == (200, b"")
    assert len(body.closed_by) == 1


async def test_response_whose_length_is_met_leaves_before_its_close():
    """What close() still does, the client need not wait for."""
    body = SlowToClose(b"abc", AssertionError("asked for more than was announced"))

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response, ("Content-Length", "3"))
        return body

    async with serving(app, 1) as server, connect(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, _, content = await read_response(reader)
        body.may_close.set()
        await until(body.closed)

    assert (status, content) == (200, b"abc")
    assert len(body.pulled_by) == 1  # "should stop iterating" - PEP 3333


async def test_streamed_response_ends_before_its_close():
    """The last chunk, too."""
    body = SlowToClose(b"abc", b"def")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return body

    async with serving(app, 1) as server:
        answer = Answer(await exchange(server, GET))
        body.may_close.set()
        await until(body.closed)

    assert answer.content == b"abcdef"


@threaded_or_not
async def test_head_has_the_fields_of_get_and_no_body(threads: int):
    """Whatever the app returns."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response, ("Content-Length", "3"))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"abc"]

    def streaming(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return iter([b"abc", b"def"])

    answers = [await ask(one, threads, HEAD) for one in (app, streaming)]

    assert [answer.body for answer in answers] == [b"", b""]
    assert answers[0].fields["content-length"] == "3"
    assert answers[1].fields["transfer-encoding"] == "chunked"


# ---- start_response and write ----


@threaded_or_not
async def test_what_was_written_comes_before_what_was_returned(threads: int):
    """PEP 3333, "The write() Callable"."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = respond(start_response)
        write(b"written ")
        write(b"twice, ")
        return [b"returned"]

    assert (await ask(app, threads)).content == b"written twice, returned"


async def test_what_was_written_reaches_the_client_before_the_app_returns():
    """PEP 3333: write() does not return before it was handed on."""
    seen = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = respond(start_response, ("Content-Length", "8"))
        write(b"now")
        assert seen.wait(10)
        return [b" then"]

    async with serving(app, 1) as server, connect(server) as (reader, writer):
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        first = await reader.readexactly(3)
        seen.set()
        rest = await reader.read()

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (first, rest) == (b"now", b" then")


@threaded_or_not
async def test_error_page_replaces_a_response_that_was_not_sent(threads: int):
    """start_response with exc_info, before the head has left."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        respond(start_response, ("X-First", "yes"))
        replace_by_error(start_response)
        yield b"sorry"

    answer = await ask(app, threads)

    assert (answer.status, answer.reason, answer.content) == (500, "Sorry", b"sorry")
    assert "x-first" not in answer.fields


@threaded_or_not
async def test_error_after_the_head_is_raised_again(threads: int, caplog: pytest.LogCaptureFixture):
    """There is nothing left to replace: the response is broken off."""
    raised: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        respond(start_response, ("Content-Length", "9"))
        yield b"abc"
        try:
            replace_by_error(start_response)
        except ZeroDivisionError as error:
            raised.append(error)
            raise

    answer = await ask(app, threads)

    assert (answer.status, answer.body) == (200, b"abc")
    assert [str(error) for error in raised] == ["too late"]
    assert "the response body raised" in caplog.text


@threaded_or_not
async def test_error_after_a_write_does_not_replace_its_head(threads: int):
    """Whether what was written has left or not: its pieces are not those of the error page."""
    raised: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response, ("Content-Length", "6"))(b"abc")
        try:
            replace_by_error(start_response)
        except ZeroDivisionError as error:
            raised.append(error)
        return [b"def"]

    answer = await ask(app, threads)

    assert (answer.status, answer.content) == (200, b"abcdef")
    assert [str(error) for error in raised] == ["too late"]


def never_starts(environ: Any, start_response: Any) -> Any:
    return [b"x"]


def never_starts_streaming(environ: Any, start_response: Any) -> Any:
    return iter([b"x", b"y"])


def never_starts_empty(environ: Any, start_response: Any) -> Any:
    return iter([])


def starts_twice(environ: Any, start_response: Any) -> Any:
    respond(start_response)
    respond(start_response)
    return [b"x"]


def returns_str(environ: Any, start_response: Any) -> Any:
    respond(start_response)
    return ["x"]


def yields_str(environ: Any, start_response: Any) -> Any:
    respond(start_response)
    return iter(["x"])


def writes_str(environ: Any, start_response: Any) -> Any:
    respond(start_response)("x")
    return []


def returns_none(environ: Any, start_response: Any) -> Any:
    respond(start_response)


def bytes_status(environ: Any, start_response: Any) -> Any:
    start_response(b"200 OK", [])
    return []


def dict_headers(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", {})
    return []


def bytes_header(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("X-A", b"1")])
    return [b""]


def split_header(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("X-A", "1\r\nInjected: yes")])
    return [b""]


def split_status(environ: Any, start_response: Any) -> Any:
    start_response("200 OK\r\nInjected: yes", [])
    return [b""]


def bad_name(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("X A", "1")])
    return [b""]


def long_head(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("X-A", "a" * 8192)])
    return [b""]


def raises(environ: Any, start_response: Any) -> Any:
    raise ZeroDivisionError


def stops(environ: Any, start_response: Any) -> Any:
    raise StopIteration


def exits(environ: Any, start_response: Any) -> Any:
    sys.exit(1)


@threaded_or_not
@pytest.mark.parametrize(
    "app",
    [never_starts, never_starts_streaming, never_starts_empty, starts_twice, returns_str,
     yields_str, writes_str, returns_none, bytes_status, dict_headers, bytes_header,
     split_header, split_status, bad_name, long_head, raises, stops, exits],
)  # fmt: skip
async def test_app_that_breaks_the_rules_answers_500_and_one_log_entry(
    app: Callable[..., Any], threads: int, caplog: pytest.LogCaptureFixture
):
    """The next request is answered as ever; nothing of the bad one is on the wire."""

    def checked(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/next":
            respond(start_response)
            return [b"next"]
        return app(environ, start_response)

    async with (
        iodine_aio.serve(checked, port=0, threads=threads, interface="wsgi") as server,
        connect(server) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields, _ = await read_response(reader)
        writer.write(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        _, _, body = await read_response(reader)

    assert (status, body) == (500, b"next")
    assert "injected" not in fields
    assert len([record for record in caplog.records if record.name == "iodine_aio.error"]) == 1


# ---- environ ----


@threaded_or_not
async def test_environ_has_what_pep_3333_asks_for(threads: int):
    """And nothing in it is bytes; wsgiref has looked it over as well."""
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen.update(environ)
        respond(start_response)
        return [environ["wsgi.input"].read(3)]

    answer = await ask(
        app,
        threads,
        b"POST /a%20b?c=d HTTP/1.1\r\nHost: a\r\nContent-Type: text/x\r\nContent-Length: 3\r\n"
        b"Connection: close\r\n\r\nabc",
    )

    assert answer.content == b"abc"
    assert seen["REQUEST_METHOD"] == "POST"
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("", "/a b", "c=d")
    assert (seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"]) == ("text/x", "3")
    assert seen["wsgi.version"] == (1, 0)
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["wsgi.input_terminated"] is True
    assert seen["wsgi.multithread"] is (threads > 0)
    assert (seen["wsgi.multiprocess"], seen["wsgi.run_once"]) == (False, False)
    assert not [key for key, value in seen.items() if isinstance(value, bytes)]


@threaded_or_not
async def test_chunked_body_is_read_like_one_of_known_length(threads: int):
    """Decoded: its length is there, and the coding is gone."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        lines = list(environ["wsgi.input"])
        return [repr((lines, environ["CONTENT_LENGTH"])).encode()]

    answer = await ask(
        app,
        threads,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"4\r\na\nbc\r\n2\r\nd\n\r\n0\r\n\r\n",
    )

    assert answer.content == b"([b'a\\n', b'bcd\\n'], '6')"


# ---- context ----

word: ContextVar[str] = ContextVar("word", default="")


@threaded_or_not
async def test_each_request_has_a_context_of_its_own(threads: int):
    """What one leaves in a variable is not there for the next one of its connection."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen = word.get().encode() or b"nothing"
        word.set(environ["PATH_INFO"])
        respond(start_response, ("Content-Length", str(len(seen))))
        return [seen]

    async with serving(app, threads) as server, connect(server) as (reader, writer):
        bodies = []
        for path in (b"/a", b"/b"):
            writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            bodies.append((await read_response(reader))[2])

    assert bodies == [b"nothing", b"nothing"]


@threaded_or_not
@pytest.mark.parametrize("ending", ["whole", "empty", "raised", "streamed"])
async def test_body_is_made_and_closed_in_the_context_of_its_request(threads: int, ending: str):
    """All of it; and what the program has set before is seen there."""
    heard: list[str] = []
    closed = threading.Event()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            for piece in {"whole": [b"all"], "streamed": [b"a", b"l", b"l"]}.get(ending, []):
                heard.append(word.get())
                yield piece
            if ending == "raised":
                raise ZeroDivisionError

        def close(self) -> None:
            heard.append(word.get())
            closed.set()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        heard.append(word.get())
        word.set("request")
        respond(start_response, *([("Content-Length", "3")] if ending == "whole" else []))
        return Body()

    token = word.set("program")
    try:
        async with serving(app, threads) as server:
            await exchange(server, GET)
            await until(closed)
    finally:
        word.reset(token)

    assert heard[0] == "program"
    assert set(heard[1:]) == {"request"}


# ---- files ----


@threaded_or_not
async def test_wrapped_file_is_sent_from_where_it_stands(threads: int, tmp_path: Path):
    """Without a thread, and closed by whoever has sent it."""
    path = tmp_path / "page"
    path.write_bytes(b"0123456789" * 30_000)
    files: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        files.append(file := path.open("rb"))
        file.seek(10)
        return environ["wsgi.file_wrapper"](file, 4096)

    async with iodine_aio.serve(app, port=0, threads=threads) as server:
        answer = Answer(await exchange(server, GET))

    assert answer.fields["content-length"] == "299990"
    assert answer.body == b"0123456789" * 29_999
    assert files[0].closed


@threaded_or_not
async def test_wrapped_file_is_sent_as_far_as_announced(threads: int, tmp_path: Path):
    """The app's Content-Length holds."""
    path = tmp_path / "page"
    path.write_bytes(b"0123456789")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response, ("Content-Length", "4"))
        return environ["wsgi.file_wrapper"](path.open("rb"))

    async with iodine_aio.serve(app, port=0, threads=threads) as server:
        answer = Answer(await exchange(server, GET))

    assert (answer.fields["content-length"], answer.body) == ("4", b"0123")


@threaded_or_not
async def test_named_file_goes_before_the_wrapped_one(threads: int, tmp_path: Path):
    """X-Sendfile beside `wsgi.file_wrapper`: that one is closed, and the name is not told."""
    for name in ("wrapped", "named"):
        (tmp_path / name).write_bytes(name.encode())
    files: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response, ("X-Sendfile", str(tmp_path / "named")), ("Content-Length", "7"))
        files.append((tmp_path / "wrapped").open("rb"))
        return environ["wsgi.file_wrapper"](files[0])

    options: Any = {"threads": threads, "sendfile": (tmp_path,)}
    async with iodine_aio.serve(app, port=0, **options) as server:
        answer = Answer(await exchange(server, GET))

    assert (answer.fields["content-length"], answer.body) == ("5", b"named")
    assert "x-sendfile" not in answer.fields
    assert files[0].closed


@threaded_or_not
async def test_wrapped_object_that_is_no_file_is_read(threads: int):
    """Block by block, and closed."""
    source = io.BytesIO(b"abcdef")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return environ["wsgi.file_wrapper"](source, 4)

    answer = await ask(app, threads)

    assert answer.content == b"abcdef"
    assert source.closed


@threaded_or_not
async def test_wrapped_file_that_unpacks_is_read(threads: int, tmp_path: Path):
    """Its number is that of the packed file, which is not what the app returned."""
    with gzip.open(tmp_path / "packed", "wb") as packed:
        packed.write(b"plain")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return environ["wsgi.file_wrapper"](gzip.open(tmp_path / "packed"))

    async with iodine_aio.serve(app, port=0, threads=threads) as server:
        answer = Answer(await exchange(server, GET))

    assert answer.content == b"plain"


@threaded_or_not
async def test_wrapped_file_that_cannot_be_read_is_500(threads: int, tmp_path: Path):
    """It was opened for writing only: not an empty page."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        file = (tmp_path / "new").open("wb")
        file.write(b"new")
        return environ["wsgi.file_wrapper"](file)

    async with iodine_aio.serve(app, port=0, threads=threads) as server:
        answer = Answer(await exchange(server, GET))

    assert answer.status == 500


# ---- slow clients ----


async def test_response_below_the_soft_limit_lets_its_thread_go():
    """The client has taken none of it yet."""
    body = Pieces(*[b"x" * 65536] * 8)
    others: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return body if environ["PATH_INFO"] == "/big" else [b"small"]

    async with serving(app, 1) as server, connect(server, limit=1024) as (reader, writer):
        writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await until(body.closed)
        others.append(Answer(await exchange(server, GET)).content)
        content = Answer(await reader.read()).content

    assert others == [b"small"]
    assert content == b"x" * 65536 * 8


async def test_slow_clients_do_not_take_the_pool():
    """A thread that waits for its client is lent: another works in its place.

    Also where such clients are many more than threads.
    """
    body = [b"x" * 65536] * 250

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        respond(start_response)
        return iter(body) if environ["PATH_INFO"] == "/big" else [b"small"]

    async with serving(app, 2) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            reader, writer = await stack.enter_async_context(connect(server, limit=1024))
            writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while server._service.pool._lent < 20:
            await asyncio.sleep(0)
        answer = Answer(await exchange(server, GET))
        content = Answer(await reader.read()).content

    assert answer.content == b"small"
    assert content == b"".join(body)
