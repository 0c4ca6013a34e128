"""What an app returned becomes a response on the wire, or a change of protocol."""

import asyncio
import contextlib
import inspect
import socket
import struct
import time
from collections.abc import Awaitable
from typing import Any, Final, cast

from iodine_aio.clock import NEVER
from iodine_aio.errors import ProtocolError, ResponseError
from iodine_aio.logs import error_log
from iodine_aio.protocols.heads import TELLING
from iodine_aio.protocols.sending import Sender, StreamSender, close_body, make_sender, whole_body
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.upgrade import (
    RAW,
    WEBSOCKET,
    Offer,
    Successor,
    accepts,
    encode_101,
    find_choice,
    make_successor,
    refuse_websocket,
)
from iodine_aio.protocols.writing import FLUSH_BYTES
from iodine_aio.wire.environ import Env
from iodine_aio.wire.response import (
    Framing,
    ResponseHead,
    parse_headers,
    parse_status,
)

READING: Final = 0  # states: the next bytes belong to a request
ANSWERING: Final = 1  # a response takes its time; what is read waits
LEAVING: Final = 2  # another protocol takes over
LINGERING: Final = 3  # the last response is sent; what still comes is thrown away
CLOSING: Final = 4  # what was written goes out, and nothing else happens
GONE: Final = 5

_LINGER_SECONDS: Final = 2.0

_EXPLANATIONS: Final = {
    426: [("Upgrade", "websocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Version", "13")],
}


