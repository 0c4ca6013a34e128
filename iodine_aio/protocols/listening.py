"""What a listener makes for each connection it accepts, or says when there is no room."""

import asyncio
from typing import Any, Final, cast

from iodine_aio.clock import NEVER
from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.handlers import adopt, make_handler
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.tcp import TCPProtocol
from iodine_aio.protocols.upgrade import Successor, switch_protocol
from iodine_aio.protocols.writing import half_close
from iodine_aio.wire.busy import answer_busy
from iodine_aio.wire.response import parse_status

_LINGER_SECONDS: Final = 1.0


def has_room(service: Service, transport: asyncio.BaseTransport) -> bool:
    """True if a new connection can be served.

    The kernel gives out the lowest descriptor that is free: a high one says that few
    are left, whoever holds the others.
    """
    sock = transport.get_extra_info("socket")
    return sock is None or sock.fileno() < service.descriptor_ceiling


class TurnedAway(asyncio.Protocol):
    """Tells a client that there is no room, and lets it read that.

    Args:
        message: all that is sent.
        last_bytes: what ends the client's request, after which it sends no more; empty:
            that cannot be told.

    Attributes:
        deadline: when its descriptor is wanted back.
    """

    __slots__ = ("_last_bytes", "_message", "_service", "_transport", "deadline")

    kind = "refused connection"

    def __init__(self, service: Service, message: bytes, last_bytes: bytes) -> None:
        self._service = service
        self._message = message
        self._last_bytes = last_bytes
        self._transport = cast(asyncio.Transport, None)
        self.deadline = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = stream = cast(asyncio.Transport, transport)
        service = self._service
        service.connections.add(self)
        if stream.get_extra_info("socket").fileno() >= service.descriptor_brim:
            service.rest()
        stream.write(self._message)
        # Not closed at once: bytes that nobody read would reset the connection, and with
        # it the message that the client has not seen yet (RFC 9112, 9.6).
        self.deadline = service.clock.deadline(_LINGER_SECONDS)
        half_close(stream)

    def data_received(self, data: bytes) -> None:
        if self._last_bytes and data.endswith(self._last_bytes):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline = NEVER
        self._service.connections.discard(self)

    def expire(self, now: float) -> None:
        """The client has had its time."""
        self.abort()

    def shut_down(self) -> None:
        """Goes on: it ends soon."""

    def abort(self) -> None:
        """Ends at once."""
        self._transport.abort()


def turn_away(
    service: Service, transport: asyncio.BaseTransport, message: bytes, last_bytes: bytes = b""
) -> None:
    """Tells a new client that there is no room, in the place of its protocol."""
    successor = TurnedAway(service, message, last_bytes)
    transport.set_protocol(successor)
    successor.connection_made(transport)


def encode_busy(page: bytes | None) -> bytes:
    """The answer to an HTTP connection that there is no room for.

    Args:
        page: HTML, or None for the plain words.
    """
    status, fields, content = answer_busy(page)
    _, line = parse_status(status)
    lines = [f"{name}: {value}\r\n" for name, value in fields]
    text = f"{line}{''.join(lines)}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return text.encode("latin-1") + content


class RawAcceptor(asyncio.Protocol):
    """Finds the handler of a new raw connection, then makes way for it.

    Args:
        handler: a class, or a function that makes a handler for each connection.
        timeout: seconds of silence before the handler's `ping`; 0: never.
        busy_message: is sent when there is no room.
    """

    __slots__ = ("_busy_message", "_handler", "_service", "_timeout")

    def __init__(self, service: Service, handler: Any, timeout: float, busy_message: bytes) -> None:
        self._service = service
        self._handler = handler
        self._timeout = timeout
        self._busy_message = busy_message

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        service = self._service
        if service.stopping:
            stream.abort()
        elif not has_room(service, stream):
            turn_away(service, stream, self._busy_message)
        else:
            try:
                successor = self._make_successor()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                error_log.error("no handler for a raw connection", exc_info=error)
                stream.close()
            else:
                switch_protocol(service, stream, successor)

    def _make_successor(self) -> Successor:
        handler: Any = (
            make_handler(self._handler, None)
            if isinstance(self._handler, type)
            else self._handler()
        )
        if isinstance(handler, asyncio.BaseProtocol):
            return handler
        connection = TCPProtocol(self._service, handler, None, self._timeout)
        adopt(handler, connection)
        return connection


def check_raw_handler(handler: Any) -> None:
    """Raises UsageError unless `handler` can make a handler for each connection."""
    if not callable(handler):
        raise UsageError(
            f"{type(handler).__name__} object cannot serve every connection:"
            " listen() takes a class, or a function that makes a handler"
        )
