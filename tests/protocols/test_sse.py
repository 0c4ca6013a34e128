"""Event streams: what the client is sent, and what its end means."""

import asyncio
import contextlib
import threading

import pytest

import iodine_aio
from iodine_aio.errors import UsageError
from iodine_aio.protocols.handlers import adopt
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.sse import MAX_IGNORED, EventStreamProtocol
from iodine_aio.settings import Settings
from tests.clients import Answer, ask, connect, read_head, read_response
from tests.handlers import Body, EchoStreaming, Recorder
from tests.requests import HANDSHAKE, encode_upgrade
from tests.transports import FakeLoop, FakeTransport

STREAM = b"GET /events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n"
STREAM_10 = b"GET /events HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"
BARE = b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n"


def encode_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def choose(handler, status=200, headers=None, body="", key="upgrade.sse"):
    """An app that sets this key, whatever it is asked."""

    def app(env):
        env[key] = handler
        return status, headers or {}, body

    return app


@contextlib.asynccontextmanager
async def streaming(handler, request=STREAM, app=None, **options):
    """Server, reader and writer of a client whose stream `handler` serves."""
    async with (
        iodine_aio.serve(app or choose(handler), port=0, **options) as server,
        connect(server) as (reader, writer),
    ):
        writer.write(request)
        status, _ = await read_head(reader)
        assert status == 200
        yield server, reader, writer


async def hears(reader, *events):
    """True if these, each a chunk, are what comes next."""
    expected = b"".join(map(encode_chunk, events))
    return await reader.readexactly(len(expected)) == expected


# What is offered.


@pytest.mark.parametrize(
    ("request_bytes", "offers"),
    [
        (STREAM, (True, False, False, "sse")),
        (STREAM_10, (True, False, False, "sse")),
        (STREAM.replace(b"text/event", b"Text/Event"), (True, False, False, "sse")),
        (STREAM.replace(b"event-stream", b"Event-Stream"), (True, False, False, "sse")),
        (STREAM.replace(b"GET", b"POST"), (False, False, False, None)),
        (STREAM.replace(b"text/event-stream", b"text/html, */*"), (False, False, False, None)),
        (BARE, (False, False, False, None)),
        (HANDSHAKE, (False, True, True, "websocket")),
        (HANDSHAKE[:-2] + b"Accept: text/event-stream\r\n\r\n", (True, True, True, "websocket")),
        (encode_upgrade(), (False, False, True, None)),
        (encode_upgrade("Accept: text/event-stream"), (True, False, True, "sse")),
    ],
)
async def test_env_says_what_may_be_chosen(request_bytes, offers):
    """All keys are there, always."""
    seen = []

    def app(env):
        seen.append(
            (
                env["upgrade.sse?"],
                env["upgrade.websocket?"],
                env["upgrade.tcp?"],
                env["rack.upgrade?"],
            )
        )
        return 200, {"Connection": "close"}, ""

    await ask(app, request_bytes)

    assert seen == [offers]


# Its head and its events.


class Quiet:
    """Says nothing by itself."""


class Greeter:
    """Says two things and ends."""

    def on_open(self):
        assert self.write("one\ntwo") is True
        assert self.write(iodine_aio.Event("three", event="e", id=3)) is True
        self.close()


GREETING = [b"data: one\ndata: two\n\n", b"event: e\nid: 3\ndata: three\n\n"]


async def test_stream_is_chunked_and_ends_with_its_last_chunk():
    """One event, one chunk, so that programs hand each on as it comes."""
    answer = await ask(choose(Greeter), STREAM)

    assert answer.status == 200
    assert answer.fields["content-type"] == "text/event-stream"
    assert answer.fields["cache-control"] == "no-cache"
    assert answer.fields["x-accel-buffering"] == "no"
    assert answer.fields["connection"] == "close"
    assert "content-length" not in answer.fields
    assert answer.body == b"".join(map(encode_chunk, GREETING)) + b"0\r\n\r\n"


async def test_stream_to_http_1_0_ends_with_the_connection():
    """Such a client knows no chunks."""
    answer = await ask(choose(Greeter), STREAM_10)

    assert "transfer-encoding" not in answer.fields
    assert answer.body == b"".join(GREETING)


