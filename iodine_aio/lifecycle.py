"""What a program asks of its process: timers, and to be told of its life.

All of it may be asked for before a server runs; it then waits for the first one.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log

# In the order of a life. What starts is told first come first served, what ends the
# other way round.
STARTING: Final = (
    "pre_start",
    "before_fork",
    "after_fork",
    "enter_child",
    "enter_master",
    "on_start",
)
ENDING: Final = ("on_parent_crush", "on_child_crush", "start_shutdown", "on_finish")

Function = Callable[..., Any]
Wait = Callable[[Awaitable[Any]], Awaitable[Any]]

_hooks: Final[dict[str, list[Function]]] = {state: [] for state in STARTING + ENDING}
_waiting: Final[list["Timer"]] = []
_loops: Final[list[asyncio.AbstractEventLoop]] = []  # of the servers that run, oldest first
_tasks: Final[set[asyncio.Task[Any]]] = set()


def on_state(state: str, function: Function) -> Function:
    """Calls `function()` whenever the process comes to `state`; returns `function`.

    Args:
        state: ``"pre_start"`` before a server accepts connections, ``"on_start"`` when it
            does, ``"start_shutdown"`` when it begins to stop, ``"on_finish"`` when it has
            stopped; the states of a parent and its workers are never reached by a
            server of one process.
        function: plain, or `async def`. What it raises in a starting state ends the start.

    Raises:
        UsageError: no such state.
    """
    if state not in _hooks:
        raise UsageError(f"no state {state!r}, there are: {', '.join(_hooks)}")
    _hooks[state].append(function)
    return function


async def enter_state(state: str, wait: Wait | None = None) -> None:
    """Calls what waits for `state`.

    Args:
        wait: awaits what hooks return that are `async def`, instead of `await`.

    Raises:
        Exception: what a hook of a starting state raised; the others are logged.
    """
    for hook in _hooks_in_order(state):
        try:
            result = hook()
            if inspect.isawaitable(result):
                await (result if wait is None else wait(result))
        except Exception as error:
            _note_failure(state, error)


def enter_state_now(state: str) -> None:
    """The same where no loop is running: in a parent, and before a worker has its own.

    A loop is made for a hook that is `async def`, and gone with it.
    """
    for hook in _hooks_in_order(state):
        try:
            result = hook()
            if inspect.isawaitable(result):
                asyncio.run(_wait_for(result))
        except Exception as error:
            _note_failure(state, error)


def forget_state(state: str) -> None:
    """Nothing waits for `state` any more."""
    _hooks[state].clear()


def _hooks_in_order(state: str) -> tuple[Function, ...]:
    hooks = _hooks[state]
    return tuple(hooks if state in STARTING else reversed(hooks))


def _note_failure(state: str, error: Exception) -> None:
    if state in STARTING:
        raise error
    error_log.error("a hook of %s raised", state, exc_info=error)


async def _wait_for(result: Any) -> Any:
    return await result


class Timer:
    """A function that is called later, once or again and again."""

    __slots__ = ("_function", "_handle", "_left", "_loop", "_next", "_seconds", "cancelled")

    def __init__(self, seconds: float, function: Function, repetitions: int | None) -> None:
        if seconds < 0:
            raise UsageError(f"a timer of {seconds} seconds, must be 0 or more")
        self._seconds = seconds
        self._function = function
        self._left = repetitions
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = 0.0
        self.cancelled = False

    def cancel(self) -> None:
        """The function is not called any more; may be called from any thread."""
        self.cancelled = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._forget)

    def _forget(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._next = loop.time() + self._seconds
        self._handle = loop.call_at(self._next, self._fire)

    def _fire(self) -> None:
        if self.cancelled:
            return
        assert self._loop is not None
        if self._left is not None:
            self._left -= 1
        if self._left is None or self._left > 0:
            # From when it was due, so that a slow function does not shift the others; but
            # what was missed altogether is not made up for.
            self._next = max(self._next + self._seconds, self._loop.time())
            self._handle = self._loop.call_at(self._next, self._fire)
        try:
            result = self._function()
        except Exception as error:
            error_log.error("a timer's function raised", exc_info=error)
            return
        if inspect.isawaitable(result):
            task = self._loop.create_task(_report(result))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)


async def _report(result: Any) -> None:
    try:
        await result
    except Exception as error:
        error_log.error("a timer's function raised", exc_info=error)


def run_after(seconds: float, function: Function) -> Timer:
    """Calls `function()` once, after `seconds`; `cancel()` the result to prevent it.

    It runs in the loop that is running, else in that of the server, now or when there
    is one. May be called from any thread.
    """
    return _schedule(Timer(seconds, function, 1))


def run_every(seconds: float, function: Function, repetitions: int = 0) -> Timer:
    """Calls `function()` every `seconds`, for ever or `repetitions` times.

    Raises:
        UsageError: `seconds` is not above 0, or `repetitions` is negative.
    """
    if seconds <= 0 or repetitions < 0:
        raise UsageError(f"cannot run every {seconds} seconds, {repetitions} times")
    return _schedule(Timer(seconds, function, repetitions or None))


def defer(function: Function, *args: Any) -> Timer:
    """Calls `function(*args)` as soon as the loop is free."""
    return run_after(0, (lambda: function(*args)) if args else function)


def _schedule(timer: Timer) -> Timer:
    try:
        timer._start(asyncio.get_running_loop())
    except RuntimeError:
        _forget_closed()
        if _loops:
            loop = _loops[0]
            loop.call_soon_threadsafe(timer._start, loop)
        else:
            _waiting.append(timer)
    return timer


def enter_loop(loop: asyncio.AbstractEventLoop) -> None:
    """A server begins to run on `loop`: starts the timers that waited for one."""
    _forget_closed()
    _loops.append(loop)
    while _waiting:
        timer = _waiting.pop(0)
        if not timer.cancelled:
            timer._start(loop)


def _forget_closed() -> None:
    """A program may end a loop without stopping its server."""
    _loops[:] = [loop for loop in _loops if not loop.is_closed()]


def leave_loop(loop: asyncio.AbstractEventLoop) -> None:
    """A server on `loop` has stopped."""
    _loops.remove(loop)
