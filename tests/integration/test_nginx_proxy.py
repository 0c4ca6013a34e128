"""nginx in front of the server, as most are run: what it makes of both sides' words.

Run by `pytest -m proxy`. What a stop promises behind a proxy is in the README.
"""

import asyncio
import contextlib
import os
import re
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosedError, InvalidStatus

import iodine_aio
from iodine_aio.apps.application import Application
from tests.clients import (
    Answer,
    WebSocketClient,
    connect,
    exchange,
    read_head,
    read_response,
    reset,
)
from tests.frames import PING, PONG, frame, text_frame
from tests.handlers import Echo, WebSocketRecorder
from tests.integration.nginx import PROGRAM, Nginx
from tests.requests import GET, HANDSHAKE, KEPT

pytestmark = [
    pytest.mark.proxy,
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="nginx is not on PATH"),
]

CORPUS = Path(__file__).parent.parent / "corpus"
README = Path(__file__).parent.parent.parent / "README.md"
LIMITS = {"max_head_bytes": 2048, "max_body_bytes": 256}

# What nginx is told where an upstream shall be kept alive.
KEPT_ALIVE = 'proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";'
KEEPING = f"location / {{ {KEPT_ALIVE} }}"
UNBUFFERED = f"location / {{ {KEPT_ALIVE} proxy_buffering off; proxy_request_buffering off; }}"
PLAIN = "location / { proxy_pass http://app; }"
UPGRADING = """location / {
    proxy_pass http://app; proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
}"""

CLOSE = b"\r\nConnection: close\r\n\r\n"
CHUNKED_HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = bytes(range(256)) * 4 * 4096  # 4 MiB


@pytest.fixture(params=["tcp", "unix"])
def bind(request, tmp_path):
    """Where the server listens, as an argument of `serve`."""
    return {"port": 0} if request.param == "tcp" else {"bind": f"unix:{tmp_path}/app.sock"}


class Site:
    """What requests are tried on; it notes env and connection of each."""

    def __init__(self):
        self.seen = []
        self.upstreams = set()
        self.server = None
        self.go_on = asyncio.Event()
        self.reached = asyncio.Event()
        self.ended = asyncio.Event()

    async def call(self, env):
        self.seen.append(env)
        if self.server is not None:
            self.upstreams |= self.server.connections
        match env["PATH_INFO"]:
            case "/echo":
                return 200, {}, env["wsgi.input"].read()
            case "/large":
                return 200, {}, LARGE
            case "/pieces":
                return 200, {}, (LARGE[at : at + 100_000] for at in range(0, len(LARGE), 100_000))
            case "/stream":
                return 200, {}, self.stream()
            case "/endless":
                return 200, {}, self.write_on()
            case "/waiting":
                self.reached.set()
                await self.go_on.wait()
                return 200, {}, "waited"
            case "/204":
                return 204, {}, None
            case "/304":
                return 304, {"ETag": '"1"'}, None
        return 200, {}, "hello"

    async def stream(self):
        try:
            yield "one"
            await self.go_on.wait()
            yield "two"
        finally:
            self.ended.set()

    async def write_on(self):
        try:
            while True:
                yield bytes(10_000)
                await asyncio.sleep(0)
        finally:
            self.ended.set()


def get(path, method="GET"):
    """A request that keeps its connection."""
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def post(body, *fields, path="/echo"):
    """A request with this body."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*pieces):
    """They, in the chunked coding, and its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