@pytest.mark.parametrize("status", [0, -1, 100, 101, 200, "204 Nothing", 1000])
async def test_status_outside_300_to_599_accepts(status):
    """It is a 200 all the same, with the app's fields, and without its body."""
    body = Body("never seen")
    headers = {"Set-Cookie": ["a=1", "b=2"], "Content-Length": "9", "Content-Type": "text/html"}
    async with (
        iodine_aio.serve(choose(Greeter, status, headers, body), port=0) as server,
        connect(server) as (reader, writer),
    ):
        writer.write(STREAM)
        got, fields = await read_head(reader)
        rest = await reader.read()

        assert got == 200
        assert [v for n, v in fields if n == "set-cookie"] == ["a=1", "b=2"]
        assert [v for n, v in fields if n == "content-type"] == ["text/event-stream"]
        assert "content-length" not in dict(fields)
        assert rest.startswith(encode_chunk(GREETING[0]))
        assert body.closed == 1


@pytest.mark.parametrize("status", [300, 302, 401, 503, 599])
async def test_status_of_300_to_599_refuses(status):
    """A middleware has its veto, and the connection goes on."""
    app = choose(Greeter, status, {}, "no")
    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        for _ in range(2):
            writer.write(STREAM)
            got, fields, content = await read_response(reader)

            assert (got, content) == (status, b"no")
            assert "content-type" not in fields


async def test_client_that_asks_for_nothing_in_particular_may_get_events():
    """As curl does; what is offered to it is nothing."""
    for field in (b"", b"Accept: */*\r\n", b"Accept: text/*\r\n"):
        answer = await ask(choose(Greeter), BARE[:-2] + field + b"\r\n")

        assert (answer.status, answer.content) == (200, b"".join(GREETING))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (BARE[:-2] + b"Accept: text/html\r\nConnection: close\r\n\r\n", 406),
        (b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 405),
        (b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 405),
    ],
)
async def test_events_for_who_cannot_take_them_are_refused(request_bytes, status):
    """By the status that says why; the body is closed."""
    body = Body()
    answer = await ask(choose(Greeter, 200, {}, body), request_bytes)

    assert answer.status == status
    assert answer.fields.get("allow") == ("GET" if status == 405 else None)
    assert body.closed == 1


async def test_accept_in_a_copied_env_chooses_events():
    """Where a middleware gave the app a copy of env; an asyncio protocol stays raw."""

    def app(env):
        dict(env)["upgrade.accept"](Greeter)
        return 200, {}, ""

    def raw(env):
        dict(env)["upgrade.accept"](EchoStreaming)
        return 0, {}, ""

    closing = STREAM[:-2] + b"Connection: close\r\n\r\n"

    assert (await ask(app, STREAM)).content == b"".join(GREETING)
    assert (await ask(raw, closing)).status == 426


async def test_class_is_called_with_env_and_last_event_id_is_there():
    """What a browser sends when it comes back."""

    class Resumed:
        def __init__(self, env):
            self.since = env["HTTP_LAST_EVENT_ID"]

        def on_open(self):
            self.write(f"since {self.since}, {self.env['PATH_INFO']}")
            self.close()

    answer = await ask(choose(Resumed), STREAM[:-2] + b"Last-Event-ID: 41\r\n\r\n")

    assert answer.content == b"data: since 41, /events\n\n"


async def test_refused_data_raises_in_the_writer():
    """Bytes that are no text; nothing of it is sent."""
    raised = []

    class Careless(iodine_aio.EventStream):
        def on_open(self):
            for data in (b"\xff", 5, "\ud800"):
                with pytest.raises(UsageError) as caught:
                    self.write(data)
                raised.append(caught.value)
            self.close()

    answer = await ask(choose(Careless), STREAM)

    assert len(raised) == 3
    assert answer.body == b"0\r\n\r\n"


async def test_write_from_another_thread_is_an_event():
    """Encoded there, sent by the loop."""
    handler = Recorder()
    async with streaming(handler) as (_, reader, _writer):
        thread = threading.Thread(target=handler.write, args=("threaded",))
        thread.start()

        assert await hears(reader, b"data: threaded\n\n")
        thread.join()


