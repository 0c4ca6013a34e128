"""`env["rack.upgrade"]`: handlers whose callbacks take the connection first."""

import asyncio
import contextlib
import threading
import types

import pytest

import iodine_aio
from tests.clients import WebSocketClient, ask, connect, read_head, read_response
from tests.frames import BINARY, CLOSE, TEXT, close_frame, frame, text_frame
from tests.handlers import Body
from tests.requests import GET, HANDSHAKE, KEPT, encode_upgrade

STREAM = b"GET /events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n"


def choose(handler, status=0, headers=None, body=None):
    """An app that sets the key, whatever it is asked."""

    def app(env):
        env["rack.upgrade"] = handler
        return status, headers or {}, body

    return app


@contextlib.asynccontextmanager
async def serving(handler, request=HANDSHAKE, **options):
    """A client of a handler of the later style."""
    async with (
        iodine_aio.serve(choose(handler), port=0, **options) as server,
        connect(server) as (reader, writer),
    ):
        writer.write(request)
        status, _ = await read_head(reader)
        assert status == (101 if request == HANDSHAKE else 200)
        yield WebSocketClient(server, reader, writer)


class Shared:
    """One object for all clients, that notes what is called with whom."""

    def __init__(self):
        self.calls = []
        self.clients = []
        self.closed = asyncio.get_running_loop().create_future()

    def on_open(self, client):
        self.clients.append(client)
        self.calls.append(("open", client.env["PATH_INFO"]))

    def on_message(self, client, data):
        self.calls.append(("message", data))
        client.write(data)

    def on_shutdown(self, client):
        self.calls.append(("shutdown", client.is_open))
        client.write("goodbye")

    def on_close(self, client):
        self.calls.append(("close", client.is_open))
        self.closed.set_result(client)


# WebSockets.


async def test_every_callback_gets_the_client_first():
    """In their order: open, messages, shutdown, close."""
    handler = Shared()
    async with serving(handler) as client:
        client.send(text_frame("hi"), frame(BINARY, b"\0"))
        answers = [await client.receive(), await client.receive()]
        stopping = asyncio.ensure_future(client.server.stop())
        answers += [await client.receive(), await client.receive()]
        client.send(close_frame(1001))
        await stopping

        assert answers[:3] == [(TEXT, b"hi"), (BINARY, b"\0"), (TEXT, b"goodbye")]
        assert answers[3][0] == CLOSE
        assert handler.calls == [
            ("open", "/chat"),
            ("message", "hi"),
            ("message", b"\0"),
            ("shutdown", True),
            ("close", False),
        ]
        assert handler.closed.result() is handler.clients[0]


async def test_one_handler_serves_many_connections():
    """And stays what it is: nothing is adopted, no attribute is set."""
    handler = Shared()
    handler.closed = types.SimpleNamespace(set_result=lambda client: None)
    before = type(handler), set(vars(handler))
    async with serving(handler) as first, connect(first.server) as (reader, writer):
        writer.write(HANDSHAKE)
        await read_head(reader)
        second = WebSocketClient(first.server, reader, writer)
        first.send(text_frame("1"))
        second.send(text_frame("2"))

        assert (await first.receive(), await second.receive()) == ((TEXT, b"1"), (TEXT, b"2"))
        one, two = handler.clients
        assert one is not two
        assert one.id != two.id
        assert one.handler is two.handler is handler
        assert (type(handler), set(vars(handler))) == before


async def test_module_is_a_handler():
    """Its functions are called as they are."""
    module = types.ModuleType("echo")
    module.on_message = lambda client, data: client.write(f"{module.__name__}: {data}")
    async with serving(module) as client:
        client.send(text_frame("hi"))

        assert await client.receive() == (TEXT, b"echo: hi")


async def test_class_is_a_handler_and_is_not_called():
    """Its static and class methods are the callbacks."""

    class Echo:
        def __init__(self):
            raise AssertionError("called")

        @classmethod
        def on_open(cls, client):
            client.write(cls.__name__)

        @staticmethod
        def on_message(client, data):
            client.write(data)

    async with serving(Echo) as client:
        client.send(text_frame("hi"))

        assert [await client.receive(), await client.receive()] == [(TEXT, b"Echo"), (TEXT, b"hi")]


