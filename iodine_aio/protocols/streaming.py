"""A body that is a callable: it is handed a stream, and writes when it likes."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final, cast

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.sending import TURN_BYTES, Outlet, TaskSender
from iodine_aio.protocols.service import HELD_SECONDS, Service
from iodine_aio.protocols.writing import bytes_of
from iodine_aio.replies import Reply
from iodine_aio.wire.framing import Framing

# It is called on the loop, whatever threads there are.
_CURE: Final = "let it write from a thread of its own, or await what takes time in an async def"

# One lock for all: it is held for an addition only, and few threads write.
_posting: Final = threading.Lock()


class Stream:
    """What a callable body, or the callable of a `rack.hijack` field, writes to.

    `write` and `close` may be called from any thread.

    Attributes:
        on_drained: is called when the client takes more again, on the loop.
    """

    def __init__(self, write: Callable[[bytes], bool], sender: "StreamSender") -> None:
        self._write = write
        self._sender = sender
        self.on_drained: Callable[[], object] | None = None

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
        """Sends what was written, ahead of what is yet to be computed on the loop."""
        if threading.get_ident() == self._sender.service.thread_id:
            self._sender.flush()
        # What other threads have written is on its way.

    async def drain(self) -> bool:
        """Waits until the client takes more; False if it is gone."""
        return await self._sender.drain()

    async def send(self, data: str | bytes) -> bool:
        """Writes, then drains."""
        self.write(data)
        return await self.drain()

    def close(self) -> None:
        """Ends the response."""
        service = self._sender.service
        if threading.get_ident() == service.thread_id:
            self._sender.close()
        else:
            service.post(self._sender.close)

    @property
    def paused(self) -> bool:
        """True while the client takes too little."""
        return self._sender.paused

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

    __slots__ = ("_ended", "_lasting", "_posted", "_stream", "closed")

    def __init__(self, outlet: Outlet, body: Any, framing: Framing, lasting: bool) -> None:
        super().__init__(outlet, body, framing)
        self._lasting = lasting
        self._ended = False
        self._posted = 0  # bytes that other threads wrote and that are on their way here
        self.closed = False
        self._stream: Stream | None = None

    @property
    def service(self) -> Service:
        """What its connection shares with the others."""
        return self._outlet.service

    @property
    def paused(self) -> bool:
        """True while the client takes too little."""
        return self._outlet.paused

    def start(self) -> None:
        body = self._body
        started = monotonic()
        try:
            if isinstance(body, Reply):
                # It is on the loop, and sends many pieces: without a layer in between.
                result = body(self)  # type: ignore[operator]
            else:
                self._stream = stream = Stream(self._put, self)
                result = body(stream)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._mark_ended()
            self._break_off(error)
            return
        if (seconds := monotonic() - started) > HELD_SECONDS:
            self.service.name_held("the callable body of a response", seconds, cure=_CURE)
        if isinstance(result, (Reply, asyncio.Future)):
            result.add_done_callback(self._followed)
        elif result is not None and hasattr(result, "__await__"):
            self._task = task = self._outlet.service.start_task(self._follow(result))
            if inspect.iscoroutine(result) and not task.done():
                # Cancelled before its first step, the task would never have awaited it.
                task.add_done_callback(lambda _: result.close())
        elif not self._lasting:
            self.close()

    def resume(self) -> None:
        super().resume()
        if self._stream is not None and self._stream.on_drained is not None and not self._ended:
            self._stream.on_drained()

    def abandon(self) -> None:
        self._mark_ended()
        self.resume()
        if self._task is not None:
            self._task.cancel()
        self._close_body()

    def flush(self) -> None:
        """Sends what was kept back; of a response that has ended, nothing is."""
        if not self._ended:
            self._outlet.flush()

    def close(self) -> None:
        """Ends the response."""
        if not self.closed:
            self.closed = True
            if self._posted:
                self.service.post(self._end)  # behind what other threads have written
            else:
                self._end()

    def push(self, data: bytes) -> bool:
        """Sends a piece from the loop's thread; False: `drain` before the next.

        A closed stream takes nothing, and its `drain` says so.
        """
        outlet = self._outlet
        if self.closed:
            return False
        if outlet.paused or self._posted or type(data) is not bytes:
            self._put(bytes_of(data))
            return False
        self._turn += len(data) + TURN_BYTES // 256  # an empty piece costs time, too
        outlet.send(self.framing.encode(data))
        return self._turn <= TURN_BYTES and not outlet.paused

    def finish(self, data: bytes) -> None:
        """Sends the last piece from the loop's thread, and with it the response's end."""
        if self.closed:
            return
        if self._outlet.paused or self._posted or type(data) is not bytes:
            self._put(bytes_of(data))
        elif data:
            self._outlet.put(self.framing.encode(data))
        self.close()

    async def drain(self) -> bool:
        """Waits until the client takes more."""
        self._outlet.flush()
        while self._outlet.paused and not self.closed:
            if self._waiter is None or self._waiter.done():
                self._waiter = self._outlet.service.loop.create_future()
            await asyncio.shield(self._waiter)
        if self._turn > TURN_BYTES:
            # A writer that never waits must not keep the loop to itself.
            self._turn = 0
            await asyncio.sleep(0)
        return not self.closed

    def _followed(self, future: "Reply | asyncio.Future[Any]") -> None:
        if self.closed:
            return
        if future.cancelled() or future.exception() is None:
            if not self._lasting:
                self.close()
        else:
            self._mark_ended()
            self._break_off(cast(BaseException, future.exception()))

    async def _follow(self, result: Awaitable[Any]) -> None:
        try:
            await result
        except asyncio.CancelledError:
            self._mark_ended()
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self.closed:
                self._mark_ended()
                self._break_off(error)
        else:
            if not self._lasting:
                self.close()

    def _put(self, data: bytes) -> bool:
        outlet = self._outlet
        service = outlet.service
        elsewhere = threading.get_ident() != service.thread_id
        pending = outlet.pending() + self._posted
        if pending > service.settings.hard_limit_bytes:
            if elsewhere:
                service.post(self._overflow)
            else:
                self._overflow()
            return False
        if elsewhere or self._posted:  # never ahead of what another thread has written
            with _posting:
                self._posted += len(data)
            if not service.post(self._put_posted, data):
                return False
        else:
            self._turn += len(data) + TURN_BYTES // 256  # an empty piece costs time, too
            outlet.send(self.framing.encode(data))
        return pending <= service.settings.soft_limit_bytes

    def _put_posted(self, data: bytes) -> None:
        with _posting:
            self._posted -= len(data)
        if not self._ended:
            self._outlet.send(self.framing.encode(data))

    def _overflow(self) -> None:
        if not self._ended:
            self._mark_ended()
            error_log.error("a response was broken off: its client reads too slowly")
            self.service.loop.call_soon(self._outlet.response_sent, False)

    def _end(self) -> None:
        if not self._ended:
            self._mark_ended()
            self._finish()

    def _mark_ended(self) -> None:
        self.closed = self._ended = True
        self._stream = None  # which knows us: a circle would wait for the collector
