"""A listening socket that other workers accept from as well: none takes far more than they.

Whoever is ahead of the worker that has least stops accepting, and only watches. What waits
then is the others' for a moment; if it still waits after that, they have stopped, or have
too much to do, and it is not left to them. Where nobody comes, nobody looks.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

from iodine_aio.listener import Listener
from iodine_aio.tallies import Tally, Turns

_LOOK_SECONDS: Final = 0.001
_PATIENCE_SECONDS: Final = 0.02  # for a client that waits while others have less to do


class SharedListener:
    """Accepts the connections of one socket, as long as others do not have far less.

    Args:
        sock: stays the caller's.
        factory: makes the protocol of each connection.
        backlog: how many may wait to be accepted.
        tally: how many connections this worker has, and the others.
        give_up: is called where there is no descriptor left.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        backlog: int,
        tally: Tally,
        give_up: Callable[[], object],
    ) -> None:
        self.sock: Final = sock
        self._loop: Final = asyncio.get_running_loop()
        self._factory: Final = factory
        self._listener: Final = Listener(sock, self._make_protocol, backlog, 1)
        self._tally: Final = tally
        self._give_up: Final = give_up
        self._queue: Final = select.poll()
        self._queue.register(sock, select.POLLIN)
        self._next: asyncio.Handle | None = None  # what it is about to do
        self._going_on: asyncio.Task[None] | None = None
        self._paused = True  # by who it belongs to
        self._patience = _PATIENCE_SECONDS
        self._patient_until = 0.0
        self._turns: Turns = {}

    async def accept(self) -> None:
        """Begins to accept, after a pause again.

        Raises:
            OSError: there is no descriptor for that.
        """
        self._paused = False
        self._tally.room()  # from now on the others wait for this one
        await self._listener.accept()
        if self._paused:
            self._listener.pause()

    def pause(self) -> None:
        """Accepts nothing for now, whatever the others do."""
        self._paused = True
        self._leave()
        self._listener.pause()

    def close(self) -> None:
        """Accepts nothing any more."""
        self._paused = True
        self._leave()
        self._listener.close()

    def _leave(self) -> None:
        self._tally.leave()
        self._loop.remove_reader(self.sock)
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _make_protocol(self) -> asyncio.BaseProtocol:
        # This one is not counted yet.
        if (
            not self._paused
            and self._tally.room() <= 1
            and self._next is None
            and not self._is_needed()
        ):
            # Soon: uvloop would lose the connection that it is about to accept.
            self._next = self._loop.call_soon(self._stop_accepting)
        return self._factory()

    def _is_needed(self) -> bool:
        """True if the others were waited for in vain, and somebody waits still."""
        if self._patience < _LOOK_SECONDS:
            if self._queue.poll(0):
                return True
            self._patience = _PATIENCE_SECONDS
        return False

    # Leaving it to the others.

    def _stop_accepting(self) -> None:
        self._listener.pause()
        self._watch()

    def _watch(self) -> None:
        self._next = None
        self._loop.add_reader(self.sock, self._see)

    def _see(self) -> None:
        """Somebody waits."""
        self._loop.remove_reader(self.sock)
        if self._tally.room() > 0:
            self._go_on()
        else:
            self._patient_until = self._loop.time() + self._patience
            self._turns = self._tally.turns()
            self._look_later()

    def _look_later(self) -> None:
        self._next = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._tally.room() > 0:
            self._patience = _PATIENCE_SECONDS
            self._go_on()
        elif not self._queue.poll(0):
            self._patience = _PATIENCE_SECONDS
            self._watch()
        elif self._loop.time() < self._patient_until:
            self._look_later()
        else:
            self._patience /= 2
            self._tally.disregard(self._turns)
            self._go_on()

    def _go_on(self) -> None:
        self._next = None
        self._going_on = self._loop.create_task(self._accept_again())

    async def _accept_again(self) -> None:
        if self._paused:  # since it was meant to
            return
        try:
            await self._listener.accept()
        except OSError:
            self._give_up()
        if self._paused:
            self._listener.pause()
