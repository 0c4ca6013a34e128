"""What an app returned becomes a response on the wire, or a change of protocol."""

import asyncio
import inspect
from time import monotonic
from typing import Any, Final

from iodine_aio.clock import NEVER
from iodine_aio.errors import ResponseError
from iodine_aio.logs import error_log
from iodine_aio.protocols.bodies import make_sender, whole_body
from iodine_aio.protocols.responding import (
    ANSWERING,
    GONE,
    READING,
    Responding,
)
from iodine_aio.protocols.sending import Sender, close_body
from iodine_aio.protocols.service import HELD_SECONDS, Service
from iodine_aio.protocols.streaming import StreamSender
from iodine_aio.protocols.upgrade import (
    RAW,
    SSE,
    WEBSOCKET,
    Choice,
    Offer,
    Successor,
    encode_101,
    encode_stream,
    find_choice,
    make_successor,
    refuse_events,
    refuse_websocket,
)
from iodine_aio.replies import Reply
from iodine_aio.wire.environ import Env
from iodine_aio.wire.framing import Framing
from iodine_aio.wire.memo import HeadMemo
from iodine_aio.wire.response import NO_DIRECTIVES, ResponseHead, make_head
from iodine_aio.wire.segments import FileBody

_HEADS: Final = HeadMemo(make_head)

_EXPLANATIONS: Final = {
    405: [("Allow", "GET")],
    426: [("Upgrade", "websocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Version", "13")],
}


