"""Upgrades: what the app said, and what the client is sent for it."""

import asyncio

import pytest

import iodine_aio
from tests.clients import connected, read_head, read_response
from tests.frames import text_frame
from tests.handlers import Body, Echo, EchoStreaming
from tests.requests import ACCEPT, encode_handshake, encode_upgrade

QUICK_CLOCK = {"ping_interval": 0.1}  # ticks soon, to count out what others closed
SECOND = b"GET /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def chooser(key, handler, status=0, headers=None, body=None):
    """An app that chooses an upgrade and returns this."""

    def app(env):
        if env["PATH_INFO"] == "/second":
            return 200, {}, "second"
        env[key] = handler
        return status, headers or {}, body

    return app


# WebSocket, accepted.


@pytest.mark.parametrize("status", [0, -1, 100, 101, 200, 204, 1000])
async def test_status_outside_300_to_599_accepts_a_websocket(status):
    """Whatever else the status is, 101 is sent."""
    async with connected(chooser("upgrade.websocket", Echo, status)) as (reader, writer):
        writer.write(encode_handshake())
        got, fields = await read_head(reader)
        writer.write(text_frame("hi"))

        assert got == 101
        assert ("sec-websocket-accept", ACCEPT) in fields
        assert dict(fields)["upgrade"].lower() == "websocket"
        assert dict(fields)["connection"].lower() == "upgrade"
        assert await reader.readexactly(4) == b"\x81\x02hi"


@pytest.mark.parametrize("key", ["upgrade.websocket", "iodine.websocket"])
async def test_either_key_of_env_chooses_a_websocket(key):
    """The name of Iodine's own works too."""
    async with connected(chooser(key, Echo)) as (reader, writer):
        writer.write(encode_handshake())

        assert (await read_head(reader))[0] == 101


async def test_fields_of_the_app_stand_in_the_101():
    """Cookies and the subprotocol are the app's to say."""
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Sec-WebSocket-Protocol", "chat")]
    async with connected(chooser("upgrade.websocket", Echo, 0, headers)) as (reader, writer):
        writer.write(encode_handshake(fields=["Sec-WebSocket-Protocol: chat, other"]))
        _, fields = await read_head(reader)

        assert [value for name, value in fields if name == "set-cookie"] == ["a=1", "b=2"]
        assert ("sec-websocket-protocol", "chat") in fields


async def test_fields_that_a_101_says_itself_are_left_out():
    """The app's framing and connection fields would contradict the 101."""
    headers = {
        "Content-Length": "5",
        "Transfer-Encoding": "chunked",
        "Connection": "close, upgrade",
        "Upgrade": "h2c",
        "Sec-WebSocket-Accept": "nonsense",
        "X-Kept": "yes",
    }
    async with connected(chooser("upgrade.websocket", Echo, 0, headers, "hello")) as (
        reader,
        writer,
    ):
        writer.write(encode_handshake())
        _, fields = await read_head(reader)
        names = [name for name, _ in fields]
        writer.write(text_frame("x"))

        assert "content-length" not in names
        assert "transfer-encoding" not in names
        assert names.count("connection") == 1
        assert names.count("upgrade") == 1
        assert [v for n, v in fields if n == "sec-websocket-accept"] == [ACCEPT]
        assert ("x-kept", "yes") in fields
        assert await reader.readexactly(3) == b"\x81\x01x"


async def test_body_of_an_accepting_app_is_dropped_and_closed():
    """A whole-response middleware may have wrapped it: close() is called once."""
    body = Body("never seen")
    async with connected(chooser("upgrade.websocket", Echo, 200, {}, body)) as (reader, writer):
        writer.write(encode_handshake() + text_frame("x"))
        await read_head(reader)

        assert await reader.readexactly(3) == b"\x81\x01x"
        assert body.closed == 1


async def test_async_app_accepts_a_websocket():
    """The decision is made when the coroutine has returned."""

    async def app(env):
        await asyncio.sleep(0)
        env["upgrade.websocket"] = Echo
        return 0, {}, None

    async with connected(app) as (reader, writer):
        writer.write(encode_handshake() + text_frame("early"))

        assert (await read_head(reader))[0] == 101
        assert await reader.readexactly(7) == b"\x81\x05early"


