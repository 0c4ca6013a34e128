"""An application that runs in the browser: its page takes the place of an app's 404.

The app is asked all the same: it has routes that only it knows. A response that gives way
is closed, and its status and fields are forgotten.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from iodine_aio.replies import Reply
from iodine_aio.wire.environ import Env
from iodine_aio.wire.negotiation import prefers_html

Show = Callable[[], Any]


def navigates(env: Env) -> bool:
    """True if a browser asks for a page, which the program in it can draw."""
    # An upgrade that the app has refused must not become a 200, which means yes.
    return (
        env["REQUEST_METHOD"] in ("GET", "HEAD")
        and "HTTP_UPGRADE" not in env
        and prefers_html(env.get("HTTP_ACCEPT"))
    )


def replace_missing(result: Any, show: Show) -> Any:
    """What an app returned, or the page where that is a 404, now or later.

    Args:
        show: makes the response of the page; None if it is not there.
    """
    if isinstance(result, Reply):
        return _Replaced(result, show)
    if inspect.isawaitable(result):
        return _replace_later(result, show)
    return _replace(result, show)


def _replace(result: Any, show: Show) -> Any:
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        return result
    status, _, body = result
    if status != 404 and not (isinstance(status, str) and status.startswith("404")):
        return result
    answer = show()
    if answer is None:
        return result
    close = getattr(body, "close", None)
    if close is not None:
        close()
    return answer


async def _replace_later(result: Awaitable[Any], show: Show) -> Any:
    return _replace(await result, show)


class _Replaced(Reply):
    """What becomes of an app's reply, known in the moment in which that is.

    Awaited in a task, a reply that was given while its client left would be nobody's.
    """

    __slots__ = ("_reply", "_show")

    def __init__(self, reply: Reply, show: Show) -> None:
        super().__init__()
        self._reply = reply
        self._show = show
        if reply.done():
            self._take(reply)
        else:
            reply.add_done_callback(self._take)

    def _take(self, reply: Reply) -> None:
        if reply.cancelled():
            super().cancel()
            return
        try:
            result = _replace(reply.result(), self._show)
        except Exception as error:
            self.set_exception(error)
        else:
            self.set_result(result)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        if not self.done():
            self._reply.cancel()  # which tells us
