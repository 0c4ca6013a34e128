"""Bodies that outgrow one write, paced by what the client takes.

A sender owns the body until its end: it frames the pieces, closes the body in every
case, and tells the protocol once whether the whole response went out.
"""

import asyncio
import io
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

from iodine_aio.errors import ResponseError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.service import Service, log_failure
from iodine_aio.protocols.writing import bytes_of
from iodine_aio.wire.response import Framing

BLOCK_BYTES: Final = 128 * 1024  # a file is read in pieces of this size
TURN_BYTES: Final = 64 * 1024  # what one response may send before others get their turn
TURN_PIECES: Final = 64


class Outlet(Protocol):
    """Where a sender writes: its connection."""

    service: Service
    paused: bool

    def put(self, data: bytes) -> None:
        """Keeps `data` back until the end of this turn."""

    def flush(self) -> None:
        """Writes what was kept back."""

    def response_sent(self, complete: bool) -> None:
        """The sender is done; an incomplete response ends the connection."""

    def pending(self) -> int:
        """Bytes that the client has not taken."""


class Sender:
    """A body on its way.

    Attributes:
        framing: how the body is delimited.
    """

    __slots__ = ("_body", "_outlet", "framing")

    def __init__(self, outlet: Outlet, body: Any, framing: Framing) -> None:
        self._outlet = outlet
        self._body = body
        self.framing = framing

    def start(self) -> None:
        """Sends the first of it, behind the head."""
        raise NotImplementedError

    def resume(self) -> None:
        """The client takes more again."""

    def abandon(self) -> None:
        """The client is gone."""
        close_body(self._outlet.service, self._body)

    def _finish(self) -> None:
        close_body(self._outlet.service, self._body)
        framing = self.framing
        if not framing.complete:
            error_log.error(
                "response body shorter than its Content-Length by %d bytes", framing.remaining
            )
            self._outlet.response_sent(False)
            return
        self._outlet.put(framing.end())
        self._outlet.flush()
        self._outlet.response_sent(True)

    def _break_off(self, error: BaseException) -> None:
        # No last chunk: half a response must not look whole.
        error_log.error("the response body raised", exc_info=error)
        close_body(self._outlet.service, self._body)
        self._outlet.response_sent(False)


class IteratorSender(Sender):
    """Pulls an iterator while the client takes what it yields; owns no task."""

    __slots__ = ("_ended", "_iterator", "_scheduled")

    def __init__(self, outlet: Outlet, body: Any, framing: Framing, pieces: Iterator[Any]) -> None:
        super().__init__(outlet, body, framing)
        self._iterator = pieces
        self._ended = False
        self._scheduled = False

    def start(self) -> None:
        self._pull()

    def resume(self) -> None:
        if not self._scheduled:
            self._pull()

    def abandon(self) -> None:
        self._ended = True
        super().abandon()

    def _pull(self) -> None:
        self._scheduled = False
        outlet, framing = self._outlet, self.framing
        sent = 0
        for _ in range(TURN_PIECES):
            if self._ended or outlet.paused:
                return
            try:
                piece = next(self._iterator, None)
                data = b"" if piece is None else bytes_of(piece)
            except (Exception, SystemExit) as error:
                self._ended = True
                self._break_off(error)
                return
            if piece is None:
                self._ended = True
                self._finish()
                return
            outlet.put(framing.encode(data))
            sent += len(data)
            if sent >= TURN_BYTES:
                break
        outlet.flush()
        if not outlet.paused:
            self._scheduled = True
            outlet.service.loop.call_soon(self._pull)