async def test_key_decides_the_style_and_never_the_arity():
    """Callbacks that would take anything get the client with this key, none with the other."""
    calls = []

    class Any:
        def on_open(self, *args):
            calls.append(args)

    def app(env):
        env["rack.upgrade" if env["QUERY_STRING"] else "upgrade.websocket"] = Any()
        return 0, {}, None

    async with iodine_aio.serve(app, port=0) as server:
        for target in (b"/chat", b"/chat?later"):
            async with connect(server) as (reader, writer):
                writer.write(HANDSHAKE.replace(b"/chat", target))
                await read_head(reader)

    assert calls[0] == ()
    assert [type(value) for value in calls[1]] == [iodine_aio.Client]


async def test_coroutine_callbacks_are_awaited_in_order():
    """The next message waits for the last one's coroutine."""

    class Slow:
        async def on_message(self, client, data):
            await asyncio.sleep(0)
            await client.send(data)

    async with serving(Slow()) as client:
        client.send(text_frame("1"), text_frame("2"), text_frame("3"))

        assert [(await client.receive())[1] for _ in range(3)] == [b"1", b"2", b"3"]


async def test_on_close_may_take_code_and_reason():
    """Behind the client."""
    closed = asyncio.get_running_loop().create_future()

    class Handler:
        def on_close(self, client, code, reason):
            closed.set_result((type(client), code, reason))

    async with serving(Handler()) as client:
        client.send(close_frame(4000, b"enough"))

        assert await closed == (iodine_aio.Client, 4000, "enough")


async def test_drained_is_called_with_the_client():
    """Under its name in 0.2, too."""
    for name in ("on_drained", "on_ready"):
        drained = asyncio.get_running_loop().create_future()
        handler = types.SimpleNamespace(on_open=lambda client: client.write("x"))
        setattr(handler, name, drained.set_result)
        async with serving(handler) as client:
            await client.receive()

            assert (await drained).pending == 0


async def test_client_has_the_methods_of_the_network():
    """Deferred calls, channels, a timeout of its own, and what it is."""
    seen = []

    class Handler:
        def on_open(self, client):
            client.timeout = 7
            client.subscribe("room")
            client.subscribe("calls", lambda message: client.write(f"called: {message.data}"))
            client.defer(client.publish, "room", "news")
            client.defer(client.publish, "calls", "me")
            seen.extend([client.timeout, client.protocol, client.count, client.is_open])

        def on_message(self, client, data):
            client.close(4001)

    async with serving(Handler()) as client:
        answers = {(await client.receive())[1] for _ in range(2)}
        client.send(text_frame("end"))
        code = await client.receive()

        assert answers == {b"news", b"called: me"}
        assert code == (CLOSE, b"\x0f\xa1")
        assert seen == [7, "websocket", 1, True]


async def test_each_of_adopted_objects_meets_clients_too():
    """Both styles are in one registry."""
    handler = Shared()
    async with serving(handler):
        met = []
        iodine_aio.WebSocket.each(met.append)

        assert met == handler.clients


async def test_callback_that_raises_is_logged_by_the_handlers_name(caplog):
    """Not by that of the client; the connection ends with 1011."""

    class Broken:
        def on_message(self, client, data):
            raise RuntimeError("broken")

    async with serving(Broken()) as client:
        client.send(text_frame("x"))

        assert await client.receive() == (CLOSE, b"\x03\xf3")
    assert "a callback of Broken raised" in caplog.text


async def test_module_and_class_are_logged_by_their_own_names(caplog):
    """Not as a module, or a type."""

    def fail(client):
        raise RuntimeError("broken")

    module = types.ModuleType("broken_module")
    module.on_open = fail
    for handler in (module, type("BrokenClass", (), {"on_open": staticmethod(fail)})):
        async with serving(handler) as client:
            await client.receive()

    assert "a callback of broken_module raised" in caplog.text
    assert "a callback of BrokenClass raised" in caplog.text


# In threads.


async def test_plain_callbacks_run_in_the_pool_in_order():
    """Those that are async stay on the loop."""
    threads = {}

    class Handler:
        def on_open(self, client):
            threads["open"] = threading.current_thread()

        async def on_message(self, client, data):
            threads["message"] = threading.current_thread()
            client.write(data)

        def on_close(self, client):
            threads["close"] = threading.current_thread()
            loop.call_soon_threadsafe(closed.set_result, None)

    loop = asyncio.get_running_loop()
    closed = loop.create_future()
    async with serving(Handler(), threads=2) as client:
        client.send(text_frame("hi"))
        await client.receive()
        client.send(close_frame(1000))
        await closed

    main = threading.main_thread()
    assert threads["message"] is main
    assert threads["open"] is not main
    assert threads["close"] is not main