async def read_chunk(reader):
    """Payload of the next chunk."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


# ---- connections to the upstream ----


async def test_requests_share_one_upstream_connection(tmp_path, bind):
    """Sixty requests of three clients, one after the other, over TCP and a unix socket."""
    site = Site()
    async with iodine_aio.serve(site, **bind) as server:
        site.server = server
        with Nginx(tmp_path, [server], KEEPING) as nginx:
            for _ in range(3):
                async with connect(nginx) as (reader, writer):
                    for number in range(20):
                        writer.write(post(b"%d" % number) if number % 2 else get("/"))
                        status, _, body = await read_response(reader)
                        assert (status, body) == (200, b"%d" % number if number % 2 else b"hello")

            assert len(site.seen) == 60
            assert len(site.upstreams) == 1
            assert len({env["REMOTE_PORT"] for env in site.seen}) == 1


async def test_upstream_connection_survives_every_kind_of_response(tmp_path):
    """Without content, with content of any framing: the next answer is the next request's."""
    site = Site()
    async with iodine_aio.serve(site, port=0) as server:
        site.server = server
        with Nginx(tmp_path, [server], KEEPING) as nginx:
            async with connect(nginx) as (reader, writer):
                answers = []
                for path, method in [
                    ("/", "HEAD"), ("/204", "GET"), ("/304", "GET"), ("/large", "HEAD"),
                    ("/pieces", "HEAD"), ("/204", "HEAD"), ("/304", "HEAD"), ("/", "GET"),
                ]:  # fmt: skip
                    writer.write(get(path, method))
                    status, fields = await read_head(reader)
                    answers.append((status, dict(fields).get("content-length")))
                body = await reader.readexactly(5)

            large = str(len(LARGE))
            assert answers == [
                (200, "5"), (204, None), (304, None), (200, large),
                (200, None), (204, None), (304, None), (200, "5"),
            ]  # fmt: skip
            assert body == b"hello"
            assert len(site.upstreams) == 1


async def test_upstream_of_http10_gets_whole_answers(tmp_path, bind):
    """nginx's default: HTTP/1.0, a connection each, streams that end with it."""
    site = Site()
    async with iodine_aio.serve(site, **bind) as server:
        with Nginx(tmp_path, [server], PLAIN) as nginx:
            pieces = Answer(await exchange(nginx, get("/pieces").replace(b"\r\n\r\n", CLOSE)))
            echo = Answer(await exchange(nginx, post(b"body", "Connection: close")))

            assert pieces.content == LARGE
            assert echo.body == b"body"
            assert {env["SERVER_PROTOCOL"] for env in site.seen} == {"HTTP/1.0"}


# ---- request bodies ----


@pytest.mark.parametrize("locations", [KEEPING, UNBUFFERED], ids=["buffered", "unbuffered"])
async def test_bodies_arrive_whole(tmp_path, bind, locations):
    """With a length and chunked, empty, small and large: they come back over one connection."""
    site = Site()
    bodies = [b"", b"body", LARGE]
    async with iodine_aio.serve(site, **bind) as server:
        site.server = server
        with Nginx(tmp_path, [server], f"client_max_body_size 0; {locations}") as nginx:
            async with connect(nginx) as (reader, writer):
                echoed = []
                for body in bodies:
                    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
                    for request in (post(body), CHUNKED_HEAD + chunked(*pieces)):
                        writer.write(request)
                        echoed.append((await read_response(reader))[2])

            assert echoed == [body for body in bodies for _ in range(2)]
            assert len(site.upstreams) == 1
            assert nginx.stored == []


async def test_body_is_streamed_to_the_app_as_it_comes(tmp_path):
    """Unbuffered, the app has the first piece before the client sends the second."""
    pieces = asyncio.Queue()

    async def read(env):
        stream = env["iodine_aio.body"]
        while piece := await stream.read():
            pieces.put_nowait(piece)
        return 200, {}, "read"

    app = Application(read, streams_requests=True)
    async with iodine_aio.serve(app, port=0) as server:
        with Nginx(tmp_path, [server], UNBUFFERED) as nginx:
            async with connect(nginx) as (reader, writer):
                writer.write(CHUNKED_HEAD + b"3\r\none\r\n")
                first = await pieces.get()
                writer.write(chunked(b"two"))
                second = await pieces.get()
                status, _, body = await read_response(reader)

            assert (first, second) == (b"one", b"two")
            assert (status, body) == (200, b"read")