class Answering(asyncio.Protocol):
    """The response's half of an HTTP connection.

    Attributes:
        paused: the client does not take what was written.
        deadline: when `expire` is to be called.
    """

    __slots__ = (
        "_env",
        "_in_turn",
        "_keep_alive",
        "_kept",
        "_offer",
        "_output",
        "_sender",
        "_started",
        "_state",
        "_successor",
        "_task",
        "_unsent",
        "deadline",
        "paused",
        "service",
        "transport",
    )

    def __init__(self, service: Service) -> None:
        self.service = service
        self.transport = cast(asyncio.Transport, None)
        self.deadline = NEVER
        self.paused = False
        self._state = READING
        self._in_turn = False
        self._output: list[bytes] = []
        self._kept = 0
        self._unsent = 0
        self._keep_alive = True
        self._env: Env | None = None  # of the request that is being answered
        self._offer: Offer | None = None
        self._successor: Successor | None = None
        self._sender: Sender | None = None
        self._task: asyncio.Future[Any] | None = None
        self._started = 0.0

    def request_answered(self) -> None:
        """The connection is free for its next request."""
        raise NotImplementedError

    def leave(self) -> None:
        """Makes way for the successor."""
        raise NotImplementedError

    # Writing.

    def put(self, data: bytes) -> None:
        """Keeps `data` back, so that one write sends all answers of a read."""
        self._output.append(data)
        self._kept += len(data)
        if self._kept >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was kept back."""
        output = self._output
        if output and self._state != GONE:
            data = output[0] if len(output) == 1 else b"".join(output)
            output.clear()
            self._kept = 0
            self.transport.write(data)

    def pending(self) -> int:
        """Bytes that the client has not taken."""
        return 0 if self._state == GONE else self.transport.get_write_buffer_size() + self._kept

    # Answering.

    def call_app(self, env: Env) -> None:
        """Calls the app, and answers with what it returns, now or later."""
        service = self.service
        self._env = env
        if service.access_log is not None:
            self._started = time.perf_counter()
        try:
            result = service.app(env)  # type: ignore[misc]
        except (Exception, SystemExit) as error:
            self.fail(error)
            return
        if type(result) is tuple:
            self.answer(result)
        elif inspect.isawaitable(result):
            self._wait_for(result)
        else:
            self.answer(result)

    def _wait_for(self, result: Awaitable[Any]) -> None:
        task: asyncio.Future[Any]
        task = result if isinstance(result, asyncio.Future) else self.service.start_task(result)
        if task.done():
            self._take_result(task)
        else:
            self._state = ANSWERING
            self.deadline = NEVER
            self._task = task
            task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Future[Any]") -> None:
        self._task = None
        if self._state != GONE:
            self._state = READING
            self._take_result(task)
            if not self._in_turn:
                self.flush()
        elif not task.cancelled() and task.exception() is None:
            drop_result(self.service, task.result())

    def _take_result(self, task: "asyncio.Future[Any]") -> None:
        if task.cancelled():
            self.fail(asyncio.CancelledError("the app cancelled itself"))
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self.answer(task.result())

    def answer(self, result: Any) -> None:
        """Answers the request in hand by `(status, headers, body)`."""
        env = self._env
        body: Any = None
        if env is None or self._state == GONE:
            drop_result(self.service, result)
            return
        try:
            if type(result) is not tuple and not isinstance(result, (tuple, list)):
                raise ResponseError(
                    f"the app returned {type(result).__name__}, must return (status, headers, body)"
                )
            if len(result) != 3:
                raise ResponseError(f"the app returned {len(result)} values, must return three")
            status, headers, body = result
            number, status_line = parse_status(status)
            choice = find_choice(env, self._offer)
            if choice is None:
                if not 200 <= number <= 599:
                    raise ResponseError(f"status is {number}, must be 200 to 599")
            elif not accepts(number):
                choice = None
            head = ResponseHead(number, status_line)
            parse_headers(head, headers, self.service.settings.max_head_bytes)
            if choice is not None:
                self._upgrade(choice, head, body)
            else:
                self._respond(env, head, body)
        except Exception as error:
            close_body(self.service, body)
            self.fail(error)

    def _respond(self, env: Env, head: ResponseHead, body: Any) -> None:
        head_only = env["REQUEST_METHOD"] == "HEAD"
        status = head.status
        if head.close:
            self._keep_alive = False
        if head.hijack is not None:
            close_body(self.service, body)
            self._keep_alive = False
            self._stream(head, StreamSender(self, head.hijack, Framing(None, False), lasting=True))
            return
        if status in (204, 304):
            # "any response with a 1xx, 204, or 304 status code is always terminated by the
            # first empty line after the header fields" - RFC 9112, 6.3
            length = head.content_length if status == 304 else None
            self._send_head(head, "" if length is None else f"Content-Length: {length}\r\n", b"")
            close_body(self.service, body)
            self._end()
            return
        payload = body if type(body) is bytes else whole_body(body)
        if payload is None:
            sender = make_sender(self, body, head.content_length, self._frame)
            if head_only:
                self._send_head(head, sender.framing.field, b"")
                sender.abandon()
                self._end()
            else:
                self._stream(head, sender)
            return
        length = len(payload) if head.content_length is None else head.content_length
        if head_only:
            payload = b""
        elif length != len(payload):
            error_log.error(
                "response body of %d bytes, its Content-Length says %d", len(payload), length
            )
            # Short: only the end of the connection can say so. Long: cut.
            self._keep_alive = self._keep_alive and length < len(payload)
            payload = payload[:length]
        self._send_head(head, f"Content-Length: {length}\r\n", payload)
        if type(body) is not bytes:
            close_body(self.service, body)
        self._end()

    def _frame(self, length: int | None) -> Framing:
        if length is None and self._env is not None and self._env["SERVER_PROTOCOL"] == "HTTP/1.0":
            # "A server MUST NOT send a response containing Transfer-Encoding unless the
            # corresponding request indicates HTTP/1.1" - RFC 9112, 6.1
            self._keep_alive = False
            return Framing(None, False)
        return Framing(length, length is None)

    def _send_head(self, head: ResponseHead, size_field: str, payload: bytes | None) -> None:
        """Sends the head, and the whole body with it unless that is None."""
        keep_alive = self._keep_alive = self._keep_alive and not self.service.stopping
        assert self._env is not None or not keep_alive
        date = "" if head.dated else self.service.clock.date_line
        if not keep_alive:
            connection = "Connection: close\r\n"
        elif self._env["SERVER_PROTOCOL"] == "HTTP/1.0":  # type: ignore[index]
            connection = "Connection: keep-alive\r\n"
        else:
            connection = ""
        text = f"{head.status_line}{head.block}{date}{size_field}{connection}\r\n"
        try:
            data = text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise ResponseError(f"a header cannot be sent as latin-1: {error}") from None
        self.put(data + payload if payload else data)
        if self._started:
            self._note(head.status, None if payload is None else len(data) + len(payload))

    def _note(self, status: int, size: int | None) -> None:
        if self.service.access_log is None or self._env is None:
            return
        self.service.access_log.note(
            self._env,
            self.service.clock.date_line[6:-2],
            status,
            size,
            time.perf_counter() - self._started,
        )
        self._started = 0.0

    def _stream(self, head: ResponseHead, sender: Sender) -> None:
        self._send_head(head, sender.framing.field, None)
        self._sender = sender
        self._state = ANSWERING
        if not self.paused:
            self.deadline = NEVER
        sender.start()

    def response_sent(self, complete: bool) -> None:
        """A sender is done."""
        sender, self._sender = self._sender, None
        if self._state == GONE or sender is None:
            return
        if complete:
            self._state = READING
            self._end()
            if not self._in_turn:
                self.flush()
        elif sender.framing.by_close:
            # Only a reset tells half of such a body from the whole.
            sock = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort()
        else:
            self.close()

    def _end(self) -> None:
        """The response is whole: on to the next request, another protocol, or the end."""
        self._env = None
        self._offer = None
        if self._successor is not None:
            self._state = LEAVING
        elif not self._keep_alive:
            self._state = CLOSING
        self.request_answered()

    # Upgrades.

    def _upgrade(self, choice: tuple[str, Any], head: ResponseHead, body: Any) -> None:
        env = self._env
        assert env is not None
        kind, handler = choice
        if kind == WEBSOCKET:
            refusal = refuse_websocket(self.service, env)
        else:
            refusal = None if env["upgrade.tcp?"] else 426
        if refusal is not None:
            close_body(self.service, body)
            self.refuse_upgrade(refusal, kind)
            return
        successor = make_successor(self.service, kind, handler, env)
        status = head.status
        if kind == RAW and 200 <= status <= 299:
            # The whole response first; what follows it is no HTTP any more.
            self._successor = successor
            self._respond(env, head, body)
            return
        close_body(self.service, body)
        if kind == WEBSOCKET or status == 101:
            text = encode_101(head, env, kind, self.service.clock.date_line)
            self.put(text.encode("latin-1"))
        self._successor = successor
        self._end()

    def refuse_upgrade(self, status: int, kind: str) -> None:
        """Answers an app that chose an upgrade which this request does not allow."""
        fields = list(_EXPLANATIONS.get(status, ()))
        if kind == RAW and status == 426:
            fields = [("Upgrade", "tcp"), ("Connection", "upgrade")]
        self.say(status, fields)

    # Our own answers.

    def say(
        self,
        status: int,
        fields: list[tuple[str, str]],
        text: str = "",
        head_only: bool = False,
    ) -> None:
        """Answers the request in hand without the app."""
        number, line = parse_status(status)
        head = ResponseHead(number, line)
        fields.append(("Content-Type", "text/plain; charset=utf-8"))
        parse_headers(head, fields, 1 << 16)
        payload = (text or line[13:-2]).encode()
        length = len(payload)
        if head_only or (self._env is not None and self._env["REQUEST_METHOD"] == "HEAD"):
            payload = b""
        self._send_head(head, f"Content-Length: {length}\r\n", payload)
        self._end()

    def fail(self, error: BaseException) -> None:
        """The app raised, or returned what cannot be sent: 500, and one log entry."""
        env = self._env
        if self._state == GONE or env is None:
            error_log.error("the app raised after its client had gone", exc_info=error)
            return
        error_log.error("%s %r failed", env["REQUEST_METHOD"], env.get("PATH_INFO"), exc_info=error)
        self._successor = None
        # The request was read to its end, so the next one can be: the connection stays.
        self.say(500, [])

    def refuse(self, error: ProtocolError, head_only: bool = False) -> None:
        """Answers a client that broke the protocol, and ends the connection.

        "A server that receives an invalid request ought to respond with a 400" - RFC 9112;
        nothing behind it is looked at.
        """
        self._keep_alive = False
        self._state = READING
        self._in_turn = True  # the end of the answer is not the end of the connection yet
        _, line = parse_status(error.status)
        self.say(error.status or 400, [], f"{line[13:-2]}: {error}", head_only)
        self._in_turn = False
        self.linger()
        if str(error) in TELLING:
            self.service.log_once(str(error))

    # Ending.

    def close(self) -> None:
        """Ends the connection when all that was written is sent."""
        self.flush()
        self._state = CLOSING
        self._unsent = self.pending()
        self.deadline = self.service.clock.deadline(self.service.settings.send_timeout)
        self.transport.close()

    def linger(self) -> None:
        """Ends our side, and reads on for a while.

        "the server ... closes the write side of the read/write connection first" - RFC
        9112, 9.6: bytes that nobody read would reset the connection, and with it the
        response that the client has not seen yet.
        """
        self.flush()
        self._state = LINGERING
        self.deadline = self.service.clock.deadline(_LINGER_SECONDS)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def abort(self) -> None:
        """Ends at once."""
        self.deadline = NEVER
        self.transport.abort()


def drop_result(service: Service, result: object) -> None:
    """Nobody is there to read what the app returned, but a body is closed in every case."""
    if isinstance(result, (tuple, list)) and len(result) == 3:
        close_body(service, result[2])
