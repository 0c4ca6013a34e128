"""One listening socket that is accepted from, paused, and accepted from again."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import uvloop


class Listener:
    """Accepts the connections of one socket.

    Args:
        sock: stays the caller's.
        factory: makes the protocol of each connection.
        backlog: how many may wait to be accepted.
        burst: how many asyncio accepts at once.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        backlog: int,
        burst: int,
    ) -> None:
        self.sock: Final = sock
        self._loop: Final = asyncio.get_running_loop()
        self._factory: Final = factory
        self._backlog: Final = backlog
        # asyncio's backlog is also how many it accepts at once, and it does so three times
        # until the first of them is looked at.
        self._burst: Final = backlog if isinstance(self._loop, uvloop.Loop) else burst
        self._server: asyncio.AbstractServer | None = None
        self._copy: socket.socket | None = None  # that the server accepts from
        self._closed = False

    async def accept(self) -> None:
        """Begins to accept, after a pause again.

        Raises:
            OSError: there is no descriptor for that.
        """
        self._close_server()
        # A copy: closing the last descriptor of a listening socket cuts who waits there.
        copy = self.sock.dup()
        try:
            server = await self._loop.create_server(self._factory, sock=copy, backlog=self._burst)
        except BaseException:
            copy.close()
            raise
        if self._closed or self._server is not None:  # begun twice at once
            server.close()
            return
        self._server, self._copy = server, copy
        if self._burst != self._backlog:
            self.sock.listen(self._backlog)

    def pause(self) -> None:
        """Accepts nothing for now; new clients wait in the kernel's queue."""
        if isinstance(self._loop, uvloop.Loop):
            self._close_server()
        elif self._copy is not None:
            # asyncio loses what a server has accepted and not made a transport of when it
            # is closed: that is done at the end of the pause.
            self._loop.remove_reader(self._copy)

    def close(self) -> None:
        """Accepts nothing any more."""
        self._closed = True
        self._close_server()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = self._copy = None
