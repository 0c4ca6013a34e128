"""A raw connection: chunks of bytes as they come, without HTTP or after it."""

from typing import Any

from iodine_aio.protocols.connection import Connection, open_raw
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.writing import bytes_of
from iodine_aio.pubsub.message import Message
from iodine_aio.wire.environ import Env
from iodine_aio.wire.events import Event


class TCPProtocol(Connection):
    """One raw connection; silence closes it only where a timeout was set."""

    __slots__ = ()

    kind = "raw connection"
    registry = open_raw

    def __init__(self, service: Service, handler: Any, env: Env | None, timeout: float = 0) -> None:
        super().__init__(service, handler, env, timeout)

    def encode(self, data: str | bytes | Event) -> bytes:
        return bytes_of(data)

    def deliver(self, message: Message) -> None:
        self.deliver_frame(message.raw)

    def _take(self, data: bytes) -> None:
        self._output = [] if self._output is None else self._output
        self.receive(data)
        self._end_turn()

    def receive(self, data: bytes) -> int:
        if self._listens and not self._muted:
            if self._free:
                self._call(self.callbacks.on_message, data)
            else:
                self._wait_turn(data)
        return 1

    def begin_close(self, code: int, reason: str) -> None:
        assert self.transport is not None
        self.transport.close()

    def ask_for_life(self) -> None:
        ping = getattr(self.callbacks, "ping", None)
        self._enqueue(ping if ping is not None else self.close)
