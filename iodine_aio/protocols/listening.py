"""What a listener makes for each connection it accepts, or says when there is no room."""

import asyncio
from typing import Any, cast

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.handlers import adopt, make_handler
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.tcp import TCPProtocol
from iodine_aio.protocols.upgrade import Successor, switch_protocol


def excess_descriptors(service: Service, transport: asyncio.BaseTransport) -> int:
    """How deep in the reserve of descriptors a connection's is; below 0: there is room.

    The kernel gives out the lowest descriptor that is free: a high one says that few
    are left, whoever holds the others.
    """
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else sock.fileno() - service.descriptor_ceiling


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
        elif excess_descriptors(service, stream) >= 0:
            stream.write(self._busy_message)
            stream.close()
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