@pytest.mark.parametrize("locations", [KEEPING, UNBUFFERED], ids=["buffered", "unbuffered"])
async def test_expectation_is_met_by_the_proxy(tmp_path, locations):
    """The client is told to go on, once, and the app hears nothing of it."""
    site = Site()
    async with iodine_aio.serve(site, port=0) as server:
        with Nginx(tmp_path, [server], locations) as nginx:
            async with connect(nginx) as (reader, writer):
                head = post(b"body", "Expect: 100-continue").removesuffix(b"body")
                writer.write(head)
                interim, _ = await read_head(reader)
                writer.write(b"body")
                status, _, body = await read_response(reader)

            assert (interim, status, body) == (100, 200, b"body")
            assert "HTTP_EXPECT" not in site.seen[0]


@pytest.mark.parametrize("locations", [KEEPING, UNBUFFERED], ids=["buffered", "unbuffered"])
async def test_refusal_of_a_body_reaches_the_client(tmp_path, locations):
    """413 at its head, while nginx is still sending 4 MiB: never 502 instead."""
    site = Site()
    locations = f"client_max_body_size 0; {locations}"
    async with iodine_aio.serve(site, port=0, max_body_bytes=1000) as server:
        with Nginx(tmp_path, [server], locations) as nginx:
            statuses = []
            for _ in range(10):
                async with connect(nginx) as (reader, writer):
                    writer.write(post(LARGE))
                    statuses.append((await read_head(reader))[0])

            assert statuses == [413] * 10
            assert site.seen == []


async def test_client_that_goes_away_in_its_body_is_not_served(tmp_path):
    """Unbuffered, half a body: the app that waits for whole ones is not called."""
    site = Site()
    async with iodine_aio.serve(site, port=0) as server:
        with Nginx(tmp_path, [server], UNBUFFERED) as nginx:
            async with connect(nginx) as (_, writer):
                writer.write(post(b"whole").removesuffix(b"ole"))
                await writer.drain()
                while not server.connections:
                    await asyncio.sleep(0)
            while server.connections:
                await asyncio.sleep(0)

            assert site.seen == []


# ---- responses ----


@pytest.mark.parametrize("path", ["/large", "/pieces"])
@pytest.mark.parametrize("locations", [KEEPING, UNBUFFERED], ids=["buffered", "unbuffered"])
async def test_large_response_arrives_whole(tmp_path, bind, locations, path):
    """4 MiB, with a length and chunked."""
    async with iodine_aio.serve(Site(), **bind) as server:
        with Nginx(tmp_path, [server], locations) as nginx:
            answer = Answer(await exchange(nginx, get(path).replace(b"\r\n\r\n", CLOSE)))

            assert answer.content == LARGE


async def test_stream_arrives_piece_by_piece(tmp_path, bind):
    """Unbuffered, the second piece is written when the client has the first."""
    site = Site()
    async with iodine_aio.serve(site, **bind) as server:
        with Nginx(tmp_path, [server], UNBUFFERED) as nginx:
            async with connect(nginx) as (reader, writer):
                writer.write(get("/stream"))
                await read_head(reader)
                first = await read_chunk(reader)
                site.go_on.set()
                rest = [await read_chunk(reader) for _ in range(2)]

            assert [first, *rest] == [b"one", b"two", b""]


@pytest.mark.parametrize("path", ["/stream", "/endless"])
async def test_client_that_goes_away_ends_the_stream(tmp_path, path):
    """nginx closes its connection: a generator that waits, and one that writes, is closed."""
    site = Site()
    async with iodine_aio.serve(site, port=0, half_close_timeout=0.1) as server:
        with Nginx(tmp_path, [server], UNBUFFERED) as nginx:
            async with connect(nginx) as (reader, writer):
                writer.write(get(path))
                await read_head(reader)
                await read_chunk(reader)
            await site.ended.wait()

            assert not site.go_on.is_set()


