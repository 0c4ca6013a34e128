"""Bodies that outgrow one write, paced by what the client takes.

A sender owns the body until its end: it frames the pieces, closes the body in every
case, and tells the protocol once whether the whole response went out.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any, Final, Protocol

from iodine_aio.errors import ClientGoneError
from iodine_aio.logs import error_log
from iodine_aio.protocols.service import HELD_SECONDS, Service, log_failure
from iodine_aio.protocols.writing import bytes_of
from iodine_aio.wire.framing import Framing

BLOCK_BYTES: Final = 128 * 1024  # a file is read in pieces of this size
TURN_BYTES: Final = 64 * 1024  # what one response may send before others get their turn
TURN_PIECES: Final = 64
TURN_SECONDS: Final = 0.005  # after which no further piece of it is asked for

_END: Final = object()


class Outlet(Protocol):
    """Where a sender writes: its connection."""

    service: Service
    paused: bool

    def put(self, data: bytes) -> None:
        """Keeps `data` back until the end of this turn."""

    def flush(self) -> None:
        """Writes what was kept back."""

    def send(self, data: bytes) -> None:
        """Writes `data` when this turn of the loop is over, with what else is sent until then."""

    def response_sent(self, complete: bool) -> None:
        """The sender is done; an incomplete response ends the connection."""

    def response_spoiled(self) -> None:
        """The sender is done, and what it sent is wrong although none of it is missing."""

    def find_empty_socket(self) -> int:
        """The descriptor to which bytes may be sent past the transport; -1: there is none.

        What was kept back is sent to it.
        """

    def pause_early(self, early: bool) -> None:
        """Whether writing pauses as soon as anything waits in the transport."""

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

    def _close_body(self) -> None:
        body, self._body = self._body, None  # which may know us: no circle for the collector
        close_body(self._outlet.service, body)

    def _finish(self) -> None:
        self._close_body()
        framing = self.framing
        if not framing.complete:
            error_log.error(
                "response body shorter than its Content-Length by %d bytes", framing.remaining
            )
            self._outlet.response_sent(False)
            return
        self._outlet.put(framing.end())
        self._outlet.response_sent(True)

    def _break_off(self, error: BaseException) -> None:
        # No last chunk: half a response must not look whole.
        if isinstance(error, ClientGoneError):
            error_log.error("a response was broken off: %s", error)
        else:
            error_log.error("the response body raised", exc_info=error)
        self._close_body()
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
        started = monotonic()
        self._pull_some(started + TURN_SECONDS)
        if (seconds := monotonic() - started) > HELD_SECONDS:
            self._outlet.service.name_held("the body of a response", seconds)

    def _pull_some(self, turn_ends: float) -> None:
        self._scheduled = False
        outlet, framing = self._outlet, self.framing
        sent = 0
        for _ in range(TURN_PIECES):
            if self._ended or outlet.paused:
                return
            try:
                piece = next(self._iterator, _END)
                data = b"" if piece is _END else bytes_of(piece)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._ended = True
                self._break_off(error)
                return
            if piece is _END:
                self._ended = True
                self._finish()
                return
            outlet.put(framing.encode(data))
            # Each at once: the next may be long in coming, and "must not delay the transmission
            # of any block" - PEP 3333, "Buffering and Streaming".
            outlet.flush()
            sent += len(data)
            if sent >= TURN_BYTES or monotonic() > turn_ends:
                break
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
        outlet.send(self.framing.encode(data))
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
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._break_off(error)
        else:
            self._finish()


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        error_log.error("closing a response body raised", exc_info=error)
