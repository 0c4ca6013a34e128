"""HTTP/1.1: the requests of one connection, in order (RFC 9112).

Bytes become requests one at a time: a head is cut out of the stream and parsed, its
body read, the app called, its response kept back; then the next. So nothing behind a
request is looked at before that request is answered, and one write answers a whole read.
"""

import asyncio
import concurrent.futures
import contextlib
import io
import os
import socket
import threading
from typing import Any, Final, cast

from iodine_aio.clock import NEVER
from iodine_aio.errors import ProtocolError, UsageError
from iodine_aio.protocols.answering import Answering
from iodine_aio.protocols.heads import check_partial_head
from iodine_aio.protocols.listening import encode_busy, has_room, turn_away
from iodine_aio.protocols.receiving import RequestStream, WholeBody, frame_body
from iodine_aio.protocols.responding import (
    ANSWERING,
    CLOSING,
    GONE,
    LEAVING,
    READING,
)
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.upgrade import offer_upgrade, switch_protocol
from iodine_aio.protocols.writing import FLUSH_BYTES
from iodine_aio.wire.environ import Env
from iodine_aio.wire.fields import list_members

MAX_TURN: Final = 64  # requests of one connection before others get their turn
SLICE_BYTES: Final = 64 * 1024  # of a body that are decoded before others get their turn
MAX_EMPTY_LINES: Final = 8

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HTTPProtocol(Answering):
    """One HTTP connection: the request's half.

    Args:
        service: what it shares with the other connections.
        template: the part of env that the listener's connections have in common.
    """

    __slots__ = (
        "_body_cut",
        "_empty_lines",
        "_eof",
        "_peer",
        "_position",
        "_reading",
        "_template",
        "_unread",
    )

    def __init__(self, service: Service, template: Env) -> None:
        super().__init__(service)
        self._template = template
        self._peer = ("", "")
        self._unread = b""  # what was read and is not part of an answered request yet
        self._position = 0  # how much of it is, during a turn
        self._body_cut = False  # where it ends, only bytes that are not awaited could say
        self._empty_lines = 0
        self._reading = True
        self._eof = False

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
        self.deadline = service.clock.deadline(service.settings.keep_alive_timeout)
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
            self.deadline = self.service.clock.deadline(self.service.settings.keep_alive_timeout)
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

    # Reading requests.

    def _turn(self, data: bytes, head_begun: bool) -> None:
        """Takes what was read, request by request, and writes the answers at once.

        Args:
            head_begun: the deadline of the head at the start of `data` is running.
        """
        self._in_turn = True
        self._unread = data
        self._position = 0
        size = len(data)
        settings = self.service.settings
        max_head_bytes = settings.max_head_bytes
        handled = position = 0
        try:
            while self._position < size and self._state == READING and not self.paused:
                if handled == MAX_TURN:
                    self.service.loop.call_soon(self._go_on)
                    break
                handled += 1
                position = self._position
                if self._body is not None:
                    self._read_whole(self._body, data[position : position + SLICE_BYTES])
                    continue
                if data[position] <= 13 and not self._skip_empty_lines(data):
                    break
                position = self._position
                end = data.find(b"\r\n\r\n", position) + 4
                if end < 4 or end - position > max_head_bytes:
                    if position < size:
                        window = data[position : position + max_head_bytes + 1]
                        check_partial_head(window, max_head_bytes)
                    break
                self._position = end
                head = data if end == size and position == 0 else data[position:end]
                self._empty_lines = 0
                self._begin(self.service.heads.parse(head, self._template))
        except ProtocolError as error:
            head_only = data.startswith(b"HEAD ", position)
            self._drop_body()
            self._position = size
            self.refuse(error, head_only)
        self._in_turn = False
        self._end_turn(data, head_begun)

    def _end_turn(self, data: bytes, head_begun: bool) -> None:
        position = self._position
        if self._state == LEAVING:
            self.leave()
            return
        self._unread = data[position:] if position < len(data) else b""
        self._position = 0
        self.flush()
        state = self._state
        if state == CLOSING:
            self._end()
        elif state == READING and not self.paused:
            if self._unread or self._body is not None:
                self._set_deadline(head_begun and position == 0)
            else:
                self.deadline = self.service.clock.idle_until
            if self._eof and not self._waits():
                self.close()
            elif self._unread and self._holds_enough():
                self._hold_reading()
            elif not self._reading:
                self._resume_reading()
        elif state == ANSWERING and self._body is not None and not self._body.done:
            self._read_stream(self._body)

    def _holds_enough(self) -> bool:
        # A head that is not complete is no reason to wait: it is bounded by its limit.
        return len(self._unread) > max(FLUSH_BYTES, self.service.settings.max_head_bytes)

    def _set_deadline(self, head_begun: bool) -> None:
        settings = self.service.settings
        clock = self.service.clock
        if self._body is not None:
            self.deadline = clock.deadline(settings.body_timeout)
        elif not head_begun:
            # Counted from the head's first byte, not from its latest.
            self.deadline = clock.deadline(settings.head_timeout)

    def _go_on(self) -> None:
        """Takes up what waited for an answer, for the client, or for its turn."""
        if self._state == READING and not self.paused and not self._in_turn:
            self._turn(self._unread, False)

    def _waits(self) -> bool:
        """True if something was read that may still become a request."""
        return b"\r\n\r\n" in self._unread or (self._body is not None and bool(self._unread))

    def _skip_empty_lines(self, data: bytes) -> bool:
        """Passes over empty lines; False if more of them may come.

        "a server that is expecting to receive and parse a request-line SHOULD ignore at
        least one empty line (CRLF) received prior to the request-line" - RFC 9112, 2.2
        """
        position = self._position
        while data.startswith(b"\r\n", position):
            position += 2
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise ProtocolError("nothing but empty lines", status=400)
        self._position = position
        return position < len(data) and data[position:] != b"\r"

    def _begin(self, env: Env) -> None:
        """A head is complete: its body is read if it has one, or the app called."""
        env["REMOTE_ADDR"], env["REMOTE_PORT"] = self._peer
        http11 = env["SERVER_PROTOCOL"] == "HTTP/1.1"
        connection = env.get("HTTP_CONNECTION")
        if connection is None:
            self._keep_alive = http11
        else:
            options = list_members(connection)
            self._keep_alive = "close" not in options and (http11 or "keep-alive" in options)
        env["rack.hijack"] = self._hijack
        if "HTTP_UPGRADE" in env or "event-stream" in env.get("HTTP_ACCEPT", "").lower():
            self._offer = offer_upgrade(env)
        reader = None
        if "CONTENT_LENGTH" in env or "HTTP_TRANSFER_ENCODING" in env or "HTTP_EXPECT" in env:
            reader = frame_body(env, self.service.settings)
        if self.service.streams_requests:
            env["iodine_aio.fields"] = self.service.heads.fields
        # Before a WebSocket its body has to be out of the way.
        if self.service.streams_requests and not env["upgrade.websocket?"]:
            self._body = env["iodine_aio.body"] = RequestStream(self, reader)
            self.call_app(env)
        elif reader is None:
            env["wsgi.input"] = env["rack.input"] = io.BytesIO()
            self.call_app(env)
        else:
            if self._continues(env):
                self.put(_CONTINUE)
            self._body = WholeBody(reader, self.service.settings.spool_body_bytes)
            self._env = env

    def _continues(self, env: Env) -> bool:
        """True if the client waits for our word before it sends its body.

        "A server MAY omit sending a 100 (Continue) response if it has already received
        some or all of the content" - RFC 9110, 10.1.1
        """
        return (
            "HTTP_EXPECT" in env
            and env["SERVER_PROTOCOL"] == "HTTP/1.1"
            and self._position == len(self._unread)
        )

    # Bodies.

    def _read_whole(self, body: WholeBody | RequestStream, data: bytes) -> None:
        assert isinstance(body, WholeBody)  # its app has not been called yet
        self._position += body.feed(data)
        if body.done:
            env = self._env
            assert env is not None
            env["wsgi.input"] = env["rack.input"] = body.open()
            env["CONTENT_LENGTH"] = str(body.size)
            self.call_app(env)

    def _read_stream(self, body: WholeBody | RequestStream) -> None:
        """Hands on what was read of a body that its app reads as it comes."""
        assert isinstance(body, RequestStream)
        unread, position = self._unread, 0
        try:
            while position < len(unread) and not body.done and not body.full:
                position += body.feed(unread[position : position + SLICE_BYTES])
        except ProtocolError as error:
            self._refuse_body(error)
            return
        self._unread = unread[position:]
        if body.full or len(self._unread) > FLUSH_BYTES:
            self._hold_reading()
        elif not self._reading:
            self._resume_reading()
        if not self.paused:
            self.deadline = self.answer_deadline()

    def body_wanted(self, first: bool) -> None:
        body = self._body
        if body is None or (self._state != ANSWERING and not self._in_turn):
            return
        if first and self._env is not None and self._sender is None and self._continues(self._env):
            self.put(_CONTINUE)
            if not self._in_turn:
                self.flush()
        if not self._in_turn and not body.done:
            self._read_stream(body)

    def _refuse_body(self, error: ProtocolError) -> None:
        """The client broke the protocol in the middle of its body."""
        sender, self._sender = self._sender, None
        task, self._task = self._task, None
        self._drop_body()
        if sender is not None:  # too late for an answer of ours
            sender.abandon()
            self.abort()
        else:
            self.refuse(error)
        if task is not None:
            task.cancel()

    def answer_deadline(self) -> float:
        body = self._body
        if body is None or body.done or isinstance(body, WholeBody) or body.full:
            return NEVER
        return self.service.clock.deadline(self.service.settings.body_timeout)

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def read_ahead(self) -> bool:
        """Takes what was read of the request's body; True if that was the rest of it."""
        body = self._body
        assert body is not None
        if not body.done and not self._body_cut:
            with contextlib.suppress(ProtocolError):
                self._position += body.feed(self._unread[self._position :])
            if not self._in_turn:
                self._unread = self._unread[self._position :]
                self._position = 0
            # What is malformed is not looked at again, in whatever state it left its reader.
            self._body_cut = not body.done
        return body.done

    def _hold_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        self._reading = True
        if not self._eof and not self.transport.is_closing():
            self.transport.resume_reading()

    # After an answer.

    def request_answered(self) -> None:
        if self._body is not None:
            if not self.read_ahead():  # its app wanted no more of it
                self._state = CLOSING
            self._body.close()
            self._body = None
        if self._in_turn:
            return  # the turn goes on by itself
        if self._state == LEAVING:
            self.leave()
        elif self._state == CLOSING:
            self._end()
        elif self._unread or self._eof:
            self.service.loop.call_soon(self._go_on)
        else:
            self.deadline = self.service.clock.deadline(self.service.settings.keep_alive_timeout)
            if self.service.stopping:  # its head was sent before, and did not say so
                self.shut_down()

    def _end(self) -> None:
        """Closes; not before the client had time to read, if it is still sending."""
        if self._unread or self._body_cut:
            self._unread = b""
            self.linger()
        else:
            self.close()

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

    def _hijack(self) -> socket.socket:
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
            outcome.set_result(self._hijack())
        except Exception as error:
            outcome.set_exception(error)