async def test_broken_stream_is_not_taken_for_whole(tmp_path):
    """An app that raises in its body: nginx sends no last chunk, and says that it was cut."""

    async def break_off():
        yield "one"
        raise RuntimeError("as it was told")

    async with iodine_aio.serve(lambda env: (200, {}, break_off()), port=0) as server:
        with Nginx(tmp_path, [server], UNBUFFERED) as nginx:
            wire = await exchange(nginx, KEPT)

            assert b"3\r\none\r\n" in wire
            assert not wire.endswith(b"0\r\n\r\n")


# ---- whom the request is from ----


async def test_what_the_proxy_says_of_the_client_is_not_believed(tmp_path, bind):
    """It arrives as it was sent; peer, scheme and host are those of the connection."""
    site = Site()
    locations = f"""location / {{
        {KEPT_ALIVE}
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto https;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header Forwarded "for=192.0.2.1;proto=https;host=b";
        proxy_set_header Host $http_host;
    }}"""
    async with iodine_aio.serve(site, **bind) as server:
        with Nginx(tmp_path, [server], locations) as nginx:
            request = GET.replace(b"Connection", b"X-Forwarded-For: 192.0.2.7\r\nConnection")
            await exchange(nginx, request)

        (env,) = site.seen
        assert env["HTTP_X_FORWARDED_FOR"] == "192.0.2.7, 127.0.0.1"
        assert env["HTTP_X_FORWARDED_PROTO"] == "https"
        assert env["HTTP_X_REAL_IP"] == "127.0.0.1"
        assert env["HTTP_FORWARDED"] == "for=192.0.2.1;proto=https;host=b"
        assert env["REMOTE_ADDR"] == ("" if server.port == 0 else "127.0.0.1")
        assert (env["wsgi.url_scheme"], env["HTTP_HOST"]) == ("http", "a")


# ---- WebSockets ----


class Chat(WebSocketRecorder):
    """Echoes; closes when told so."""

    def on_message(self, data):
        super().on_message(data)
        if data == "close":
            self.close(4000, "as you said")
        else:
            self.write(data)


def chatting(handler, headers=()):
    """An app whose WebSocket `handler` serves; it refuses under /no."""

    def app(env):
        env["upgrade.websocket"] = handler
        return (401, {}, "no") if env["PATH_INFO"] == "/no" else (101, headers, None)

    return app


def address(nginx, path="/"):
    """The WebSocket URL of a path."""
    return f"ws://127.0.0.1:{nginx.port}{path}"


async def test_websocket_echoes(tmp_path, bind):
    """Text, binary, nothing and 4 MiB, and the subprotocol of the app's choice."""
    app = chatting(Echo, {"Sec-WebSocket-Protocol": "chat"})
    async with iodine_aio.serve(app, max_message_bytes=4 << 20, **bind) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            async with connect_websocket(
                address(nginx), proxy=None, subprotocols=["other", "chat"], max_size=None
            ) as client:
                sent = ["zo\xeb", b"\x00\xff", "", b"", LARGE, "x" * (4 << 20)]
                echoed = []
                for message in sent:
                    await client.send(message)
                    echoed.append(await client.recv())

                assert client.subprotocol == "chat"
                assert echoed == sent


async def test_websocket_speaks_first_behind_its_101(tmp_path):
    """What is written when it opens is in one packet with the head, and not lost."""

    class Greeter:
        def on_open(self):
            self.write("hello")

    async with iodine_aio.serve(chatting(Greeter), port=0) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            async with connect_websocket(address(nginx), proxy=None) as client:
                assert await client.recv() == "hello"


async def test_websocket_hears_the_first_message_behind_its_handshake(tmp_path):
    """A client that sends both in one packet: what nginx read beyond the head reaches us."""
    async with iodine_aio.serve(chatting(Echo), port=0) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            async with connect(nginx) as (reader, writer):
                writer.write(HANDSHAKE + text_frame("first"))
                status, _ = await read_head(reader)

                assert status == 101
                assert await reader.readexactly(7) == b"\x81\x05first"


