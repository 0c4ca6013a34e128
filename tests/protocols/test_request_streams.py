"""A request whose app is called when its head is complete, and reads the body as it comes."""

import asyncio
from typing import Any

import pytest

import iodine_aio
from iodine_aio.apps.application import Application
from iodine_aio.errors import ClientGoneError
from tests.clients import Streams, ask, connect, connected, read_head, read_response, reset

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def streaming(app: Any) -> Application:
    return Application(app, streams_requests=True)


async def echo(env: dict[str, Any]) -> Any:
    """Answers with the whole body, read piece by piece."""
    pieces = []
    while piece := await env["iodine_aio.body"].read():
        pieces.append(piece)
    return 200, {}, b"".join(pieces)


async def test_app_is_called_before_its_body_has_come():
    """It sees the first piece while the client still holds the rest."""
    first = asyncio.get_running_loop().create_future()

    async def app(env: dict[str, Any]) -> Any:
        first.set_result(await env["iodine_aio.body"].read())
        return 200, {}, await env["iodine_aio.body"].read()

    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 6\r\n\r\nabc")
        assert await first == b"abc"
        writer.write(b"def")
        answer = await read_response(reader)

    assert answer[2] == b"def"


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: 5\r\n\r\nhello",
        CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
async def test_body_is_the_same_in_every_split_and_the_next_request_follows(request_bytes: bytes):
    """The stream ends where the body does; what is behind it is a request of its own."""
    async with iodine_aio.serve(streaming(echo), port=0) as server:
        for cut in range(1, len(request_bytes)):
            async with connect(server) as (reader, writer):
                writer.write(request_bytes[:cut])
                await asyncio.sleep(0)
                writer.write(request_bytes[cut:] + request_bytes)
                answers = [await read_response(reader), await read_response(reader)]

            assert [body for _, _, body in answers] == [b"hello"] * 2


async def test_request_without_a_body_reads_nothing():
    """The stream is there, and at its end."""
    answer = await ask(streaming(echo), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert (answer.status, answer.body) == (200, b"")


async def test_continue_is_sent_when_the_app_first_reads():
    """Not before: an app that refuses unread saves its client the body."""
    go = asyncio.Event()

    async def app(env: dict[str, Any]) -> Any:
        await go.wait()
        return 200, {}, await env["iodine_aio.body"].read()

    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        go.set()
        assert await read_head(reader) == (100, [])
        writer.write(b"ok")
        answer = await read_response(reader)

    assert answer[2] == b"ok"


async def test_app_that_refuses_unread_sends_no_continue():
    """And the connection ends: only the bytes that will not come could say where the body does."""

    async def app(env: dict[str, Any]) -> Any:
        return 403, {}, "no"

    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        data = await reader.read()

    assert data.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nConnection: close\r\n" in data
    assert data.endswith(b"no")


def pieces_of(*pieces: str) -> Any:
    async def generate() -> Any:
        for piece in pieces:
            yield piece

    return generate()


EARLY = {
    "whole": lambda: (200, {}, "early"),
    "refused": lambda: (413, {}, "early"),
    "streamed and refused": lambda: (413, {}, pieces_of("ear", "ly")),
    "moved": lambda: (307, {"Location": "/"}, pieces_of("early")),
    "nothing": lambda: (204, {}, ""),
}


@pytest.mark.parametrize("kind", EARLY)
@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n\r\nabc", b""])
async def test_answer_ahead_of_the_body_announces_the_end(kind: str, framing: bytes):
    """A client that knows sends nothing more, neither of this request nor another (RFC 9112, 9.6).

    So does the answer to a body that is malformed, of which nobody knows where it ends.
    """

    def app(env: dict[str, Any]) -> Any:
        return EARLY[kind]()

    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + (framing or b"Transfer-Encoding: chunked\r\n\r\nx\r\n"))
        _, fields = await read_head(reader)

    assert ("connection", "close") in fields


