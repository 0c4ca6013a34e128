"""Threads for what blocks, made as they are needed.

The threads are daemons: a job that never ends cannot keep a stopped process alive.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log

MAX_LENT: Final = 4  # threads lent at once, for each that works


class Pool:
    """Runs functions in at most `size` threads, first come first served.

    Args:
        size: threads, 1 or more; each is made when a job finds no idle one.
        name: prefix of the threads' names.
    """

    def __init__(self, size: int, name: str = "iodine") -> None:
        self._size: Final = size
        self._name: Final = name
        self._jobs: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._changed: Final = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._numbers: Final = itertools.count()
        self._idle = 0
        self._lent = 0
        self._closed = False

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Runs `function(*args)` in a thread; what it raises is logged.

        Raises:
            UsageError: the pool was closed.
        """
        with self._changed:
            if self._closed:
                raise UsageError("the server has stopped: its pool takes no more jobs")
            self._jobs.append((function, args))
            if self._idle >= len(self._jobs):
                self._changed.notify()
            else:
                self._grow()

    def _grow(self) -> None:
        if len(self._threads) - self._lent < self._size:
            name = f"{self._name}-{next(self._numbers)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def lend_thread(self) -> bool:
        """Is called in a thread that waits for something else than work.

        Another may take its place until `return_thread`. False if too many are lent.
        """
        with self._changed:
            if self._lent >= self._size * MAX_LENT:
                return False
            self._lent += 1
            if self._idle < len(self._jobs):
                self._grow()
            return True

    def return_thread(self) -> None:
        """The thread works again; another one ends when it is not needed."""
        with self._changed:
            self._lent -= 1

    @property
    def waiting(self) -> int:
        """How many jobs no thread has taken up yet."""
        return len(self._jobs)

    def close(self) -> None:
        """Takes no more jobs; those that were taken are still done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """True once the pool is closed and every job was done."""
        with self._changed:
            return self._closed and not self._jobs and self._idle == len(self._threads)

    def _work(self) -> None:
        while True:
            with self._changed:
                if len(self._threads) - self._lent > self._size:
                    self._threads.remove(threading.current_thread())
                    return
                self._idle += 1
                while not self._jobs:
                    if self._closed:
                        return
                    self._changed.wait()
                self._idle -= 1
                function, args = self._jobs.popleft()
            try:
                function(*args)
            except BaseException as error:  # the thread has other jobs to do
                error_log.error("a job in the pool raised: %r", function, exc_info=error)
            del function, args  # an idle thread must not keep the last job's objects alive
