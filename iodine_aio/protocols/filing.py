"""Files on their way, without ever waiting for the disk on the loop.

What the page cache holds goes from there into the socket (sendfile), past the transport
while nothing waits in it. The transport gets a block where the socket is full: it then
says, as for every other body, when the client has taken it. For what is not in the page
cache a thread waits, so that a slow disk holds up its own response and nobody else's.
"""

import contextlib
import os
from collections import deque
from typing import Final

from iodine_aio.logs import error_log
from iodine_aio.protocols.sending import BLOCK_BYTES, TURN_BYTES, Outlet, Sender
from iodine_aio.wire.response import Framing
from iodine_aio.wire.segments import FileBody

SENDFILE_BYTES: Final = 512 * 1024  # at once; less than DIRECT_BYTES is cheaper to copy
DIRECT_BYTES: Final = 32 * 1024
FILE_TURN_BYTES: Final = 16 * TURN_BYTES  # before others get their turn

# Linux: fails instead of waiting for the disk. Elsewhere every block is read in a thread.
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)


class FileSender(Sender):
    """Sends the segments of a `FileBody`."""

    __slots__ = ("_direct", "_ended", "_fileno", "_position", "_segments", "_stop", "_waiting")

    def __init__(self, outlet: Outlet, body: FileBody, framing: Framing) -> None:
        super().__init__(outlet, body, framing)
        self._fileno = body.file.fileno()
        self._segments = deque(body.segments)
        self._position = self._stop = 0  # of the span that is being sent
        self._direct = _NOWAIT is not None
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
            elif not self._send_directly():
                block = self._read_cached()
                if block is None:
                    self._waiting = True
                    outlet.service.disk.submit(self._read_in_thread)
                    break
                if not self._send(block):
                    return
        if self._ended and not self._waiting:
            super().abandon()
        else:
            outlet.flush()

    def _send_directly(self) -> bool:
        """True if some of it went from the page cache into the socket."""
        size = min(SENDFILE_BYTES, self._stop - self._position)
        if not self._direct or size < DIRECT_BYTES:
            return False
        self._outlet.flush()
        sock = self._outlet.find_empty_socket()
        if sock < 0 or not self._is_cached(self._position, size):
            return False
        try:
            count = os.sendfile(sock, self._fileno, self._position, size)
        except (BlockingIOError, InterruptedError):
            return False  # full: the transport tells when it is not
        except OSError:
            # A file system that cannot; or what reading or writing will tell of.
            self._direct = False
            return False
        self._position += count
        self.framing.skip(count)
        return count > 0

    def _is_cached(self, start: int, size: int) -> bool:
        # sendfile has no way not to wait. The page cache is filled and emptied from one end
        # of a file on: where both ends are, the middle is, but for chance.
        assert _NOWAIT is not None
        byte = [bytearray(1)]
        try:
            # Of a file that has become shorter nothing is read, and nothing will be sent.
            os.preadv(self._fileno, byte, start + size - 1, _NOWAIT)
            os.preadv(self._fileno, byte, start, _NOWAIT)
        except OSError:  # not cached, or a file system that cannot say
            return False
        return True

    def _send(self, block: bytes) -> bool:
        """False if there was nothing to send: the file has become shorter than announced."""
        if not block:
            error_log.error("a file became shorter by %d bytes", self._stop - self._position)
            self._give_up()
            return False
        self._position += len(block)
        self._outlet.put(self.framing.encode(block))
        return True

    def _give_up(self) -> None:
        self._ended = True
        super().abandon()
        self._outlet.response_sent(False)

    def _read_cached(self) -> bytes | None:
        size = min(BLOCK_BYTES, self._stop - self._position)
        if _NOWAIT is None:
            return None
        block = bytearray(size)
        try:
            count = os.preadv(self._fileno, [block], self._position, _NOWAIT)
        except OSError:  # not cached, or a file system that cannot say
            return None
        return bytes(block) if count == size else bytes(block[:count])

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
        elif self._send(block):
            self._outlet.flush()
            if not self._outlet.paused:
                self._go_on()
