"""Tasks that are still there when their server has stopped."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final

from iodine_aio.logs import error_log

_LOOK_SECONDS: Final = 0.05
_LAST_SECONDS: Final = 0.5  # what they get at least, once they are cancelled


async def end_stragglers(seconds_left: Callable[[], float]) -> None:
    """Cancels all other tasks of the running loop, and gives up those that do not end.

    asyncio's own Runner would wait for these, and the process never end.

    Args:
        seconds_left: says how long they may take, and is asked again and again.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _LAST_SECONDS
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    while tasks and (loop.time() < end or seconds_left() > 0):
        _, tasks = await asyncio.wait(tasks, timeout=_LOOK_SECONDS)
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
