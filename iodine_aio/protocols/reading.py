"""Requests out of a connection's bytes, in order (RFC 9112).

Bytes become requests one at a time: a head is cut out of the stream and parsed, its
body read, the app called, its response kept back; then the next. So nothing behind a
request is looked at before that request is answered, and one write answers a whole read.
"""

import contextlib
import io
import socket
from typing import Final

from iodine_aio.clock import NEVER
from iodine_aio.errors import ProtocolError
from iodine_aio.protocols.answering import Answering
from iodine_aio.protocols.heads import check_partial_head
from iodine_aio.protocols.receiving import RequestStream, WholeBody, frame_body
from iodine_aio.protocols.responding import ANSWERING, CLOSING, LEAVING, READING
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.upgrade import offer_upgrade
from iodine_aio.protocols.writing import FLUSH_BYTES
from iodine_aio.wire.environ import Env
from iodine_aio.wire.fields import list_members

MAX_TURN: Final = 64  # requests of one connection before others get their turn
SLICE_BYTES: Final = 64 * 1024  # of a body that are decoded before others get their turn
MAX_EMPTY_LINES: Final = 8

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Reading(Answering):
    """The reading half of an HTTP connection.

    Args:
        service: what it shares with the other connections.
        template: the part of env that the listener's connections have in common.
    """

    __slots__ = (
        "_body",
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
        self._body: WholeBody | RequestStream | None = None  # until its request is answered
        self._body_cut = False
        self._empty_lines = 0
        self._reading = True
        self._eof = False

    def shut_down(self) -> None:
        """Ends when the request in hand is answered."""
        raise NotImplementedError

    def leave(self) -> None:
        """Makes way for another protocol."""
        raise NotImplementedError

    def hijack(self) -> socket.socket:
        """Gives the socket away (Rack, "Hijacking")."""
        raise NotImplementedError

    # Requests.

    def _turn(self, data: bytes, head_begun: bool) -> None:
        """Takes what was read, request by request, and writes the answers at once.

        Args:
            head_begun: the deadline of the head at the start of `data` is running.
        """
        self._in_turn = True
        self._unread = data
        self._position = position = 0
        size = len(data)
        max_head_bytes = self.service.settings.max_head_bytes
        handled = 0
        try:
            while position < size and self._state == READING and not self.paused:
                if handled == MAX_TURN:
                    self.service.loop.call_soon(self._go_on)
                    break
                handled += 1
                if self._body is not None:
                    self._read_whole(self._body, data[position : position + SLICE_BYTES])
                    position = self._position
                    continue
                if data[position] <= 13:
                    if not self._skip_empty_lines(data):
                        break
                    position = self._position
                end = data.find(b"\r\n\r\n", position) + 4
                if end < 4 or end - position > max_head_bytes:
                    window = data[position : position + max_head_bytes + 1]
                    check_partial_head(window, max_head_bytes)
                    break
                self._position = end
                self._empty_lines = 0
                head = data if end - position == size else data[position:end]
                self._begin(self.service.heads.parse(head, self._template))
                position = self._position  # what it read of a body is behind it, too
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
        state = self._state
        if self._output:
            if state == READING:
                self.service.turn_end.add(self)
            else:  # what was said so far shall have left, whatever becomes of the rest
                self.flush()
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
        env["rack.hijack"] = self.hijack
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
        else:
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
        if self._in_turn:
            return
        if not body.done:
            self._read_stream(body)
        elif len(self._unread) <= FLUSH_BYTES:  # its last piece had filled it
            self._resume_reading()

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
        held, self._reading = not self._reading, True
        if held and not self._eof and not self.transport.is_closing():
            self.transport.resume_reading()

    # After an answer.

    def response_ended(self) -> None:
        self._env = None
        self._offer = None
        if self._successor is not None:
            self._state = LEAVING
        elif not self._keep_alive:
            self._state = CLOSING
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
            if not self._reading:  # the last piece of a body was more than was taken
                self._resume_reading()
            self.deadline = self.service.clock.idle_until
            if self.service.stopping:  # its head was sent before, and did not say so
                self.shut_down()

    def _end(self) -> None:
        """Closes; not before the client had time to read, if it is still sending."""
        if (self._unread or self._body_cut) and not self._eof:
            self._unread = b""
            self._resume_reading()
            self.linger()
        else:
            self.close()
