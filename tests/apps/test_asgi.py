"""What an ASGI app is told: the scope of a request, and what is no ASGI 3 app."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import iodine_aio
from iodine_aio.errors import UsageError
from tests.clients import ask, exchange
from tests.requests import encode_handshake, encode_upgrade


def answering(scopes: list[dict[str, Any]], body: bytes = b"hello") -> Any:
    """An app that notes its scopes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    return app


async def scope_of(request: bytes) -> dict[str, Any]:
    scopes: list[dict[str, Any]] = []
    await ask(answering(scopes), request)
    return scopes[0]


async def test_scope_is_the_request():
    """All keys of "HTTP Connection Scope", none more."""
    scopes: list[dict[str, Any]] = []
    async with iodine_aio.serve(answering(scopes), port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        client = writer.get_extra_info("sockname")
        writer.write(b"POST /a%2Fb?c=d HTTP/1.0\r\nHost: h\r\nX-Y:  1 \r\n\r\n")
        await reader.read()
        writer.close()

    assert scopes[0] == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.0",
        "method": "POST",
        "scheme": "http",
        "path": "/a/b",
        "raw_path": b"/a%2Fb",
        "query_string": b"c=d",
        "root_path": "",
        "headers": [(b"host", b"h"), (b"x-y", b"1")],
        "client": client,
        "server": ("127.0.0.1", server.port),
        "state": {},
        "extensions": {"http.response.pathsend": {}},
    }


async def test_fields_are_as_received():
    """Nothing is joined or left out, and their order stays: only names are in lower case."""
    scope = await scope_of(
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nX_Y: 1\r\ncookie: b=2\r\nProxy: p\r\n"
        b"Connection: close\r\n\r\n"
    )

    assert scope["headers"] == [
        (b"host", b"a"),
        (b"cookie", b"a=1"),
        (b"x_y", b"1"),
        (b"cookie", b"b=2"),
        (b"proxy", b"p"),
        (b"connection", b"close"),
    ]


async def test_host_of_an_absolute_target_replaces_the_field():
    """And the raw path is that of the target, without it (RFC 9112, 3.2.2)."""
    scope = await scope_of(
        b"GET http://b:80?q HTTP/1.1\r\nX: y\r\nHost: a\r\nConnection: close\r\n\r\n"
    )

    assert scope["headers"] == [(b"host", b"b:80"), (b"x", b"y"), (b"connection", b"close")]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/", b"/", b"q")


async def test_asterisk_is_a_path_of_its_own():
    """OPTIONS * asks of the whole server."""
    scope = await scope_of(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert (scope["path"], scope["raw_path"]) == ("*", b"*")


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/caf%C3%A9", "/caf\u00e9"), (b"/%FF", "/\ufffd"), (b"/%25", "/%"), (b"//a", "//a")],
)
async def test_path_is_decoded_as_utf8(target: bytes, path: str):
    """What is no UTF-8 becomes the replacement character; raw_path has it all."""
    scope = await scope_of(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    assert (scope["path"], scope["raw_path"]) == (path, target)


async def test_other_upgrades_than_to_websocket_are_requests():
    """An ASGI app cannot leave HTTP for them, and their body is the request's."""
    scope = await scope_of(
        encode_upgrade("Content-Length: 2", "Connection: close", upgrade="h2c") + b"ab"
    )

    assert (b"upgrade", b"h2c") in scope["headers"]


async def test_websocket_handshake_has_a_scope_of_its_own():
    """Scheme ws, the offered subprotocols, no method."""
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            scopes.append(scope)

    handshake = encode_handshake(
        target="/chat?a", fields=["Sec-WebSocket-Protocol: one, two", "Sec-WebSocket-Protocol: 3"]
    )
    async with iodine_aio.serve(app, port=0) as server:
        await exchange(server, handshake.replace(b"Upgrade\r\n", b"Upgrade, close\r\n"))
    (scope,) = scopes

    assert (scope["type"], scope["scheme"], scope["path"]) == ("websocket", "ws", "/chat")
    assert scope["subprotocols"] == ["one", "two", "3"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "method" not in scope


async def test_clients_of_a_unix_socket_have_no_address(tmp_path: Path):
    """Nor has the server one that another machine could use."""
    scopes: list[dict[str, Any]] = []
    path = tmp_path / "socket"
    async with iodine_aio.serve(answering(scopes), bind=f"unix:{path}"):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()

    assert (scopes[0]["client"], scopes[0]["server"]) == (None, None)


class TwoCalls:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize("interface", ["auto", "asgi"])
async def test_double_callables_are_refused(interface: Any):
    """ASGI 2 had them; the message says what to do."""
    with pytest.raises(UsageError, match="as ASGI 2 had it: make it app"):
        iodine_aio.serve(TwoCalls, port=0, interface=interface)
