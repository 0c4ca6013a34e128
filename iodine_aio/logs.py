"""What is written down: one line a request if asked, one entry a fault.

Nothing here configures logging but `log_to_stderr`, for programs that are the
server and nothing else.
"""

import logging
import sys
import time
from typing import Final

from iodine_aio.wire.environ import Env

error_log: Final = logging.getLogger("iodine_aio.error")
access_log: Final = logging.getLogger("iodine_aio.access")

QUIET_SECONDS: Final = 10.0
MAX_ENTRIES: Final = 5  # of one Failures, within so long


class _EntryFormatter(logging.Formatter):
    """One entry, on lines that only it can begin.

    An error may quote a client: its line breaks forge no entry, and its control
    characters reach no terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(map(_without_controls, super().format(record).split("\n")))


def log_to_stderr(access: bool) -> None:
    """Sends the entries of both logs to stderr, unless the program has its own handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_EntryFormatter("%(message)s"))
    for logger, level in ((error_log, logging.INFO), (access_log, logging.INFO)):
        if not logger.hasHandlers():
            logger.addHandler(handler)
            logger.propagate = False
        if logger is error_log or access:
            logger.setLevel(level)


def wake_logs() -> None:
    """Undoes what a `dictConfig` does to every logger that it does not name."""
    error_log.disabled = access_log.disabled = False


def printable(text: str) -> str:
    """`text` with everything that a terminal or a log reader could take for a command escaped."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def _without_controls(line: str) -> str:
    if line.isprintable():
        return line
    return "".join([one if one.isprintable() else ascii(one)[1:-1] for one in line])


class Failures:
    """Errors that may come with every message: the first are logged whole, the rest counted.

    Each has its traceback: writing that takes ten times as long as a message does.

    Args:
        text: what fails, as in ``"a subscriber of 'room' raised"``.
    """

    __slots__ = ("_entries", "_quiet_until", "_text", "_untold")

    def __init__(self, text: str) -> None:
        self._text = text
        self._entries = 0
        self._untold = 0
        self._quiet_until = 0.0

    def add(self, error: BaseException) -> None:
        """Logs `error`, or counts it where `MAX_ENTRIES` were logged within `QUIET_SECONDS`."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self.tell()
            self._quiet_until = now + QUIET_SECONDS
            self._entries = 0
        if self._entries == MAX_ENTRIES:
            self._untold += 1
            return
        self._entries += 1
        more = "; for a while more of it is only counted" * (self._entries == MAX_ENTRIES)
        error_log.error("%s%s", self._text, more, exc_info=error)

    def tell(self) -> None:
        """Says how many were counted since."""
        if self._untold:
            error_log.error("%s %d times more", self._text, self._untold)
            self._untold = 0


class AccessLog:
    """Collects lines as requests end, and writes them once a tick, off the hot path.

    The line is Iodine's: ``127.0.0.1 - - [Mon, 23 Nov 2026 09:12:52 GMT] "GET / HTTP/1.1"
    200 145b 1ms``, `-` where nobody counted. At most `max_lines` wait for a tick; more are
    counted, not kept.
    """

    __slots__ = ("_dropped", "_lines", "_max_lines")

    def __init__(self, max_lines: int = 100_000) -> None:
        self._lines: list[str] = []
        self._dropped = 0
        self._max_lines = max_lines

    def note(self, env: Env, date: str, status: int, size: int | None, seconds: float) -> None:
        """Adds the line of one request."""
        if len(self._lines) >= self._max_lines:
            self._dropped += 1
            return
        target = printable(env["REQUEST_URI"].partition("?")[0])
        length = "-" if size is None else f"{size}b"
        self._lines.append(
            f"{env['REMOTE_ADDR'] or '-'} - - [{date}]"
            f' "{env["REQUEST_METHOD"]} {target} {env["SERVER_PROTOCOL"]}"'
            f" {status} {length} {seconds * 1000:.0f}ms"
        )

    def flush(self) -> None:
        """Hands what was collected to the `iodine_aio.access` logger."""
        lines, self._lines = self._lines, []
        for line in lines:
            access_log.info("%s", line)
        if self._dropped:
            access_log.info("%d more requests were not logged", self._dropped)
            self._dropped = 0
