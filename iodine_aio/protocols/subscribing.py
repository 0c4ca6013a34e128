"""What a connection listens to, and what its user publishes."""

import asyncio
from collections.abc import Callable
from threading import get_ident
from typing import Any

from iodine_aio.errors import UsageError
from iodine_aio.protocols.callbacks import in_pool
from iodine_aio.protocols.subscriptions import Called, Straight
from iodine_aio.protocols.turns import Turns
from iodine_aio.protocols.writing import OPEN
from iodine_aio.pubsub.broker import Subscription
from iodine_aio.pubsub.message import Message


class Subscribing(Turns):
    """The subscribing part of a connection that a user's object serves."""

    __slots__ = ()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it is served."""
        return self.service.loop

    def deliver(self, message: Message) -> None:
        """Sends what was published to a channel; is called in the loop's thread."""
        raise NotImplementedError

    def open_outlet(self) -> None:
        """Lets what is published go past the connection, where that can be."""

    def subscribe(
        self, channel: str, callback: Callable[[Message], Any] | None, pattern: bool
    ) -> Subscription:
        """Sends what is published to `channel`, or calls `callback` with it.

        Raises:
            UsageError: `channel` is no channel, `callback` cannot be called, or there are
                too many subscriptions.
        """
        service = self.service
        service.broker.check_channel(channel, pattern)
        service.broker.check_room(channel, pattern)
        held = self._subscriptions
        limit = service.settings.max_subscriptions
        if held is not None and len(held) >= limit and (channel, pattern) not in held:
            raise UsageError(
                f"{limit} subscriptions of one connection already: unsubscribe from some, or"
                " raise max_subscriptions"
            )
        subscription: Subscription
        if callback is None:
            subscription = Straight(channel, pattern, self.cancel, self)
            subscriber: Subscribing | Called = self
        elif not callable(callback):
            raise UsageError(f"callback is {type(callback).__name__}, must be a function")
        else:
            if service.callbacks_in_pool:
                callback = in_pool(service, callback)
            subscription = subscriber = Called(
                channel, pattern, callback, self.cancel, self.call_soon, service
            )
        if get_ident() != service.thread_id:
            service.post(self._join, channel, pattern, subscriber)
        else:
            self._join(channel, pattern, subscriber)
        return subscription

    def unsubscribe(self, channel: str | Subscription, pattern: bool) -> None:
        """Ends a subscription of this connection, if there is one."""
        if isinstance(channel, Subscription):
            channel.cancel()
        elif isinstance(channel, str):
            self.cancel(channel, pattern, None)
        else:
            raise UsageError(
                f"cannot unsubscribe from {type(channel).__name__}, must be a channel, or what"
                " subscribe returned"
            )

    def publish(self, channel: str, data: str | bytes, to_self: bool) -> bool:
        """Sends `data` to all that listen to `channel`."""
        message = self.service.broker.make_message(channel, data)
        return self.service.publish(message, None if to_self else self)

    def cancel(
        self, channel: str, pattern: bool, subscriber: "Subscribing | Called | None"
    ) -> None:
        """Ends a subscription, if it is `subscriber`'s; None: whosesoever."""
        if get_ident() != self.service.thread_id:
            self.service.post(self.cancel, channel, pattern, subscriber)
            return
        held = self._subscriptions
        found = None if held is None else held.get((channel, pattern))
        if held is not None and found is not None and subscriber in (None, found):
            del held[channel, pattern]
            if isinstance(found, Called):
                found.ended = True
            self.service.broker.unsubscribe(channel, self, pattern)

    def _join(self, channel: str, pattern: bool, subscriber: "Subscribing | Called") -> None:
        if self._state != OPEN:
            if isinstance(subscriber, Called):
                subscriber.ended = True
            return
        if self._subscriptions is None:
            self._subscriptions = {}
        if subscriber is self:
            self.open_outlet()
        self.service.broker.subscribe(channel, subscriber, pattern, self)
        replaced = self._subscriptions.get((channel, pattern))
        if isinstance(replaced, Called):
            replaced.ended = True
        self._subscriptions[channel, pattern] = subscriber
        if self._output:
            self.service.broker.holders.add(self)

    def _leave_all(self) -> None:
        held, self._subscriptions = self._subscriptions, None
        if held is not None:
            self.service.broker.holders.discard(self)
        for (channel, pattern), subscriber in (held or {}).items():
            if isinstance(subscriber, Called):
                subscriber.ended = True
            self.service.broker.unsubscribe(channel, self, pattern)

    def _renew_outlet(self) -> None:
        for channel, pattern in self._subscriptions or ():
            self.service.broker.renew(channel, pattern)
