"""Apps of ASGI frameworks as their manuals write them, with clients that share no code with us."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import django.core.asgi
import django.http
import django.test.utils
import django.urls
import fastapi
import litestar
import litestar.response
import pytest
import quart
import websockets
from django.views.decorators.csrf import csrf_exempt
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

import iodine_aio
from tests.apps import django_site
from tests.clients import connect, reset
from tests.integration.test_node_client import NODE, PROGRAM, find_ws


@contextlib.asynccontextmanager
async def browsing(app: Any, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        iodine_aio.serve(app, port=0, **options) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        yield session


# ---- Starlette ----


async def show(request: Request) -> Response:
    return JSONResponse(
        {
            "path": request.url.path,
            "id": request.path_params["id"],
            "query": dict(request.query_params),
            "cookies": request.cookies,
            "body": (await request.body()).decode(),
            "host": request.client.host if request.client else None,
            "root": request.scope["root_path"],
        }
    )


async def count_bytes(request: Request) -> Response:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(str(size))


async def stream(request: Request) -> Response:
    async def generate() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0)

    return StreamingResponse(generate(), media_type="text/event-stream")


async def echo_websocket(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=next(iter(websocket.scope["subprotocols"]), None))
    async for message in iterate(websocket):
        if isinstance(message, str):
            await websocket.send_text(message)
        else:
            await websocket.send_bytes(message)


async def iterate(websocket: WebSocket) -> AsyncIterator[str | bytes]:
    while (message := await websocket.receive())["type"] == "websocket.receive":
        text = message.get("text")
        yield message["bytes"] if text is None else text


async def deny(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"detail": "no"}, status_code=401))


STARLETTE = Starlette(
    routes=[
        Mount("/sub", routes=[Route("/show/{id}", show, methods=["GET", "POST"])]),
        Route("/count", count_bytes, methods=["POST"]),
        Route("/stream", stream),
        WebSocketRoute("/echo", echo_websocket),
        WebSocketRoute("/deny", deny),
    ]
)


async def test_starlette_reads_the_request():
    """Path, query, cookies and body, through a mount."""
    async with browsing(STARLETTE) as session:
        response = await session.post(
            "/sub/show/caf%C3%A9?a=1", data=b"hello", headers={"Cookie": "x=y"}
        )
        seen = await response.json()

    assert seen == {
        "path": "/sub/show/caf\u00e9",
        "id": "caf\u00e9",
        "query": {"a": "1"},
        "cookies": {"x": "y"},
        "body": "hello",
        "host": "127.0.0.1",
        "root": "/sub",
    }


async def test_starlette_streams_a_large_request():
    """Chunked, as aiohttp sends what has no length."""

    async def generate() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(65536)

    async with browsing(STARLETTE) as session:
        response = await session.post("/count", data=generate())

        assert await response.text() == str(64 * 65536)


async def test_starlette_streams_events():
    """An SSE endpoint, and its client's view."""
    async with browsing(STARLETTE) as session:
        response = await session.get("/stream")

        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert await response.text() == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


async def test_starlette_sends_files_and_ranges(tmp_path: Path):
    """By http.response.pathsend, or in pieces of its own."""
    path = tmp_path / "page"
    path.write_bytes(bytes(range(256)) * 1000)

    async def send_file(request: Request) -> Response:
        return FileResponse(path)

    async with browsing(Starlette(routes=[Route("/", send_file)])) as session:
        whole = await (await session.get("/")).read()
        part = await session.get("/", headers={"Range": "bytes=1-3"})

        assert whole == path.read_bytes()
        assert (part.status, await part.read()) == (206, b"\x01\x02\x03")


async def test_starlette_runs_background_tasks_behind_the_response():
    """And a stop waits for them."""
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append("work")

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("soon", background=BackgroundTask(work))

    async with browsing(Starlette(routes=[Route("/", endpoint)])) as session:
        await session.get("/")

    assert done == ["work"]


