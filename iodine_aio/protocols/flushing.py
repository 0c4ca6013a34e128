"""The end of a turn of the loop, when what its connections have kept back is written.

Answering all that has come before writing any of it keeps the program's own code in the
caches, and a client on the same machine is woken by the first answer only.
"""

import asyncio
from time import monotonic
from typing import Final, Protocol

from iodine_aio.logs import error_log

MAX_CONNECTIONS: Final = 64  # each keeps back 64 KiB at most
MAX_SECONDS: Final = 0.001  # what an answer waits for the others of its turn, about


class Flushed(Protocol):
    """What keeps something back."""

    def flush(self) -> None:
        """Writes it, if that was not done meanwhile."""


class TurnEnd:
    """Those that are to be flushed when the loop has gone through what there was."""

    __slots__ = ("_loop", "_since", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._waiting: dict[Flushed, None] = {}  # a set, in their order
        self._since = 0.0

    def add(self, connection: Flushed) -> None:
        """Flushes `connection` at the end of this turn, or at once if others wait for long."""
        waiting = self._waiting
        first = not waiting
        waiting[connection] = None
        if first:
            self._since = monotonic()
            self._loop.call_soon(self.flush)
        elif len(waiting) >= MAX_CONNECTIONS or monotonic() - self._since > MAX_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Flushes them all."""
        waiting, self._waiting = self._waiting, {}
        for connection in waiting:
            try:
                connection.flush()
            except Exception as error:  # the others are to be answered all the same
                error_log.error("%r was not written to", connection, exc_info=error)
