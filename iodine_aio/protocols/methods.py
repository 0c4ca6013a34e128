"""The methods of the network: what an adopted object gets, and a client of the later style.

They keep no state but a reference to the connection. Whatever the user's class or object
has under the same name wins.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from iodine_aio.errors import UsageError
from iodine_aio.protocols.connection import (
    Connection,
    each,
    open_raw,
    open_streams,
    open_websockets,
)
from iodine_aio.pubsub.broker import Subscription
from iodine_aio.pubsub.message import Message
from iodine_aio.wire.events import Event

STATE: Final = "_iodine_connection"


def _connection_of(handler: object) -> Connection:
    connection: Connection | None = getattr(handler, STATE, None)
    if connection is None:
        raise UsageError(
            f"{type(handler).__name__} serves no connection yet: its network methods work from"
            " on_open on"
        )
    return connection


class _Reading:
    """Reads an attribute of the connection; hides no attribute of the object's own."""

    def __init__(self, read: Callable[[Connection], Any], doc: str) -> None:
        self._read = read
        self.__doc__ = doc

    def __get__(self, handler: object | None, owner: type) -> Any:
        return self if handler is None else self._read(_connection_of(handler))


class _Timeout:
    """The one attribute that can be set."""

    __doc__ = (
        "Seconds of silence before a WebSocket is pinged, an event stream gets a comment, or"
        " `ping` of a raw connection is called; 0: never."
    )

    def __get__(self, handler: object | None, owner: type) -> Any:
        if handler is None:
            return self
        own = getattr(handler, "__dict__", {})
        return own["timeout"] if "timeout" in own else _connection_of(handler).timeout

    def __set__(self, handler: object, value: float) -> None:
        own = getattr(handler, "__dict__", None)
        connection: Connection | None = getattr(handler, STATE, None)
        if connection is not None and (own is None or "timeout" not in own):
            connection.set_timeout(value)
        elif own is not None:
            own["timeout"] = value
        else:
            _connection_of(handler)


class _Each:
    """`object.each(f)` leaves the object out; `Class.each(f)` is for all of its kind."""

    def __init__(self, registry: set[Connection]) -> None:
        self._registry = registry

    def __get__(
        self, handler: object | None, owner: type
    ) -> Callable[[Callable[[Any], object]], None]:
        but = None if handler is None else _connection_of(handler)
        # One class may serve connections of two kinds.
        registry = self._registry if but is None else but.registry

        def each_of(function: Callable[[Any], object]) -> None:
            each(registry, function, but)

        return each_of


class Methods:
    """The methods of the network, without a place of their own for state."""

    __slots__ = ()

    # Not ClassVar[Any]: type checkers would refuse `self.timeout = 300`, and an own `self.env`.
    id: Any = _Reading(lambda c: c.id, "A number no other connection of the process has.")
    env: Any = _Reading(lambda c: c.env, "The request that was upgraded, or None.")
    pending: Any = _Reading(lambda c: c.pending, "Bytes written and not sent yet.")
    count: Any = _Reading(
        lambda c: len(c.registry), "How many connections of this kind the process has."
    )
    timeout: Any = _Timeout()

    def write(self, data: str | bytes | Event) -> bool:
        """Sends `data`, in order, without ever blocking; may be called from any thread.

        Args:
            data: for a WebSocket a str is a text message, bytes a binary one; a raw
                connection sends a str as UTF-8; on an event stream it is one event, be it
                text, UTF-8 or an `Event`.

        Returns:
            False if the connection is gone, or more than `soft_limit_bytes` were already
            pending (the data is queued all the same).

        Raises:
            UsageError: `data` is nothing that this kind of connection sends.
        """
        return _connection_of(self).write(data)

    async def send(self, data: str | bytes | Event) -> bool:
        """Writes, then waits until the connection takes more; False if it is gone."""
        return await _connection_of(self).send(data)

    async def drain(self) -> bool:
        """Waits until the connection takes more; False if it is gone."""
        return await _connection_of(self).drain()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes when all that was written is sent; a WebSocket says goodbye with `code`."""
        _connection_of(self).close(code, reason)

    def force_close(self) -> None:
        """Closes at once; what was not sent is lost."""
        _connection_of(self).force_close()

    def defer(self, function: Callable[..., object], *args: Any) -> None:
        """Calls `function(*args)` later, never during another callback of this connection."""
        _connection_of(self).defer(function, *args)

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Runs `function(*args)` aside: a plain function in the pool, a coroutine as a task."""
        _connection_of(self).run(function, *args)

    def subscribe(
        self,
        channel: str,
        callback: Callable[[Message], object] | None = None,
        pattern: bool = False,
    ) -> Subscription:
        """Has this connection hear what is published to `channel`, until it ends.

        A second subscription to the same channel takes the place of the first. May be
        called from any thread.

        Args:
            channel: a name; with `pattern`, what names may look like: `*` is anything, `?`
                any character, `[a-z]` one of these, a backslash takes the meaning away.
            callback: is called with each `Message`, like any callback of this connection;
                plain or `async def`. Without one the data is sent to the client: a str as
                text, bytes as binary.

        Returns:
            What `unsubscribe` takes, and whose `cancel` does the same.

        Raises:
            UsageError: `channel` is no channel, `callback` cannot be called, or there are
                too many subscriptions.
        """
        return _connection_of(self).subscribe(channel, callback, pattern)

    def unsubscribe(self, channel: str | Subscription, pattern: bool = False) -> None:
        """Ends a subscription, named as in `subscribe` or by what that returned."""
        _connection_of(self).unsubscribe(channel, pattern)

    def publish(self, channel: str, data: str | bytes, to_self: bool = True) -> bool:
        """Sends `data` to all that listen to `channel`, wherever they are.

        May be called from any thread; those of one thread arrive in their order.

        Args:
            to_self: False leaves this connection out.

        Returns:
            False if it was dropped, since other threads publish faster than the loop sends.

        Raises:
            UsageError: `channel` is no channel, or `data` neither str nor bytes.
        """
        return _connection_of(self).publish(channel, data, to_self)


