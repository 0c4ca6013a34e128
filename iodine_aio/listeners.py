"""Listening sockets that rest while the descriptors of the process are nearly used up.

Meanwhile new clients wait in the kernel's queue. Without a rest the loop would accept them
until there is no descriptor, and then close them unanswered (uvloop) or try again without
end (asyncio).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from iodine_aio.descriptors import Levels, below_brim, make_levels
from iodine_aio.listener import Listener
from iodine_aio.protocols.service import Service
from iodine_aio.shared_listener import SharedListener
from iodine_aio.tallies import find_tally

_LOOK_SECONDS: Final = 0.02  # how often a rest looks whether it is over


class Listeners:
    """What one server accepts connections with.

    Args:
        backlog: how many connections may wait to be accepted, of each socket.
        service: of that server.

    Attributes:
        levels: when to go on after a rest.
    """

    def __init__(self, backlog: int, service: Service) -> None:
        self.levels: Levels = make_levels(1024)
        self._backlog: Final = backlog
        self._service: Final = service
        self._listeners: Final[list[Listener | SharedListener]] = []
        self._look: asyncio.TimerHandle | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._closed = False

    async def add(self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Begins to accept the connections of `sock`, which stays the caller's."""
        listener = self._make_listener(sock, factory)
        self._listeners.append(listener)
        await listener.accept()

    def remove(self, sock: socket.socket) -> None:
        """Accepts no more of the connections of `sock`."""
        for listener in [one for one in self._listeners if one.sock is sock]:
            self._listeners.remove(listener)
            listener.close()

    def rest(self) -> None:
        """Accepts nothing until there are free descriptors again."""
        if self._look is None and not self._closed:
            for listener in self._listeners:
                listener.pause()
            self._look_later()

    def close(self) -> None:
        """Accepts nothing any more."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _make_listener(
        self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]
    ) -> Listener | SharedListener:
        tally = find_tally(sock)
        burst = max(1, (self.levels.limit - self.levels.brim) // 8)
        if tally is None:
            return Listener(sock, factory, self._backlog, burst)
        tally.count(self._service.connections)
        return SharedListener(sock, factory, self._backlog, tally, self.rest)

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_now)

    def _look_now(self) -> None:
        if below_brim(self.levels, self._listeners[0].sock.fileno()):
            self._resuming = asyncio.get_running_loop().create_task(self._resume())
        else:
            self._look_later()

    async def _resume(self) -> None:
        try:
            for listener in tuple(self._listeners):
                await listener.accept()
        except OSError:
            for listener in self._listeners:
                listener.pause()
            self._look_later()
        else:
            self._look = None
