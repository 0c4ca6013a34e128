"""Listening sockets that rest while the descriptors of the process are nearly used up.

Meanwhile new clients wait in the kernel's queue. Without a rest the loop would accept them
until there is no descriptor, and then close them unanswered (uvloop) or try again without
end (asyncio).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import uvloop

from iodine_aio.descriptors import Levels, below_brim, make_levels

_LOOK_SECONDS: Final = 0.02  # how often a rest looks whether it is over


class Listeners:
    """What one server accepts connections with.

    Args:
        backlog: how many connections may wait to be accepted, of each socket.

    Attributes:
        levels: when to go on after a rest.
    """

    def __init__(self, backlog: int) -> None:
        self.levels: Levels = make_levels(1024)
        self._backlog: Final = backlog
        self._sockets: Final[list[tuple[socket.socket, Callable[[], asyncio.BaseProtocol]]]] = []
        self._servers: Final[
            list[tuple[asyncio.AbstractServer, socket.socket, socket.socket]]
        ] = []  # with the copy that each accepts from, and whose it is
        self._look: asyncio.TimerHandle | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._closed = False

    async def add(self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Begins to accept the connections of `sock`, which stays the caller's."""
        self._sockets.append((sock, factory))
        await self._accept(sock, factory)

    def remove(self, sock: socket.socket) -> None:
        """Accepts no more of the connections of `sock`."""
        self._sockets[:] = [entry for entry in self._sockets if entry[0] is not sock]
        for entry in [entry for entry in self._servers if entry[2] is sock]:
            self._servers.remove(entry)
            entry[0].close()

    def rest(self) -> None:
        """Accepts nothing until there are free descriptors again."""
        if self._look is None and not self._closed:
            self._leave_queue()
            self._look_later()

    def close(self) -> None:
        """Accepts nothing any more."""
        self._closed = True
        self._sockets.clear()
        if self._look is not None:
            self._look.cancel()
        self._close_servers()

    async def _accept(
        self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        loop = asyncio.get_running_loop()
        burst = self._backlog
        if not isinstance(loop, uvloop.Loop):
            # asyncio's backlog is also how many it accepts at once, and it does so three
            # times until the first of them is looked at.
            burst = max(1, (self.levels.limit - self.levels.brim) // 8)
        # A copy: closing the last descriptor of a listening socket cuts who waits there.
        copy = sock.dup()
        try:
            server = await loop.create_server(factory, sock=copy, backlog=burst)
        except BaseException:
            copy.close()
            raise
        if self._closed:
            server.close()
            return
        self._servers.append((server, copy, sock))
        if burst != self._backlog:
            sock.listen(self._backlog)

    def _leave_queue(self) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, uvloop.Loop):
            self._close_servers()
            return
        # asyncio loses what a server has accepted and not made a transport of when it is
        # closed: that is done at the end of the rest.
        for _, copy, _ in self._servers:
            loop.remove_reader(copy)

    def _close_servers(self) -> None:
        for server, _, _ in self._servers:
            server.close()
        self._servers.clear()

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_now)

    def _look_now(self) -> None:
        if below_brim(self.levels, self._sockets[0][0].fileno()):
            self._resuming = asyncio.get_running_loop().create_task(self._resume())
        else:
            self._look_later()

    async def _resume(self) -> None:
        self._close_servers()
        try:
            for sock, factory in tuple(self._sockets):
                await self._accept(sock, factory)
        except OSError:
            self._close_servers()
            self._look_later()
        else:
            self._look = None
