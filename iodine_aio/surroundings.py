"""What stands around a server: hooks and timers, the app's lifespan, the broker and its engine.

All of it is entered before the first connection, and left after the last.
"""

import asyncio
from typing import Final

from iodine_aio import homes, lifecycle
from iodine_aio.apps.application import Lifespan
from iodine_aio.carriers import Carrier, deliver
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.lifecycle import Wait
from iodine_aio.protocols.service import Service
from iodine_aio.pubsub.connections import require_redis
from iodine_aio.pubsub.engine import CarryingEngine
from iodine_aio.pubsub.redis import RedisEngine
from iodine_aio.settings import Settings


class Surroundings:
    """Those of one server.

    Attributes:
        calls_hooks: the server calls the hooks of on_state; a companion leaves them alone.
        lifespan: of the app, if it has one.
        engine: carries what is published; None before the start: the one of the settings.

    Raises:
        UsageError: the settings name a Redis, but there is no client for it.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.redis_url is not None:
            require_redis()
        self._settings: Final = settings
        self.calls_hooks = True
        self.lifespan: Lifespan | None = None
        self.engine: CarryingEngine | None = None
        self._carrier: Carrier | None = None

    async def enter(self, service: Service) -> None:
        """The server of `service` is about to accept connections.

        Raises:
            StartupError: a hook raised, or the app or the engine cannot start.
        """
        loop = asyncio.get_running_loop()
        service.broker = homes.enter_loop(loop, service.post, self._settings)
        lifecycle.enter_loop(loop)
        await self._open_engine(service)
        await self._enter_starting_state("pre_start")
        if self.lifespan is not None:
            await self.lifespan.start()

    async def say_started(self) -> None:
        """The server accepts connections.

        Raises:
            StartupError: a hook raised.
        """
        await self._enter_starting_state("on_start")

    async def say_stopping(self, wait: Wait) -> None:
        """The server is about to accept no more; `wait` awaits what its hooks return."""
        if self.calls_hooks:
            await lifecycle.enter_state("start_shutdown", wait)

    async def end_lifespan(self) -> None:
        """The last connection has ended: lets the app shut down."""
        if self.lifespan is not None:
            await self.lifespan.stop()

    async def say_stopped(self, wait: Wait) -> None:
        """The app has shut down."""
        if self.calls_hooks:
            await lifecycle.enter_state("on_finish", wait)

    async def leave(self, service: Service) -> None:
        """Nothing of the server is left but this."""
        if self._carrier is not None:
            await self._carrier.leave()
        loop = asyncio.get_running_loop()  # not the service's: a stop may overtake its start
        homes.leave_loop(loop, service.post)
        lifecycle.leave_loop(loop)

    async def _enter_starting_state(self, state: str) -> None:
        if not self.calls_hooks:
            return
        try:
            await lifecycle.enter_state(state)
        except Exception as error:
            raise StartupError(
                f"a hook of {state} raised {type(error).__name__}: {error}"
            ) from error

    async def _open_engine(self, service: Service) -> None:
        url = self._settings.redis_url
        if self.engine is None and url is not None:
            try:
                self.engine = RedisEngine(url, deliver)
            except UsageError as error:
                raise StartupError(str(error)) from error
        if self.engine is not None:
            self._carrier = Carrier(self.engine, url, service)
            await self._carrier.join()
