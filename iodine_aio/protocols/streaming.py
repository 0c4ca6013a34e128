"""A body that is a callable: it is handed a stream, and writes when it likes."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from iodine_aio.errors import ClientGoneError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.sending import Outlet, TaskSender, close_body
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.writing import bytes_of
from iodine_aio.wire.response import Framing

THREAD_WINDOW_BYTES: Final = 256 * 1024  # what a thread may be ahead of its client

# One lock for all: it is held for an addition only, and few threads write.
_posting: Final = threading.Lock()


class Stream:
    """What a callable body, or the callable of a `rack.hijack` field, writes to.

    `write` and `close` may be called from any thread.
    """

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

    def send_from_thread(self, data: bytes) -> None:
        """Sends `data`, from a thread that may wait until the client takes more.

        Raises:
            ClientGoneError: the response has ended, or the client takes nothing.
        """
        self._sender.send_from_thread(data)

    def close(self) -> None:
        """Ends the response."""
        service = self._sender.service
        if threading.get_ident() == service.thread_id:
            self._sender.close()
        else:
            service.post(self._sender.close)

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

    __slots__ = ("_changed", "_ended", "_lasting", "_on_its_way", "_posted", "_untaken", "closed")

    def __init__(self, outlet: Outlet, body: Any, framing: Framing, lasting: bool) -> None:
        super().__init__(outlet, body, framing)
        self._lasting = lasting
        self._ended = False
        self._posted = 0  # bytes that other threads wrote and that are on their way here
        self.closed = False
        self._changed: threading.Condition | None = None  # where a thread writes
        self._on_its_way = 0  # bytes that a thread sent and that the transport has not
        self._untaken = 0  # those of them that wait for the client, here

    @property
    def service(self) -> Service:
        """What its connection shares with the others."""
        return self._outlet.service

    def start(self) -> None:
        try:
            result = self._body(Stream(self._put, self))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._mark_ended()
            self._break_off(error)
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(self._followed)
        elif result is not None and hasattr(result, "__await__"):
            self._task = self._outlet.service.start_task(self._follow(result))
        elif not self._lasting:
            self.close()

    def resume(self) -> None:
        super().resume()
        if self._untaken:
            self._take_note(self._untaken)
            self._untaken = 0

    def abandon(self) -> None:
        self._mark_ended()
        self.resume()
        self._take_note(0)
        if self._task is not None:
            self._task.cancel()
        close_body(self._outlet.service, self._body)

    def close(self) -> None:
        """Ends the response."""
        if not self.closed:
            self.closed = True
            if self._posted:
                self.service.post(self._end)  # behind what other threads have written
            else:
                self._end()

    async def drain(self) -> bool:
        """Waits until the client takes more."""
        self._outlet.flush()
        while self._outlet.paused and not self.closed:
            if self._waiter is None or self._waiter.done():
                self._waiter = self._outlet.service.loop.create_future()
            await asyncio.shield(self._waiter)
        await asyncio.sleep(0)  # a writer that never waits must not keep the loop to itself
        return not self.closed

    def send_from_thread(self, data: bytes) -> None:
        """Sends `data`, and waits first while too much is on its way."""
        service = self._outlet.service
        if self._changed is None:
            self._changed = threading.Condition()
        with self._changed:
            while self._on_its_way > THREAD_WINDOW_BYTES and not self.closed:
                # Reading slowly is allowed, but not to take a thread away for ever.
                if not self._changed.wait(service.settings.send_timeout or None):
                    service.post(self._outlet.response_sent, False)
                    raise ClientGoneError("the client takes nothing of its response")
            if self.closed:
                raise ClientGoneError("the client went away in the middle of its response")
            self._on_its_way += len(data)
        service.post(self._put_of_thread, data)

    def _put_of_thread(self, data: bytes) -> None:
        if not self.closed:
            self._put(data)
        if self._outlet.paused and not self.closed:
            self._untaken += len(data)
        else:
            self._take_note(len(data))

    def _take_note(self, size: int) -> None:
        if self._changed is not None:
            with self._changed:
                self._on_its_way -= size
                self._changed.notify_all()

    def _followed(self, future: "asyncio.Future[Any]") -> None:
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
            outlet.put(self.framing.encode(data))
            outlet.flush()
        return pending <= service.settings.soft_limit_bytes

    def _put_posted(self, data: bytes) -> None:
        with _posting:
            self._posted -= len(data)
        if not self._ended:
            self._outlet.put(self.framing.encode(data))
            self._outlet.flush()

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