async def test_websocket_is_closed_by_the_client_with_a_code(tmp_path, bind):
    """The handler hears code and reason, and the code comes back."""
    chat = Chat()
    async with iodine_aio.serve(chatting(chat), **bind) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            client = await connect_websocket(address(nginx), proxy=None)
            await client.close(4001, "bye")

            assert client.close_code == 4001
            assert await chat.closed == (4001, "bye")


async def test_websocket_is_closed_by_the_handler_with_a_code(tmp_path, bind):
    """The client hears code and reason, and the connections end."""
    chat = Chat()
    async with iodine_aio.serve(chatting(chat), **bind) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            async with connect_websocket(address(nginx), proxy=None) as client:
                await client.send("close")
                with pytest.raises(ConnectionClosedError) as caught:
                    await client.recv()

            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "as you said")
            assert (await chat.closed)[0] == 4000


async def test_websocket_of_a_client_that_vanishes_is_closed(tmp_path):
    """Without a goodbye: nginx ends its own side, and the handler hears 1006."""
    chat = Chat()
    async with iodine_aio.serve(chatting(chat), port=0) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            async with connect(nginx) as (reader, writer):
                writer.write(HANDSHAKE)
                await read_head(reader)
                reset(writer)

            assert (await chat.closed)[0] == 1006


async def test_websocket_hears_1001_at_the_stop(tmp_path):
    """The goodbye of a server that stops passes nginx."""
    async with iodine_aio.serve(chatting(Echo), port=0) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            async with connect_websocket(address(nginx), proxy=None) as client:
                await server.stop()
                await client.wait_closed()

                assert client.close_code == 1001


async def test_websocket_that_is_refused_gets_the_answer(tmp_path):
    """A veto is an ordinary response: nginx makes no tunnel of it."""
    async with iodine_aio.serve(chatting(Echo), port=0) as server:
        with Nginx(tmp_path, [server], UPGRADING) as nginx:
            with pytest.raises(InvalidStatus) as caught:
                await connect_websocket(address(nginx, "/no"), proxy=None)

            assert caught.value.response.status_code == 401
            assert caught.value.response.body == b"no"


IMPATIENT = UPGRADING.replace("{", "{ proxy_read_timeout 400ms;", 1)


async def test_idle_websocket_survives_the_patience_of_the_proxy(tmp_path):
    """nginx ends what is silent for proxy_read_timeout; our pings are in time."""
    async with iodine_aio.serve(chatting(Echo), port=0, ping_interval=0.1) as server:
        with Nginx(tmp_path, [server], IMPATIENT) as nginx:
            async with connect(nginx) as (reader, writer):
                writer.write(HANDSHAKE)
                await read_head(reader)
                client = WebSocketClient(nginx, reader, writer)
                loop = asyncio.get_running_loop()
                begun = loop.time()
                while loop.time() - begun < 0.8:
                    opcode, payload = await client.receive()
                    assert opcode == PING
                    client.send(frame(PONG, payload))
                client.send(text_frame("still here"))
                opcode, payload = await client.receive()
                while opcode == PING:
                    opcode, payload = await client.receive()

                assert payload == b"still here"


async def test_websocket_that_the_proxy_gives_up_is_closed(tmp_path):
    """Without pings in time nginx ends both sides, and the handler hears 1006."""
    chat = Chat()
    async with iodine_aio.serve(chatting(chat), port=0, ping_interval=0) as server:
        with Nginx(tmp_path, [server], IMPATIENT) as nginx:
            async with connect(nginx) as (reader, writer):
                writer.write(HANDSHAKE)
                await read_head(reader)

                assert (await chat.closed)[0] == 1006
                assert await reader.read() == b""


# ---- agreement on where requests begin and end ----

