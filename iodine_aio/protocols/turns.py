"""Whose turn it is: the callbacks of one connection, which never overlap.

One that has to wait (`async def`) holds up those behind it, and, when too many wait, the
reading. Nothing is called while the peer does not take what was written.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, cast

from iodine_aio.logs import error_log
from iodine_aio.protocols.callbacks import drained_callback, name_handler
from iodine_aio.protocols.service import HELD_SECONDS, Service
from iodine_aio.protocols.writing import CLOSED, OPEN, Writing

SLICE_BYTES: Final = 16 * 1024  # what is parsed between two looks at the bounds
MAX_WAITING: Final = 16  # callbacks that may wait before reading pauses
MAX_TURN: Final = 256  # messages of one connection before others get their turn


class Turns(Writing):
    """The calling half of a connection that a user's object serves.

    Attributes:
        callbacks: what is called: the handler, or what calls it in the pool.
    """

    __slots__ = (
        "_eof",
        "_listens",
        "_muted",
        "_queue",
        "_reading",
        "_task",
        "_unread",
        "callbacks",
    )

    def __init__(self, service: Service, callbacks: Any) -> None:
        super().__init__(service)
        self.use_callbacks(callbacks)
        self._muted = False  # we have closed: what the peer still sends is not for the handler
        self._eof = False
        self._reading = True
        self._queue: deque[tuple[Callable[..., Any], tuple[Any, ...]]] | None = None
        self._task: asyncio.Future[Any] | None = None
        self._unread = b""

    def use_callbacks(self, callbacks: Any) -> None:
        """Has these called; before the connection is made."""
        self.callbacks = callbacks
        self._listens = callable(getattr(callbacks, "on_message", None))
        self._drains = drained_callback(callbacks) is not None

    def receive(self, data: bytes) -> int:
        """Takes bytes from the peer; returns how many messages they held."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """A callback raised: this connection ends, nobody else's."""
        error_log.error("a callback of %s raised", name_handler(self.callbacks), exc_info=error)
        self.close(1011, "")

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        callbacks, started = self.callbacks, monotonic()
        try:
            result = function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.fail(error)
            return
        if (seconds := monotonic() - started) > HELD_SECONDS:
            self.service.name_held(name_handler(callbacks), seconds)
        if result is not None:
            self._follow(result)

    def _follow(self, result: object) -> None:
        task: asyncio.Future[Any]
        if isinstance(result, asyncio.Future):
            task = result
        elif inspect.isawaitable(result):
            task = self.service.start_task(result)
        else:
            return
        if task.done():
            self._report(task)
        else:
            self._task = task
            task.add_done_callback(self._callback_done)

    def _callback_done(self, task: "asyncio.Future[Any]") -> None:
        self._task = None
        self._report(task)
        self._go_on()

    def _report(self, task: "asyncio.Future[Any]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def _enqueue(self, function: Callable[..., Any], *args: Any) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append((function, args))
        if self._output is None:
            self._go_on()
        else:  # within a callback, perhaps
            self.service.loop.call_soon(self._go_on)

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Calls `function(*args)` in its turn, and not before this call has returned."""
        if self._queue is None:
            self._queue = deque()
            self.service.loop.call_soon(self._go_on)
        self._queue.append((function, args))

    def _wait_turn(self, payload: str | bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append((self._deliver, (payload,)))

    def _deliver(self, payload: str | bytes) -> Any:
        if self._muted or self.service.aborted:
            return None
        return self.callbacks.on_message(payload)

    @property
    def _free(self) -> bool:
        """True if a message may be handed over at once."""
        return self._task is None and self._queue is None and not self._paused

    @property
    def _lags(self) -> bool:
        """True if nothing more should be read for now."""
        return not self._muted and (
            self._paused or (self._queue is not None and len(self._queue) >= MAX_WAITING)
        )

    def _go_on(self) -> None:
        """Calls what waits, then takes what was read, as far as nothing holds it up."""
        if self._output is not None:
            return  # whoever keeps writes back is busy with just this
        self._output = []
        queue = self._queue
        turn = 0
        while queue and self._task is None and (not self._paused or self._state):
            if turn == MAX_TURN:
                self.service.loop.call_soon(self._go_on)
                break
            turn += 1
            function, args = queue.popleft()
            self._call(function, *args)
        if queue is not None and not queue:
            self._queue = None
        if self._unread and not self._lags:
            data, self._unread = self._unread, b""
            self._take(data)
        self._uncork()
        if self._state == CLOSED or self._unread or self._lags:
            return
        if not self._reading:
            self._reading = True
            assert self.transport is not None
            if not self.transport.is_closing():
                self.transport.resume_reading()
        if self._eof and self._task is None and self._queue is None:
            self.close()

    def _take(self, data: bytes) -> None:
        """Parses what was read, in slices, and hands it over while nothing lags."""
        self._output = [] if self._output is None else self._output
        if len(data) <= SLICE_BYTES:
            self.receive(data)
        else:
            position = 0
            turn = 0
            while position < len(data):
                if self._lags or turn > MAX_TURN:
                    self._unread = data[position:]
                    self._hold_reading()
                    if not self._lags:
                        self.service.loop.call_soon(self._go_on)
                    break
                turn += self.receive(data[position : position + SLICE_BYTES])
                position += SLICE_BYTES
        self._end_turn()

    def _end_turn(self) -> None:
        self._uncork()
        if self._lags:
            self._hold_reading()
        elif not self._reading or (self._queue is not None and self._task is None):
            # The transport paused and resumed us while writes were kept back.
            self.service.loop.call_soon(self._go_on)

    def _hold_reading(self) -> None:
        if self._reading and self._state == OPEN and self.transport is not None:
            self._reading = False
            self.transport.pause_reading()

    def say_drained(self) -> None:
        if self._drains and self._undrained and self._state == OPEN and not self.pending:
            self._undrained = False
            self._enqueue(cast(Callable[[], Any], drained_callback(self.callbacks)))
