"""A protocol's loop and transport without network and time.

Bytes are fed by `data_received`; what the protocol put off runs when the test says so.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class FakeLoop:
    """Runs what was asked for soon when it is told to; its time stands still."""

    def __init__(self) -> None:
        self._soon: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def call_soon(self, function: Callable[..., Any], *args: Any, context: Any = None) -> None:
        self._soon.append((function, args))

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> None:
        return None

    def time(self) -> float:
        return 0.0

    def get_debug(self) -> bool:
        return False

    def run(self) -> None:
        """Runs until nothing is left."""
        while self._soon:
            function, args = self._soon.popleft()
            function(*args)


class FakeTransport(asyncio.Transport):
    """Keeps what was written; never full.

    Attributes:
        written: all of it.
        ended: whether it was closed, aborted or given its end of file.
        reading: whether the protocol wants more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.ended, "written after the end"
        self.written += data

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.ended

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