async def test_send_waits_and_drained_is_called_when_all_was_taken():
    """As for any other connection."""
    drained = asyncio.get_running_loop().create_future()

    class Flood(iodine_aio.EventStream):
        async def on_open(self):
            for _ in range(64):
                assert await self.send("x" * 65536)
            self.done = True

        def on_drained(self):
            if hasattr(self, "done") and not drained.done():
                drained.set_result(self.pending)
                self.close()

    handler = Flood()
    async with streaming(handler) as (_, reader, _writer):
        wire = await reader.read()

        assert await drained == 0
        assert (
            Answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + wire).content
            == (b"data: " + b"x" * 65536 + b"\n\n") * 64
        )


async def test_slow_client_is_closed_past_the_hard_limit():
    """Nothing grows without bound."""
    handler = Recorder()
    options = {"soft_limit_bytes": 1 << 16, "hard_limit_bytes": 1 << 18, "close_timeout": 0.1}
    async with streaming(handler, **options):
        results = [handler.write("x" * 65536) for _ in range(400)]

        assert results[0] is True
        assert results[-1] is False
        await handler.closed


# Its registry, and channels.


async def test_each_is_of_streams_alone():
    """WebSockets are others' affair; the object itself is left out."""
    first, second, socket_handler = Recorder(), Recorder(), Recorder()
    handlers = iter((first, second))

    def app(env):
        if env["upgrade.websocket?"]:
            env["upgrade.websocket"] = socket_handler
        else:
            env["upgrade.sse"] = next(handlers)
        return 200, {}, ""

    async with (
        iodine_aio.serve(app, port=0) as server,
        connect(server) as one,
        connect(server) as two,
        connect(server) as three,
    ):
        for (reader, writer), request in ((one, STREAM), (two, STREAM), (three, HANDSHAKE)):
            writer.write(request)
            await read_head(reader)
        others, everyone = [], []
        first.each(others.append)
        iodine_aio.EventStream.each(everyone.append)

        assert others == [second]
        assert set(everyone) == {first, second}
        assert (first.count, socket_handler.count) == (2, 1)


async def test_class_of_another_kind_meets_its_own_kind():
    """`each` of an object is of connections such as its own, whatever its class is for."""

    class Both(iodine_aio.WebSocket):
        def on_open(self):
            met = []
            self.each(met.append)
            self.write(f"{len(met)} of {self.count}")

    async with streaming(Both) as (server, reader, _writer), connect(server) as (other, writer):
        assert await hears(reader, b"data: 0 of 1\n\n")
        writer.write(STREAM)
        await read_head(other)

        assert await hears(other, b"data: 1 of 2\n\n")


async def test_published_messages_are_events():
    """Text as it is; bytes that are no text become some, since others wait for them too."""

    class Listener:
        def on_open(self):
            self.subscribe("news")
            self.publish("news", "a\nb")
            self.publish("news", b"\xffc")

    for request, frame in ((STREAM, encode_chunk), (STREAM_10, bytes)):
        async with streaming(Listener, request) as (_, reader, _writer):
            expected = frame(b"data: a\ndata: b\n\n") + frame("data: \ufffdc\n\n".encode())

            assert await reader.readexactly(len(expected)) == expected


# Signs of life, and the end.


async def test_silent_stream_gets_comments():
    """Proxies take silence for the end."""
    handler = Recorder()
    async with streaming(handler, ping_interval=0.05) as (_, reader, _writer):
        assert await hears(reader, b":\n\n", b":\n\n")


def test_comment_comes_only_where_nothing_was_written():
    """Silence is what the client has heard of us, not we of it."""
    service = Service(None, Settings(ping_interval=40))
    service.start(FakeLoop())
    handler = Quiet()
    stream = EventStreamProtocol(service, handler, {"SERVER_PROTOCOL": "HTTP/1.0"})
    adopt(handler, stream)
    transport = FakeTransport()
    stream.connection_made(transport)
    for second in range(60):
        service.clock.advance(second)
        if second == 30:
            handler.write("x")
            stream.data_received(b"ignored")
    early = bytes(transport.written)
    for second in range(60, 80):
        service.clock.advance(second)

    assert early == b"data: x\n\n"
    assert bytes(transport.written) == b"data: x\n\n:\n\n"