@pytest.mark.parametrize("copied", [False, True])
async def test_accept_function_works_on_a_copied_env_too(copied):
    """A middleware that copies env does not lose the upgrade."""

    def inner(env):
        env["upgrade.accept"](Echo)
        return 0, {}, None

    def app(env):
        return inner(dict(env) if copied else env)

    async with connected(app) as (reader, writer):
        writer.write(encode_handshake() + text_frame("hi"))

        assert (await read_head(reader))[0] == 101
        assert await reader.readexactly(4) == b"\x81\x02hi"


async def test_offer_says_what_the_client_asked_for():
    """Both keys are there on every request."""

    def app(env):
        return 200, {}, f"{env['upgrade.websocket?']} {env['upgrade.tcp?']}"

    answers = []
    async with connected(app) as (reader, writer):
        for request in (
            b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            encode_handshake(),
            encode_upgrade(),
            encode_handshake(version="8"),
            encode_handshake(method="POST", fields=["Content-Length: 0"]),
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n",
        ):
            writer.write(request)
            answers.append((await read_response(reader))[2])

        assert answers == [
            b"False False",
            b"True True",
            b"False True",
            b"False True",
            b"False True",
            b"False False",
        ]


# WebSocket, refused.


@pytest.mark.parametrize("status", [302, 401, 500])
async def test_status_of_300_to_599_refuses_by_that_response(status):
    """So that middleware can veto; the connection goes on as HTTP."""
    app = chooser("upgrade.websocket", Echo, status, {"X-Why": "veto"}, "no")
    async with connected(app) as (reader, writer):
        writer.write(encode_handshake() + SECOND)
        got, fields, body = await read_response(reader)

        assert (got, fields["x-why"], body) == (status, "veto", b"no")
        assert (await read_response(reader))[2] == b"second"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        encode_handshake(version="8"),
        encode_handshake(version=None),
        encode_upgrade(),
        encode_handshake(method="POST", fields=["Content-Length: 0"]),
    ],
    ids=["no upgrade", "other version", "no version", "other protocol", "POST"],
)
async def test_websocket_chosen_where_none_was_asked_answers_426(request_bytes):
    """With the fields that tell the client how to come back (RFC 6455, 4.4)."""
    async with connected(chooser("upgrade.websocket", Echo)) as (reader, writer):
        writer.write(request_bytes)
        status, fields, _ = await read_response(reader)

        assert status == 426
        assert fields["upgrade"] == "websocket"
        assert fields["sec-websocket-version"] == "13"
        assert "upgrade" in fields["connection"].lower()


async def test_http_1_0_request_cannot_be_upgraded():
    """Its Upgrade field must be ignored (RFC 9110, 7.8)."""
    async with connected(chooser("upgrade.websocket", Echo)) as (reader, writer):
        writer.write(encode_handshake(http="1.0"))

        assert (await read_head(reader))[0] == 426


@pytest.mark.parametrize(
    "key", [None, "", "short", "?" * 24, "A" * 24, "dGhlIHNhbXBsZSBub25jZ\xe9=="]
)
async def test_bad_key_answers_400(key):
    """A key that is no 16 bytes in base64 is a broken handshake."""
    app = chooser("upgrade.websocket", Echo)
    async with connected(app) as (reader, writer):
        writer.write(encode_handshake(key=key))

        assert (await read_head(reader))[0] == 400


async def test_body_of_a_refused_choice_is_closed():
    """Also where our own answer takes the place of the app's."""
    body = Body("x")
    async with connected(chooser("upgrade.websocket", Echo, 0, {}, body)) as (reader, writer):
        writer.write(encode_handshake(version="8"))
        await read_response(reader)

        assert body.closed == 1


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://a.example", 101), ("https://evil.example", 403), ("null", 403), (None, 101)],
)
async def test_origin_outside_the_allowed_ones_answers_403(origin, status):
    """No Origin is no browser: it is let in."""
    app = chooser("upgrade.websocket", Echo)
    async with connected(app, allowed_origins=("https://a.example",)) as (reader, writer):
        writer.write(encode_handshake(fields=[] if origin is None else [f"Origin: {origin}"]))

        assert (await read_head(reader))[0] == status


async def test_constructor_that_raises_answers_500(caplog):
    """The connection is still HTTP: the next request is answered."""

    class Broken:
        def __init__(self):
            raise RuntimeError("not today")

    async with connected(chooser("upgrade.websocket", Broken)) as (reader, writer):
        writer.write(encode_handshake() + SECOND)

        assert (await read_response(reader))[0] == 500
        assert (await read_response(reader))[2] == b"second"
    assert len(caplog.records) == 1


