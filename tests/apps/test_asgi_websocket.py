"""An ASGI app's WebSockets, as their clients see them on the wire."""

import asyncio
import contextlib
import gc
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

import iodine_aio
from iodine_aio.errors import UsageError
from tests.clients import Answer, WebSocketClient, connect, exchange, read_head, reset
from tests.frames import BINARY, CLOSE, TEXT, close_frame, frame, text_frame
from tests.requests import HANDSHAKE

ACCEPT = {"type": "websocket.accept"}


def only_websocket(app: Any) -> Any:
    """`app` without a lifespan."""

    async def without(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await app(scope, receive, send)

    return without


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


@contextlib.asynccontextmanager
async def opened(app: Any, **options: Any) -> AsyncIterator[WebSocketClient]:
    """A client whose handshake was accepted."""
    async with (
        iodine_aio.serve(only_websocket(app), port=0, **options) as server,
        connect(server) as (reader, writer),
    ):
        writer.write(HANDSHAKE)
        status, _ = await read_head(reader)
        assert status == 101
        yield WebSocketClient(server, reader, writer)


async def refused(app: Any, **options: Any) -> Answer:
    handshake = HANDSHAKE.replace(b"Connection: Upgrade", b"Connection: Upgrade, close")
    async with iodine_aio.serve(only_websocket(app), port=0, **options) as server:
        return Answer(await exchange(server, handshake))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        del message["type"]
        await send({"type": "websocket.send", **message})


# ---- accepting ----


async def test_accept_has_fields_and_a_subprotocol():
    """Both arrive in the 101."""

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await send({**ACCEPT, "subprotocol": "chat", "headers": [(b"set-cookie", b"a=b")]})
        await receive()

    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        writer.write(HANDSHAKE)
        status, fields = await read_head(reader)
        named = dict(fields)

    assert status == 101
    assert (named["sec-websocket-protocol"], named["set-cookie"]) == ("chat", "a=b")


async def test_app_may_send_as_soon_as_it_has_accepted():
    """Nothing overtakes the 101."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "hello"})
        await receive()

    async with opened(app) as client:
        assert await client.receive() == (TEXT, b"hello")


async def test_close_instead_of_accept_is_403():
    """An empty response; the app then hears of the end."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4001})
        heard.append(await receive())

    answer = await refused(app)

    assert (answer.status, answer.body) == (403, b"")
    assert heard == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


@pytest.mark.parametrize("pieces", [[b"no"], [b"n", b"o"]])
async def test_app_may_refuse_by_a_response_of_its_own(pieces: list[bytes]):
    """ASGI, "Websocket Denial Response"."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        fields = [(b"www-authenticate", b"Basic"), (b"content-length", b"2")]
        start = {"type": "websocket.http.response.start", "status": 401, "headers": fields}
        await send(start)
        for number, body in enumerate(pieces, 1):
            message = {"type": "websocket.http.response.body", "body": body}
            await send({**message, "more_body": number < len(pieces)})

    answer = await refused(app)

    assert (answer.status, answer.body) == (401, b"no")
    assert answer.fields["www-authenticate"] == "Basic"


@pytest.mark.parametrize("error", [None, ZeroDivisionError("early")])
async def test_app_that_ends_without_an_answer_is_500(
    error: Exception | None, caplog: pytest.LogCaptureFixture
):
    """Logged once, like any request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if error is not None:
            raise error

    answer = await refused(app)

    assert answer.status == 500
    assert errors_in(caplog) == ["GET '/chat' failed"]


async def test_server_that_refuses_an_origin_ends_the_wait_of_the_app():
    """The app accepted, but nothing was opened."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        heard.append(await receive())
        with pytest.raises(OSError, match="went away"):
            await send({"type": "websocket.send", "text": "hello"})
        heard.append("raised")

    handshake = HANDSHAKE.replace(b"Host", b"Origin: http://evil\r\nConnection: close\r\nHost")
    async with iodine_aio.serve(
        only_websocket(app), port=0, allowed_origins=("http://good",)
    ) as server:
        answer = Answer(await exchange(server, handshake))

    assert answer.status == 403
    assert heard == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "raised"]


async def test_client_that_leaves_before_the_answer_is_a_disconnect(
    caplog: pytest.LogCaptureFixture,
):
    """Its app goes on, and what it sends raises."""
    waiting = asyncio.get_running_loop().create_future()
    heard = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting.set_result(None)
        heard.append(await receive())
        await send(ACCEPT)

    async with iodine_aio.serve(app, port=0) as server, connect(server) as (_, writer):
        writer.write(HANDSHAKE)
        await waiting
        reset(writer)

    assert heard == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
    assert errors_in(caplog) == []


# ---- messages ----


@pytest.mark.parametrize(
    ("opcode", "payload"), [(TEXT, b"caf\xc3\xa9"), (BINARY, b"\0\xff"), (TEXT, b"")]
)
async def test_text_and_bytes_come_and_go_as_such(opcode: int, payload: bytes):
    """str is text, bytes are binary."""
    async with opened(echo) as client:
        client.send(frame(opcode, payload))

        assert await client.receive() == (opcode, payload)


async def test_messages_keep_their_order():
    """However many wait for the app."""
    async with opened(echo) as client:
        client.send(*(text_frame(str(number)) for number in range(200)))
        received = [(await client.receive())[1] for _ in range(200)]

    assert received == [b"%d" % number for number in range(200)]


async def test_app_that_receives_nothing_holds_up_its_client():
    """The queue is bounded; afterwards nothing is missing."""
    go_on = asyncio.get_running_loop().create_future()
    sizes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await go_on
        await receive()
        while (message := await receive())["type"] == "websocket.receive":
            sizes.append(len(message["bytes"]))

    async with opened(app) as client:
        (connection,) = client.server.connections
        for _ in range(1000):
            client.send(frame(BINARY, bytes(60_000)))
        while connection._reading:
            await asyncio.sleep(0)
        waiting = len(connection.handler._waiting)
        go_on.set_result(None)
        client.send(close_frame(1000))
        await client.rest()

    assert waiting == 2
    assert sizes == [60_000] * 1000


async def test_send_waits_for_a_client_that_takes_nothing():
    """So that memory is bounded by the transport's buffer."""
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(ACCEPT)
        for _ in range(256):
            await send({"type": "websocket.send", "bytes": bytes(65536)})
            sent += 1

    async with opened(app) as client:
        client.writer.transport.pause_reading()
        (connection,) = client.server.connections
        while not connection._paused:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        stalled_at = sent
        client.writer.transport.resume_reading()
        sizes = [len((await client.receive())[1]) for _ in range(256)]

    assert stalled_at < 256
    assert sizes == [65536] * 256


async def test_sender_that_never_waits_leaves_the_loop_to_others():
    """64 messages, then it is somebody else's turn."""
    turns = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        asyncio.get_running_loop().call_soon(lambda: turns.append(sent))
        for sent in range(200):  # noqa: B007 - read by the other's turn
            await send({"type": "websocket.send", "text": "x"})

    async with opened(app) as client:
        while (await client.receive())[0] != CLOSE:
            pass

    assert turns[0] < 64


# ---- the end ----


async def test_app_that_looks_in_now_and_then_leaves_nothing_behind():
    """Each look is a receive that it cancels; none is kept for the message that never comes."""
    left: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        for _ in range(100):
            look = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            look.cancel()
            await asyncio.wait([look])
        del look
        left.append(
            sum(type(one) is asyncio.Future and one.cancelled() for one in gc.get_objects())
        )

    async with opened(app) as client:
        await client.receive()

    assert left[0] <= 2


async def test_close_of_the_client_is_a_disconnect_with_its_code():
    """And its reason."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        heard.extend([await receive(), await receive(), await receive()])

    async with opened(app) as client:
        client.send(text_frame("last") + close_frame(4001, b"bye"))
        rest = await client.rest()

    disconnect = {"type": "websocket.disconnect", "code": 4001, "reason": "bye"}
    assert heard == [{"type": "websocket.receive", "text": "last"}, disconnect, disconnect]
    assert rest == b"\x88\x02" + struct.pack("!H", 4001)


async def test_close_of_the_app_has_its_code_and_reason():
    """Then nothing can be sent any more, and the disconnect comes."""
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4002, "reason": "enough"})
        with pytest.raises(UsageError, match=r"websocket.send.* where only nothing"):
            await send({"type": "websocket.send", "text": "hello"})
        heard.append(await receive())

    async with opened(app) as client:
        goodbye = await client.receive()
        client.send(close_frame(4002))
        await client.rest()

    assert goodbye == (CLOSE, struct.pack("!H", 4002) + b"enough")
    assert heard[0]["code"] == 4002


@pytest.mark.parametrize(("error", "code"), [(None, 1000), (ZeroDivisionError("late"), 1011)])
async def test_end_of_the_app_closes(
    error: Exception | None, code: int, caplog: pytest.LogCaptureFixture
):
    """1000 where it returns, 1011 where it raises."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        if error is not None:
            raise error

    async with opened(app) as client:
        goodbye = await client.receive()

    assert goodbye == (CLOSE, struct.pack("!H", code))
    assert errors_in(caplog) == ([] if error is None else ["the app of a WebSocket raised"])


async def test_stop_of_the_server_is_a_disconnect():
    """1001, and the app has time to end."""
    heard = []
    accepted = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        accepted.set_result(None)
        heard.append((await receive())["code"])
        await asyncio.sleep(0)
        heard.append("end")

    async with opened(app) as client:
        await accepted
        stopping = asyncio.ensure_future(client.server.stop())
        goodbye = await client.receive()
        client.send(close_frame(1001))
        await stopping

    assert goodbye == (CLOSE, struct.pack("!H", 1001))
    assert heard == [1001, "end"]


async def test_send_to_a_client_that_left_raises_oserror(caplog: pytest.LogCaptureFixture):
    """Whoever only sends hears of it so (ASGI 2.4)."""
    left = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        try:
            while True:
                await send({"type": "websocket.send", "text": "x" * 1000})
        except OSError as error:
            left.set_result(error)
            raise

    async with opened(app) as client:
        reset(client.writer)
        await left

    assert errors_in(caplog) == []


@pytest.mark.parametrize(
    ("before", "message", "complaint"),
    [
        ([], {"type": "websocket.send", "text": "a"}, "websocket.accept or websocket.close"),
        ([], {"type": "http.response.start"}, "websocket.accept or websocket.close"),
        ([], {**ACCEPT, "headers": [("a", "b")]}, "must be pairs of bytes"),
        ([ACCEPT], ACCEPT, "websocket.send or websocket.close"),
        ([ACCEPT], {"type": "websocket.send"}, "websocket.send needs bytes, or text"),
        ([ACCEPT], {"type": "websocket.send", "text": 7}, "websocket.send needs bytes, or text"),
        ([ACCEPT], {"type": "websocket.close", "code": 1006}, "close code 1006 cannot be sent"),
        ([ACCEPT], {"type": "websocket.close", "reason": 7}, "close reason is int"),
    ],
)
async def test_message_out_of_order_raises_in_the_app(before: Any, message: Any, complaint: str):
    """There, its traceback says who sent it."""
    raised = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for earlier in before:
            await send(earlier)
        try:
            await send(message)
        except UsageError as error:
            raised.append(str(error))

    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        writer.write(HANDSHAKE)
        await read_head(reader)

    assert complaint in raised[0]