async def test_ping_is_called_instead_of_a_comment():
    """What keeps the stream alive is then the handler's."""

    class Pinging:
        def ping(self):
            self.write("still here")

    async with streaming(Pinging, ping_interval=0.05) as (_, reader, _writer):
        assert await hears(reader, b"data: still here\n\n")


async def test_client_that_goes_away_is_noticed_at_once():
    """Its stream may be silent: what probes it comes back as a reset."""
    handler = Recorder()
    async with streaming(handler, ping_interval=0, head_timeout=0.2) as (_, _reader, writer):
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(handler.closed, 5)

        assert handler.events == ["open", "close"]


async def test_client_that_only_stopped_sending_hears_on_until_the_grace_ends():
    """TCP cannot tell the two apart; the answer goes on for `half_close_timeout`."""
    handler = Recorder()
    options = {"half_close_timeout": 0.2, "ping_interval": 0}
    async with streaming(handler, **options) as (_, reader, writer):
        writer.write_eof()
        probed = await hears(reader, b":\n\n")
        handler.write("still")
        wire = await reader.read()

        assert probed
        assert encode_chunk(b"data: still\n\n") in wire
        assert wire.endswith(b"0\r\n\r\n")
        await handler.closed


async def test_what_the_client_sends_is_ignored_and_bounded():
    """A second request is nobody's; who goes on is cut."""
    handler = Recorder()
    async with streaming(handler, STREAM + STREAM) as (_, reader, writer):
        writer.write(STREAM)
        handler.write("x")

        assert await hears(reader, b"data: x\n\n")
        with contextlib.suppress(OSError):
            writer.write(bytes(MAX_IGNORED + 1))
            await writer.drain()
        await handler.closed
        assert handler.events == ["open", "close"]


async def test_stop_lets_the_handler_say_goodbye():
    """on_shutdown may write; the stream ends with its last chunk."""

    class Polite(Recorder):
        def on_shutdown(self):
            super().on_shutdown()
            self.write("goodbye")

    handler = Polite()
    async with streaming(handler) as (server, reader, _writer):
        stopping = asyncio.ensure_future(server.stop())
        wire = await reader.read()
        await stopping

        assert wire == encode_chunk(b"data: goodbye\n\n") + b"0\r\n\r\n"
        assert handler.events == ["open", "shutdown", "close"]


async def test_closed_stream_takes_nothing_more():
    """Neither from its handler nor from channels; on_close comes once."""
    handler = Recorder()
    async with streaming(handler) as (_, reader, _writer):
        handler.close()
        results = [handler.write("late")]
        handler.close()
        wire = await reader.read()
        await handler.closed

        assert results == [False]
        assert wire == b"0\r\n\r\n"
        assert handler.events == ["open", "close"]


async def test_callback_that_raises_ends_its_stream(caplog):
    """Nobody else's."""

    class Broken:
        def on_open(self):
            raise RuntimeError("broken")

    answer = await ask(choose(Broken), STREAM)

    assert (answer.status, answer.body) == (200, b"0\r\n\r\n")
    assert "a callback of Broken raised" in caplog.text


async def test_force_close_loses_what_was_not_sent():
    """No last chunk: the client knows."""
    handler = Recorder()
    async with streaming(handler) as (_, reader, _writer):
        handler.force_close()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await handler.closed


async def test_stream_is_in_the_log_of_requests(caplog):
    """A 200 whose size nobody knows yet."""
    caplog.set_level("INFO", "iodine_aio.access")
    await ask(choose(Greeter), STREAM, access_log=True)

    assert '"GET /events HTTP/1.1" 200' in caplog.text


async def test_views_of_wsgi_choose_events_in_their_environ():
    """Through whatever response the framework makes; callbacks run in threads."""
    threads = []

    class Threaded:
        def on_open(self):
            threads.append(threading.current_thread())
            self.write("from a view")
            self.close()

    def view(environ, start_response):
        environ["upgrade.sse"] = Threaded
        start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "4")])
        return [b"page"]

    answer = await ask(view, STREAM)

    assert answer.fields["content-type"] == "text/event-stream"
    assert answer.content == b"data: from a view\n\n"
    assert threads[0] is not threading.main_thread()