async def test_subprotocol_with_a_line_break_never_reaches_the_wire(caplog):
    """Response splitting through what the client offered."""
    headers = {"Sec-WebSocket-Protocol": "chat\r\nInjected: yes"}
    async with connected(chooser("upgrade.websocket", Echo, 0, headers)) as (reader, writer):
        writer.write(encode_handshake())
        status, fields, _ = await read_response(reader)

        assert status == 500
        assert "injected" not in fields


@pytest.mark.parametrize("name", ["Protocol", "Extensions", "Version"])
async def test_bytes_beyond_ascii_in_handshake_fields_do_no_harm(name):
    """They are ignored or answered; the next connection is served."""
    fields = [f"Sec-WebSocket-{name}: \x80\xff"]
    async with connected(chooser("upgrade.websocket", Echo)) as (reader, writer):
        writer.write(encode_handshake(version=None if name == "Version" else "13", fields=fields))

        assert (await read_head(reader))[0] in (101, 400, 426)


# What is around the request.


async def test_messages_behind_the_request_come_after_on_open():
    """Early bytes are kept for the handler."""
    events = []

    class Handler:
        async def on_open(self):
            await asyncio.sleep(0)
            events.append("open")

        def on_message(self, data):
            events.append(data)
            self.write(data)

    async with connected(chooser("upgrade.websocket", Handler)) as (reader, writer):
        writer.write(encode_handshake() + text_frame("a") + text_frame("b"))
        await read_head(reader)

        assert await reader.readexactly(6) == b"\x81\x01a\x81\x01b"
        assert events == ["open", "a", "b"]


async def test_upgrade_behind_other_requests_is_answered_in_turn():
    """A pipelined upgrade waits for the responses before it."""

    async def app(env):
        if env["PATH_INFO"] == "/ws":
            env["upgrade.websocket"] = Echo
            return 0, {}, None
        await asyncio.sleep(0)
        return 200, {}, env["PATH_INFO"]

    async with connected(app) as (reader, writer):
        plain = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
        writer.write(plain % 1 + plain % 2 + encode_handshake(target="/ws") + text_frame("x"))

        assert (await read_response(reader))[2] == b"/1"
        assert (await read_response(reader))[2] == b"/2"
        assert (await read_head(reader))[0] == 101
        assert await reader.readexactly(3) == b"\x81\x01x"


async def test_declined_upgrade_leaves_the_connection_to_http():
    """An app that sets nothing answers as always."""
    async with connected(lambda env: (200, {}, env["PATH_INFO"])) as (reader, writer):
        writer.write(encode_handshake(target="/first") + SECOND)

        assert (await read_response(reader))[2] == b"/first"
        assert (await read_response(reader))[2] == b"/second"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 5"], b"hello"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
async def test_body_of_a_declined_upgrade_request_is_the_apps(fields, body):
    """It is neither lost nor taken for the next request."""

    def app(env):
        return 200, {}, env["wsgi.input"].read() or b"-"

    async with connected(app) as (reader, writer):
        writer.write(encode_handshake(method="POST", fields=fields) + body + SECOND)

        assert (await read_response(reader))[2] == b"hello"
        assert (await read_response(reader))[2] == b"-"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 5"], b"hello"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
async def test_body_of_an_accepted_upgrade_request_is_no_message(fields, body):
    """It is read before the app is called; the frames begin behind it."""
    seen = []

    def app(env):
        seen.append(env["wsgi.input"].read())
        env["upgrade.websocket"] = Echo
        return 0, {}, None

    async with connected(app) as (reader, writer):
        writer.write(encode_handshake(fields=fields) + body + text_frame("x"))

        assert (await read_head(reader))[0] == 101
        assert await reader.readexactly(3) == b"\x81\x01x"
        assert seen == [b"hello"]


async def test_handshake_byte_by_byte_is_accepted():
    """However the request is cut."""
    async with connected(chooser("upgrade.websocket", Echo)) as (reader, writer):
        for byte in encode_handshake() + text_frame("x"):
            writer.write(bytes([byte]))
            await writer.drain()

        assert (await read_head(reader))[0] == 101
        assert await reader.readexactly(3) == b"\x81\x01x"


# Raw.


