"""The end of a server's connections: each is asked to end, awaited, and cut in the end."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any, Final

from iodine_aio.logs import error_log
from iodine_aio.protocols.http1 import HTTPProtocol
from iodine_aio.protocols.service import Service

ABORT_SECONDS: Final = 1.0  # what aborted connections get to say so to their handlers

_LOOK_SECONDS: Final = 0.01  # how often it is looked whether all connections have ended


class Draining:
    """Ends the connections, tasks and threads of `service` until a deadline.

    Attributes:
        kinds_cut: what was cut, each by its name.
        hurried: not the deadline cut it, but somebody who did not want to wait.
    """

    def __init__(self, service: Service) -> None:
        self._service: Final = service
        self._deadline = 0.0  # in the loop's time
        self.kinds_cut: list[str] = []
        self.hurried = False

    def set_deadline(self, deadline: float, drain_seconds: float) -> None:
        """Everything is to have ended at `deadline`; idle connections may stay open for a while."""
        self._deadline = deadline
        self._service.drain_seconds = drain_seconds

    def ask(self) -> None:
        """Asks every connection to end, when it has done what it is doing."""
        self._service.stopping = True
        for connection in tuple(self._service.connections):
            connection.shut_down()

    def hasten(self, deadline: float) -> None:
        """A stop overtakes a drain: idle connections are closed after all."""
        service = self._service
        self._deadline = min(self._deadline, deadline)
        service.drain_seconds = 0
        if service.stopping:
            for connection in tuple(service.connections):
                if isinstance(connection, HTTPProtocol):
                    connection.shut_down()

    def cut(self) -> None:
        """Cuts every connection, and every app and handler that is running."""
        service = self._service
        if not service.aborted:  # else they have been counted
            self.kinds_cut = [connection.kind for connection in service.connections]
            self.kinds_cut += ["task"] * len(service.tasks)
        service.stopping = service.aborted = True
        for connection in tuple(service.connections):
            connection.abort()
        for task in tuple(service.tasks):
            task.cancel()

    def seconds_left(self) -> float:
        """Until the deadline; 0 where everything was cut."""
        if self._service.aborted:
            return 0.0
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def wait(self) -> None:
        """Waits until all have ended, and cuts who has not at the deadline."""
        service = self._service
        await asyncio.sleep(0)  # closed transports tell their protocols
        await self._look()
        if service.connections or service.tasks:
            self.cut()
            self._deadline = asyncio.get_running_loop().time() + ABORT_SECONDS
            await self._look()

    async def limit(self, hook: Awaitable[Any]) -> None:
        """Awaits what a hook wants to be awaited, until the deadline; for a second at least."""
        task = asyncio.ensure_future(hook)
        loop = asyncio.get_running_loop()
        end = loop.time() + ABORT_SECONDS
        while not task.done() and (loop.time() < end or self.seconds_left() > 0):
            await asyncio.wait([task], timeout=_LOOK_SECONDS)
        if task.done():
            task.result()
        else:
            name = getattr(hook, "__qualname__", repr(hook))
            error_log.warning("a hook was cut, it had not ended in time: %s", name)
            task.cancel()

    async def end_threads(self, with_pool: bool) -> None:
        """Ends the threads, those of the pool if no other server has it."""
        service = self._service
        service.disk.close()
        if with_pool:
            service.pool.close()
            loop = asyncio.get_running_loop()
            while not service.pool.finished and loop.time() < self._deadline:
                await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        service = self._service
        loop = asyncio.get_running_loop()
        while loop.time() < self._deadline and (
            service.connections or service.tasks or service.untold
        ):
            await asyncio.sleep(_LOOK_SECONDS)


def say_what_was_cut(seconds: float, *drainings: Draining) -> None:
    """One line for all of them: how many there were of each kind, if any."""
    kinds = Counter(kind for draining in drainings for kind in draining.kinds_cut)
    if kinds:
        counts = [f"{number} {kind}{'s' * (number > 1)}" for kind, number in sorted(kinds.items())]
        when = "at once" if any(d.hurried for d in drainings) else f"after {seconds:g} seconds"
        error_log.warning("cut %s: %s", when, ", ".join(counts))
