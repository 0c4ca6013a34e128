"""The page of an application that runs in the browser, before every kind of app."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from fastapi import FastAPI, Request, Response, WebSocket
from starlette.responses import StreamingResponse

import iodine_aio
from iodine_aio.apps.spa import replace_missing
from iodine_aio.replies import Reply
from tests.clients import Answer, connect, exchange, read_head
from tests.requests import encode_handshake

PAGE = b"<p>spa"
HTML = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
MISSING = b'{"detail": "nothing of that name"}'


def get(target: str, *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", "Connection: close", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Body:
    """Of a 404, in pieces; notes that it was closed, in whichever thread."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield MISSING[:5]
        yield MISSING[5:]

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


class Apps:
    """One app, of each kind: /route is there, everything else a 404.

    Attributes:
        bodies: of the 404s of those kinds that stream them.
    """

    def __init__(self) -> None:
        self.bodies: list[Body] = []

    def body(self) -> Body:
        self.bodies.append(body := Body())
        return body

    def iodine(self, env: Any) -> Any:
        return (200, {}, "app") if env["PATH_INFO"] == "/route" else (404, {}, MISSING)

    def iodine_streams(self, env: Any) -> Any:
        return (
            (200, {}, "app") if env["PATH_INFO"] == "/route" else ("404 Missing", {}, self.body())
        )

    async def iodine_async(self, env: Any) -> Any:
        await asyncio.sleep(0)
        return self.iodine(env)

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        found = environ["PATH_INFO"] == "/route"
        start_response("200 OK" if found else "404 Not Found", [])
        return [b"app" if found else MISSING]

    def wsgi_streams(self, environ: Any, start_response: Any) -> Any:
        found = environ["PATH_INFO"] == "/route"
        start_response("200 OK" if found else "404 Not Found", [])
        return [b"app"] if found else self.body()

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] in ("http", "lifespan")
        if scope["type"] == "http":
            found = scope["path"] == "/route"
            await send({"type": "http.response.start", "status": 200 if found else 404})
            await send({"type": "http.response.body", "body": b"app" if found else MISSING})

    async def asgi_streams(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0)
            found = scope["path"] == "/route"
            body = self.body()
            await send({"type": "http.response.start", "status": 200 if found else 404})
            for piece in [b"a", b"pp"] if found else body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
            body.close()


KINDS = [
    *(("iodine", 0), ("iodine", 2), ("iodine_streams", 0), ("iodine_streams", 2)),
    *(("iodine_async", 0), ("wsgi", 0), ("wsgi", 2), ("wsgi_streams", 0), ("wsgi_streams", 2)),
    *(("asgi", 0), ("asgi_streams", 0)),
]
every_kind = pytest.mark.parametrize(
    ("kind", "threads"), KINDS, ids=[f"{kind}-{threads}" for kind, threads in KINDS]
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "app.html").write_bytes(PAGE)
    (tmp_path / "script.js").write_bytes(b"js")
    return tmp_path


def serving(app: Any, site: Path, threads: int = 0) -> iodine_aio.Server:
    return iodine_aio.serve(app, port=0, public=site, spa="app.html", threads=threads)


@every_kind
async def test_browser_gets_the_page_where_the_app_has_nothing(
    site: Path, kind: str, threads: int, caplog: pytest.LogCaptureFixture
):
    """And nothing of the 404: neither its fields nor its body, which is closed."""
    apps = Apps()
    async with serving(getattr(apps, kind), site, threads) as server:
        page = Answer(await exchange(server, get("/deep/link?x=1", HTML)))
        head = Answer(await exchange(server, get("/deep/link", HTML, method="HEAD")))
        tag = page.fields["etag"]
        known = Answer(await exchange(server, get("/other", HTML, f"If-None-Match: {tag}")))
        for body in apps.bodies:
            assert await asyncio.to_thread(body.closed.wait, 10)

    assert (page.status, page.body) == (200, PAGE)
    assert page.fields["content-type"] == "text/html; charset=utf-8"
    assert page.fields["cache-control"] == "no-cache"
    assert (head.status, head.body, head.fields["content-length"]) == (200, b"", "6")
    assert (known.status, known.body) == (304, b"")
    assert len(apps.bodies) == (3 if "streams" in kind else 0)
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