@pytest.mark.parametrize("key", ["upgrade.tcp", "iodine.upgrade"])
@pytest.mark.parametrize("status", [0, -1, 1000])
async def test_raw_upgrade_without_a_known_status_sends_nothing(status, key):
    """The first byte on the wire is the handler's."""
    app = chooser(key, Echo, status, {"X-A": "b"}, "body")
    async with connected(app) as (reader, writer):
        writer.write(encode_upgrade() + b"early")

        assert await reader.readexactly(5) == b"early"


async def test_raw_upgrade_with_101_sends_a_complete_head():
    """Connection and Upgrade are ours to add, other fields the app's."""
    app = chooser("upgrade.tcp", Echo, 101, {"X-A": "b"})
    async with connected(app) as (reader, writer):
        writer.write(encode_upgrade() + b"early")
        status, fields = await read_head(reader)

        assert status == 101
        assert dict(fields)["upgrade"] == "echo"
        assert dict(fields)["connection"].lower() == "upgrade"
        assert dict(fields)["x-a"] == "b"
        assert await reader.readexactly(5) == b"early"


@pytest.mark.parametrize("streamed", [False, True])
async def test_raw_upgrade_with_200_sends_the_whole_response_first(streamed):
    """What follows the response is not HTTP any more."""
    body = Body(b"he", b"llo") if streamed else "hello"
    headers = {"Content-Length": "5"}
    async with connected(chooser("upgrade.tcp", Echo, 200, headers, body)) as (reader, writer):
        writer.write(encode_upgrade() + b"early")

        assert (await read_response(reader))[::2] == (200, b"hello")
        assert await reader.readexactly(5) == b"early"


@pytest.mark.parametrize("status", [302, 403, 500])
async def test_raw_upgrade_is_refused_by_status(status):
    """As a WebSocket's is."""
    async with connected(chooser("upgrade.tcp", Echo, status, {}, "no")) as (reader, writer):
        writer.write(encode_upgrade() + SECOND)

        assert (await read_response(reader))[::2] == (status, b"no")
        assert (await read_response(reader))[2] == b"second"


async def test_raw_upgrade_of_a_plain_request_answers_426():
    """Nobody asked for it."""
    async with connected(chooser("upgrade.tcp", Echo)) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + SECOND)
        status, fields, _ = await read_response(reader)

        assert status == 426
        assert "upgrade" in fields["connection"]
        assert (await read_response(reader))[2] == b"second"


class EchoBuffered(asyncio.BufferedProtocol):
    """The same, with a buffer of its own that is smaller than what comes."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(3)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(bytes(self.buffer[:count]))


@pytest.mark.parametrize("as_instance", [False, True])
@pytest.mark.parametrize("protocol", [EchoStreaming, EchoBuffered])
@pytest.mark.parametrize("accepting", [False, True])
async def test_asyncio_protocol_gets_the_transport_and_the_leftover(
    protocol, as_instance, accepting
):
    """Also on a WebSocket handshake, through upgrade.accept."""

    def app(env):
        handler = protocol() if as_instance else protocol
        if accepting:
            env["upgrade.accept"](handler)
        else:
            env["upgrade.tcp"] = handler
        return 0, {}, None

    async with connected(app, **QUICK_CLOCK) as (reader, writer):
        writer.write((encode_handshake() if accepting else encode_upgrade()) + b"leftover")

        assert await reader.readexactly(8) == b"leftover"
        writer.write(b"more of it")
        assert await reader.readexactly(10) == b"more of it"


async def test_stop_closes_a_connection_that_an_asyncio_protocol_took():
    """The server knows of it, though it does not serve it."""
    app = chooser("upgrade.tcp", EchoStreaming)
    async with iodine_aio.serve(app, port=0, **QUICK_CLOCK) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(encode_upgrade() + b"x")
        await reader.readexactly(1)
    rest = await reader.read()
    writer.close()

    assert rest == b""


async def test_asyncio_protocol_hears_that_the_response_is_not_taken_yet():
    """pause_writing is its to know."""
    paused = asyncio.get_running_loop().create_future()

    class Pausing(EchoStreaming):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"x" * (16 << 20))

        def pause_writing(self):
            if not paused.done():
                paused.set_result(True)

    async with connected(chooser("upgrade.tcp", Pausing), **QUICK_CLOCK) as (_, writer):
        writer.write(encode_upgrade())

        assert await paused
        writer.transport.abort()
