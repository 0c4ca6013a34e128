"""A blocking app on the pool: called in a thread, which also makes what it streams.

The thread that called the app pulls its body to the end, since what a generator holds
(a database session, a cursor) belongs to its thread. What it makes is kept for the client
up to a bound, so that most responses let their thread go before they have been sent.
"""

import asyncio
import contextvars
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from iodine_aio.apps.application import Host
from iodine_aio.errors import ClientGoneError, UsageError, as_exception
from iodine_aio.logs import error_log
from iodine_aio.replies import Reply
from iodine_aio.settings import Settings
from iodine_aio.wire.busy import answer_busy
from iodine_aio.wire.environ import Env

BATCH_BYTES: Final = 128 * 1024  # of what a thread has made, for one write

_WHOLE: Final = (bytes, str, list, tuple, bytearray, memoryview)


class ThreadedApp:
    """Calls a blocking app in the pool.

    Args:
        make_delivery: how the app is called, and what it says is read: a subclass of
            `Delivery`.
    """

    def __init__(
        self, app: Any, make_delivery: "type[Delivery]", host: Host, settings: Settings
    ) -> None:
        self._app: Final = app
        self._make_delivery: Final = make_delivery
        self._host: Final = host
        self._settings: Final = settings
        self._calls: list[tuple[contextvars.Context, Env, Delivery]] = []  # of this turn
        self._room = 0  # for calls of this turn

    def __call__(self, env: Env) -> Any:
        calls = self._calls
        if not calls:
            self._room = self._settings.max_waiting - self._host.pool.waiting
        if len(calls) >= self._room:
            return answer_busy(self._host.busy_page)
        if not calls:
            self._host.loop.call_soon(self._submit)
        delivery = self._make_delivery(self._host, self._settings)
        calls.append((contextvars.copy_context(), env, delivery))
        return delivery

    def _submit(self) -> None:
        # Not at once: whenever the loop calls back, it asks for the interpreter's lock, and
        # a thread that has it keeps it for milliseconds. So it reads what has come first.
        calls, self._calls = self._calls, []
        try:
            self._host.pool.submit_all(self._work, calls)
        except Exception as error:  # the pool is closed, or the system has no thread for it
            for _, _, delivery in calls:
                delivery.fail(error)

    def _work(self, context: contextvars.Context, env: Env, delivery: "Delivery") -> None:
        if delivery.done():  # its client has gone while it waited
            return
        try:
            context.run(delivery.respond, self._app, env)
        except BaseException as error:  # whatever it is, its client waits for an answer
            delivery.fail(error)


class Delivery(Reply):
    """Brings what a thread makes of one request to the loop."""

    __slots__ = ("_body", "_host", "_sent", "_settings")

    def __init__(self, host: Host, settings: Settings) -> None:
        # As Reply does; a call of its own would be the most of it.
        self._result = self._error = self._listener = None
        self._host = host
        self._settings = settings
        self._body: ThreadedBody | None = None
        self._sent = False  # the head is on its way

    # In the thread.

    def respond(self, app: Any, env: Env) -> None:
        """Calls the app, and has its response on its way as soon as there is something of it."""
        raise NotImplementedError

    def send(self, result: Any) -> None:
        """The response, all of it."""
        self._sent = True
        self._host.post(_settle, self, result)

    def stream(self, status: Any, headers: Any) -> "ThreadedBody":
        """The response's head; its body is written to what is returned."""
        self._sent = True
        self._body = body = ThreadedBody(self._host, self._settings)
        if not self._host.post(_settle, self, (status, headers, body)):
            body.close()
        return body

    def fail(self, error: BaseException) -> None:
        """The app raised: there is no response, or only a part of one."""
        if self._body is not None and not self._body.ended:
            self._body.finish(error)
        elif not self._sent:
            self._host.post(_fail, self, error)
        else:
            error_log.error("the app raised after its response", exc_info=error)


class PlainDelivery(Delivery):
    """Of a plain `app(env)`."""

    __slots__ = ()

    def respond(self, app: Callable[[Env], Any], env: Env) -> None:
        result = _copy_response(app(env))
        body = result[2] if type(result) is tuple and len(result) == 3 else None
        if (
            body is None
            or isinstance(body, _WHOLE)
            or not hasattr(body, "__iter__")
            or hasattr(body, "read")
            or isinstance(body, dict)  # not a body at all
        ):
            self.send(result)
            return
        try:
            target = self.stream(result[0], result[1])
            if env["REQUEST_METHOD"] != "HEAD":
                for piece in body:
                    if data := _bytes_of(piece):
                        target.write(data)
            target.finish()
        finally:
            close_iterable(body)


