"""An event stream: a connection on which only we speak (server-sent events)."""

from typing import Any, Final

from iodine_aio.clock import NEVER
from iodine_aio.protocols.connection import Connection, open_streams
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.writing import OPEN
from iodine_aio.pubsub.message import Message
from iodine_aio.wire.environ import Env
from iodine_aio.wire.events import KEEP_ALIVE, Event, encode_event
from iodine_aio.wire.framing import LAST_CHUNK, encode_chunk

MAX_IGNORED: Final = 64 * 1024  # bytes that a client may send to nobody


class EventStreamProtocol(Connection):
    """One event stream, from behind the head of its response on.

    Chunked where the client speaks HTTP/1.1, for many programs hand on no less than a
    buffer of a body that only the end of the connection delimits.
    """

    __slots__ = ("_chunked", "_closes_at", "_ignored")

    kind = "event stream"
    registry = open_streams

    def __init__(self, service: Service, handler: Any, env: Env) -> None:
        super().__init__(service, handler, env, service.settings.ping_interval)
        self._chunked = is_chunked(env)
        self._closes_at = 0.0  # not 0: the client has stopped sending
        self._ignored = 0

    def encode(self, data: str | bytes | Event) -> bytes:
        event = encode_event(data)
        return encode_chunk(event) if self._chunked else event

    def deliver(self, message: Message) -> None:
        self.deliver_frame(message.event_chunk if self._chunked else message.event)

    def data_received(self, data: bytes) -> None:
        # Reading goes on, or the end of the connection would go unseen.
        self._ignored += len(data)
        if self._ignored > MAX_IGNORED:
            self.abort()

    def receive(self, data: bytes) -> int:
        return 0  # nothing is ever kept unread

    def eof_received(self) -> bool:
        if self._state != OPEN:
            return False
        # TCP cannot tell a client that only stopped sending from one that went away; what
        # is written to the latter comes back as a reset.
        clock = self.service.clock
        grace = self.service.settings.half_close_timeout
        self._closes_at = clock.deadline(grace) if grace else NEVER
        self._say_alive()
        self.deadline = clock.now
        return True

    def expire(self, now: float) -> None:
        if self._closes_at and self._state == OPEN and not self._paused:
            if now >= self._closes_at:
                self.close()
            else:
                self._say_alive()
                self.deadline = min(self._closes_at, self.service.clock.deadline(self.timeout))
        else:
            super().expire(now)

    def begin_close(self, code: int, reason: str) -> None:
        assert self.transport is not None
        if self._chunked:
            self._transmit(LAST_CHUNK)
        self.transport.close()

    def ask_for_life(self) -> None:
        ping = getattr(self.callbacks, "ping", None)
        if ping is not None:
            self._enqueue(ping)
        else:
            self._say_alive()

    def _say_alive(self) -> None:
        self._send(encode_chunk(KEEP_ALIVE) if self._chunked else KEEP_ALIVE)

    def _transmit(self, data: bytes) -> None:
        # It is we who must not be silent for too long.
        self.heard_at = self.service.clock.now
        super()._transmit(data)


def is_chunked(env: Env) -> bool:
    """True if the events of this request's stream come in chunks.

    "A server MUST NOT send a response containing Transfer-Encoding unless the
    corresponding request indicates HTTP/1.1" - RFC 9112, 6.1
    """
    return bool(env["SERVER_PROTOCOL"] == "HTTP/1.1")