async def test_answer_that_reads_its_request_announces_nothing():
    """A client told to close would send no more of the body that the app still reads."""

    async def app(env: dict[str, Any]) -> Any:
        async def pieces() -> Any:
            yield "begun"
            while await env["iodine_aio.body"].read():
                pass

        return 200, {}, pieces()

    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 6\r\n\r\nabc")
        _, first = await read_head(reader)
        writer.write(b"def" + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        _, second = await read_head(reader)

    assert "connection" not in dict(first + second)


async def test_body_that_was_not_read_is_never_a_request():
    """What follows an unread body is thrown away with it."""
    calls = 0

    async def app(env: dict[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        return 200, {}, ""

    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 1000\r\n\r\n" + hidden)
        writer.write_eof()
        data = await reader.read()

    assert data.count(b"HTTP/1.1") == 1
    assert calls == 1


async def test_client_that_sends_no_more_is_not_given_time_to_read():
    """Nothing can come that would reset the connection: it ends at once, by no clock."""

    async def app(env: dict[str, Any]) -> Any:
        await ended.wait()
        return 200, {}, "early"

    ended = asyncio.Event()
    async with iodine_aio.serve(streaming(app), port=0) as server, connect(server) as streams:
        server._service.clock.stop()
        reader, writer = streams
        writer.write(HEAD + b"Content-Length: 9\r\n\r\nabc")
        writer.write_eof()
        while not any(connection._eof for connection in server.connections):
            await asyncio.sleep(0)
        ended.set()
        data = await reader.read()
        while server.connections:
            await asyncio.sleep(0)

    assert data.endswith(b"early")


@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
)
async def test_body_that_was_not_read_but_has_come_costs_no_connection(
    body: bytes, streams: bool, status: int
):
    """The app answers within the turn that has read its request, and the next one is served."""

    def app(env: dict[str, Any]) -> Any:
        path = env["PATH_INFO"]
        return status, {}, pieces_of(path) if streams else path

    next_request = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + body + next_request)
        data = await reader.read()

    assert data.count(b"HTTP/1.1 %d " % status) == 2
    assert data.count(b"Connection: close") == 1  # as the second request asks
    assert b"/next" in data


async def test_malformed_body_that_was_not_read_ends_the_connection():
    """Where it ends is not known: nothing behind it is a request."""

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, env["PATH_INFO"]

    async with connected(streaming(app)) as (reader, writer):
        writer.write(CHUNKED + b"x\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
        data = await reader.read()

    assert data.count(b"HTTP/1.1") == 1


async def test_app_that_reads_slowly_holds_up_its_client():
    """What waits for it stays bounded; the rest stays with the client."""
    go = asyncio.Event()

    async def app(env: dict[str, Any]) -> Any:
        await env["iodine_aio.body"].read()
        await go.wait()
        size = 0
        while piece := await env["iodine_aio.body"].read():
            largest.append(len(piece))
            size += len(piece)
        return 200, {}, str(size)

    largest: list[int] = []
    total = 32 * 1024 * 1024
    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: %d\r\n\r\nx" % total)
        writer.write(b"x" * (total - 1))
        await asyncio.sleep(0.1)
        unsent = writer.transport.get_write_buffer_size()
        go.set()
        answer = await read_response(reader)

    assert unsent > total // 2  # still with the client
    assert max(largest) <= 512 * 1024
    assert int(answer[2]) in range(total - 300_000, total)


async def test_client_that_sends_on_reads_the_early_answer():
    """However much it sends: bytes that nobody takes would hold it up, and then reset it."""
    size = 8 * 1024 * 1024
    go = asyncio.Event()

    async def app(env: dict[str, Any]) -> Any:
        while not env["iodine_aio.body"].full:
            await asyncio.sleep(0)
        await go.wait()
        return 403, {}, "early"

    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        go.set()
        await writer.drain()  # as a client does that reads nothing before
        data = await reader.read()

    assert data.startswith(b"HTTP/1.1 403 ")
    assert data.endswith(b"early")


@pytest.mark.parametrize("reads", [True, False])
async def test_body_whose_last_piece_fills_the_stream_holds_up_nothing(reads: bool):
    """Neither the next request, nor the news that the client has left."""
    size = 65536
    go = asyncio.Event()

    async def app(env: dict[str, Any]) -> Any:
        body = env["iodine_aio.body"]
        if env["REQUEST_METHOD"] == "POST":
            while not body.full:  # what is read at once fills it
                await asyncio.sleep(0)
            await go.wait()
            while reads and await body.read():
                pass
        return 200, {}, env["PATH_INFO"]

    async with connected(streaming(app)) as (reader, writer):
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        await writer.drain()
        go.set()
        answers = [await read_response(reader)]
        writer.write(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        answers.append(await asyncio.wait_for(read_response(reader), 20))

    assert [body for _, _, body in answers] == [b"/", b"/next"]


async def test_client_that_leaves_while_it_is_answered_is_noticed():
    """Although the last piece of its body had filled the stream."""
    taken = asyncio.Event()
    lost = asyncio.Event()

    async def app(env: dict[str, Any]) -> Any:
        body = env["iodine_aio.body"]
        while not body.full:
            await asyncio.sleep(0)
        while not body.done:
            await body.read()
            await asyncio.sleep(0)
        await body.read()
        taken.set()
        try:
            await body.wait_lost()
        finally:
            lost.set()

    async with connected(streaming(app)) as (_, writer):
        writer.write(HEAD + b"Content-Length: 65536\r\n\r\n")
        writer.write(bytes(65536))
        await taken.wait()
        reset(writer)
        await asyncio.wait_for(lost.wait(), 20)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"zz\r\n", 400), (b"3\r\nabcXX", 400), (b"fffffff\r\n", 413)],
)
async def test_malformed_body_is_answered_while_the_app_reads(body: bytes, status: int):
    """Its reader hears that the client is gone; no half request looks whole."""
    begun = asyncio.Event()
    failure = asyncio.get_running_loop().create_future()

    async def app(env: dict[str, Any]) -> Any:
        begun.set()
        try:
            while await env["iodine_aio.body"].read():
                pass
        except BaseException as error:
            failure.set_result(type(error))
            raise
        return 200, {}, ""

    async with connected(streaming(app), max_body_bytes=1 << 20) as (reader, writer):
        writer.write(CHUNKED)
        await begun.wait()
        writer.write(body)
        answer = await read_response(reader)

    assert answer[0] == status
    assert await failure in (ClientGoneError, asyncio.CancelledError)


