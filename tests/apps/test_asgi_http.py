"""An ASGI app's requests and responses, as their clients see them on the wire."""

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest

import iodine_aio
from iodine_aio.errors import UsageError
from tests.clients import ask, connect, connected, exchange, read_head, read_response, reset
from tests.requests import GET, KEPT

START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body"}
HEAD = GET.replace(b"GET", b"HEAD")


def piece(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: Any) -> Any:
    """An app that sends them, raises those that are errors, and returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            for message in messages:
                if isinstance(message, Exception):
                    raise message
                await send(message)

    return app


def only_http(app: Any) -> Any:
    """`app` without a lifespan."""

    async def without(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    return without


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


# ---- requests ----


async def test_body_is_received_in_pieces():
    """As they come; the last says that no more follows, then comes the disconnect."""
    received = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append(await receive())
        await send(START)
        await send(piece(b"ab"))
        received.append(await receive())
        await send(END)
        received.append(await receive())

    async with connected(app) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        await reader.readuntil(b"ab\r\n")
        writer.write(b"def")
        await reader.readuntil(b"0\r\n\r\n")

    assert received == [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.request", "body": b"def", "more_body": False},
        {"type": "http.disconnect"},
    ]


async def test_request_without_a_body_is_one_message():
    """Nobody has to ask twice."""
    received = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append(await receive())
        await send(START)
        await send(END)

    await ask(app)

    assert received == [{"type": "http.request", "body": b"", "more_body": False}]


@pytest.mark.parametrize(
    "sent",
    [KEPT, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc"],
    ids=["behind its request", "in its body"],
)
async def test_client_that_leaves_is_a_disconnect_and_no_cancellation(sent: bytes):
    """Not the end of the body; the app ends as it likes, and what it does then is waited for."""
    waiting = asyncio.get_running_loop().create_future()
    heard: list[Any] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting.set_result(None)
        heard.append(await receive())
        await asyncio.sleep(0)
        heard.append("end")

    async with connected(app) as (_, writer):
        writer.write(sent)
        await waiting
        reset(writer)

    assert heard == [{"type": "http.disconnect"}, "end"]


class ClientDisconnect(Exception):
    """As Starlette names what its `request.body()` raises."""


@pytest.mark.parametrize("error", [None, ClientDisconnect()], ids=["returns", "raises"])
async def test_app_that_gives_up_a_cut_request_is_not_at_fault(
    error: Exception | None, caplog: pytest.LogCaptureFixture
):
    """Its client is, who may still read that; nothing is logged, and no 500 is sent."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if error is not None:
            raise error

    async with connected(app) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        writer.write_eof()
        status, _ = await read_head(reader)
        rest = await reader.read()

    assert (status, rest) == (400, b"Bad Request: the body is not complete")
    assert errors_in(caplog) == []


# ---- responses ----


async def test_whole_body_has_its_length():
    """A response in one message goes out with its head."""
    fields = [(b"content-type", b"text/plain"), (b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    answer = await ask(
        sending(
            {"type": "http.response.start", "status": 201, "headers": fields}, piece(b"hi", False)
        )
    )

    assert (answer.status, answer.reason, answer.body) == (201, "Created", b"hi")
    assert answer.fields["content-length"] == "2"
    assert b"set-cookie: a=1\r\nSet-Cookie: b=2\r\n" in answer.wire


async def test_body_in_pieces_is_chunked():
    """Each as it is sent, with the empty ones left out."""
    answer = await ask(sending(START, piece(b"a"), piece(b""), piece(b"bc"), END))

    assert answer.fields["transfer-encoding"] == "chunked"
    assert answer.body == b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"


async def test_body_in_pieces_keeps_its_announced_length():
    """Where the app says how long it is, nothing is chunked."""
    start = {**START, "headers": [(b"content-length", b"3")]}
    answer = await ask(sending(start, piece(b"a"), piece(b"bc", False)))

    assert answer.fields["content-length"] == "3"
    assert answer.body == b"abc"


async def test_piece_reaches_the_client_before_the_next_is_sent():
    """The app and its client can take turns."""
    go_on = asyncio.get_running_loop().create_future()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"first"))
        await go_on
        await send(piece(b"second", False))

    async with connected(app) as (reader, writer):
        writer.write(GET)
        head = await reader.readuntil(b"first\r\n")
        go_on.set_result(None)
        rest = await reader.read()

    assert head.endswith(b"\r\n\r\n5\r\nfirst\r\n")
    assert rest == b"6\r\nsecond\r\n0\r\n\r\n"


async def test_pipelined_requests_are_answered_in_order():
    """The second is not begun before the first is answered."""
    count = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal count
        count += 1
        body = scope["raw_path"] + b" %d" % count
        await asyncio.sleep(0)
        await send(START)
        await send(piece(body, False))

    async with connected(app) as (reader, writer):
        writer.write(KEPT.replace(b"/ ", b"/a ") + KEPT.replace(b"/ ", b"/b "))
        bodies = [(await read_response(reader))[2] for _ in range(2)]

    assert bodies == [b"/a 1", b"/b 2"]


