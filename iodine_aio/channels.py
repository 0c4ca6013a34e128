"""Publish and subscribe, for all of the process: what a program may do from any thread."""

import threading
from collections.abc import Callable
from typing import Final, overload

from iodine_aio import homes
from iodine_aio.errors import UsageError
from iodine_aio.homes import broker, find_home
from iodine_aio.pubsub.broker import Subscription
from iodine_aio.pubsub.message import Message
from iodine_aio.subscriptions import Called, Messages

_lock: Final = threading.Lock()
_posted_bytes = 0  # of messages on their way from other threads


def publish(channel: str, data: str | bytes) -> bool:
    """Sends `data` to all that listen to `channel`, wherever they are.

    May be called from any thread; what one thread publishes arrives in its order. A
    message arrives at most once, and only where there was a subscriber at that time.

    Returns:
        False if it was dropped: no loop runs yet, so that nobody can listen; or other
        threads publish faster than the loop sends.

    Raises:
        UsageError: `channel` is no channel, or `data` neither str nor bytes.
    """
    global _posted_bytes
    message = broker.make_message(channel, data)
    home = find_home()
    if home is None:
        return False
    if home.thread_id == threading.get_ident():
        broker.send(message)
        return True
    with _lock:
        if _posted_bytes > homes.limits[1]:
            broker.dropped += 1
            return False
        _posted_bytes += message.size
    if home.post(_send_posted, message):
        return True
    _forget_posted(message)
    return False


def _send_posted(message: Message) -> None:
    _forget_posted(message)
    broker.send(message)


def _forget_posted(message: Message) -> None:
    global _posted_bytes
    with _lock:
        _posted_bytes -= message.size


@overload
def subscribe(channel: str, callback: None = None, pattern: bool = False) -> Messages: ...


@overload
def subscribe(
    channel: str, callback: Callable[[Message], object], pattern: bool = False
) -> Subscription: ...


def subscribe(
    channel: str,
    callback: Callable[[Message], object] | None = None,
    pattern: bool = False,
) -> Subscription:
    """Listens to `channel` from now on, until it is cancelled.

    May be called before any loop runs, and from any thread.

    Args:
        channel: a name; with `pattern`, what names may look like: `*` is anything, `?`
            any character, `[a-z]` one of these, a backslash takes the meaning away.
        callback: is called with each `Message`, one after the other; plain or `async
            def`. It runs on the loop in which this was called, else on the server's.

    Returns:
        With a callback what `unsubscribe` takes; else the messages, for ``async for``.

    Raises:
        UsageError: `channel` is no channel or one too many, or `callback` cannot be called.
    """
    broker.check_channel(channel, pattern)
    broker.check_room(channel, pattern)
    if callback is None:
        return Messages(channel, pattern)
    if not callable(callback):
        raise UsageError(f"callback is {type(callback).__name__}, must be a function")
    return Called(channel, pattern, callback)


def unsubscribe(subscription: Subscription) -> None:
    """Ends what `subscribe` has begun.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(subscription, Subscription):
        raise UsageError(
            f"cannot unsubscribe from {type(subscription).__name__}, must be what subscribe"
            " returned"
        )
    subscription.cancel()
