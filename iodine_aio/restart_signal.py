"""SIGUSR1 where there are no workers to restart: it is refused, instead of died of.

Who has claimed the signal keeps it, be it the program or `faulthandler`.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from iodine_aio.logs import error_log

Handler = Callable[[int, FrameType | None], None]


def make_refusal() -> Handler:
    """A handler of the signal that says so, once."""
    told = False

    def refuse(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            return
        told = True  # before the next one comes, in the midst of this
        try:
            # Not at once: it may have interrupted the log, which holds its locks then.
            asyncio.get_running_loop().call_soon_threadsafe(
                error_log.warning,
                "SIGUSR1 restarts workers, and there are none: add -w N; said once",
            )
        except RuntimeError:  # no loop runs: we begin or end, and there is nothing to say
            told = False

    return refuse


@contextlib.contextmanager
def refusing_restarts() -> Iterator[None]:
    """Has the signal refused within the block, unless it is claimed; in the main thread."""
    if _is_claimed():
        yield
        return
    refuse = make_refusal()
    signal.signal(signal.SIGUSR1, refuse)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGUSR1) is refuse:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def _is_claimed() -> bool:
    if signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL:
        return True
    # That of faulthandler is no function of Python's, which does not know of it.
    try:
        with open("/proc/self/status") as file:
            caught = [int(line.split()[1], 16) for line in file if line.startswith("SigCgt:")]
    except OSError:  # this is not Linux
        return False
    return any(mask >> (signal.SIGUSR1 - 1) & 1 for mask in caught)
