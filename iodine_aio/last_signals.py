"""Signals that reach a program which has stopped already, and is about to end.

Who asks twice, as a terminal and the program above us do together, must not make a clean end
look like a crash, nor leave the file of the process id behind: the second signal may come
when the handlers of the stop are gone.
"""

import atexit
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from iodine_aio.lifecycle import on_state
from iodine_aio.restart_signal import make_refusal

_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def end_by(main: Callable[[], int]) -> NoReturn:
    """Ends the process with what `main()` returns, whatever signals come behind its stop."""
    numbers = [one for one in _NUMBERS if signal.getsignal(one) is not signal.SIG_IGN]
    stopping = False
    code: int | None = None

    def note_stop() -> None:
        nonlocal stopping
        stopping = True

    def take(number: int, frame: FrameType | None) -> None:
        if code is not None:
            os._exit(code)  # a thread of the program's own keeps us
        if stopping:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        _die_by(number)

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    # First, and so last of all: Python takes handlers back before it has ended.
    atexit.register(ignore)
    on_state("start_shutdown", note_stop)
    for number in numbers:  # before there is an app, which may claim any of them
        signal.signal(number, make_refusal() if number == signal.SIGUSR1 else take)
    try:
        code = main()
    except KeyboardInterrupt:
        _die_by(signal.SIGINT)
    raise SystemExit(code)


def _die_by(number: int) -> None:
    """As if there were no handler: whoever started us is told by which signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
