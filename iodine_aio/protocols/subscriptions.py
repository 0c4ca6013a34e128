"""Subscriptions of one connection: what its user holds, and how its callbacks are called."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from iodine_aio.protocols.service import Service
from iodine_aio.pubsub.broker import Subscription
from iodine_aio.pubsub.message import Message

_Cancel = Callable[[str, bool, Any], None]


class Straight(Subscription):
    """Messages go to the client; the connection is its own subscriber."""

    __slots__ = ("_cancel", "_subscriber")

    def __init__(self, channel: str, pattern: bool, cancel: _Cancel, subscriber: Any) -> None:
        super().__init__(channel, pattern)
        self._cancel: Final = cancel
        self._subscriber: Final = subscriber

    def cancel(self) -> None:
        self._cancel(self.channel, self.pattern, self._subscriber)


class Called(Subscription):
    """Messages go to a callback, in turn with the other callbacks of the connection.

    Attributes:
        ended: nothing is handed over any more, not even what waits.
    """

    __slots__ = (
        "_call_soon",
        "_callback",
        "_cancel",
        "_dropped",
        "_service",
        "_waiting",
        "_waiting_bytes",
        "ended",
    )

    def __init__(
        self,
        channel: str,
        pattern: bool,
        callback: Callable[[Message], Any],
        cancel: _Cancel,
        call_soon: Callable[..., None],
        service: Service,
    ) -> None:
        super().__init__(channel, pattern)
        self._callback: Final = callback
        self._cancel: Final = cancel
        self._call_soon: Final = call_soon
        self._service: Final = service
        self._waiting = 0
        self._waiting_bytes = 0
        self._dropped = 0
        self.ended = False

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where its connection is served."""
        return self._service.loop

    def deliver(self, message: Message) -> None:
        if self.ended:
            return
        settings = self._service.settings
        if (
            self._waiting >= settings.max_waiting_messages
            or self._waiting_bytes > settings.hard_limit_bytes
        ):
            self._dropped += 1
            self._service.broker.dropped += 1
            return
        self._waiting += 1
        self._waiting_bytes += len(message.data)
        # Never from within: the publisher may be a callback of the same connection.
        self._call_soon(self._take, message)

    def _take(self, message: Message) -> Any:
        self._waiting -= 1
        self._waiting_bytes -= len(message.data)
        return None if self.ended else self._callback(message)

    def cancel(self) -> None:
        self.ended = True
        self._cancel(self.channel, self.pattern, self)