async def test_app_whose_client_fails_at_once_is_never_begun():
    """And nobody warns that it was not awaited."""
    answer = await ask(streaming(echo), CHUNKED + b"zz\r\n")

    assert answer.status == 400


@pytest.mark.parametrize("leave", [reset, asyncio.StreamWriter.write_eof])
async def test_reader_hears_that_its_client_went_away(leave: Any):
    """In the middle of the body, whichever way it left."""
    begun = asyncio.get_running_loop().create_future()
    failure = asyncio.get_running_loop().create_future()

    async def app(env: dict[str, Any]) -> Any:
        begun.set_result(await env["iodine_aio.body"].read())
        try:
            await env["iodine_aio.body"].read()
        except BaseException as error:
            failure.set_result(type(error))
            raise

    async with connected(streaming(app)) as (_, writer):
        writer.write(HEAD + b"Content-Length: 9\r\n\r\nabc")
        assert await begun == b"abc"
        leave(writer)
        assert await failure in (ClientGoneError, asyncio.CancelledError)


async def test_body_that_stands_still_answers_408():
    """The app waits no longer than for a body that is read whole."""
    answer = await ask(streaming(echo), HEAD + b"Content-Length: 9\r\n\r\nabc", body_timeout=0.05)

    assert answer.status == 408


async def test_app_may_answer_while_it_reads():
    """Pieces go out as they come in: an echo in full duplex."""

    async def app(env: dict[str, Any]) -> Any:
        async def pieces() -> Any:
            while piece := await env["iodine_aio.body"].read():
                yield piece

        return 200, {}, pieces()

    async def talk(streams: Streams) -> list[Any]:
        reader, writer = streams
        writer.write(CHUNKED)
        await read_head(reader)
        seen: list[Any] = []
        for piece in (b"one", b"two"):
            writer.write(b"3\r\n%b\r\n" % piece)
            seen.append(await reader.readuntil(piece + b"\r\n"))
        writer.write(b"0\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        seen.append(await reader.readuntil(b"0\r\n\r\n"))
        seen.append(await read_head(reader))
        return seen

    async with connected(streaming(app)) as streams:
        seen = await talk(streams)

    assert seen[:3] == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    assert seen[3][0] == 200


async def test_end_of_the_response_is_told_to_who_waits_for_the_client():
    """`wait_lost` returns when nothing more can be sent."""
    waiters: list[asyncio.Task[None]] = []

    async def app(env: dict[str, Any]) -> Any:
        waiters.append(asyncio.create_task(env["iodine_aio.body"].wait_lost()))
        return 200, {}, "x"

    async with connected(streaming(app)) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await read_response(reader)
        await waiters[0]