class TaskSender(Sender):
    """Runs a coroutine that writes the body, and waits when the client does not take it."""

    __slots__ = ("_task", "_turn", "_waiter")

    def __init__(self, outlet: Outlet, body: Any, framing: Framing) -> None:
        super().__init__(outlet, body, framing)
        self._task: asyncio.Task[None] | None = None
        self._turn = 0
        self._waiter: asyncio.Future[None] | None = None

    def start(self) -> None:
        self._task = self._outlet.service.start_task(self._run())

    def resume(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            super().abandon()

    async def _write_body(self) -> None:
        iterator: AsyncIterator[Any] = aiter(self._body)
        async for piece in iterator:
            await self._write(bytes_of(piece))

    async def _write(self, data: bytes) -> None:
        outlet = self._outlet
        outlet.put(self.framing.encode(data))
        outlet.flush()
        self._turn += len(data) + TURN_BYTES // 256  # an empty piece costs time, too
        if outlet.paused:
            self._waiter = outlet.service.loop.create_future()
            await self._waiter
        elif self._turn > TURN_BYTES:
            # A body that never waits must not keep the loop to itself.
            self._turn = 0
            await asyncio.sleep(0)

    async def _run(self) -> None:
        try:
            await self._write_body()
        except asyncio.CancelledError:
            close_body(self._outlet.service, self._body)
            self._outlet.response_sent(False)
            raise
        except (Exception, SystemExit) as error:
            self._break_off(error)
        else:
            self._finish()


class Stream:
    """What a callable body, or the callable of a `rack.hijack` field, writes to."""

    def __init__(self, write: Callable[[bytes], bool], sender: "StreamSender") -> None:
        self._write = write
        self._sender = sender

    def write(self, data: str | bytes) -> bool:
        """Sends `data`; False if the client is gone or takes too little for now.

        Raises:
            UsageError: `data` is neither str nor bytes, or the stream is closed.
        """
        if self.closed:
            raise UsageError("this stream is closed")
        return self._write(bytes_of(data))

    __lshift__ = write

    def flush(self) -> None:
        """Does nothing: what was written is on its way."""

    async def drain(self) -> bool:
        """Waits until the client takes more; False if it is gone."""
        return await self._sender.drain()

    async def send(self, data: str | bytes) -> bool:
        """Writes, then drains."""
        self.write(data)
        return await self.drain()

    def close(self) -> None:
        """Ends the response."""
        self._sender.close()

    @property
    def closed(self) -> bool:
        """True once the response has ended, by whichever side."""
        return self._sender.closed


class StreamSender(TaskSender):
    """A body that is a callable: it is handed a stream and writes when it likes.

    Args:
        lasting: the stream stays open when the callable has returned (`rack.hijack`);
            else the response ends with it.
    """

    __slots__ = ("_lasting", "_overrun", "closed")

    def __init__(self, outlet: Outlet, body: Any, framing: Framing, lasting: bool) -> None:
        super().__init__(outlet, body, framing)
        self._lasting = lasting
        self._overrun = False
        self.closed = False

    def start(self) -> None:
        try:
            result = self._body(Stream(self._put, self))
        except (Exception, SystemExit) as error:
            self.closed = True
            self._break_off(error)
            return
        if result is not None and hasattr(result, "__await__"):
            self._task = self._outlet.service.start_task(self._follow(result))
        elif not self._lasting:
            self.close()

    def abandon(self) -> None:
        self.closed = True
        self.resume()
        if self._task is not None:
            self._task.cancel()
        close_body(self._outlet.service, self._body)

    def close(self) -> None:
        """Ends the response."""
        if not self.closed:
            self.closed = True
            self._finish()

    async def drain(self) -> bool:
        """Waits until the client takes more."""
        self._outlet.flush()
        while self._outlet.paused and not self.closed:
            if self._waiter is None or self._waiter.done():
                self._waiter = self._outlet.service.loop.create_future()
            await asyncio.shield(self._waiter)
        await asyncio.sleep(0)  # a writer that never waits must not keep the loop to itself
        return not self.closed

    async def _follow(self, result: Awaitable[Any]) -> None:
        try:
            await result
        except asyncio.CancelledError:
            self.closed = True
            raise
        except (Exception, SystemExit) as error:
            if not self.closed:
                self.closed = True
                self._break_off(error)
        else:
            if not self._lasting:
                self.close()

    def _put(self, data: bytes) -> bool:
        outlet = self._outlet
        settings = outlet.service.settings
        pending = outlet.pending()
        if pending > settings.hard_limit_bytes:
            if not self._overrun:
                self._overrun = True
                self.closed = True
                error_log.error("a response was broken off: its client reads too slowly")
                outlet.service.loop.call_soon(outlet.response_sent, False)
            return False
        outlet.put(self.framing.encode(data))
        outlet.flush()
        return pending <= settings.soft_limit_bytes


def close_body(service: Service, body: object) -> None:
    """Calls `close()`, or `aclose()`, of a body that has one (PEP 3333; Rack, "The Body")."""
    if type(body) in (bytes, str, list, tuple):
        return
    close = getattr(body, "close", None)
    aclose = getattr(body, "aclose", None)
    try:
        if close is not None:
            close()
        if aclose is not None:
            service.start_task(aclose()).add_done_callback(log_failure)
    except (Exception, SystemExit) as error:
        error_log.error("closing a response body raised", exc_info=error)


def whole_body(body: object) -> bytes | None:
    """The bytes of a body that is all there, or None if it has to be streamed.

    Raises:
        ResponseError: a list with something else than str and bytes in it.
    """
    if type(body) is bytes:
        return body
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    if isinstance(body, (list, tuple)):
        try:
            return b"".join([piece if type(piece) is bytes else bytes_of(piece) for piece in body])
        except UsageError as error:
            raise ResponseError(f"response body: {error}") from None
    return None


def make_sender(
    outlet: Outlet, body: Any, length: int | None, frame: Callable[[int | None], Framing]
) -> Sender:
    """The sender of a body that is not whole.

    Args:
        length: the Content-Length that the app announced, or None.
        frame: makes the framing, given the length that holds.

    Raises:
        ResponseError: nothing that can be sent.
        OSError: a file that cannot be opened.
    """
    if isinstance(body, os.PathLike):
        body = open(body, "rb")  # noqa: SIM115 - closed by the sender
    if hasattr(body, "__aiter__"):
        return TaskSender(outlet, body, frame(length))
    if callable(getattr(body, "read", None)) and not isinstance(body, io.TextIOBase):
        framing = frame(_remaining_bytes(body) if length is None else length)
        return IteratorSender(outlet, body, framing, iter(lambda: body.read(BLOCK_BYTES), b""))
    if hasattr(body, "__iter__"):
        return IteratorSender(outlet, body, frame(length), iter(body))
    if callable(body):
        return StreamSender(outlet, body, frame(length), lasting=False)
    raise ResponseError(
        f"response body is {type(body).__name__}, must be str, bytes, an iterable or async"
        " iterable of them, a file, a path, or a callable that takes a stream"
    )


def _remaining_bytes(file: Any) -> int | None:
    """How much of a file is left to read; None where nobody can tell (a pipe)."""
    try:
        status = os.fstat(file.fileno())
        position: int = file.tell()
    except (AttributeError, OSError):
        return None
    return max(0, status.st_size - position) if stat.S_ISREG(status.st_mode) else None