async def test_head_gets_no_body():
    """The length stays, and nothing follows."""
    answer = await ask(sending(START, piece(b"hello", False)), HEAD)

    assert (answer.fields["content-length"], answer.body) == ("5", b"")


async def test_app_may_stream_to_head_in_vain():
    """What it sends is dropped, and what it does afterwards is done."""
    after = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"hello"))
        await send(piece(b"hello"))
        await send(END)
        after.append("done")

    answer = await ask(app, HEAD)

    assert (answer.fields["transfer-encoding"], answer.body) == ("chunked", b"")
    assert after == ["done"]


async def test_endless_body_for_head_is_ended(caplog: pytest.LogCaptureFixture):
    """Else one request would keep a processor busy for ever."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        while True:
            await send(piece(bytes(1000)))

    answer = await ask(app, HEAD)

    assert answer.body == b""
    assert errors_in(caplog) == []


async def test_send_waits_for_a_client_that_takes_nothing():
    """So that memory is bounded by the transport's buffer, not by the body."""
    sent = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(START)
        for _ in range(256):
            await send(piece(bytes(65536)))
            sent += 1
        await send(END)

    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        writer.transport.pause_reading()
        writer.write(GET)
        while not any(connection.paused for connection in server.connections):
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        stalled_at = sent
        writer.transport.resume_reading()
        body = await reader.read()

    assert stalled_at < 256
    assert sent == 256
    assert len(body) > 256 * 65536


async def test_head_over_the_limit_is_answered_500(caplog: pytest.LogCaptureFixture):
    """`max_head_bytes` holds for responses too."""
    headers = [(b"x-a", b"a" * 1000)]

    taken = await ask(sending(START | {"headers": headers}, END))
    refused = await ask(sending(START | {"headers": headers}, END), max_head_bytes=1000)

    assert (taken.status, refused.status) == (200, 500)
    assert "longer than 1000 bytes" in caplog.text


# ---- clients that leave ----


async def test_send_to_a_client_that_left_raises_oserror(caplog: pytest.LogCaptureFixture):
    """In the middle of a response (ASGI 2.4, "Disconnected Client")."""
    begun = asyncio.get_running_loop().create_future()
    left = asyncio.get_running_loop().create_future()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(piece(b"a"))
        begun.set_result(None)
        await receive()
        try:
            await send(piece(b"b"))
        except OSError as error:
            left.set_result(error)
            raise

    async with iodine_aio.serve(app, port=0) as server, connect(server) as (_, writer):
        writer.write(KEPT)
        await begun
        reset(writer)
        error = await left

    assert "went away" in str(error)
    assert errors_in(caplog) == []


async def test_response_to_a_client_that_left_raises_oserror(caplog: pytest.LogCaptureFixture):
    """Before its beginning, too; an app that only passes it on is not to blame."""
    waiting = asyncio.get_running_loop().create_future()
    left = asyncio.get_running_loop().create_future()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting.set_result(None)
        await receive()
        try:
            await send(START)
        except OSError as error:
            left.set_result(error)
            raise

    async with iodine_aio.serve(app, port=0) as server, connect(server) as (_, writer):
        writer.write(KEPT)
        await waiting
        reset(writer)
        await left

    assert errors_in(caplog) == []


async def test_what_an_app_does_behind_its_response_is_waited_for():
    """A background task outlives its client, and a stop."""
    answered = asyncio.get_running_loop().create_future()
    done = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"hi", False))
        await answered
        for _ in range(20):
            await asyncio.sleep(0)
        done.append("done")

    async with iodine_aio.serve(app, port=0) as server:
        await exchange(server, GET)
        answered.set_result(None)

    assert done == ["done"]


async def test_stop_cuts_what_does_not_end(caplog: pytest.LogCaptureFixture):
    """At its deadline."""
    cut = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"hi", False))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut.append("cut")
            raise

    async with iodine_aio.serve(app, port=0, stop_timeout=0.02) as server:
        await exchange(server, GET)

    assert cut == ["cut"]


# ---- faults of the app ----


@pytest.mark.parametrize(
    "messages",
    [
        (ZeroDivisionError("early"),),
        (START, ZeroDivisionError("between")),
        (),
        (START,),
        (START, {"type": "http.response.pathsend", "path": "/no/such/file"}),
        ({**START, "status": 99}, END),
        ({**START, "headers": [(b"a", b"b\r\nc: d")]}, END),
        ({**START, "headers": [("a", "b")]}, END),
        ({**START, "headers": 7}, END),
    ],
)
async def test_app_that_fails_before_its_body_is_answered_500(
    messages: Any, caplog: pytest.LogCaptureFixture
):
    """And logged once, and the connection goes on."""
    async with connected(sending(*messages)) as (reader, writer):
        writer.write(KEPT + KEPT)
        statuses = [(await read_response(reader))[0] for _ in range(2)]

    assert statuses == [500, 500]
    assert errors_in(caplog) == ["GET '/' failed"] * 2


