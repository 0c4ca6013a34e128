"""One tick for everybody: the time, the Date line, and deadlines that have passed.

A deadline is an attribute that the tick looks at (30 ns), not a timer of the loop
(1.3 us to set and cancel): setting it anew for every request costs a store.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

from iodine_aio.wire.dates import encode_date


class Expiring(Protocol):
    """What the clock looks at: a connection, of whatever protocol."""

    deadline: float

    def expire(self, now: float) -> None:
        """Is called on every tick that finds `deadline` passed."""


NEVER: Final = float("inf")


class Clock:
    """Tells a server's time once a tick.

    Args:
        watched: looked over at every tick; may change meanwhile.
        interval: seconds between two ticks.
        idle_seconds: how long a connection may be idle.

    Attributes:
        now: the end of the current tick, in the loop's time: a deadline made from it
            never passes early.
        idle_until: when a connection that falls idle now has been so for too long.
        date_line: the Date field of a response (RFC 9110, 6.6.1).
    """

    __slots__ = (
        "_and_call",
        "_handle",
        "_idle_seconds",
        "_loop",
        "date_line",
        "idle_until",
        "interval",
        "now",
        "watched",
    )

    def __init__(
        self, watched: Collection[Expiring], interval: float = 1.0, idle_seconds: float = 0
    ) -> None:
        self.watched: Final = watched
        self.interval: Final = interval
        self.now = 0.0
        self.idle_until = NEVER
        self._idle_seconds = idle_seconds
        self.date_line = f"Date: {encode_date(int(time.time()))}\r\n"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._and_call: Callable[[], object] | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(
        self, loop: asyncio.AbstractEventLoop, and_call: Callable[[], object] | None = None
    ) -> None:
        """Ticks on `loop` until `stop`, and calls `and_call()` at every tick."""
        self._loop = loop
        self._and_call = and_call
        self._tick()

    def stop(self) -> None:
        """Ticks no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def deadline(self, seconds: float) -> float:
        """When `seconds` from now have passed; never, if they are 0."""
        return self.now + seconds if seconds else NEVER

    def advance(self, now: float) -> None:
        """Makes it `now`: whatever should have ended by then expires."""
        self.now = now + self.interval
        self.idle_until = self.deadline(self._idle_seconds)
        self.date_line = f"Date: {encode_date(int(time.time()))}\r\n"
        for late in [one for one in self.watched if one.deadline <= now]:
            late.expire(now)

    def _tick(self) -> None:
        assert self._loop is not None
        self._handle = self._loop.call_later(self.interval, self._tick)
        self.advance(self._loop.time())
        if self._and_call is not None:
            self._and_call()