# Event streams.


async def test_event_stream_has_the_same_callbacks():
    """`write` is an event, and nothing is ever received."""

    class Handler(Shared):
        def on_open(self, client):
            super().on_open(client)
            client.write(iodine_aio.Event(client.protocol, id=1))

    handler = Handler()
    async with serving(handler, STREAM) as client:
        client.send(b"ignored")
        first = await client.reader.readuntil(b"\n\n\r\n")
        stopping = asyncio.ensure_future(client.server.stop())
        rest = await client.rest()
        await stopping

        assert first == b"11\r\nid: 1\ndata: sse\n\n\r\n"
        assert rest == b"f\r\ndata: goodbye\n\n\r\n0\r\n\r\n"
        assert [name for name, _ in handler.calls] == ["open", "shutdown", "close"]


async def test_silent_stream_asks_its_handler():
    """ping(client), as the raw connections of old."""

    class Handler:
        def ping(self, client):
            client.write("ping")
            client.close()

    async with serving(Handler(), STREAM, ping_interval=0.05) as client:
        assert await client.rest() == b"c\r\ndata: ping\n\n\r\n0\r\n\r\n"


# What the status means.


@pytest.mark.parametrize("request_bytes", [HANDSHAKE, STREAM])
@pytest.mark.parametrize("status", [-1, 0, 101, 200, 299])
async def test_status_below_300_accepts(request_bytes, status):
    """The app's fields stand in the answer, its body is closed."""
    body = Body("never seen")
    app = choose(types.SimpleNamespace(), status, {"Set-Cookie": "a=1"}, body)
    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        writer.write(request_bytes)
        got, fields = await read_head(reader)

        assert got == (101 if request_bytes == HANDSHAKE else 200)
        assert ("set-cookie", "a=1") in fields
        assert body.closed == 1


@pytest.mark.parametrize("request_bytes", [HANDSHAKE, STREAM])
@pytest.mark.parametrize(("status", "sent"), [(300, 300), (404, 404), (599, 599), (1000, 500)])
async def test_status_of_300_and_above_refuses(request_bytes, status, sent):
    """What is no status at all is then the app's error."""
    app = choose(types.SimpleNamespace(), status, {}, "no")
    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        writer.write(request_bytes)

        assert (await read_response(reader))[0] == sent


@pytest.mark.parametrize("request_bytes", [KEPT, encode_upgrade()])
async def test_key_is_ignored_where_nothing_is_offered(request_bytes):
    """The response is sent as it is, be the handler what it may."""
    app = choose(types.SimpleNamespace(), 200, {}, "page")
    async with iodine_aio.serve(app, port=0) as server, connect(server) as (reader, writer):
        for _ in range(2):
            writer.write(request_bytes)

            assert (await read_response(reader))[::2] == (200, b"page")


async def test_none_chooses_nothing():
    """An app may set the key in every case."""
    answer = await ask(choose(None, 200, {}, "page"), GET)

    assert (answer.status, answer.body) == (200, b"page")


async def test_allowed_origins_hold_for_the_later_style():
    """A handshake of another page is answered by 403."""
    app = choose(types.SimpleNamespace())
    handshake = HANDSHAKE[:-2] + b"Origin: http://evil\r\n\r\n"
    async with (
        iodine_aio.serve(app, port=0, allowed_origins=("http://good",)) as server,
        connect(server) as (reader, writer),
    ):
        writer.write(handshake)

        assert (await read_response(reader))[0] == 403


async def test_views_of_wsgi_choose_handlers_of_the_later_style():
    """The key works through environ, and the callbacks run in threads."""
    threads = []

    class Handler:
        def on_open(self, client):
            threads.append(threading.current_thread())
            client.write("hi")

    def view(environ, start_response):
        environ["rack.upgrade"] = Handler()
        start_response("200 OK", [("Content-Length", "4")])
        return [b"page"]

    async with iodine_aio.serve(view, port=0) as server, connect(server) as (reader, writer):
        writer.write(HANDSHAKE)
        await read_head(reader)

        assert await reader.readexactly(4) == b"\x81\x02hi"
        assert threads[0] is not threading.main_thread()