HOW = """location / {
    proxy_pass http://app; proxy_set_header X-Request-ID $request_id;
    proxy_set_header Host $http_host; proxy_ignore_client_abort on; %s
}
# What it is asked to let through, it does.
ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;
"""
KEEP = 'proxy_http_version 1.1; proxy_set_header Connection "";'
WAYS = {
    "http10": HOW % "",
    "buffered": HOW % KEEP,
    "upgrading": HOW
    % (
        "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;"
        "proxy_set_header Connection $connection_upgrade;"
    ),
    "unbuffered": HOW % (KEEP + "proxy_request_buffering off; proxy_buffering off;"),
}


class Witness:
    """Answers with the number that nginx gave the request, and remembers it."""

    def __init__(self):
        self.numbers = []

    def __call__(self, env):
        number = env.get("HTTP_X_REQUEST_ID", "none")
        self.numbers.append(number)
        return 200, {"X-Answers": number}, env["wsgi.input"].read()


@pytest.mark.parametrize("way", WAYS)
async def test_proxy_and_app_see_the_same_requests(tmp_path, way):
    """Every file of the corpus: one request of nginx's is one of the app's, and its answer.

    One upstream connection serves one file after the other: where the two disagreed on
    an end, the next request would be another, or get the answer of another.
    """
    witness = Witness()
    answered = []
    async with iodine_aio.serve(witness, port=0, **LIMITS) as server:
        with Nginx(tmp_path, [server], WAYS[way]) as nginx:
            for path in sorted(CORPUS.glob("*.http")):
                async with connect(nginx) as (reader, writer):
                    writer.write(path.read_bytes())
                    writer.write_eof()
                    answered += re.findall(rb"\r\nX-Answers: (\w+)\r\n", await reader.read())
            requests = await nginx.requests()
        forwarded = [request for request in requests if request["upstream"] == "200"]
        # HTTP/0.9, whose answers have no head.
        headless = {request["id"] for request in forwarded if not request["protocol"]}

        assert len(forwarded) > 250
        assert sorted(witness.numbers) == sorted(request["id"] for request in forwarded)
        assert [request for request in forwarded if request["answered"] != request["id"]] == []
        assert sorted(number.decode() for number in answered) == sorted(
            {request["id"] for request in forwarded} - headless
        )
        assert [request for request in requests if request["status"] in ("502", "504")] == []


# ---- the stop of an upstream ----


async def test_requests_in_flight_are_answered_at_the_stop(tmp_path, bind):
    """Those that the app has, of either method; the idle connections are closed."""
    site = Site()
    async with iodine_aio.serve(site, **bind) as server:
        with Nginx(tmp_path, [server], KEEPING, keepalive=8) as nginx:
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(connect(nginx)) for _ in range(8)]
                for _, writer in clients:
                    writer.write(get("/"))
                for reader, _ in clients:
                    await read_response(reader)
                for number, (_, writer) in enumerate(clients[:6]):
                    writer.write(post(b"", path="/waiting") if number % 2 else get("/waiting"))
                while len(site.seen) < 14:
                    await asyncio.sleep(0)
                stopping = asyncio.ensure_future(server.stop())
                while len(server.connections) > 6:
                    await asyncio.sleep(0)
                site.go_on.set()
                answers = [await read_response(reader) for reader, _ in clients[:6]]
                await stopping

            assert [(status, body) for status, _, body in answers] == [(200, b"waited")] * 6
            assert nginx.errors == []


