"""What all connections of one server share."""

import asyncio
import contextvars
import functools
import inspect
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from iodine_aio.clock import Clock
from iodine_aio.errors import as_exception
from iodine_aio.logs import AccessLog, error_log
from iodine_aio.pool import Pool
from iodine_aio.protocols.flushing import TurnEnd
from iodine_aio.protocols.heads import HeadParser
from iodine_aio.pubsub.broker import Broker, Subscriber
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.outlets import Writable
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import Env
from iodine_aio.wire.response import ResponseHead

DISK_THREADS: Final = 4
FILE_BLOCK_BYTES: Final = 256 * 1024  # of a file that are read and written at once
HELD_SECONDS: Final = 0.25  # a call that took longer is named in the log
_CURE: Final = (
    "let it run in threads (-t N, or threads=N), or await what takes time in an async def"
)

# A coroutine that never waits costs no turn of the loop where Python can start it at once.
_EAGER: Final[dict[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
_make_task: Final[Callable[..., "asyncio.Task[Any]"]] = (
    functools.partial(asyncio.Task, **_EAGER) if _EAGER else asyncio.Task
)


class Served(Protocol):
    """A connection as its server sees it."""

    deadline: float

    @property
    def kind(self) -> str:
        """What it is called in the log."""

    def expire(self, now: float) -> None:
        """Is called on every tick of the clock that finds `deadline` passed."""

    def shut_down(self) -> None:
        """Ends when what it is doing is done; the server stops."""

    def abort(self) -> None:
        """Ends at once."""


class Service:
    """Given to every connection: the app, the settings, the clock, the other connections.

    Attributes:
        app: `app(env)`, or None where only raw connections are served.
        streams_requests: the app is called before the body of its request was read.
        callbacks_in_pool: plain callbacks of handlers may block.
        represent_file: `(env, head, body)` becomes another head and body where the app
            returned a file or named one, with the ranges and conditions of `env` obeyed.
        busy_page: HTML for those that there is no room for, or None.
        block: where blocks of files lie for a moment, on the loop.
        broker: who listens to which channel; belongs to the loop's thread.
        disk: threads that wait for the disk, apart from those that wait for apps.
        connections: all of them, of every protocol; a connection adds and removes itself.
        app_env: what the app adds to the env of every request.
        tasks: apps and handlers that are running.
        untold: lost connections whose handlers are busy, and are yet to hear of it.
        stopping: no request is taken any more.
        drain_seconds: how long a stop leaves idle HTTP connections open.
        aborted: no message that still waits is handed over any more.
        descriptor_ceiling, descriptor_brim: see `Levels`.
        rest: accepts no connection for a while.
    """

    def __init__(self, app: Callable[[Env], Any] | None, settings: Settings) -> None:
        self.app = app
        self.streams_requests = False
        self.callbacks_in_pool = False
        self.represent_file: Callable[[Env, Any, Any], tuple[ResponseHead, Any] | None] | None
        self.represent_file = None
        self.busy_page: bytes | None = None
        self.settings: Final = settings
        self.connections: Final[set[Served]] = set()
        self.clock: Final = Clock(
            self.connections, _tick_interval(settings), settings.keep_alive_timeout
        )
        self.pool = Pool(settings.pool_size)
        self.block: Final = memoryview(bytearray(FILE_BLOCK_BYTES))
        self.disk = Pool(DISK_THREADS, "iodine-disk")
        self.tasks: Final[set[asyncio.Task[Any]]] = set()
        self.untold: Final[set[object]] = set()
        self.heads: Final = HeadParser()
        self.broker = Broker(log_subscriber)
        self._posted_bytes = 0  # of messages that other threads publish
        self.access_log: Final = AccessLog() if settings.access_log else None
        self.app_env: Env = {}
        self.stopping = False
        self.aborted = False
        self.drain_seconds = 0.0
        self.descriptor_ceiling = self.descriptor_brim = sys.maxsize
        self.rest: Callable[[], object] = lambda: None
        self.loop: asyncio.AbstractEventLoop
        self.turn_end: TurnEnd
        self.thread_id = 0
        self._mail: Final[deque[tuple[Callable[..., object], tuple[Any, ...]]]] = deque()
        self._mail_called = False  # the loop was told to look
        self._posting: Final = threading.Lock()  # held for an addition only
        self._logged: Final[set[str]] = set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Is called in the thread of `loop`, before the first connection."""
        self.loop = loop
        self.turn_end = TurnEnd(loop)
        self.thread_id = threading.get_ident()
        self.clock.start(loop, self.access_log.flush if self.access_log is not None else None)

    def start_task(self, awaitable: Awaitable[Any]) -> "asyncio.Task[Any]":
        """A task that awaits `awaitable`; it may be done already."""
        task = _make_task(_guard(awaitable), loop=self.loop)
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(functools.partial(self._end_task, awaitable))
        return task

    def start_guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `start_task`, for a coroutine that catches all but what ends a task."""
        task = _make_task(coroutine, loop=self.loop)
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _end_task(self, awaitable: Awaitable[Any], task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        if task.cancelled() and inspect.iscoroutine(awaitable):
            awaitable.close()  # cancelled before its first step, it was never awaited

    def run(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Runs a plain function in the pool, a coroutine function as a task."""
        if is_coroutine_function(function):
            task = self.start_task(function(*args))  # type: ignore[arg-type]
            task.add_done_callback(log_failure)
        else:
            self.pool.submit(function, *args)

    def call_in_pool(self, function: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """Calls `function(*args)` in the pool, in the context of the caller.

        Raises:
            UsageError: the pool was closed.
        """
        future = self.loop.create_future()
        context = contextvars.copy_context()
        self.pool.submit(_call, self.post, future, context.run, function, *args)
        return future

    def publish(self, message: Message, but: object = None) -> bool:
        """Publishes `message`, except to `but`; may be called from any thread.

        False if another thread's message is dropped: the loop has ended, or more than
        `hard_limit_bytes` already wait to be published.
        """
        if threading.get_ident() == self.thread_id:
            self.broker.send(message, but)
            return True
        with self._posting:
            if self._posted_bytes > self.settings.hard_limit_bytes:
                self.broker.dropped += 1
                return False
            self._posted_bytes += message.size
        return self.post(self._publish_posted, message, but)

    def _publish_posted(self, message: Message, but: object) -> None:
        with self._posting:
            self._posted_bytes -= message.size
        self.broker.send(message, but)

    def log_once(self, text: str) -> None:
        """Logs what would otherwise be said of every such connection."""
        if text not in self._logged:
            self._logged.add(text)
            error_log.warning("%s; said once", text)

    def name_held(self, who: str, seconds: float, where: str = "", cure: str = _CURE) -> None:
        """Says once of an app, or of a class of handlers, that it kept the loop to itself."""
        if who not in self._logged:
            self._logged.add(who)
            error_log.warning(
                "%s held the loop for %.0f ms%s, and everybody else waited: %s; said once",
                *(who, seconds * 1000, where, cure),
            )

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Calls `function(*args)` in the loop's thread, soon; False if the loop has ended.

        May be called from any thread. Many calls wake the loop once.
        """
        self._mail.append((function, args))
        # No lock: who reads says so before looking. Two may find it unsaid, and wake the
        # loop twice.
        if not self._mail_called:
            self._mail_called = True
            try:
                self.loop.call_soon_threadsafe(self._read_mail)
            except RuntimeError:  # the loop is closed
                self._mail_called = False
                self._mail.clear()
                return False
        return True

    def _read_mail(self) -> None:
        self._mail_called = False
        mail = self._mail
        for _ in range(len(mail)):  # what comes meanwhile calls again
            function, args = mail.popleft()
            try:
                function(*args)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # what lies behind it is of other connections
                error_log.error("a job raised", exc_info=error)


def is_coroutine_function(function: object) -> bool:
    """True if calling `function` makes a coroutine, also where it is an object."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method itself is asked for
    )


def log_subscriber(subscriber: Subscriber | Writable, error: Exception) -> None:
    """Logs what a subscriber raised instead of taking a message."""
    error_log.error("%r raised on a message", subscriber, exc_info=error)


def log_failure(task: "asyncio.Task[Any]") -> None:
    """Logs what a task raised, unless it was cancelled."""
    if not task.cancelled() and (error := task.exception()) is not None:
        # Not of which coroutine: asked of a task that ended at once, Python 3.12.1 crashes.
        error_log.error("a job raised", exc_info=error)


def _call(
    post: Callable[..., bool],
    future: "asyncio.Future[Any]",
    function: Callable[..., Any],
    *args: Any,
) -> None:
    """In a thread: brings back what `function(*args)` returns or raises."""
    try:
        result = function(*args)
    except BaseException as error:  # whatever it is, the connection waits for its callback
        post(_settle, future, None, as_exception(error))
    else:
        post(_settle, future, result, None)


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _guard(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except SystemExit as error:
        # Out of a task it would end the loop, and with it everybody else's connection.
        raise as_exception(error) from error


def _tick_interval(settings: Settings) -> float:
    timeouts = (
        settings.keep_alive_timeout,
        settings.head_timeout,
        settings.body_timeout,
        settings.send_timeout,
        settings.half_close_timeout,
        settings.ping_interval,
        settings.close_timeout,
    )
    return max(0.01, min([1.0, *(seconds / 4 for seconds in timeouts if seconds)]))