@pytest.mark.parametrize("end", [(ZeroDivisionError("late"),), ()])
async def test_app_that_ends_within_its_body_is_cut(end: Any, caplog: pytest.LogCaptureFixture):
    """No last chunk: half a response must not look whole."""
    answer = await ask(sending(START, piece(b"half"), *end), KEPT)

    assert answer.body == b"4\r\nhalf\r\n"
    assert errors_in(caplog) == ["the response body raised"]


async def test_app_that_raises_behind_its_response_is_logged(caplog: pytest.LogCaptureFixture):
    """Its client has all it wanted."""
    answer = await ask(sending(START, piece(b"whole", False), ZeroDivisionError("late")))

    assert answer.body == b"whole"
    assert errors_in(caplog) == ["the app raised after its response"]


async def test_sys_exit_in_an_app_ends_nothing_but_its_request():
    """Out of a task it would end the loop."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise SystemExit(3)

    assert (await ask(app)).status == 500


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ((END,), "where only http.response.start can be"),
        ((START, START), "where only http.response.body can be"),
        ((START, piece(b"a"), START), "where only http.response.body can be"),
        ((START, END, END), "where only nothing can be"),
        (({"type": "websocket.accept"},), "'websocket.accept' was sent"),
    ],
)
async def test_message_out_of_order_raises_in_the_app(messages: Any, complaint: str):
    """There, its traceback says who sent it."""
    raised = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        *first, last = messages
        for message in first:
            await send(message)
        try:
            await send(last)
        except UsageError as error:
            raised.append(str(error))
            raise

    await ask(app)

    assert complaint in raised[0]


# ---- files ----


async def test_path_is_sent_as_a_file(tmp_path: Path):
    """Its length is that of the file; the app goes on meanwhile."""
    path = tmp_path / "page"
    path.write_bytes(b"x" * 300_000)
    send_path = {"type": "http.response.pathsend", "path": str(path)}
    answer = await ask(sending(START, send_path))

    assert answer.fields["content-length"] == "300000"
    assert answer.body == b"x" * 300_000


async def test_path_for_head_is_its_length(tmp_path: Path):
    """And the file is closed."""
    path = tmp_path / "page"
    path.write_bytes(b"hello")
    answer = await ask(sending(START, {"type": "http.response.pathsend", "path": str(path)}), HEAD)

    assert (answer.fields["content-length"], answer.body) == ("5", b"")


async def test_fifo_is_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Opening it does not wait for somebody who writes."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    answer = await ask(sending(START, {"type": "http.response.pathsend", "path": str(path)}))

    assert answer.status == 500
    assert "is no ordinary file" in caplog.text


async def test_cut_body_of_a_request_is_no_next_request():
    """An app that answers without reading ends the connection, politely."""
    async with connected(sending(START, piece(b"no", False))) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\nabc")
        status, _ = await read_head(reader)
        rest = await reader.read()

    assert (status, rest) == (200, b"no")


# ---- what a streamed response costs ----


class Counting:
    """A transport that counts what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


async def count_writes(app: Any) -> list[bytes]:
    """What is written for a response, each write by itself."""
    async with iodine_aio.serve(app, port=0) as server, connect(server) as streams:
        reader, writer = streams
        writer.write(KEPT)
        await reader.readuntil(b"0\r\n\r\n")
        (connection,) = server.connections
        counting = Counting(connection.transport)  # type: ignore[attr-defined]
        connection.transport = counting  # type: ignore[attr-defined]
        writer.write(KEPT)
        await reader.readuntil(b"0\r\n\r\n")
    return counting.writes


async def test_what_is_sent_in_one_turn_is_one_write():
    """A write is a system call: head, pieces and end of an app that waits for nothing are one."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)  # from Python 3.12 on it begins in the turn that reads its request
        for message in (START, piece(b"one"), piece(b"two"), piece(b"six", more=False)):
            await send(message)

    (written,) = await count_writes(app)

    assert written.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n3\r\nsix\r\n0\r\n\r\n")


async def test_each_turn_is_one_write_and_head_and_end_are_none():
    """The head leaves with the first piece, the end with the last."""

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for word in (b"one", b"two"):
            await send(piece(word))
            await asyncio.sleep(0)
        await send(piece(b"six", more=False))

    written = await count_writes(app)

    assert written[0].endswith(b"\r\n\r\n3\r\none\r\n")
    assert written[1:] == [b"3\r\ntwo\r\n", b"3\r\nsix\r\n0\r\n\r\n"]


async def test_streamed_response_leaves_nothing_to_the_collector():
    """Its objects know each other in a circle only as long as it lasts."""
    await ask(sending(START, piece(b"one"), END))  # so that what is made once is there
    gc.collect()
    before = count_streams()
    gc.disable()
    try:
        await ask(sending(START, piece(b"one"), END))
        after = count_streams()
    finally:
        gc.enable()

    assert after == before


def count_streams() -> int:
    """Objects of streamed responses that are alive: other tests' log entries may hold some."""
    kinds = ("Stream", "StreamSender", "StreamedBody")
    return sum(type(one).__name__ in kinds for one in gc.get_objects())
