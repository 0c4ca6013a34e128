"""HTTP/1.1: a connection as asyncio and its server see it (RFC 9112).

What it is about lies below: `reading.py` takes requests out of its bytes, `answering.py`
turns what the app returned into responses, `responding.py` writes them.
"""

import asyncio
import concurrent.futures
import os
import socket
import threading
from typing import Any, cast

from iodine_aio.clock import NEVER
from iodine_aio.errors import ProtocolError, UsageError
from iodine_aio.protocols.listening import encode_busy, has_room, turn_away
from iodine_aio.protocols.reading import Reading
from iodine_aio.protocols.receiving import RequestStream
from iodine_aio.protocols.responding import ANSWERING, CLOSING, GONE, READING
from iodine_aio.protocols.upgrade import switch_protocol
from iodine_aio.protocols.writing import FLUSH_BYTES


class HTTPProtocol(Reading):
    """One HTTP connection."""

    __slots__ = ()

    kind = "HTTP connection"

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        service = self.service
        if not has_room(service, transport):
            turn_away(service, transport, encode_busy(service.busy_page), b"\r\n\r\n")
            return
        service.connections.add(self)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = (peer[0], str(peer[1]))
        self.deadline = service.clock.idle_until
        if service.stopping:  # accepted before, and made only now
            service.loop.call_soon(self.shut_down)

    def data_received(self, data: bytes) -> None:
        if self._state == READING and not self.paused:
            if self._unread:
                self._turn(self._unread + data, True)
            else:
                self._turn(data, False)
        elif self._state == ANSWERING or self._state == READING:
            self._unread += data
            if self._state == ANSWERING and self._body is not None and not self._body.done:
                self._read_stream(self._body)
            elif len(self._unread) > FLUSH_BYTES:
                self._hold_reading()

    def eof_received(self) -> bool:
        self.flush()  # a transport that closes itself sends nothing more of ours
        # TCP cannot tell a client that only stopped sending from one that went away.
        if self._state == ANSWERING or (self._state == READING and self._waits()):
            self._eof = True
            if isinstance(self._body, RequestStream) and not self._body.done:
                self._body.close()  # it will never be whole
            if self._state == ANSWERING and not self.paused:
                self.deadline = self.service.clock.deadline(
                    self.service.settings.half_close_timeout
                )
            return True
        return False

    def pause_writing(self) -> None:
        self.paused = True
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self.service.clock.deadline(self.service.settings.send_timeout)

    def resume_writing(self) -> None:
        self.paused = False
        # Not at once: asyncio's transport, closed in here, would close a second time.
        self.service.loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self.paused or self._state == GONE:
            return
        if self._sender is not None:
            self.deadline = self.answer_deadline()
            self._sender.resume()
        elif self._state == READING:
            self.deadline = self.service.clock.idle_until
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = GONE
        self.deadline = NEVER
        self.service.connections.discard(self)
        task, self._task = self._task, None
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.abandon()
        if task is not None:
            task.cancel()
        self._drop_body()
        self._env = self._offer = self._successor = None
        self._unread = b""
        self._output.clear()

    # The server's side.

    def shut_down(self) -> None:
        """Closes if nothing is in hand, at once or after a drain; else after the answer."""
        if self._state == READING and not self._unread and self._body is None:
            if not self.service.drain_seconds:
                self.close()
            else:
                drained = self.service.clock.deadline(self.service.drain_seconds)
                self.deadline = min(self.deadline, drained)

    def expire(self, now: float) -> None:
        """A deadline has passed."""
        settings = self.service.settings
        if self.paused or self._state == CLOSING:
            unsent = self.transport.get_write_buffer_size()
            if unsent >= self._unsent:
                self.abort()  # the client takes nothing
            else:
                self._unsent = unsent
                self.deadline = self.service.clock.deadline(settings.send_timeout)
        elif self._body is not None and not self._body.done and self._sender is None:
            self._refuse_body(ProtocolError("the body stood still", status=408))
        elif self._state != READING:
            self.abort()
        elif self._unread:
            self.refuse(ProtocolError("the head took too long", status=408))
        else:
            self.close()

    # Leaving it to somebody else.

    def leave(self) -> None:
        """Makes way for the successor, with what was read behind the request."""
        successor, self._successor = self._successor, None
        leftover = self._unread[self._position :]
        self.flush()
        transport = self._detach()
        assert successor is not None
        if not self._reading:
            transport.resume_reading()
        switch_protocol(self.service, transport, successor, leftover, self.paused)

    def _detach(self) -> asyncio.Transport:
        self.service.connections.discard(self)
        self.deadline = NEVER
        self._state = GONE
        self._env = None
        self._unread = b""
        return self.transport

    def hijack(self) -> socket.socket:
        """`env["rack.hijack"]()`: the socket itself, ours no more (Rack, "Hijacking").

        What was read already lies in `env["rack.hijack_leftover"]`. May be called from
        another thread, which waits for the loop then.
        """
        if threading.get_ident() != self.service.thread_id:
            outcome: concurrent.futures.Future[socket.socket] = concurrent.futures.Future()
            if not self.service.post(self._hijack_for_thread, outcome):
                raise UsageError("rack.hijack: the server has stopped")
            return outcome.result()
        env = self._env
        if env is None:
            raise UsageError("rack.hijack: the request was answered already")
        hijacked: Any = env.get("rack.hijack_io")
        if hijacked is not None:
            return cast(socket.socket, hijacked)
        self.transport.pause_reading()
        sock = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
        data = b"".join(self._output)
        if self.transport.get_write_buffer_size() or (data and sock.send(data) < len(data)):
            sock.close()
            self.abort()
            raise UsageError("rack.hijack: the client does not take the answers before this one")
        self._output.clear()
        env["rack.hijack_leftover"] = self._unread[self._position :]
        env["rack.hijack_io"] = sock
        # The app goes on: what is lost now is our side of the connection only.
        self._task = None
        # Closing our own descriptor leaves the connection to its copy.
        self._detach().abort()
        return sock

    def _hijack_for_thread(self, outcome: "concurrent.futures.Future[socket.socket]") -> None:
        try:
            outcome.set_result(self.hijack())
        except Exception as error:
            outcome.set_exception(error)