class WebSocketMethods(Methods):
    __slots__ = ()
    each: ClassVar[_Each] = _Each(open_websockets)


class EventStreamMethods(Methods):
    __slots__ = ()
    each: ClassVar[_Each] = _Each(open_streams)


class RawMethods(Methods):
    __slots__ = ()
    each: ClassVar[_Each] = _Each(open_raw)


class _Callbacks:
    """For completion: what the server calls, all optional, each plain or `async def`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def on_open(self) -> Any: ...
        def on_message(self, data: Any) -> Any: ...
        def on_drained(self) -> Any: ...
        def on_shutdown(self) -> Any: ...
        def ping(self) -> Any: ...


class WebSocket(_Callbacks, WebSocketMethods):
    """Optional base class of WebSocket handlers: typing, completion, and slots.

    Callbacks, all optional, plain or `async def`: `on_open()`, `on_message(data)` with a
    str or bytes, `on_drained()`, `on_shutdown()`, `on_close()` or `on_close(code, reason)`.
    """

    __slots__ = (STATE,)


class EventStream(_Callbacks, EventStreamMethods):
    """Optional base class of handlers of server-sent events: typing, completion, and slots.

    Callbacks, all optional, plain or `async def`: `on_open()`, `on_drained()`, `ping()`
    after `timeout` seconds in which nothing was written (without it the client gets a
    comment), `on_shutdown()`, `on_close()`.
    """

    __slots__ = (STATE,)


class Protocol(_Callbacks, RawMethods):
    """Optional base class of raw TCP handlers: typing, completion, and slots.

    Callbacks, all optional, plain or `async def`: `on_open()`, `on_message(data)` with
    bytes, `on_drained()`, `ping()` after `timeout` seconds of silence (without it the
    connection is closed), `on_shutdown()`, `on_close()`.
    """

    __slots__ = (STATE,)


class Client(Methods):
    """A connection, as handlers of `env["rack.upgrade"]` get it with each callback.

    Callbacks, all optional, plain or `async def`: `on_open(client)`, `on_message(client,
    data)`, `on_drained(client)`, `on_shutdown(client)`, `on_close(client)` or
    `on_close(client, code, reason)`; of event streams `ping(client)`, and no `on_message`.

    Attributes:
        handler: the object that was handed over; it may serve many clients.
    """

    __slots__ = (STATE, "handler")

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    @property
    def is_open(self) -> bool:
        """False when the connection is closed, or closing."""
        return _connection_of(self).is_open

    @property
    def protocol(self) -> str:
        """ "websocket", or "sse" for an event stream."""
        return "sse" if _connection_of(self).registry is open_streams else "websocket"
