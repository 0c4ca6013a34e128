"""Files on their way, without ever waiting for the disk on the loop.

A block that the page cache holds is read into one buffer that all responses use in turn,
and written from there to the socket, past the transport while nothing waits in it. What
the socket does not take goes to the transport, which then says, as for every other body,
when the client has taken it. For a block that is not in the page cache a thread waits, so
that a slow disk holds up its own response and nobody else's.

Not sendfile, which costs half as much: the pages of a file that is overwritten would change
while they wait in the socket, and a client get zeros in a response of the right length.
"""

import contextlib
import os
from collections import deque
from typing import Final

from iodine_aio.logs import error_log
from iodine_aio.protocols.sending import BLOCK_BYTES, TURN_BYTES, Outlet, Sender
from iodine_aio.wire.response import Framing
from iodine_aio.wire.segments import FileBody

DIRECT_BYTES: Final = 32 * 1024  # less than that waits for what is written with it
FILE_TURN_BYTES: Final = 16 * TURN_BYTES  # before others get their turn

# Linux: fails instead of waiting for the disk. Elsewhere every block is read in a thread.
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)


class FileSender(Sender):
    """Sends the segments of a `FileBody`."""

    __slots__ = ("_ended", "_fileno", "_position", "_segments", "_stop", "_waiting")

    def __init__(self, outlet: Outlet, body: FileBody, framing: Framing) -> None:
        super().__init__(outlet, body, framing)
        self._fileno = body.file.fileno()
        self._segments = deque(body.segments)
        self._position = self._stop = 0  # of the span that is being sent
        self._ended = False
        self._waiting = False  # a block is being read in a thread, or a turn is to come

    def start(self) -> None:
        self._go_on()

    def resume(self) -> None:
        if not self._waiting:
            self._go_on()

    def abandon(self) -> None:
        self._ended = True
        if not self._waiting:
            super().abandon()

    def _go_on(self) -> None:
        self._waiting = False
        if self._ended:
            super().abandon()
            return
        outlet = self._outlet
        turn_ends = self.framing.remaining_bytes - FILE_TURN_BYTES
        while not self._ended and not outlet.paused:
            if self._position == self._stop:
                if not self._segments:
                    self._ended = True
                    self._finish()
                    return
                segment = self._segments.popleft()
                if isinstance(segment, bytes):
                    outlet.put(self.framing.encode(segment))
                else:
                    self._position, self._stop = segment
            elif self.framing.remaining_bytes <= turn_ends:
                self._waiting = True
                outlet.service.loop.call_soon(self._go_on)
                break
            elif not self._send_cached():
                self._waiting = True
                outlet.service.disk.submit(self._read_in_thread)
                break
        outlet.flush()

    def _send_cached(self) -> bool:
        """Sends a block; False if it is not in the page cache."""
        if _NOWAIT is None:
            return False
        outlet = self._outlet
        block = outlet.service.block[: self._stop - self._position]
        try:
            count = os.preadv(self._fileno, [block], self._position, _NOWAIT)
        except OSError:  # not cached, or a file system that cannot say
            return False
        if not count:
            self._tell_shorter()
            return True
        self._position += count
        self.framing.skip(count)
        sent = 0
        if count >= DIRECT_BYTES:
            outlet.flush()
            sock = outlet.find_empty_socket()
            if sock >= 0:
                # What is wrong with the socket, the transport finds out.
                with contextlib.suppress(OSError):
                    sent = os.write(sock, block[:count])
        if sent < count:
            outlet.put(bytes(block[sent:count]))
        return True

    def _tell_shorter(self) -> None:
        error_log.error("a file became shorter by %d bytes", self._stop - self._position)
        self._give_up()

    def _give_up(self) -> None:
        self._ended = True
        super().abandon()
        self._outlet.response_sent(False)

    def _read_in_thread(self) -> None:
        size = min(BLOCK_BYTES, self._stop - self._position)
        block: bytes | OSError
        try:
            block = os.pread(self._fileno, size, self._position)
        except OSError as error:
            block = error
        if not self._outlet.service.post(self._take_block, block):
            with contextlib.suppress(OSError):  # nobody is left who would close it
                self._body.close()

    def _take_block(self, block: bytes | OSError) -> None:
        self._waiting = False
        if self._ended:
            super().abandon()
        elif isinstance(block, OSError):
            error_log.error("a file cannot be read: %s", block)
            self._give_up()
        elif not block:
            self._tell_shorter()
        else:
            self._position += len(block)
            self._outlet.put(self.framing.encode(block))
            self._outlet.flush()
            if not self._outlet.paused:
                self._go_on()
