"""The callbacks that a user's object has, and how they want to be called."""

import asyncio
import functools
import inspect
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from iodine_aio.logs import error_log
from iodine_aio.protocols.service import Service, is_coroutine_function

_CALLBACKS: Final = (
    "on_open",
    "on_message",
    "on_drained",
    "on_ready",
    "on_shutdown",
    "on_close",
    "ping",
)


class PooledCallbacks:
    """The callbacks of a handler that may block: each is called in the pool.

    What is called returns a future; so they run one after the other, as coroutines do.
    """

    def __init__(self, service: Service, handler: object) -> None:
        self.handler: Final = handler
        for name in _CALLBACKS:
            callback = getattr(handler, name, None)
            if callback is not None:
                setattr(self, name, in_pool(service, callback))


class ClientCallbacks:
    """The callbacks of a handler that is told whose they are: the client comes first.

    Many connections may share the handler; it may be a module or a class, whose functions
    are called as they are.
    """

    # What is called rarely is bound when it is called: an idle connection stays small.
    __slots__ = ("_client", "_service", "handler", "on_message")

    def __init__(self, service: Service, handler: object, client: object) -> None:
        self._service = service
        self.handler: Final = handler
        self._client = client
        on_message = getattr(handler, "on_message", None)
        self.on_message = None if on_message is None else self._bind(on_message)

    def __getattr__(self, name: str) -> Any:
        if name not in _CALLBACKS:
            raise AttributeError(name)
        callback = getattr(self.handler, name)
        return None if callback is None else self._bind(callback)

    def _bind(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        bound = functools.partial(callback, self._client)
        # Asked of the callback: a partial of an object with an async __call__ does not tell.
        if self._service.callbacks_in_pool and not is_coroutine_function(callback):
            return in_pool(self._service, bound)
        return bound


def in_pool(service: Service, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called in the pool; a coroutine function stays on the loop."""
    if is_coroutine_function(function):
        return function

    @functools.wraps(function)  # the signature says whether on_close takes a code
    def call(*args: Any) -> "asyncio.Future[Any]":
        return service.call_in_pool(function, *args)

    return call


def name_handler(callbacks: object) -> str:
    """What the log calls the handler behind `callbacks`: its class, or what it is itself."""
    handler = callbacks
    if isinstance(callbacks, (PooledCallbacks, ClientCallbacks)):
        handler = callbacks.handler
    return (handler if isinstance(handler, (type, ModuleType)) else type(handler)).__name__


_code_takers: Final[weakref.WeakKeyDictionary[Any, bool]] = weakref.WeakKeyDictionary()


def drained_callback(handler: object) -> Callable[[], Any] | None:
    """`on_drained`, or `on_ready`, its name in Iodine 0.2."""
    on_drained = getattr(handler, "on_drained", None)
    return on_drained if on_drained is not None else getattr(handler, "on_ready", None)


def call_on_close(
    service: Service, name: str, callbacks: object, code: int | None, reason: str
) -> None:
    """Calls `on_close`, with (code, reason) where it takes them; what it raises is logged."""
    on_close = getattr(callbacks, "on_close", None)
    if on_close is None:
        return
    try:
        result = on_close(code, reason) if _takes_code(on_close) else on_close()
        if inspect.isawaitable(result):
            service.run(_await, (result,))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        error_log.error("on_close of %s raised", name, exc_info=error)


async def _await(result: Any) -> Any:
    return await result


def _takes_code(on_close: Callable[..., Any]) -> bool:
    """True if `on_close` wants (code, reason)."""
    key = getattr(on_close, "__func__", on_close)
    known = _code_takers.get(key)
    if known is None:
        try:
            inspect.signature(on_close).bind(1000, "")
            known = True
        except (TypeError, ValueError):
            known = False
        _code_takers[key] = known
    return known
