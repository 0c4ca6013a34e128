"""Leaving HTTP: the offer in env, what the app made of it, the change of protocol.

The app decides by setting a key of env (or, where a middleware gave it a copy of env,
by `env["upgrade.accept"](obj)`). Its response then says how: a status of 300 to 599
refuses, so that middleware can veto. Which key it is, nothing else, decides how the
callbacks are called.
"""

import asyncio
from typing import Any, Final, NamedTuple

from iodine_aio.protocols.callbacks import ClientCallbacks
from iodine_aio.protocols.connection import Connection
from iodine_aio.protocols.handlers import adopt, make_handler
from iodine_aio.protocols.methods import STATE, Client
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.sse import EventStreamProtocol, is_chunked
from iodine_aio.protocols.tcp import TCPProtocol
from iodine_aio.protocols.websocket import WebSocketProtocol
from iodine_aio.wire.environ import Env
from iodine_aio.wire.events import asks_for_events, encode_stream_head, takes_events
from iodine_aio.wire.handshake import accept_key, offers_upgrade, refusal_status
from iodine_aio.wire.response import ResponseHead, block_for_101

WEBSOCKET: Final = "websocket"
SSE: Final = "sse"
RAW: Final = "raw"

Successor = Connection | asyncio.BaseProtocol

# What would keep the HTTP protocol, or the handler itself, alive in a kept env.
_NOT_KEPT: Final = (
    "wsgi.input",
    "rack.input",
    "rack.hijack",
    "upgrade.accept",
    "upgrade.websocket",
    "iodine.websocket",
    "upgrade.sse",
    "upgrade.tcp",
    "iodine.upgrade",
    "rack.upgrade",
)


class Choice(NamedTuple):
    """What the app chose: a kind of connection, its handler, and the handler's style."""

    kind: str
    handler: Any
    later: bool = False  # the callbacks take the client first, as in later versions of Iodine

    def stands(self, status: int) -> bool:
        """True if an app that chose it and returned `status` means yes."""
        return status < 300 or (status > 599 and not self.later)


class Offer:
    """An upgrade that the client offered: what the app says of it, if not through env."""

    __slots__ = ("chosen", "kind")

    def __init__(self, kind: str) -> None:
        self.kind: Final = kind
        self.chosen: Choice | None = None

    def accept(self, handler: Any) -> None:
        """Says the same as setting env's key: that of what is offered first of all.

        An asyncio protocol always gets the raw transport.
        """
        raw = isinstance(handler, asyncio.BaseProtocol) or (
            isinstance(handler, type) and issubclass(handler, asyncio.BaseProtocol)
        )
        self.chosen = Choice(RAW if raw else self.kind, handler)


def offer_upgrade(env: Env) -> Offer | None:
    """Tells the app, through `env`, that it may take the connection over, if it may."""
    upgrades = offers_upgrade(env)
    events = env["REQUEST_METHOD"] == "GET" and asks_for_events(env.get("HTTP_ACCEPT", ""))
    if not upgrades and not events:
        return None
    is_websocket = upgrades and refusal_status(env) is None
    env["upgrade.tcp?"] = upgrades
    env["upgrade.websocket?"] = is_websocket
    env["upgrade.sse?"] = events
    offer = Offer(WEBSOCKET if is_websocket else SSE if events else RAW)
    if offer.kind != RAW:
        env["rack.upgrade?"] = offer.kind
    env["upgrade.accept"] = offer.accept
    return offer


def find_choice(env: Env, offer: Offer | None) -> Choice | None:
    """What the app chose; None, nearly always, if it answers by HTTP."""
    # Asked of every request, so without a loop.
    if "upgrade.websocket" in env:
        kind, handler = WEBSOCKET, env["upgrade.websocket"]
    elif "upgrade.sse" in env:
        kind, handler = SSE, env["upgrade.sse"]
    elif "upgrade.tcp" in env:
        kind, handler = RAW, env["upgrade.tcp"]
    elif "iodine.websocket" in env:
        kind, handler = WEBSOCKET, env["iodine.websocket"]
    elif "iodine.upgrade" in env:
        kind, handler = RAW, env["iodine.upgrade"]
    elif offer is None:
        return None
    elif "rack.upgrade" in env and offer.kind != RAW:
        handler = env["rack.upgrade"]
        return None if handler is None else Choice(offer.kind, handler, later=True)
    else:
        return offer.chosen
    return None if handler is None else Choice(kind, handler)


