"""A response that is still to come, without a turn of the loop between app and client.

A future tells those who wait in the loop's next turn, and costs one. Here the one who
waits is told at once, within the call that answers.
"""

import asyncio
from collections.abc import Callable, Generator
from typing import Any


class Reply:
    """What an app may return instead of an awaitable of `(status, headers, body)`.

    It looks like a future of asyncio, as far as a connection asks.
    """

    __slots__ = ("_error", "_listener", "_result")

    def __init__(self) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._listener: Callable[[Any], object] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        # For who stands between the app and the connection, and changes what it says.
        if not self.done():
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def tell(_: Reply) -> None:
                if not told.done():
                    told.set_result(None)

            self._listener = tell
            try:
                yield from told
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    def add_done_callback(self, listener: Callable[[Any], object]) -> None:
        """Calls `listener(self)` when it is there; there can be one."""
        self._listener = listener

    def set_result(self, result: Any) -> None:
        """Answers."""
        self._result = result
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(self)

    def settle(self, result: Any) -> bool:
        """Answers; False if nobody waits for it any more."""
        if self._result is not None or self._error is not None:
            return False
        self._result = result
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(self)
        return True

    def set_exception(self, error: BaseException) -> None:
        """There will be no answer."""
        self._error = error
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(self)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        if not self.done():
            self.set_exception(asyncio.CancelledError())

    def done(self) -> bool:
        """True if it is there, or will never be."""
        return self._result is not None or self._error is not None

    def cancelled(self) -> bool:
        """True if nobody wanted it any more."""
        return isinstance(self._error, asyncio.CancelledError)

    def exception(self) -> BaseException | None:
        """What was raised instead."""
        return self._error

    def result(self) -> Any:
        """The answer; raises what was raised instead."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # which has the error, whose traceback has this frame
        return self._result
