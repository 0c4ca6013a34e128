"""Handlers: the objects and classes of users that serve connections.

A plain object is adopted by changing its class to one that mixes its own class with
the methods of the network; the class itself and its other objects stay as they are.
"""

import inspect
import weakref
from typing import Any, Final

from iodine_aio.errors import UsageError
from iodine_aio.protocols.connection import Connection, open_raw, open_streams, open_websockets
from iodine_aio.protocols.methods import (
    STATE,
    EventStreamMethods,
    Methods,
    RawMethods,
    WebSocketMethods,
)
from iodine_aio.wire.environ import Env

# What the handlers of a kind of connection get, and the base class that has it already.
_KINDS: Final[tuple[tuple[set[Connection], type, str], ...]] = (
    (open_websockets, WebSocketMethods, "WebSocket"),
    (open_streams, EventStreamMethods, "EventStream"),
    (open_raw, RawMethods, "Protocol"),
)


class _Traits:
    """What there is to know about a class of handlers, found out once."""

    __slots__ = ("adopted", "takes_env")

    def __init__(self) -> None:
        self.takes_env: bool | None = None
        # Weak: the adopted class refers to the user's, and would keep it alive for ever.
        self.adopted: dict[type, weakref.ref[type]] = {}


_traits: Final[weakref.WeakKeyDictionary[type, _Traits]] = weakref.WeakKeyDictionary()


def _traits_of(cls: type) -> _Traits:
    traits = _traits.get(cls)
    if traits is None:
        traits = _traits[cls] = _Traits()
    return traits


def make_handler(handler: Any, env: Env | None) -> Any:
    """The object that will serve: `handler` itself, or a new one if it is a class.

    A class is called with `env` when its constructor requires one argument or has one
    named `env`; else without. Whatever the constructor raises comes out as it is.
    """
    if not isinstance(handler, type):
        return handler
    traits = _traits_of(handler)
    if traits.takes_env is None:
        traits.takes_env = _takes_env(handler)
    return handler(env) if traits.takes_env else handler()


def _takes_env(cls: type) -> bool:
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):  # a class written in C that does not tell
        return False
    return any(
        parameter.name == "env"
        or (
            parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        )
        for parameter in parameters
    )


def adopt(handler: Any, connection: Connection) -> None:
    """Gives `handler` the methods of the network, for `connection` alone.

    Raises:
        UsageError: it serves a connection already, or its class leaves no room.
    """
    methods, base = next(
        (methods, base) for registry, methods, base in _KINDS if registry is connection.registry
    )
    cls = type(handler)
    if getattr(handler, STATE, None) is not None:
        raise UsageError(
            f"{cls.__name__} object serves a connection already: give each connection its own,"
            " or hand over the class"
        )
    try:
        if not isinstance(handler, Methods):
            object.__setattr__(handler, "__class__", _adopted_class(cls, methods))
        # Not setattr(): a frozen dataclass refuses it.
        object.__setattr__(handler, STATE, connection)
    except (TypeError, AttributeError) as error:
        raise UsageError(
            f"{cls.__name__} cannot be adopted ({error}): inherit from iodine_aio.{base}"
        ) from error


def _adopted_class(cls: type, methods: type) -> type:
    known = _traits_of(cls).adopted
    reference = known.get(methods)
    adopted = reference() if reference is not None else None
    if adopted is None:
        adopted = type(
            cls.__name__,
            (cls, methods),
            {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__},
        )
        known[methods] = weakref.ref(adopted)
    return adopted