class Answering(Responding):
    """What is between a request and its response."""

    __slots__ = ("_offer", "_sender", "_successor", "_task")

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._offer: Offer | None = None
        self._successor: Successor | None = None
        self._sender: Sender | None = None
        self._task: asyncio.Future[Any] | Reply | None = None

    def answer_deadline(self) -> float:
        """Until when the client must have sent what an answer on its way may need."""
        raise NotImplementedError

    # Answering.

    def call_app(self, env: Env) -> None:
        """Calls the app, and answers with what it returns, now or later."""
        service = self.service
        self._env = env
        started = monotonic()
        if service.access_log is not None:
            self._started = started
        try:
            result = service.app(env)  # type: ignore[misc]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.fail(error)
            return
        if (seconds := monotonic() - started) > HELD_SECONDS:
            service.name_held(
                "the app", seconds, f" by {env['REQUEST_METHOD']} {env['PATH_INFO']!r}"
            )
        if type(result) is tuple:
            self.answer(result)
        elif isinstance(result, (Reply, asyncio.Future)):
            self._wait_for(result)
        elif inspect.isawaitable(result):
            self._wait_for(service.start_task(result))
        else:
            self.answer(result)

    def _wait_for(self, task: "asyncio.Future[Any] | Reply") -> None:
        if self._state != GONE:  # as it is where it was hijacked at once
            self._state = ANSWERING
            self.deadline = NEVER if self._body is None else self.answer_deadline()
            self._task = task
        if task.done():
            self._task_done(task)
        else:
            task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Future[Any] | Reply") -> None:
        if self._task is task:
            self._task = None
            self._state = READING
        elif task.cancelled():  # its client is gone, or was refused
            return
        try:
            result = task.result()
        except asyncio.CancelledError:
            self.fail(asyncio.CancelledError("the app cancelled itself"))
        except BaseException as error:
            self.fail(error)
        else:
            self.answer(result)
        if self._output and not self._in_turn:
            self.service.turn_end.add(self)

    def answer(self, result: Any) -> None:
        """Answers the request in hand by `(status, headers, body)`."""
        env = self._env
        body: Any = None
        if env is None:  # as it is where the client is gone
            drop_result(self.service, result)
            return
        try:
            if type(result) is not tuple or len(result) != 3:
                result = _check_result(result)
            status, headers, body = result
            head = headers if type(headers) is ResponseHead else _HEADS.find(status, headers)
            if len(head.block) > self.service.settings.max_head_bytes:
                raise ResponseError(
                    f"response head longer than {self.service.settings.max_head_bytes} bytes"
                )
            choice = find_choice(env, self._offer)
            if choice is not None and choice.stands(head.status):
                self._upgrade(choice, head, body)
            elif 200 <= head.status <= 599:
                self._respond(env, head, body)
            else:
                raise ResponseError(f"status is {head.status}, must be 200 to 599")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            close_body(self.service, body)
            self.fail(error)

    def _respond(self, env: Env, head: ResponseHead, body: Any) -> None:
        if head.directives is not NO_DIRECTIVES and self._obey(env, head, body):
            return
        head_only = env["REQUEST_METHOD"] == "HEAD"
        status = head.status
        if status in {204, 205, 304}:
            # "any response with a 1xx, 204, or 304 status code is always terminated by the
            # first empty line after the header fields" - RFC 9112, 6.3
            length = head.content_length if status == 304 else None
            if status == 205:
                length = 0  # "a server MUST NOT generate content" - RFC 9110, 15.3.6
            self._send_head(head, "" if length is None else f"Content-Length: {length}\r\n", b"")
            close_body(self.service, body)
            self.response_ended()
            return
        payload = body if type(body) is bytes else whole_body(body)
        if payload is None:
            if (
                type(body) is not FileBody
                and not isinstance(body, Reply)
                and self._respond_represented(env, head, body)
            ):
                return
            sender = make_sender(self, body, head.content_length, self._frame)
            if head_only:
                self._send_head(head, sender.framing.field, b"")
                sender.abandon()
                self.response_ended()
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
        self.response_ended()

    def _obey(self, env: Env, head: ResponseHead, body: Any) -> bool:
        """Does what the fields ask of the server; True if that was all of the answer."""
        directives = head.directives
        if directives.close:
            self._keep_alive = False
        if directives.hijack is not None:
            if not callable(directives.hijack):
                raise ResponseError(
                    f"rack.hijack is {type(directives.hijack).__name__}, must be callable"
                )
            close_body(self.service, body)
            self._keep_alive = False
            framing = Framing(None, False)
            self._stream(head, StreamSender(self, directives.hijack, framing, lasting=True))
            return True
        return directives.sendfile is not None and self._respond_represented(env, head, body)

    def _respond_represented(self, env: Env, head: ResponseHead, body: Any) -> bool:
        """Sends a file that the app returned or named; False if it did neither."""
        if self.service.represent_file is None:
            return False
        made = self.service.represent_file(env, head, body)
        if made is None:
            return False
        if not (type(made[1]) is FileBody and made[1].file is body):
            close_body(self.service, body)
        self._respond(env, *made)
        return True

    def _frame(self, length: int | None) -> Framing:
        if length is None and self._env is not None and self._env["SERVER_PROTOCOL"] == "HTTP/1.0":
            # "A server MUST NOT send a response containing Transfer-Encoding unless the
            # corresponding request indicates HTTP/1.1" - RFC 9112, 6.1
            self._keep_alive = False
            return Framing(None, False)
        return Framing(length, length is None)

    def _stream(self, head: ResponseHead, sender: Sender) -> None:
        self._send_head(head, sender.framing.field, None)
        self._sender = sender
        self._state = ANSWERING
        if not self.paused:
            self.deadline = self.answer_deadline()
        sender.start()

    def response_sent(self, complete: bool) -> None:
        """A sender is done."""
        sender, self._sender = self._sender, None
        if self._state == GONE or sender is None:
            return
        if complete:
            self._state = READING
            self.response_ended()
            if not self._in_turn:
                self.flush()
        elif sender.framing.by_close:
            # Only a reset tells half of such a body from the whole.
            self.reset()
        else:
            self.close()

    def response_spoiled(self) -> None:
        """A sender is done, and what it sent is wrong although none of it is missing."""
        self._sender = None
        if self._state != GONE:
            self.reset()

    # Upgrades.

    def _upgrade(self, choice: Choice, head: ResponseHead, body: Any) -> None:
        env = self._env
        assert env is not None
        kind = choice.kind
        if kind == WEBSOCKET:
            refusal = refuse_websocket(self.service, env)
        elif kind == SSE:
            refusal = refuse_events(env)
        else:
            refusal = None if env["upgrade.tcp?"] else 426
        if refusal is not None:
            close_body(self.service, body)
            self.refuse_upgrade(refusal, kind)
            return
        successor = make_successor(self.service, choice, env)
        status = head.status
        if kind == RAW and 200 <= status <= 299:
            # The whole response first; what follows it is no HTTP any more.
            self._successor = successor
            self._respond(env, head, body)
            return
        close_body(self.service, body)
        if kind == SSE:
            self.put(encode_stream(head, env, self.service.clock.date_line).encode("latin-1"))
            self._note(200, None)
        elif kind == WEBSOCKET or status == 101:
            text = encode_101(head, env, kind, self.service.clock.date_line)
            self.put(text.encode("latin-1"))
        self._successor = successor
        self.response_ended()

    def refuse_upgrade(self, status: int, kind: str) -> None:
        """Answers an app that chose an upgrade which this request does not allow."""
        fields = list(_EXPLANATIONS.get(status, ()))
        if kind == RAW and status == 426:
            fields = [("Upgrade", "tcp"), ("Connection", "upgrade")]
        self.say(status, fields)

    # Its failure.

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


def drop_result(service: Service, result: object) -> None:
    """Nobody is there to read what the app returned, but a body is closed in every case."""
    if isinstance(result, (tuple, list)) and len(result) == 3:
        close_body(service, result[2])


def _check_result(result: Any) -> Any:
    if not isinstance(result, (tuple, list)):
        raise ResponseError(
            f"the app returned {type(result).__name__}, must return (status, headers, body)"
        )
    if len(result) != 3:
        raise ResponseError(
            f"the app returned {len(result)} values, must return (status, headers, body)"
        )
    return result
