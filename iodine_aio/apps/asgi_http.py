"""One ASGI request: what the app receives of it, and the response it sends.

A response in one message goes to the connection as it is; only one in several owns a
stream. Nothing here waits on more than it has to.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from typing import Any, Final, Protocol

from iodine_aio.apps.asgi_scope import (
    ASGIApp,
    Message,
    Scope,
    is_disconnect,
    misplaced,
    read_head,
)
from iodine_aio.apps.representation import TEXT
from iodine_aio.errors import ClientGoneError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.replies import Reply
from iodine_aio.wire.environ import Env
from iodine_aio.wire.segments import FileBody

MAX_UNWANTED_BYTES: Final = 64 * 1024  # that an app may send of a body that nobody takes

_TYPES: Final = ("http.response.start", "http.response.body")

_START: Final = 0  # what an app sends next: the response's start
_BODY: Final = 1  # all of the body, or the first of it
_MORE: Final = 2  # the rest of it
_NOTHING: Final = 3


class Stream(Protocol):
    """Where the connection takes a body in pieces."""

    @property
    def closed(self) -> bool:
        """The response has ended, by whichever side."""

    def push(self, data: bytes) -> bool:
        """Sends a piece; False: `drain` before the next."""

    def finish(self, data: bytes) -> None:
        """Sends the last piece, and ends the response."""

    async def drain(self) -> bool:
        """Waits until the client takes more; False if it is gone."""


class StreamedBody(Reply):
    """A body in several messages: the connection calls it with a stream.

    It has no task: the app's own calls write it. Called, it returns itself, a reply that
    keeps the response open, unless it breaks it off.

    Attributes:
        push: sends a piece; False: `drain` before the next. None while, or where, nobody
            takes it.
        ready: the first of it was taken, and the client takes more.
    """

    __slots__ = ("_first", "_opened", "_settled", "_stream", "_unwanted", "push", "ready")

    def __init__(self, first: bytes) -> None:
        super().__init__()
        self.push: Callable[[bytes], bool] | None = None
        self.ready = False
        self._first = first
        self._unwanted = 0
        self._stream: Stream | None = None
        self._settled = False  # the connection has decided what becomes of it
        self._opened: asyncio.Future[None] | None = None

    def __call__(self, stream: Stream) -> Reply:
        self._stream = stream
        self.push = push = stream.push  # without a layer in between, for pieces are many
        self._settle()  # ahead of `push`, whose write is to have what the app then sends
        self.ready = not self._first or push(self._first)
        return self

    def close(self) -> None:
        """Nobody takes it, or any more of it."""
        self._settle()

    def _settle(self) -> None:
        self._settled = True
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    async def open(self) -> None:
        """Waits until the first of it was taken."""
        if not self._settled:
            self._opened = asyncio.get_running_loop().create_future()
            await self._opened
        if self._stream is None:
            await self.drop(self._first)
        elif not self.ready:
            await self.drain()

    async def drain(self) -> None:
        """Waits until the client takes more.

        Raises:
            ClientGoneError: the client has left.
        """
        if self._stream is not None and not await self._stream.drain():
            raise _gone()

    def finish(self, data: bytes) -> None:
        """Sends the last piece, and ends the response.

        Raises:
            ClientGoneError: the client has left.
        """
        if self._stream is not None:
            if self._stream.closed:
                raise _gone()
            self._stream.finish(data)

    async def drop(self, data: bytes) -> None:
        """Takes a piece that nobody wants.

        An answer to HEAD has such a body, or one that gave way to a file: its client is
        still there, so that the app may come to its end.

        Raises:
            ClientGoneError: it has none.
        """
        self._unwanted += len(data)
        if self._unwanted > MAX_UNWANTED_BYTES:
            raise ClientGoneError("the body of this response is not sent")
        await asyncio.sleep(0)

    def fail(self, error: BaseException) -> bool:
        """Breaks the response off; False if it had ended already."""
        if self._stream is None or self._stream.closed or self.done():
            return False
        self.set_exception(error)
        return True


def _gone() -> ClientGoneError:
    return ClientGoneError("the client went away before the end of its response")


class Response(Reply):
    """A response, put together from messages.

    Args:
        types: of its messages, the one that starts it and those of its body.
    """

    __slots__ = ("_body", "_head", "_next", "_types")

    def __init__(self, types: tuple[str, str]) -> None:
        Reply.__init__(self)
        self._types = types
        self._next = _START
        self._head: Any = None
        self._body: StreamedBody | None = None

    def answer(self) -> Any:
        """`(status, headers, body)`, or, while it is not known, this reply.

        Raises:
            Exception: whatever the app raised.
        """
        if self._error is not None:
            raise self._error
        return self if self._result is None else self._result

    @property
    def complete(self) -> bool:
        """True once the app has sent the last of it."""
        return self._next == _NOTHING

    async def send(self, message: Message) -> None:
        """Takes a message of the app.

        Raises:
            ClientGoneError: the client has left.
            UsageError: the message is out of order, or malformed.
        """
        kind = message["type"]
        expected = self._next
        if self.cancelled() and expected <= _BODY:
            raise _gone()
        if expected == _BODY and kind == self._types[1]:
            if message.get("more_body"):
                self._next = _MORE
                body = self._body = StreamedBody(message.get("body", b""))
                self.settle((self._head.status, self._head, body))
                if not body.ready:
                    await body.open()
            else:
                self._next = _NOTHING
                self.settle((self._head.status, self._head, message.get("body", b"")))
        elif expected == _START and kind == self._types[0]:
            self._head = read_head(message)
            self._next = _BODY
        elif expected == _MORE and kind == self._types[1]:
            body = self._body  # type: ignore[assignment]
            data = message.get("body", b"")
            if not message.get("more_body"):
                self._next = _NOTHING
                body.finish(data)
            elif (push := body.push) is None:
                await body.drop(data)
            elif not push(data):
                await body.drain()
        elif expected == _BODY and kind == "http.response.pathsend":
            file = open_file(message["path"])
            self._next = _NOTHING
            self.settle((self._head.status, self._head, file))
        else:
            raise misplaced(message, (*self._types, self._types[1], "nothing")[expected])

    def fail(self, error: BaseException) -> None:
        """The app raised: answered by 500, or broken off; logged once."""
        if not self.break_off(error) and not is_disconnect(error):
            after = "after its response" if self.complete else "after its client had gone"
            error_log.error("the app raised %s", after, exc_info=error)

    def break_off(self, error: BaseException) -> bool:
        """Ends what is not complete; False if nobody waits for it any more."""
        if self._next == _MORE and self._body is not None:
            return self._body.fail(error)
        if self.done():
            return False
        self.set_exception(error)
        return True


def open_file(path: str) -> FileBody:
    """The whole of a file, as a body.

    Raises:
        OSError: it cannot be opened, or is no ordinary file.
    """
    # Opened without waiting: of a FIFO it would wait for its writer.
    file = open(path, "rb", buffering=0, opener=_open_nonblocking)  # noqa: SIM115
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise OSError(f"{path!r} is no ordinary file")
    return FileBody(file, [(0, status.st_size)])


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class Exchange(Response):
    """One request and its response; `receive` and `send` are the app's."""

    __slots__ = ("_incoming", "_taken", "_told")

    def __init__(self, env: Env) -> None:
        Response.__init__(self, _TYPES)  # super() costs more, once a request
        self._incoming = env["iodine_aio.body"]
        self._taken = False  # all of the request
        self._told = False  # that its client left in the middle of it

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Awaits the app to its end; raises nothing but what ends a task."""
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.fail(ClientGoneError("the app was cancelled"))
            raise
        except KeyboardInterrupt:
            raise
        except SystemExit:
            self.fail(UsageError("sys.exit() was called by an app"))
        except BaseException as error:
            if not (is_disconnect(error) and self._refuse_cut_request()):
                self.fail(error)
        else:
            if self._next != _NOTHING and not self._refuse_cut_request():
                self.break_off(UsageError("the app returned before its response was complete"))

    def _refuse_cut_request(self) -> bool:
        """Answers for an app that gave up because half its request is missing.

        It did well to: the fault is its client's, who may have shut its sending side only,
        and then reads this.
        """
        cut = self._told and self._next != _MORE
        return cut and self.settle((400, [TEXT], "Bad Request: the body is not complete"))

    async def receive(self) -> Message:
        """The next message to the app; waits for the client."""
        incoming = self._incoming
        if not self._taken:
            if incoming.ended:  # a request without a body, nearly always
                self._taken = True
                return {"type": "http.request", "body": b"", "more_body": False}
            try:
                data = await incoming.read()
            except ClientGoneError:
                self._taken = self._told = True
            else:
                self._taken = incoming.ended
                return {"type": "http.request", "body": data, "more_body": not self._taken}
        await incoming.wait_lost()
        return {"type": "http.disconnect"}
