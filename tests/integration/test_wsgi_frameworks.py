"""Flask, Django, Falcon and Bottle, unchanged: pages, forms, streams, and WebSockets of views."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import bottle
import falcon
import flask
import pytest
import websockets
from werkzeug.middleware.proxy_fix import ProxyFix

import iodine_aio
from tests.apps import django_site
from tests.apps.talking import Talking
from tests.clients import connect, read_head
from tests.requests import encode_handshake


def numbers() -> Iterator[str]:
    return (str(number) for number in range(3))


def flask_app() -> flask.Flask:
    app = flask.Flask("flask_app")
    app.secret_key = "only for tests"

    @app.get("/")
    def hello() -> str:
        return "hello"

    @app.post("/echo")
    def echo() -> Any:
        return flask.request.form.get("word") or flask.request.get_data()

    @app.get("/stream")
    def stream() -> Any:
        return numbers()

    @app.route("/chat", websocket=True)
    def chat() -> Any:
        name = flask.request.args.get("name")
        if name is None:
            return "who are you?", 401
        if name == "nobody":
            return flask.redirect("/login")
        flask.session["name"] = name
        flask.request.environ["upgrade.websocket"] = Talking(name)
        return "never seen"

    return app


def flask_behind_a_proxy() -> Any:
    return ProxyFix(flask_app(), x_for=1, x_proto=1, x_host=1)


def flask_behind_a_copy() -> Any:
    """A middleware hands on a copy of environ: keys set there are never seen."""
    app = flask.Flask("copied_app")
    app.secret_key = "only for tests"
    app.register_error_handler(404, lambda error: ("", 404))

    @app.route("/chat", websocket=True)
    def chat() -> Any:
        name = flask.request.args.get("name")
        if name is None:
            return "who are you?", 401
        flask.request.environ["upgrade.accept"](Talking(name))
        if name == "nobody":
            return flask.redirect("/login")
        flask.session["name"] = name
        return "never seen"

    def middleware(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/chat":
            return app(dict(environ), start_response)
        return flask_app()(dict(environ), start_response)

    return middleware


def falcon_app() -> falcon.App:
    app = falcon.App()

    class Hello:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.text = "hello"

        on_head = on_get

    class Echo:
        def on_post(self, req: Any, resp: Any) -> None:
            if req.content_type == "application/x-www-form-urlencoded":
                resp.text = req.get_media()["word"]
            else:
                resp.data = req.bounded_stream.read()

    class Stream:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.stream = (piece.encode() for piece in numbers())

    class Chat:
        def on_get(self, req: Any, resp: Any) -> None:
            name = req.get_param("name")
            if name is None:
                raise falcon.HTTPUnauthorized()
            if name == "nobody":
                raise falcon.HTTPFound("/login")
            resp.set_cookie("session", name, secure=False)
            req.env["upgrade.websocket"] = Talking(name)

    for route, resource in (
        ("/", Hello()),
        ("/echo", Echo()),
        ("/stream", Stream()),
        ("/chat", Chat()),
    ):
        app.add_route(route, resource)
    return app


def bottle_app() -> bottle.Bottle:
    app = bottle.Bottle()

    @app.get("/")
    def hello() -> str:
        return "hello"

    @app.post("/echo")
    def echo() -> Any:
        return bottle.request.forms.getunicode("word") or bottle.request.body.read()

    @app.get("/stream")
    def stream() -> Any:
        return numbers()

    @app.get("/chat")
    def chat() -> Any:
        name = bottle.request.query.get("name")
        if name is None:
            bottle.abort(401)
        if name == "nobody":
            bottle.redirect("/login", 302)
        bottle.response.set_cookie("session", name)
        bottle.request.environ["upgrade.websocket"] = Talking(name)
        return "never seen"

    return app


def django_app() -> Any:
    return django_site.application


frameworks = pytest.mark.parametrize(
    "make",
    [flask_app, flask_behind_a_proxy, flask_behind_a_copy, django_app, falcon_app, bottle_app],
)
threads_or_not = pytest.mark.parametrize("threads", [None, 0], ids=["pool", "loop"])


@frameworks
@threads_or_not
async def test_pages_forms_and_streams(make: Callable[[], Any], threads: int | None):
    """As behind any other WSGI server; a chunked body is read, too."""

    async def chunks() -> Any:
        yield b"one "
        yield b"two"

    async with (
        iodine_aio.serve(make(), port=0, threads=threads) as server,
        aiohttp.ClientSession() as session,
    ):
        texts = []
        for method, path, options in (
            ("GET", "/", {}),
            ("POST", "/echo", {"data": {"word": "grüße"}}),
            ("POST", "/echo", {"data": b"bytes"}),
            ("POST", "/echo", {"data": chunks()}),
            ("GET", "/stream", {}),
        ):
            async with session.request(method, server.url + path, **options) as response:
                texts.append((response.status, await response.text()))
        async with session.head(server.url) as response:
            head = response.status, await response.read()

    assert texts == [(200, text) for text in ("hello", "grüße", "bytes", "one two", "012")]
    assert head == (200, b"")


@frameworks
async def test_missing_page_is_the_frameworks_own(make: Callable[[], Any]):
    """Its status and its body."""
    async with (
        iodine_aio.serve(make(), port=0) as server,
        aiohttp.ClientSession() as session,
        session.get(server.url + "/missing") as response,
    ):
        assert response.status == 404
        assert "not found" in (await response.text()).lower() + response.reason.lower()


@frameworks
@threads_or_not
async def test_view_lets_a_websocket_in(make: Callable[[], Any], threads: int | None):
    """The session's cookie is in the 101; plain callbacks run in the pool, async ones do not."""
    async with (
        iodine_aio.serve(make(), port=0, threads=threads) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.ws_connect(server.url + "/chat?name=Ada") as socket,
    ):
        fields = socket._response.headers
        greeting = await socket.receive_str()
        await socket.send_bytes(b"\x00\xff")
        answer = await socket.receive_bytes()
        await socket.send_str("threads")
        ran = await socket.receive_str()

    on_loop = threads == 0
    assert greeting == "hello Ada"
    assert answer == b"\x00\xff"
    assert "session" in fields["Set-Cookie"]
    assert "Content-Length" not in fields
    assert ran == repr([("on_open", True), ("on_message", on_loop), ("on_message", on_loop)])


