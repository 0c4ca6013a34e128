"""Threads for what blocks, made as they are needed.

One thread is called at a time, the last that fell idle, and calls the next if it finds
more to do than for itself: short jobs are then done by few threads, which do not contend
for the interpreter, and jobs that wait still get a thread each.

The threads are daemons: a job that never ends cannot keep a stopped process alive.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log

# Threads lent at once, for each that works. One that waits for its client keeps little beside
# what it has made for it, and fewer of them could be held by as many clients.
MAX_LENT: Final = 64


class Pool:
    """Runs functions in at most `size` threads, first come first served.

    Args:
        size: threads, 1 or more; each is made when a job finds no idle one.
        name: prefix of the threads' names.
    """

    def __init__(self, size: int, name: str = "iodine") -> None:
        self._size: Final = size
        self._name: Final = name
        self._numbers: Final = itertools.count()
        self._lock: Final = threading.Lock()
        self._jobs: Final[deque[tuple[Callable[..., object], tuple[Any, ...]]]] = deque()
        self._threads: Final[set[threading.Thread]] = set()
        self._idle: Final[list[threading.Lock]] = []  # one to release for each idle thread
        self._calling = False  # a thread was called, and has not looked for jobs yet
        self._lent = 0
        self._room = size  # how many more threads may be made; below 0 there are too many
        self._closed = False

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Runs `function(*args)` in a thread; what it raises is logged.

        Raises:
            UsageError: the pool was closed.
        """
        self.submit_all(function, (args,))

    def submit_all(
        self, function: Callable[..., object], arguments: Collection[tuple[Any, ...]]
    ) -> None:
        """Runs `function(*args)` for each of `arguments`, all of them or none.

        Raises:
            UsageError: the pool was closed.
            RuntimeError: the system has not even one thread.
        """
        with self._lock:
            if self._closed:
                raise UsageError("the server has stopped: its pool takes no more jobs")
            jobs = self._jobs
            jobs.extend([(function, args) for args in arguments])
            if not self._calling:
                try:
                    self._call_thread()
                except RuntimeError:
                    for _ in arguments:
                        jobs.pop()
                    raise

    @property
    def waiting(self) -> int:
        """How many jobs no thread has taken up yet."""
        return len(self._jobs)

    def lend_thread(self) -> bool:
        """Is called in a thread that waits for something else than work.

        Another may take its place until `return_thread`. False if too many are lent.
        """
        with self._lock:
            if self._lent >= self._size * MAX_LENT:
                return False
            self._lent += 1
            self._room += 1
            if self._jobs and not self._calling:
                self._call_thread()
            return True

    def return_thread(self) -> None:
        """The thread works again; another one ends when it is not needed."""
        with self._lock:
            self._lent -= 1
            self._room -= 1

    def close(self) -> None:
        """Takes no more jobs; those that were taken are still done."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().release()

    @property
    def finished(self) -> bool:
        """True once the pool is closed and every job was done."""
        return self._closed and not self._threads

    def _call_thread(self) -> None:
        if self._idle:
            self._calling = True
            self._idle.pop().release()
        elif self._room > 0:
            self._calling = True
            name = f"{self._name}-{next(self._numbers)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.add(thread)
            self._room -= 1
            try:
                thread.start()
            except RuntimeError:  # the system has no more: those that there are have to do
                self._threads.discard(thread)
                self._room += 1
                self._calling = False
                if not self._threads:
                    raise

    def _work(self) -> None:
        bell = threading.Lock()
        bell.acquire()
        jobs = self._jobs
        self._calling = False
        while True:
            # As long as there are jobs a thread takes them without the lock.
            if not jobs or self._room < 0:
                if not self._rest(bell):
                    return
                continue
            try:
                function, args = jobs.popleft()
            except IndexError:
                continue
            if jobs and not self._calling and (self._idle or self._room > 0):
                with self._lock:
                    if jobs and not self._calling:
                        self._call_thread()
            try:
                function(*args)
            except BaseException as error:  # the thread has other jobs to do
                error_log.error("a job in the pool raised: %r", function, exc_info=error)
            del function, args  # an idle thread must not keep the last job's objects alive

    def _rest(self, bell: threading.Lock) -> bool:
        """Waits to be called; False if the thread is to end."""
        with self._lock:
            if self._room < 0 or (self._closed and not self._jobs):
                self._threads.discard(threading.current_thread())
                self._room += 1
                if self._jobs and not self._calling:  # the call was for another then
                    self._call_thread()
                return False
            if self._jobs:
                return True
            self._idle.append(bell)
        bell.acquire()
        self._calling = False
        return True