@every_kind
@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("GET", []),
        ("GET", ["Accept: */*"]),
        ("GET", ["Accept: application/json"]),
        ("GET", ["Accept: application/json, text/html;q=0.5"]),
        ("HEAD", ["Accept: application/json"]),
        ("POST", [HTML, "Content-Length: 0"]),
        ("DELETE", [HTML]),
    ],
)
async def test_program_gets_the_404_of_the_app(
    site: Path, kind: str, threads: int, method: str, fields: list[str]
):
    """Who asks for no page is told the truth, byte by byte."""
    async with serving(getattr(Apps(), kind), site, threads) as server:
        answer = Answer(await exchange(server, get("/api/none", *fields, method=method)))

    assert answer.status == 404
    assert answer.content == MISSING if method != "HEAD" else answer.body == b""


@every_kind
async def test_files_and_routes_go_before_the_page(site: Path, kind: str, threads: int):
    """The page is for what is neither."""
    async with serving(getattr(Apps(), kind), site, threads) as server:
        file = Answer(await exchange(server, get("/script.js", HTML)))
        route = Answer(await exchange(server, get("/route", HTML)))
        page = Answer(await exchange(server, get("/app.html")))

    assert [one.status for one in (file, route, page)] == [200, 200, 200]
    assert [one.content for one in (file, route, page)] == [b"js", b"app", PAGE]


@every_kind
async def test_connection_goes_on_behind_the_page(site: Path, kind: str, threads: int):
    """Requests in one packet are answered in order."""
    requests = [get("/a", HTML), get("/route"), get("/b", HTML), get("/c", HTML)]
    stream = b"".join(one.replace(b"Connection: close\r\n", b"") for one in requests[:3])
    async with serving(getattr(Apps(), kind), site, threads) as server:
        said = await exchange(server, stream + requests[3])

    assert said.count(b"HTTP/1.1 200 OK") == 4
    assert [said.count(PAGE), said.count(MISSING)] == [3, 0]


async def test_site_without_an_app_has_the_page(site: Path):
    """For browsers, under every path; not for other methods."""
    async with serving(None, site) as server:
        answers = [
            Answer(await exchange(server, one))
            for one in (
                get("/deep/link", HTML),
                get("/deep/link", "Accept: */*"),
                get("/deep", HTML, "Content-Length: 0", method="POST"),
            )
        ]

    assert [one.status for one in answers] == [200, 404, 405]
    assert answers[0].body == PAGE


@pytest.mark.parametrize("kind", ["iodine", "wsgi", None])
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip, br", "br"), ("gzip", "gzip"), ("zstd", "zstd"), ("identity", None), (None, None)],
)
async def test_page_is_sent_in_the_coding_that_the_browser_likes_best(
    site: Path, kind: str | None, accepted: str | None, coding: str | None
):
    """As every file is that has such siblings; each form has its tag, and its 304 says Vary too."""
    for name, extension in (("br", ".br"), ("gzip", ".gz"), ("zstd", ".zst")):
        (site / f"app.html{extension}").write_bytes(name.encode())
    fields = [HTML] if accepted is None else [HTML, f"Accept-Encoding: {accepted}"]
    app = None if kind is None else getattr(Apps(), kind)
    async with serving(app, site) as server:
        page = Answer(await exchange(server, get("/deep/link", *fields)))
        tag = page.fields["etag"]
        known = Answer(await exchange(server, get("/a", *fields, f"If-None-Match: {tag}")))

    assert page.status == 200
    assert page.body == (PAGE if coding is None else coding.encode())
    assert page.fields.get("content-encoding") == coding
    assert page.fields["content-type"] == "text/html; charset=utf-8"
    assert page.fields["cache-control"] == "no-cache"
    assert page.fields["vary"] == "Accept-Encoding"
    assert (known.status, known.fields["vary"]) == (304, "Accept-Encoding")


async def test_large_page_that_was_replaced_is_found_at_once(site: Path):
    """As every file is: nobody sees a 404 while a new version is put in place."""
    (site / "app.html").write_bytes(b"x" * 100_000)
    async with serving(Apps().iodine, site) as server:
        old = Answer(await exchange(server, get("/deep", HTML)))
        (site / "new").write_bytes(b"y" * 200_000)
        (site / "new").replace(site / "app.html")
        new = Answer(await exchange(server, get("/deep", HTML)))

    assert [old.body, new.body] == [b"x" * 100_000, b"y" * 200_000]


async def test_page_that_is_gone_leaves_the_404(site: Path):
    """The app's own, whole."""
    async with serving(Apps().iodine, site) as server:
        (site / "app.html").unlink()
        answer = Answer(await exchange(server, get("/deep", HTML)))

    assert (answer.status, answer.body) == (404, MISSING)