class ThreadedBody:
    """A body that a thread writes; it is sent while the client takes it.

    Attributes:
        ended: `finish` was called.
    """

    __slots__ = (
        "_changed", "_done", "_error", "_host", "_pieces", "_posted", "_settings", "_size",
        "_stream", "_taken", "_unwanted", "_waited", "ended",
    )  # fmt: skip

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._changed = threading.Condition(threading.Lock())
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._posted = True  # the loop will look at `_pieces`; at first since it has to begin
        self.ended = False
        self._unwanted = False
        self._error: BaseException | None = None
        self._taken = 0  # since a wait for the client began
        self._waited = 0.0
        self._stream: Any = None
        self._done: asyncio.Future[None] | None = None

    # In the thread.

    def write(self, data: bytes) -> None:
        """Sends `data`; waits first while too much is waiting for the client.

        Raises:
            ClientGoneError: the response has ended, or the client takes nothing.
        """
        with self._changed:
            if self._size > self._settings.soft_limit_bytes:
                self._wait_for_client()
            if self._unwanted:
                raise ClientGoneError("the client went away in the middle of its response")
            self._pieces.append(data)
            self._size += len(data)
            if self._posted:
                return
            self._posted = True
        self._host.post(self._move)

    def finish(self, error: BaseException | None = None) -> None:
        """That was all of it, or all there will be."""
        with self._changed:
            self.ended = True
            self._error = error
            gone = isinstance(error, ClientGoneError)
            if self._posted and not gone:
                return
            self._posted = True
        self._host.post(self._end if gone else self._move)

    def _wait_for_client(self) -> None:
        """Holds the thread up, but nobody else: the pool may put another in its place."""
        pool, settings = self._host.pool, self._settings
        lent = pool.lend_thread()
        try:
            while self._size > settings.soft_limit_bytes and not self._unwanted:
                begun = time.monotonic()
                self._changed.wait(settings.send_timeout or None)
                self._waited += time.monotonic() - begun
                if self._waited < settings.send_timeout or not settings.send_timeout:
                    continue
                # Reading slowly is allowed, but not what others need.
                if not lent and self._taken < settings.soft_limit_bytes and pool.waiting:
                    raise ClientGoneError("a slow client was dropped: others want its thread")
                self._waited, self._taken = 0.0, 0
        finally:
            if lent:
                pool.return_thread()

    # On the loop.

    def __call__(self, stream: Any) -> "asyncio.Future[None]":
        """The head is sent, the body may follow."""
        self._stream = stream
        stream.on_drained = self._move
        self._done = self._host.loop.create_future()
        self._move()
        return self._done

    def close(self) -> None:
        """Nobody wants it, or no more of it."""
        with self._changed:
            self._unwanted = True
            self._pieces.clear()
            self._changed.notify_all()

    def _move(self) -> None:
        """Hands on what the thread has made, as much as the client takes."""
        stream = self._stream
        while not stream.closed and not stream.paused:
            with self._changed:
                self._posted = False
                data = self._take_batch()
                ended = self.ended
                if not data and not ended:
                    return
                if self._size <= self._settings.soft_limit_bytes:
                    self._changed.notify_all()
            if data:
                stream.write(data)
            else:
                self._end()
                return

    def _take_batch(self) -> bytes:
        pieces = self._pieces
        if len(pieces) == 1:
            batch = [pieces.popleft()]
        else:
            batch, size = [], 0
            while pieces and size < BATCH_BYTES:
                batch.append(piece := pieces.popleft())
                size += len(piece)
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        self._size -= len(data)
        self._taken += len(data)
        return data

    def _end(self) -> None:
        done = self._done
        if done is None or done.done():
            return
        if self._stream.closed:
            done.cancel()
        elif self._error is None:
            done.set_result(None)
        else:
            _fail(done, self._error)


def _copy_response(result: Any) -> Any:
    """What an app returned, apart from what it may use for its next response, too."""
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        return result
    status, headers, body = result
    if type(headers) is dict or type(headers) is list:
        headers = headers.copy()
    if type(body) is list:
        body = tuple(body)
    elif type(body) is bytearray or type(body) is memoryview:
        body = bytes(body)
    return status, headers, body


def _bytes_of(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    # Not bytes() of everything: that of an int is as many zeros.
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise UsageError(f"the app's body has a {type(piece).__name__} in it, must be str or bytes")


def close_iterable(iterable: Any) -> None:
    """Calls its `close()` if it has one: in every case, and once (PEP 3333)."""
    close = getattr(iterable, "close", None)
    if close is not None:
        close()


def _settle(reply: Reply, result: Any) -> None:
    if type(result) is not tuple and inspect.isawaitable(result) and not reply.done():
        asyncio.ensure_future(result).add_done_callback(lambda task: _copy(task, reply))
    elif not reply.settle(result):
        # The client went away while the app was at work: nobody reads the body, nor awaits a
        # coroutine.
        close_iterable(result[2] if isinstance(result, (tuple, list)) and result[2:] else result)


def _copy(task: "asyncio.Future[Any]", reply: Reply) -> None:
    if task.cancelled():
        reply.cancel()
    elif (error := task.exception()) is not None:
        _fail(reply, error)
    else:
        _settle(reply, task.result())


def _fail(reply: "Reply | asyncio.Future[Any]", error: BaseException) -> None:
    if not reply.done():
        reply.set_exception(as_exception(error))
