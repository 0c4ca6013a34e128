"""Signals for a process that waits in a selector instead of an event loop."""

import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Final


class SignalPipe:
    """Signals as something to wait for: `fileno` is readable when `take` has one.

    Args:
        numbers: the signals that are taken, from `catch` on.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers: Final = tuple(numbers)
        self._taken: Final[list[int]] = []
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """What to wait for."""
        return self._reader.fileno()

    def take(self) -> list[int]:
        """The signals that came since the last look, in their order."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        taken = self._taken[:]
        del self._taken[: len(taken)]
        return taken

    @contextlib.contextmanager
    def catch(self) -> Iterator[None]:
        """Takes the signals within the block, and leaves everything as it was."""
        previous: dict[int, Any] = {n: signal.signal(n, self._note) for n in self._numbers}
        # A full pipe loses a byte, and no signal: those are noted beside it.
        wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._taken.append(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lets signals wait within the block, so that none falls between two processes."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def leave_in_child(self, ignored: Sequence[int]) -> None:
        """In a forked process, within `held`: has the signals do there what they do by default.

        Args:
            ignored: those that shall do nothing. Programs that it starts do not inherit that.
        """
        signal.set_wakeup_fd(-1)
        self.close()
        for number in self._numbers:
            signal.signal(number, _ignore if number in ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def close(self) -> None:
        """Gives its descriptors back."""
        self._reader.close()
        self._writer.close()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which outlives an exec."""