async def test_middleware_of_starlette_sees_request_and_response():
    """BaseHTTPMiddleware hands on messages of its own."""

    class Signature(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["X-Signed"] = request.method
            return response

    app = Starlette(routes=STARLETTE.routes, middleware=[Middleware(Signature)])
    async with browsing(app) as session:
        response = await session.post("/count", data=b"hello")

        assert (response.headers["X-Signed"], await response.text()) == ("POST", "5")


async def test_starlette_hears_of_a_client_that_leaves(caplog: pytest.LogCaptureFixture):
    """In its body: ClientDisconnect, which is nobody's fault and not logged."""
    begun = asyncio.get_running_loop().create_future()
    heard = asyncio.get_running_loop().create_future()

    async def endpoint(request: Request) -> Response:
        try:
            async for _ in request.stream():
                begun.done() or begun.set_result(None)
        except ClientDisconnect as error:
            heard.set_result(error)
            raise
        return Response()

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    async with iodine_aio.serve(app, port=0) as server, connect(server) as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        await begun
        reset(writer)
        await heard

    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


async def test_starlette_that_fails_answers_500(caplog: pytest.LogCaptureFixture):
    """By its own error page, and the error is logged once."""

    async def endpoint(request: Request) -> Response:
        raise ZeroDivisionError("in an endpoint")

    async with browsing(Starlette(routes=[Route("/", endpoint)])) as session:
        response = await session.get("/")

    assert response.status == 500
    assert [r.exc_info is not None for r in caplog.records if r.levelname == "ERROR"] == [True]


async def test_websocket_of_starlette_talks_to_aiohttp():
    """Text, binary, subprotocol and close code."""
    async with (
        browsing(STARLETTE) as session,
        session.ws_connect("/echo", protocols=["chat"]) as websocket,
    ):
        await websocket.send_str("caf\u00e9")
        await websocket.send_bytes(bytes(100_000))

        assert websocket.protocol == "chat"
        assert await websocket.receive_str() == "caf\u00e9"
        assert await websocket.receive_bytes() == bytes(100_000)


async def test_websocket_of_starlette_talks_to_websockets():
    """Another implementation, and fragments."""
    async with (
        iodine_aio.serve(STARLETTE, port=0) as server,
        websockets.connect(server.url.replace("http", "ws") + "/echo") as websocket,
    ):
        await websocket.send(["in ", "pieces"])

        assert await websocket.recv() == "in pieces"


async def test_websocket_of_starlette_can_be_denied():
    """By a response of its own; where no route fits, by 403."""
    async with browsing(STARLETTE) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as denied:
            await session.ws_connect("/deny")
        with pytest.raises(aiohttp.WSServerHandshakeError) as unknown:
            await session.ws_connect("/unknown")

    assert (denied.value.status, unknown.value.status) == (401, 403)


@pytest.mark.slow
@pytest.mark.skipif(not find_ws(), reason="node, or its package ws on NODE_PATH, is missing")
async def test_websocket_of_starlette_talks_to_node():
    """Text, binary, fragments, ping and the closing handshake."""
    async with iodine_aio.serve(STARLETTE, port=0) as server:
        assert NODE is not None
        process = await asyncio.create_subprocess_exec(
            NODE, "-e", PROGRAM, server.url.replace("http", "ws") + "/echo",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
    seen = json.loads(output)

    assert seen["protocol"] == "chat"
    assert len(seen["messages"]) == 4
    assert seen["close"] == [4001, ""]


# ---- FastAPI ----


def make_fastapi(events: list[str]) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("start")
        yield {"greeting": "hello"}
        events.append("end")

    app = FastAPI(lifespan=lifespan)

    async def connection() -> AsyncIterator[str]:
        events.append("connect")
        try:
            yield "connection"
        finally:
            events.append("disconnect")

    @app.get("/items/{number}")
    async def item(
        number: int, request: Request, db: Annotated[str, Depends(connection)], q: str = ""
    ) -> dict[str, Any]:
        return {"number": number, "q": q, "db": db, "greeting": request.state.greeting}

    @app.get("/plain")
    def plain() -> str:  # FastAPI runs it in a thread of its own
        return "plain"

    @app.post("/login")
    async def login(name: Annotated[str, fastapi.Form()]) -> str:
        return name

    @app.websocket("/ws/{room}")
    async def room(websocket: fastapi.WebSocket, room: str) -> None:
        await websocket.accept()
        while True:
            data = await websocket.receive_text()
            await websocket.send_text(f"{room}: {data}")

    return app


async def test_fastapi_has_routes_dependencies_and_a_lifespan():
    """Its own examples: validation, a dependency that yields, state, threads, forms."""
    events: list[str] = []
    async with browsing(make_fastapi(events)) as session:
        item = await (await session.get("/items/3?q=x")).json()
        invalid = (await session.get("/items/three")).status
        plain = await (await session.get("/plain")).json()
        name = await (await session.post("/login", data={"name": "Ada"})).json()

    assert item == {"number": 3, "q": "x", "db": "connection", "greeting": "hello"}
    assert (invalid, plain, name) == (422, "plain", "Ada")
    assert events[0] == "start"
    assert events[-1] == "end"
    assert events.count("connect") == events.count("disconnect") > 0


async def test_websocket_of_fastapi_talks_to_its_client(caplog: pytest.LogCaptureFixture):
    """An endpoint that lets WebSocketDisconnect through is not logged as broken."""
    async with (
        browsing(make_fastapi([])) as session,
        session.ws_connect("/ws/kitchen") as websocket,
    ):
        await websocket.send_str("hello")
        assert await websocket.receive_str() == "kitchen: hello"

    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


# ---- Quart and Litestar ----


def make_quart(events: list[str]) -> Any:
    app = quart.Quart("quart")

    @app.before_serving
    async def begin() -> None:
        events.append("start")

    @app.after_serving
    async def end() -> None:
        events.append("end")

    @app.get("/hello")
    async def hello() -> Any:
        return {"name": quart.request.args["name"]}

    @app.post("/count")
    async def count() -> str:
        return str(sum([len(piece) async for piece in quart.request.body]))

    @app.get("/stream")
    async def stream() -> Any:
        async def generate() -> AsyncIterator[str]:
            for number in range(3):
                yield f"{number}\n"
                await asyncio.sleep(0)

        return generate()

    @app.websocket("/echo")
    async def echo() -> None:
        while True:
            await quart.websocket.send(await quart.websocket.receive())

    return app


def make_litestar(events: list[str]) -> Any:
    @litestar.get("/hello")
    async def hello(request: litestar.Request[Any, Any, Any]) -> dict[str, str]:
        return {"name": request.query_params["name"]}

    @litestar.post("/count", status_code=200)
    async def count(request: litestar.Request[Any, Any, Any]) -> str:
        return str(sum([len(piece) async for piece in request.stream()]))

    @litestar.get("/stream")
    async def stream() -> litestar.response.Stream:
        async def generate() -> AsyncIterator[str]:
            for number in range(3):
                yield f"{number}\n"
                await asyncio.sleep(0)

        return litestar.response.Stream(generate)

    @litestar.websocket_listener("/echo")
    async def echo(data: str) -> str:
        return data

    return litestar.Litestar(
        [hello, count, stream, echo],
        on_startup=[lambda: events.append("start")],
        on_shutdown=[lambda: events.append("end")],
        logging_config=None,  # else it starts a thread, and logs for everybody
    )


@pytest.mark.parametrize("make", [make_quart, make_litestar])
async def test_quart_and_litestar_answer_talk_and_live(make: Any):
    """Requests that go in and out in pieces over one connection, a WebSocket, a lifespan."""
    events: list[str] = []

    async def generate() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(65536)

    async with browsing(make(events)) as session:
        hello = await (await session.get("/hello?name=Ada")).json()
        counted = await (await session.post("/count", data=generate())).text()
        streamed = await (await session.get("/stream")).text()
        missing = (await session.get("/missing")).status
        async with session.ws_connect("/echo") as websocket:
            await websocket.send_str("caf\u00e9")
            echoed = await websocket.receive_str()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/missing")

    assert (hello, counted) == ({"name": "Ada"}, str(40 * 65536))
    assert (streamed, missing) == ("0\n1\n2\n", 404)
    assert echoed == "caf\u00e9"
    assert refused.value.status in (403, 404)
    assert events == ["start", "end"]


# ---- others ----


@csrf_exempt
async def hello_django(request: Any) -> Any:
    return django.http.HttpResponse(f"{request.path} {request.body.decode()}")


async def test_django_answers_over_asgi():
    """Through its own ASGI handler, settings untouched."""
    assert django_site.application
    urls = type("urls", (), {"urlpatterns": [django.urls.path("a/", hello_django)]})
    with django.test.utils.override_settings(ROOT_URLCONF=urls):
        async with browsing(django.core.asgi.get_asgi_application()) as session:
            response = await session.post("/a/", data=b"hello")

            assert (response.status, await response.text()) == (200, "/a/ hello")
