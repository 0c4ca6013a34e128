"""What any kind of app is made into, and what it is given for that."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any, Protocol

from iodine_aio.clock import Clock
from iodine_aio.pool import Pool
from iodine_aio.wire.environ import Env


class Host(Protocol):
    """What an app may ask of the server that runs it."""

    pool: Pool
    loop: asyncio.AbstractEventLoop
    busy_page: bytes | None

    @property
    def clock(self) -> Clock:
        """Its `now` goes on once a tick."""

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Calls `function(*args)` in the loop's thread, soon; False if the loop has ended."""

    def start_guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """As `start_task`, for a coroutine that catches all but what ends a task."""

    def start_task(self, awaitable: Awaitable[Any]) -> "asyncio.Task[Any]":
        """Awaits `awaitable` in a task that a stop waits for, and cuts at its deadline."""


class Lifespan(Protocol):
    """What has to happen before the first request, and after the last."""

    async def start(self) -> None:
        """Raises StartupError if the server must not begin."""

    async def stop(self) -> None:
        """Every connection has ended."""


@dataclass(frozen=True, slots=True)
class Application:
    """An app of any kind, as the server sees it.

    Attributes:
        call: `call(env)` returns `(status, headers, body)`, or an awaitable of it.
        streams_requests: it is called when a request's head is complete, with a stream of
            the body in `env["iodine_aio.body"]`, the fields as they came in
            `env["iodine_aio.fields"]`; else when the request is whole.
        callbacks_in_pool: plain callbacks of its handlers may block, so they are called in
            the pool.
        lifespan: or None.
        env: what it adds to the env of every request.
    """

    call: Callable[[Env], Any]
    streams_requests: bool = False
    callbacks_in_pool: bool = False
    lifespan: Lifespan | None = None
    env: Env = field(default_factory=dict)

    @property
    def entry(self) -> Callable[[Env], Any]:
        """`call` itself, or its method `__call__`, which Python calls for less."""
        method = getattr(type(self.call), "__call__", None)  # noqa: B004 - asked for as such
        return MethodType(method, self.call) if isinstance(method, FunctionType) else self.call
