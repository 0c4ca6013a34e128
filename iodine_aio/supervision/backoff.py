"""How long a place stays empty when its workers die, one after the other."""

from typing import Final

FIRST_PAUSE: Final = 0.5  # seconds before the second replacement in a row
LONGEST_PAUSE: Final = 10.0
STABLE_SECONDS: Final = 10.0  # a worker that served for so long died of something new


class Backoff:
    """The pauses of one place: none at first, then ever longer ones."""

    __slots__ = ("_pause",)

    def __init__(self) -> None:
        self._pause = 0.0

    def next_pause(self) -> float:
        """Seconds before the next worker is started; the pause behind that is longer."""
        pause = self._pause
        self._pause = min(pause * 2, LONGEST_PAUSE) if pause else FIRST_PAUSE
        return pause

    def note_end(self, seconds: float) -> None:
        """A worker has died that had served for so long."""
        if seconds >= STABLE_SECONDS:
            self.forget()

    def forget(self) -> None:
        """The next pause is none."""
        self._pause = 0.0