def refuse_websocket(service: Service, env: Env) -> int | None:
    """The status that answers an upgrade to WebSocket which cannot be; None if it can."""
    origins = service.settings.allowed_origins
    # A browser always says where its page came from; what says nothing is none.
    if origins and env.get("HTTP_ORIGIN", origins[0]) not in origins:
        return 403
    return refusal_status(env)


def refuse_events(env: Env) -> int | None:
    """The status that answers events where they cannot be; None if they can.

    A client that asks for nothing in particular, such as curl, may get them, too.
    """
    if env["REQUEST_METHOD"] != "GET":
        return 405
    return None if takes_events(env.get("HTTP_ACCEPT", "")) else 406


def make_successor(service: Service, choice: Choice, env: Env) -> Successor:
    """The protocol that takes over, with the user's object adopted, or called with a client.

    Raises:
        UsageError: the object cannot be adopted.
        Exception: whatever the handler's constructor raised.
    """
    kind, handler, later = choice
    handler = Client(handler) if later else make_handler(handler, env)
    for key in _NOT_KEPT:
        env.pop(key, None)
    if kind == RAW and isinstance(handler, asyncio.BaseProtocol):
        return handler
    connection: Connection
    if kind == WEBSOCKET:
        connection = WebSocketProtocol(service, handler, env)
    elif kind == SSE:
        connection = EventStreamProtocol(service, handler, env)
    else:
        connection = TCPProtocol(service, handler, env)
    if later:
        setattr(handler, STATE, connection)
        connection.use_callbacks(ClientCallbacks(service, handler.handler, handler))
    else:
        adopt(handler, connection)
    return connection


def encode_stream(head: ResponseHead, env: Env, date_line: str) -> str:
    """The head of an event stream, with the app's own fields."""
    return encode_stream_head(
        head.block, "" if head.directives.dated else date_line, is_chunked(env)
    )


def encode_101(head: ResponseHead, env: Env, kind: str, date_line: str) -> str:
    """The head that says yes, with the app's own fields (RFC 6455, 4.2.2; RFC 9110, 15.2.2)."""
    if kind == WEBSOCKET:
        protocol = "websocket"
        proof = f"Sec-WebSocket-Accept: {accept_key(env['HTTP_SEC_WEBSOCKET_KEY'])}\r\n"
    else:
        protocol = env["HTTP_UPGRADE"].partition(",")[0].strip(" \t")
        proof = ""
    date = "" if head.directives.dated else date_line
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        f"Upgrade: {protocol}\r\nConnection: Upgrade\r\n{proof}"
        f"{date}{block_for_101(head.block)}\r\n"
    )


class TakenOver:
    """An asyncio protocol that a user put on the transport itself: watched, not served.

    The clock looks whether its transport is closing, to count it out.
    """

    __slots__ = ("deadline", "service", "transport")

    kind = "raw connection"

    def __init__(self, service: Service, transport: asyncio.Transport) -> None:
        self.service = service
        self.transport = transport
        self.deadline = 0.0

    def expire(self, now: float) -> None:
        """Counts the connection out if it has ended."""
        if self.transport.is_closing():
            self.service.connections.discard(self)

    def shut_down(self) -> None:
        """Closes the transport; its protocol hears of it."""
        self.transport.close()
        if not self.transport.get_write_buffer_size():
            self.service.connections.discard(self)

    def abort(self) -> None:
        """Ends at once."""
        self.transport.abort()


def switch_protocol(
    service: Service,
    transport: asyncio.Transport,
    successor: Successor,
    leftover: bytes = b"",
    paused: bool = False,
) -> None:
    """Puts `successor` on the transport, with what was read but not meant for HTTP.

    Args:
        leftover: is received first of all.
        paused: the transport has asked for nothing to be written for now.
    """
    if not isinstance(successor, Connection):
        service.connections.add(TakenOver(service, transport))
    transport.set_protocol(successor)
    successor.connection_made(transport)
    if paused:
        successor.pause_writing()
    if leftover:
        if isinstance(successor, asyncio.BufferedProtocol):
            _fill_buffer(successor, leftover)
        else:
            successor.data_received(leftover)  # type: ignore[attr-defined]


def _fill_buffer(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    view = memoryview(data)
    while view:
        buffer = memoryview(protocol.get_buffer(len(view))).cast("B")
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        protocol.buffer_updated(count)
        view = view[count:]