async def test_page_may_lie_in_a_folder_of_its_own(site: Path, tmp_path: Path):
    """It is looked for where files of its path are."""
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "app.html").write_bytes(b"built")
    options = {"static": {"/app": tmp_path / "built"}, "spa": "/app/app.html"}
    async with iodine_aio.serve(None, port=0, public=site, **options) as server:
        answer = Answer(await exchange(server, get("/deep", HTML)))

    assert (answer.status, answer.body) == (200, b"built")


async def test_refused_upgrade_does_not_become_a_page(site: Path):
    """A 404 that vetoes a WebSocket must not become a 200, which accepts it."""

    def app(env: iodine_aio.Env) -> Any:
        env["upgrade.websocket"] = object()
        return 404, {}, "no"

    async with serving(app, site) as server:
        request = encode_handshake(target="/chat", fields=[HTML])
        answer = Answer(await exchange(server, request + get("/missing")))

    assert answer.status == 404


# ---- a framework ----


def make_fastapi(notes: list[Any]) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def note(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)  # becomes a streamed one
        notes.append(response.status_code)
        return response

    @app.get("/stream")
    async def stream() -> Response:
        async def generate() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"not this"
                await asyncio.sleep(0)
            notes.append("end")

        return StreamingResponse(generate(), status_code=404)

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())

    return app


async def test_fastapi_keeps_its_json_and_its_websockets(
    site: Path, caplog: pytest.LogCaptureFixture
):
    """A middleware streams every response; what gives way comes to its end all the same."""
    notes: list[Any] = []
    async with serving(make_fastapi(notes), site) as server:
        page = Answer(await exchange(server, get("/missing", HTML)))
        program = Answer(await exchange(server, get("/missing", "Accept: application/json")))
        streamed = Answer(await exchange(server, get("/stream", HTML)))
        url = server.url.replace("http", "ws")
        async with websockets.connect(f"{url}/echo", additional_headers={"Accept": HTML}) as ws:
            await ws.send("hello")
            echoed = await ws.recv()
        refused = await exchange(
            server, encode_handshake(target="/none", fields=[HTML]) + get("/missing")
        )

    assert [page.body, streamed.body] == [PAGE, PAGE]
    assert (program.status, json.loads(program.content)) == (404, {"detail": "Not Found"})
    assert notes == [404, 404, 404, "end", 404]
    assert echoed == "hello"
    assert refused.startswith(b"HTTP/1.1 403 ")
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


async def test_endless_body_that_gives_way_is_ended(site: Path):
    """Else one request would keep a processor busy for ever."""
    ended = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404})
            with contextlib.suppress(OSError):
                while True:
                    await send({"type": "http.response.body", "body": bytes(99), "more_body": True})
            ended.set_result(None)

    async with serving(app, site) as server, connect(server) as (reader, writer):
        writer.write(get("/", HTML))
        status, _ = await read_head(reader)
        await ended

    assert status == 200


# ---- replies ----


class Closing:
    closed = 0

    def close(self) -> None:
        self.closed += 1


def page() -> Any:
    return 200, {}, PAGE


def test_reply_is_replaced_in_the_moment_in_which_it_is_given():
    """A turn of the loop in between could lose its client, and its body would be nobody's."""
    reply = Reply()
    replaced = replace_missing(reply, page)
    body = Closing()
    assert not replaced.done()
    reply.set_result((404, {}, body))

    assert (replaced.result(), body.closed) == ((200, {}, PAGE), 1)


def test_reply_that_is_there_is_replaced_at_once():
    """As those are that an app gives before it is asked."""
    reply = Reply()
    reply.set_result((404, {}, b""))

    assert replace_missing(reply, page).result() == (200, {}, PAGE)


def test_client_that_leaves_is_told_to_the_app():
    """Its reply is cancelled, and so is what it would have become."""
    reply = Reply()
    replaced = replace_missing(reply, page)
    replaced.cancel()

    assert reply.cancelled()
    assert replaced.cancelled()


@pytest.mark.parametrize("error", [ZeroDivisionError(), asyncio.CancelledError()])
def test_app_that_fails_fails_through(error: BaseException):
    """The page is no answer to that."""
    reply = Reply()
    replaced = replace_missing(reply, page)
    if isinstance(error, asyncio.CancelledError):
        reply.cancel()
    else:
        reply.set_exception(error)

    with pytest.raises(type(error)):
        replaced.result()


def test_page_that_cannot_be_read_is_an_error():
    """And no silence."""

    def fail() -> Any:
        raise OSError("no descriptor is left")

    reply = Reply()
    replaced = replace_missing(reply, fail)
    reply.set_result((404, {}, b""))

    assert isinstance(replaced.exception(), OSError)