@frameworks
async def test_websockets_client_talks_to_a_view(make: Callable[[], Any]):
    """Another client, several messages in flight, in their order."""
    async with iodine_aio.serve(make(), port=0) as server:
        url = server.url.replace("http", "ws") + "/chat?name=Ada"
        async with websockets.connect(url, proxy=None) as socket:
            for number in range(50):
                await socket.send(str(number))
            heard = [await socket.recv() for _ in range(51)]

    assert heard == ["hello Ada", *(str(number) for number in range(50))]


@frameworks
@pytest.mark.parametrize(("query", "status"), [("", 401), ("?name=nobody", 302)])
async def test_view_that_answers_otherwise_refuses(
    make: Callable[[], Any], query: str, status: int
):
    """Whatever a decorator of the view, or a middleware, says; the client sees it."""
    request = encode_handshake(target="/chat" + query)
    async with iodine_aio.serve(make(), port=0) as server, connect(server) as (reader, writer):
        writer.write(request)
        answer, fields = await read_head(reader)

    assert answer == status
    assert ("location" in dict(fields)) is (status != 401)


async def read_stream(app: Any) -> tuple[Any, bytes]:
    """Fields and content of /events?Ada, until its end."""
    async with (
        iodine_aio.serve(app, port=0) as server,
        aiohttp.ClientSession(headers={"Accept": "text/event-stream"}) as session,
        session.get(server.url + "/events?Ada") as response,
    ):
        assert response.status == 200
        return response.headers, await response.read()


async def test_flask_view_opens_an_event_stream():
    """The session's cookie is in its head, what Flask says of its page is not."""
    app = flask.Flask("events")
    app.secret_key = "only for tests"

    class Hello:
        def __init__(self, env: iodine_aio.Env) -> None:
            self.name = env["QUERY_STRING"]

        def on_open(self) -> None:
            self.write(f"hello {self.name}")  # type: ignore[attr-defined]
            self.close()  # type: ignore[attr-defined]

    @app.get("/events")
    def events() -> str:
        flask.session["name"] = "Ada"
        flask.request.environ["upgrade.sse"] = Hello
        return "never seen"

    fields, content = await read_stream(app)

    assert content == b"data: hello Ada\n\n"
    assert "session" in fields["Set-Cookie"]
    assert fields.getall("Content-Type") == ["text/event-stream"]
    assert "Content-Length" not in fields


async def test_django_view_opens_an_event_stream_in_the_later_style():
    """One handler for all clients, through request.META and all middleware."""
    fields, content = await read_stream(django_app())

    assert content == b"data: hello Ada\n\n"
    assert "sessionid" in fields["Set-Cookie"]
    assert fields.getall("Content-Type") == ["text/event-stream"]
    assert "Content-Length" not in fields


async def test_flask_file_is_sent_without_its_thread(tmp_path: Any):
    """send_file hands over a wrapped file: ranges are Flask's, sending is ours."""
    page = tmp_path / "page.bin"
    page.write_bytes(bytes(range(256)) * 1000)
    app = flask.Flask("files")

    @app.get("/")
    def send() -> Any:
        return flask.send_file(page)

    async with iodine_aio.serve(app, port=0) as server, aiohttp.ClientSession() as session:
        async with session.get(server.url) as response:
            whole = await response.read()
        async with session.get(server.url, headers={"Range": "bytes=10-19"}) as response:
            part = response.status, await response.read()

    assert whole == bytes(range(256)) * 1000
    assert part == (206, bytes(range(10, 20)))


async def test_flask_names_its_file_to_the_server(tmp_path: Any):
    """USE_X_SENDFILE: conditions and ranges, that Flask answers for a body it does not send."""
    app = flask.Flask(__name__)
    app.config["USE_X_SENDFILE"] = True
    page = tmp_path / "page.txt"
    page.write_bytes(b"0123456789" * 30_000)

    @app.route("/")
    def show() -> Any:
        return flask.send_file(page)

    async with (
        iodine_aio.serve(app, port=0, sendfile=(tmp_path,)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        whole = await session.get("/")
        content = await whole.read()
        part = await session.get("/", headers={"Range": "bytes=9-11"})
        piece = await part.read()
        known = await session.get("/", headers={"If-None-Match": whole.headers["ETag"]})
        late = await session.get("/", headers={"Range": "bytes=300000-"})

    assert content == page.read_bytes()
    assert (part.status, piece) == (206, b"901")
    assert part.headers["Content-Range"] == "bytes 9-11/300000"
    assert (known.status, late.status) == (304, 416)
    assert all("X-Sendfile" not in one.headers for one in (whole, part, known, late))


async def test_call_on_close_runs_after_the_response(tmp_path: Any):
    """Work that a view leaves for later does not hold up its client."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    app = flask.Flask("later")

    @app.get("/")
    def later() -> Any:
        response = flask.Response("now")
        response.call_on_close(lambda: loop.call_soon_threadsafe(done.set))
        return response

    async with iodine_aio.serve(app, port=0) as server, aiohttp.ClientSession() as session:
        async with session.get(server.url) as response:
            text = await response.text()
        await done.wait()

    assert text == "now"
