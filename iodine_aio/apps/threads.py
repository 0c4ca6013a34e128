"""A blocking app on the pool: called in a thread, which also sends what it streams.

The thread that called the app pulls its body to the end, since what a generator holds
(a database session, a cursor) belongs to its thread. The client's pace holds it up.
"""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from iodine_aio.apps.application import Host
from iodine_aio.errors import ClientGoneError, UsageError
from iodine_aio.wire.environ import Env

_WHOLE: Final = (bytes, str, list, tuple, bytearray, memoryview)
_BUSY: Final = (503, [("Content-Type", "text/plain; charset=utf-8"), ("Retry-After", "1")])


class ThreadedApp:
    """Calls a plain `app(env)` in the pool.

    Args:
        max_waiting: with as many requests waiting for a thread, the next is answered 503.
    """

    def __init__(self, app: Callable[[Env], Any], host: Host, max_waiting: int) -> None:
        self._app: Final = app
        self._host: Final = host
        self._max_waiting: Final = max_waiting

    def __call__(self, env: Env) -> Any:
        pool = self._host.pool
        if pool.waiting >= self._max_waiting:
            return (*_BUSY, "All threads are busy.")
        future = asyncio.get_running_loop().create_future()
        pool.submit(contextvars.copy_context().run, self._work, env, future)
        return future

    def _work(self, env: Env, future: "asyncio.Future[Any]") -> None:
        post = self._host.post
        if future.cancelled():  # its client has gone while it waited
            return
        try:
            result = self._app(env)
        except BaseException as error:  # whatever it is, its client waits for an answer
            post(_fail, future, _as_exception(error))
            return
        body = result[2] if isinstance(result, (tuple, list)) and len(result) == 3 else None
        if (
            body is None
            or isinstance(body, _WHOLE)
            or not hasattr(body, "__iter__")
            or hasattr(body, "read")
        ):
            post(_deliver, future, result)
            return
        blocking = BlockingBody(body, post)
        if post(_deliver, future, (result[0], result[1], blocking)):
            blocking.pull()
        else:
            blocking.close_iterable()


class BlockingBody:
    """A body whose iterator may wait: a thread pulls it, and sends what comes."""

    def __init__(self, iterable: Any, post: Callable[..., bool]) -> None:
        self._iterable: Final = iterable
        self._post: Final = post
        self._decided: Final = threading.Event()
        self._stream: Any = None
        self._done: asyncio.Future[None] | None = None

    def __call__(self, stream: Any) -> "asyncio.Future[None]":
        """On the loop: the head is sent, the body may follow."""
        self._stream = stream
        self._done = asyncio.get_running_loop().create_future()
        self._decided.set()
        return self._done

    def close(self) -> None:
        """On the loop: nobody wants it, or no more of it."""
        self._decided.set()

    def pull(self) -> None:
        """In the thread: sends the whole body, unless nobody wants it."""
        self._decided.wait()
        error: BaseException | None = None
        try:
            if self._stream is not None:
                for piece in self._pieces():
                    self._stream.send_from_thread(piece)
        except ClientGoneError:
            pass
        except BaseException as raised:
            error = _as_exception(raised)
        try:
            self.close_iterable()
        except BaseException as raised:
            error = error or _as_exception(raised)
        if self._done is not None:
            self._post(*((_fail, self._done, error) if error else (_deliver, self._done, None)))

    def close_iterable(self) -> None:
        """In the thread: `close()` is called in every case (PEP 3333)."""
        close = getattr(self._iterable, "close", None)
        if close is not None:
            close()

    def _pieces(self) -> Iterator[bytes]:
        for piece in self._iterable:
            if piece:
                yield piece.encode() if isinstance(piece, str) else bytes(piece)


def _deliver(future: "asyncio.Future[Any]", result: Any) -> None:
    if future.done():
        # The client went away while the app was at work: nobody reads the body.
        body: Any = result[2] if isinstance(result, (tuple, list)) and len(result) == 3 else None
        if hasattr(body, "close"):
            body.close()
    elif inspect.isawaitable(result):
        asyncio.ensure_future(result).add_done_callback(lambda task: _copy(task, future))
    else:
        future.set_result(result)


def _copy(task: "asyncio.Future[Any]", future: "asyncio.Future[Any]") -> None:
    if task.cancelled():
        future.cancel()
    elif (error := task.exception()) is not None:
        _fail(future, error)
    else:
        _deliver(future, task.result())


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _as_exception(error: BaseException) -> Exception:
    """`error`, or what a future can carry in its place."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    text = "sys.exit()" if isinstance(error, SystemExit) else type(error).__name__
    replacement = UsageError(f"{text} came out of an app")
    replacement.__cause__ = error
    return replacement