async def test_stop_of_one_upstream_under_load_fails_no_request(tmp_path):
    """Eight clients go on asking: nginx sends them all to the other, and none gets 502."""
    sites = Site(), Site()
    statuses = []

    async with (
        iodine_aio.serve(sites[0], port=0) as first,
        iodine_aio.serve(sites[1], port=0) as second,
    ):
        stopped = asyncio.Event()

        async def ask_on(nginx):
            async with connect(nginx) as (reader, writer):
                left = 25
                while left:
                    left -= stopped.is_set()
                    writer.write(get("/"))
                    statuses.append((await read_response(reader))[0])

        with Nginx(tmp_path, [first, second], KEEPING, keepalive=8) as nginx:
            async with asyncio.TaskGroup() as clients:
                for _ in range(8):
                    clients.create_task(ask_on(nginx))
                while len(sites[0].seen) < 100:
                    await asyncio.sleep(0)
                await first.stop()
                served = len(sites[0].seen)
                stopped.set()

            assert set(statuses) == {200}
            assert len(sites[0].seen) == served
            assert len(statuses) == served + len(sites[1].seen)


@pytest.mark.parametrize("request_bytes", [get("/"), post(b"hello")], ids=["get", "post"])
async def test_upstream_connection_that_timed_out_is_replaced(tmp_path, request_bytes):
    """nginx sees that we closed an idle connection, and takes a new one."""
    site = Site()
    async with iodine_aio.serve(site, port=0, keep_alive_timeout=0.05) as server:
        site.server = server
        with Nginx(tmp_path, [server], KEEPING) as nginx:
            async with connect(nginx) as (reader, writer):
                answers = []
                for _ in range(3):
                    writer.write(request_bytes)
                    status, _, body = await read_response(reader)
                    answers.append((status, body))
                    while server.connections:
                        await asyncio.sleep(0)

            assert answers == [(200, b"hello")] * 3
            assert len(site.upstreams) == 3


class Closing:
    """A raw handler that answers one request, and is gone when the next comes."""

    def __init__(self):
        self.answered = False

    def on_message(self, data):
        if self.answered:
            self.force_close()
        else:
            self.answered = True
            self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


@pytest.mark.parametrize(
    ("request_bytes", "more", "statuses"),
    [
        (get("/"), "", [200, 200]),
        (post(b""), "", [200, 502]),
        (post(b""), "proxy_next_upstream error timeout non_idempotent;", [200, 200]),
    ],
    ids=["get", "post", "post-told"],
)
async def test_request_that_crosses_a_close(tmp_path, request_bytes, more, statuses):
    """What the README says that nginx does, made sure by a server that is no HTTP server."""
    async with iodine_aio.listen(0, Closing) as server:
        with Nginx(tmp_path, [server], KEEPING.replace("{", "{ " + more)) as nginx:
            async with connect(nginx) as (reader, writer):
                answers = []
                for _ in range(2):
                    writer.write(request_bytes)
                    answers.append((await read_response(reader))[0])

            assert answers == statuses


# ---- the README ----


async def test_configuration_of_the_readme_works(tmp_path):
    """Its `location` keeps connections, passes the host and opens WebSockets."""
    (location,) = re.findall(r"^    (location / {.*?^    })", README.read_text(), re.M | re.S)
    site = Site()

    async def app(env):
        if env["upgrade.websocket?"]:
            env["upgrade.websocket"] = Echo
        return await site.call(env)

    async with iodine_aio.serve(app, port=0) as server:
        site.server = server
        with Nginx(tmp_path, [server], location) as nginx:
            async with connect(nginx) as (reader, writer):
                for _ in range(10):
                    writer.write(KEPT)
                    await read_response(reader)
            async with connect_websocket(address(nginx), proxy=None) as client:
                await client.send("hello")
                echoed = await client.recv()

            assert {env["HTTP_HOST"] for env in site.seen[:10]} == {"a"}
            assert len({env["REMOTE_PORT"] for env in site.seen[:10]}) == 1
            assert echoed == "hello"


# ---- nginx itself ----


async def test_nginx_leaves_nothing_behind(tmp_path):
    """No process and nobody who listens, once its block has ended."""
    async with iodine_aio.serve(Site(), port=0) as server:
        with Nginx(tmp_path, [server], KEEPING) as nginx:
            answer = Answer(await exchange(nginx, GET))

    assert answer.status == 200
    with pytest.raises(ProcessLookupError):
        os.killpg(nginx.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", nginx.port)
