"""What is still there when a server has stopped: tasks, and jobs of asyncio's executor.

asyncio's own Runner waits for both, for ever, and Python waits for every thread of an
executor. A stop has a deadline.
"""

import asyncio
import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log
from iodine_aio.pool import Pool

_LOOK_SECONDS: Final = 0.05
_LAST_SECONDS: Final = 0.5  # what all of them get at least, once they are told to end


@contextlib.asynccontextmanager
async def leaving_none_behind(seconds_left: Callable[[], float]) -> AsyncIterator[None]:
    """Ends the tasks that are left after the block, and gives up those that do not end.

    Args:
        seconds_left: says how long they may take, and is asked again and again.
    """
    loop = asyncio.get_running_loop()
    executor = DaemonExecutor()
    loop.set_default_executor(executor)
    try:
        yield
    finally:
        end = loop.time() + _LAST_SECONDS
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        while tasks and (loop.time() < end or seconds_left() > 0):
            _, tasks = await asyncio.wait(tasks, timeout=_LOOK_SECONDS)
        executor.shutdown()
        while not executor.finished and (loop.time() < end or seconds_left() > 0):
            await asyncio.sleep(_LOOK_SECONDS)
        if tasks:
            names = ", ".join(sorted(map(_find_name, tasks)))
            error_log.error("given up, since they do not end when they are cancelled: %s", names)
        for task in tasks:
            # The one way to tell Runner not to wait for it.
            asyncio._unregister_task(task)


def _find_name(task: "asyncio.Task[Any]") -> str:
    """The function that a task runs: what is not of this package."""
    coroutine = task.get_coro()
    while inspect.iscoroutine(coroutine) and coroutine.cr_frame is not None:
        inner = coroutine.cr_await
        module = coroutine.cr_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] != "iodine_aio" or not inspect.iscoroutine(inner):
            break
        coroutine = inner
    return getattr(coroutine, "__qualname__", repr(task))


class DaemonExecutor(ThreadPoolExecutor):
    """Runs what `asyncio.to_thread` is given, in threads that keep no process alive.

    A ThreadPoolExecutor, since loops ask for one; it has no thread of its own.
    """

    def __init__(self) -> None:
        super().__init__(1)
        # As many threads as that of asyncio has.
        self._pool: Final = Pool(min(32, (os.cpu_count() or 1) + 4), "asyncio")

    @property
    def finished(self) -> bool:
        """True once it is shut down, and every job was done."""
        return self._pool.finished

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> "Future[Any]":
        """Runs `function(*args, **named)`.

        Raises:
            RuntimeError: it was shut down, as other executors say it.
        """
        future: Future[Any] = Future()
        try:
            self._pool.submit(_work, future, function, args, named)
        except UsageError as error:
            raise RuntimeError("cannot schedule new futures after shutdown") from error
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more jobs, and waits for none."""
        self._pool.close()


def _work(
    future: "Future[Any]", function: Callable[..., Any], args: tuple[Any, ...], named: Any
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args, **named)
    except BaseException as error:  # it is whose job it was that has to know
        future.set_exception(error)
    else:
        future.set_result(result)
