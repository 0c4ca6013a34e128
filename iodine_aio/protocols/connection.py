"""A connection that a user's object serves: what WebSocket, raw TCP and event streams share."""

import asyncio
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, ClassVar, Final, cast

from iodine_aio.clock import NEVER
from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.callbacks import (
    PooledCallbacks,
    call_on_close,
    in_pool,
    name_handler,
)
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.subscribing import Subscribing
from iodine_aio.protocols.turns import SLICE_BYTES
from iodine_aio.protocols.writing import CLOSED, CLOSING, OPEN, count_unsent
from iodine_aio.wire.environ import Env


class Connection(Subscribing):
    """What a handler writes to.

    Attributes:
        registry: the open connections of this kind, in this process.
        handler: the user's object, until its `on_close` has returned.
        env: the request that was upgraded, or None.
        timeout: seconds of silence before `expire` asks whether the peer is alive.
        deadline: when `expire` is to be called.
    """

    __slots__ = (
        "close_code",
        "close_reason",
        "deadline",
        "env",
        "handler",
        "heard_at",
        "timeout",
    )

    kind: str
    registry: ClassVar[set["Connection"]]

    def __init__(self, service: Service, handler: Any, env: Env | None, timeout: float) -> None:
        super().__init__(
            service, PooledCallbacks(service, handler) if service.callbacks_in_pool else handler
        )
        self.handler = handler
        self.env = env
        self.timeout = timeout
        self.deadline = NEVER
        self.heard_at = 0.0
        self.close_code: int | None = None
        self.close_reason = ""

    # What a kind of connection defines for itself.

    def begin_close(self, code: int, reason: str) -> None:
        """Says goodbye; everything written before has been handed to the transport."""
        raise NotImplementedError

    def ask_for_life(self) -> None:
        """The peer was silent for `timeout` seconds."""
        raise NotImplementedError

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.registry.add(self)
        self.service.connections.add(self)
        self.heard_at = self.service.clock.now
        self.deadline = self.service.clock.deadline(self.timeout)
        self._set_marks()
        if (on_open := getattr(self.callbacks, "on_open", None)) is not None:
            self._output = []
            self._call(on_open)
            self._end_turn()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.service.clock.now
        if self._unread:
            self._unread += data
        else:
            self._take(data)

    def eof_received(self) -> bool:
        # A peer that shut its sending side still gets its answers.
        self._eof = self._task is not None or self._queue is not None or bool(self._unread)
        if not self._eof:
            self._end_writing()  # the transport closes itself
        return self._eof

    def pause_writing(self) -> None:
        assert self.transport is not None
        self._paused = True
        self._unsent = count_unsent(self.transport)
        self.deadline = min(
            self.deadline, self.service.clock.deadline(self.service.settings.send_timeout)
        )
        self._renew_outlet()
        self._hold_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._renew_outlet()
        if self._state == OPEN:
            self.deadline = self.service.clock.deadline(self.timeout)
        self._wake_waiters()
        # Not at once: asyncio's transport, closed in here, would close a second time.
        self.service.loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not self._paused and self._state != CLOSED:
            self.say_drained()
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = CLOSED
        self._leave_all()
        self.registry.discard(self)
        self.service.connections.discard(self)
        self.deadline = NEVER
        self._paused = False
        self._wake_waiters()
        # Nothing that was accepted is lost, though its answers are.
        self._output = []
        while self._unread and not self._muted:
            data, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
            self.receive(data)
        self._unread = b""
        self._output = None
        self.service.untold.add(self)
        self._enqueue(self._say_closed)

    # What the user's object does.

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes when all that was written is sent."""
        if get_ident() != self.service.thread_id:
            self.service.post(self.close, code, reason)
        elif self._state == OPEN:
            self._muted = True
            self._end_writing()
            self.begin_close(code, reason)
            if not self._reading:
                self.service.loop.call_soon(self._go_on)

    def force_close(self) -> None:
        """Closes at once."""
        if get_ident() != self.service.thread_id:
            self.service.post(self.force_close)
        else:
            self._muted = True
            self.abort()

    def defer(self, function: Callable[..., object], *args: Any) -> None:
        """Calls `function(*args)` later, never during another callback."""
        if get_ident() != self.service.thread_id:
            self.service.post(self.defer, function, *args)
        elif self._state != CLOSED:
            if self._queue is None:
                self._queue = deque()
            if self.service.callbacks_in_pool:
                function = in_pool(self.service, function)
            self._queue.append((function, args))
            self.service.loop.call_soon(self._go_on)

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Runs `function(*args)` aside."""
        if get_ident() != self.service.thread_id:
            self.service.post(self.service.run, function, args)
        else:
            self.service.run(function, args)

    def set_timeout(self, seconds: float) -> None:
        """Changes `timeout`, from now on.

        Raises:
            UsageError: it is no number of seconds.
        """
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < NEVER:
            raise UsageError(f"timeout is {seconds!r}, must be seconds, or 0 for never")
        self.timeout = seconds
        if self._state == OPEN and not self._paused:
            self.deadline = self.service.clock.deadline(seconds)

    # What the server does.

    def shut_down(self) -> None:
        """Tells the handler that the server stops, then closes."""
        if self._state == OPEN:
            if (on_shutdown := getattr(self.callbacks, "on_shutdown", None)) is not None:
                self._enqueue(on_shutdown)
            self._enqueue(self.close, 1001, "")

    def abort(self) -> None:
        """Ends at once."""
        if self._state != CLOSED:
            self._state = CLOSED
            self._leave_all()
            self.deadline = NEVER
            if self.transport is not None:
                self.transport.abort()

    def expire(self, now: float) -> None:
        """A deadline has passed: the peer is asked for a sign of life, or dropped."""
        clock = self.service.clock
        settings = self.service.settings
        assert self.transport is not None
        if self._paused or self._state == CLOSING:
            unsent = count_unsent(self.transport)
            if unsent >= self._unsent or not self.transport.get_write_buffer_size():
                error_log.debug("connection %d dropped: its peer takes nothing", self.id)
                self.abort()
                return
            self._unsent = unsent
            self.deadline = clock.deadline(
                settings.send_timeout if self._state == OPEN else settings.close_timeout
            )
        elif not self._reading:
            # While we do not read, no sign of life can be missed.
            self.deadline = clock.deadline(self.timeout)
        elif self.timeout and self.heard_at + self.timeout > now:
            self.deadline = self.heard_at + self.timeout
        else:
            self.deadline = clock.deadline(self.timeout)
            self.ask_for_life()

    def _end_writing(self) -> None:
        """From here on `write` is refused; what was written has `close_timeout` to go out."""
        if self._state == OPEN:
            self.flush()
            assert self.transport is not None
            self._state = CLOSING
            self._leave_all()
            self._unsent = count_unsent(self.transport)
            self.deadline = self.service.clock.deadline(self.service.settings.close_timeout)

    def _say_closed(self) -> None:
        # Last of all; the handler keeps the connection, the connection lets go of it.
        self.service.untold.discard(self)
        name, callbacks = name_handler(self.callbacks), self.callbacks
        self.handler = self.callbacks = self.transport = None
        call_on_close(self.service, name, callbacks, self.close_code, self.close_reason)


open_websockets: Final[set[Connection]] = set()
open_raw: Final[set[Connection]] = set()
open_streams: Final[set[Connection]] = set()


def each(
    registry: set[Connection], function: Callable[[Any], object], but: Connection | None = None
) -> None:
    """Calls `function(handler)` for every open connection of `registry`, on a snapshot."""
    for connection in tuple(registry):
        handler = connection.handler
        if connection.loop.is_closed():  # left behind by a server that nobody stopped
            registry.discard(connection)
        elif connection is not but and handler is not None and connection._state == OPEN:
            function(handler)
