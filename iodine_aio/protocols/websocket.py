"""A WebSocket: messages, pings, the closing handshake (RFC 6455, sections 5 to 7)."""

from time import monotonic
from typing import Any, Final

import uvloop

from iodine_aio.protocols.callbacks import name_handler
from iodine_aio.protocols.connection import Connection, open_websockets
from iodine_aio.protocols.service import HELD_SECONDS, Service
from iodine_aio.protocols.writing import CLOSED, OPEN, bytes_of, half_close
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.outlets import Outlet
from iodine_aio.wire.environ import Env
from iodine_aio.wire.events import Event
from iodine_aio.wire.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    encode_close,
    encode_frame,
)
from iodine_aio.wire.messages import MessageReader

_PING_FRAME: Final = encode_frame(PING, b"")
_MAX_UNANSWERED_PINGS: Final = 2


class WebSocketProtocol(Connection):
    """One WebSocket, from behind its 101 on."""

    __slots__ = ("_behind", "_outlet", "_owed", "_pinged_at", "_pings", "_reader")

    kind = "WebSocket"
    registry = open_websockets

    def __init__(self, service: Service, handler: Any, env: Env | None) -> None:
        settings = service.settings
        super().__init__(service, handler, env, settings.ping_interval)
        self.close_code = 1006  # what on_close hears of a peer that says nothing
        self._outlet: Outlet | None = None
        self._behind = False  # something waits that goes before what is published
        self._owed: bytes | None = None  # what the ping said that waits for its pong
        self._pings = 0
        self._pinged_at = 0.0
        self._reader = MessageReader(settings.max_message_bytes, settings.max_message_fragments)

    def encode(self, data: str | bytes | Event) -> bytes:
        if type(data) is str:
            return encode_frame(TEXT, data.encode())
        return encode_frame(TEXT if isinstance(data, str) else BINARY, bytes_of(data))

    def deliver(self, message: Message) -> None:
        self.deliver_frame(message.websocket_frame)

    @property
    def outlet(self) -> Outlet | None:
        """Where published frames may go straight, while nothing is in their way."""
        return None if self._state or self._behind else self._outlet

    def open_outlet(self) -> None:
        transport, loop = self.transport, self.service.loop
        # Others warn of what is written between a failure and `connection_lost`.
        if self._outlet is not None or self._drains or not isinstance(loop, uvloop.Loop):
            return
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return
        self._outlet = Outlet(transport.get_extra_info("socket").fileno(), transport, loop)
        transport.set_write_buffer_limits(high=0)  # tells us of the first byte that waits
        # But not who took over from HTTP, to whom that was told.
        self._behind = self._paused or transport.get_write_buffer_size() > 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._outlet = None  # it is the transport's, which a kept handler shall not keep
        super().connection_lost(exc)

    # An outlet must be shut by the first byte that waits, which is no sign yet of a peer that
    # takes nothing.

    def pause_writing(self) -> None:
        if self._outlet is None:
            super().pause_writing()
        else:
            self._behind = True
            self._renew_outlet()
            self._pause_late()

    def resume_writing(self) -> None:
        self._behind = False
        if self._paused:
            super().resume_writing()
        else:
            self._renew_outlet()

    def _transmit(self, data: bytes) -> None:
        super()._transmit(data)
        if self._behind and not self._paused:
            self._pause_late()

    def _pause_late(self) -> None:
        if self.transport is not None and self.transport.get_write_buffer_size() > self._mark:
            super().pause_writing()

    def receive(self, data: bytes) -> int:
        started = monotonic()
        reader = self._reader
        events = reader.feed(data)
        for opcode, payload in events:
            if opcode <= BINARY:
                if self._muted or not self._listens:
                    continue
                if self._task is None and self._queue is None and not self._paused:
                    try:
                        result = self.callbacks.on_message(payload)
                    except KeyboardInterrupt:
                        raise
                    except BaseException as error:
                        self.fail(error)
                        continue
                    if result is not None:
                        self._follow(result)
                else:
                    self._wait_turn(payload)
            elif opcode == PING:
                if self._paused:
                    # To a peer that takes nothing they would pile up. It "MAY elect to send
                    # a Pong frame for only the most recently processed Ping" - RFC 6455, 5.5.3
                    self._owed = payload
                elif self._state == OPEN:
                    self._send(encode_frame(PONG, payload))
            elif opcode == CLOSE:
                self._answer_close(*payload)
        if reader.failure is not None and self._state != CLOSED and self.close_code == 1006:
            code = reader.failure.close_code
            assert code is not None
            self.close(code, str(reader.failure))
        # Of all messages of a read together: the others wait for all of them.
        if (seconds := monotonic() - started) > HELD_SECONDS:
            self.service.name_held(name_handler(self.callbacks), seconds)
        return len(events)

    def _resume(self) -> None:
        if self._owed is not None and self._state == OPEN and not self._paused:
            payload, self._owed = self._owed, None
            self._send(encode_frame(PONG, payload))
        super()._resume()

    def begin_close(self, code: int, reason: str) -> None:
        assert self.transport is not None
        self.transport.write(encode_close(code, reason))
        if code not in (1000, 1001):
            self.close_code, self.close_reason = code, reason
        if self._reader.failure is not None:
            # Its stream cannot be read any more: our goodbye is all there will be.
            # Reading goes on, since bytes that nobody read would reset the connection
            # before the peer has our close frame.
            half_close(self.transport)

    def eof_received(self) -> bool:
        self._end_writing()
        return False  # without a close frame before it, nobody is there to be answered

    def ask_for_life(self) -> None:
        # Heard in the tick of the ping, or later: that was an answer, whatever it said.
        if self.heard_at >= self._pinged_at:
            self._pings = 0
        if self._pings >= _MAX_UNANSWERED_PINGS:
            self.abort()
        else:
            self._pings += 1
            self._pinged_at = self.service.clock.now
            self._send(_PING_FRAME)

    def _answer_close(self, code: int, reason: str) -> None:
        assert self.transport is not None
        if self.close_code == 1006:
            self.close_code, self.close_reason = code, reason
        if self._state == OPEN:
            self._end_writing()
            # "it typically echos the status code it received" - RFC 6455, 5.5.1
            self.transport.write(encode_close(None if code == 1005 else code))
        # "the server MUST close the underlying TCP connection immediately" - 7.1.1
        if self._state != CLOSED:
            self.transport.close()
