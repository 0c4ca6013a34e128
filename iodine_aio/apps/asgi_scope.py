"""What an ASGI app is told of its connection: the scope."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from iodine_aio.errors import ClientGoneError, UsageError
from iodine_aio.wire.environ import Env
from iodine_aio.wire.memo import HeadMemo
from iodine_aio.wire.request_line import split_target
from iodine_aio.wire.response import ResponseHead, make_raw_head

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
State = dict[str, Any]
RawFields = list[tuple[bytes, bytes]]

SPEC_VERSION: Final = "2.4"

_HEADS: Final = HeadMemo(make_raw_head)


def make_http_scope(env: Env, state: State) -> Scope:
    """The scope of a request (ASGI, "HTTP Connection Scope").

    The fields are as they came: those of one name are not joined, nor is any left out.
    """
    extensions: dict[str, Any] = {"http.response.pathsend": {}}
    scope = _make_scope("http", env["wsgi.url_scheme"], extensions, env, state)
    scope["method"] = env["REQUEST_METHOD"]
    return scope


def make_websocket_scope(env: Env, state: State) -> Scope:
    """The scope of a WebSocket (ASGI, "Websocket Connection Scope")."""
    scheme = "wss" if env["wsgi.url_scheme"] == "https" else "ws"
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    scope = _make_scope("websocket", scheme, extensions, env, state)
    offered = env.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")
    scope["subprotocols"] = [name for part in offered if (name := part.strip(" \t"))]
    return scope


def _make_scope(
    kind: str, scheme: str, extensions: dict[str, Any], env: Env, state: State
) -> Scope:
    headers = [(name.lower(), value.strip(b" \t")) for name, value in env["iodine_aio.fields"]]
    target: str = env["REQUEST_URI"]
    if target[0] == "/":
        raw_path = target.partition("?")[0]
    else:
        raw_path, _, authority = split_target(env["REQUEST_METHOD"], target)
        if authority is not None:  # holds instead of Host - RFC 9112, 3.2.2
            headers = [field for field in headers if field[0] != b"host"]
            headers.insert(0, (b"host", authority.encode()))
    path: str = env["PATH_INFO"]
    if not path.isascii():
        path = path.encode("latin-1").decode("utf-8", "replace")
    address = env["REMOTE_ADDR"]
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "http_version": env["SERVER_PROTOCOL"][5:],
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path.encode(),
        "query_string": env["QUERY_STRING"].encode(),
        "root_path": "",
        "headers": headers,
        # A unix socket has no address that would mean anything to its client.
        "client": (address, int(env["REMOTE_PORT"])) if address else None,
        "server": (env["SERVER_NAME"], int(env["SERVER_PORT"])) if address else None,
        "state": state.copy(),
        "extensions": extensions,
    }


def read_fields(message: Message) -> list[tuple[str, str]]:
    """The fields of a message that begins a response.

    Raises:
        UsageError: they are no pairs of bytes.
    """
    try:
        return [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in message.get("headers", ())
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"headers of {message['type']} must be pairs of bytes: {error}") from error


def read_head(message: Message) -> ResponseHead:
    """The head of a message that begins a response.

    Raises:
        UsageError: its headers are no pairs of bytes.
        ResponseError: they, or its status, cannot be sent.
    """
    try:
        return _HEADS.find(message["status"], message.get("headers", ()))
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"headers of {message['type']} must be pairs of bytes: {error}") from error


def misplaced(message: Message, expected: str) -> UsageError:
    """What an app is told that sends something out of order."""
    return UsageError(f"{message.get('type')!r} was sent where only {expected} can be")


# How frameworks say that the client left. They are not imported, so known by name.
_DISCONNECTS: Final = ("ClientDisconnect", "ClientDisconnected", "WebSocketDisconnect")


def is_disconnect(error: BaseException) -> bool:
    """True if an app raises `error` only because it heard that its client has left."""
    return isinstance(error, ClientGoneError) or type(error).__name__ in _DISCONNECTS
