"""Files on their way: blocks that are read ahead of nothing, and never wait for the disk.

A block that the page cache holds is read at once. For one that is not there a thread
waits, so that a slow disk holds up its own response and nobody else's.
"""

import os
from collections import deque
from typing import Final

from iodine_aio.logs import error_log
from iodine_aio.protocols.sending import BLOCK_BYTES, TURN_BYTES, Outlet, Sender
from iodine_aio.wire.response import Framing
from iodine_aio.wire.segments import FileBody

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
        outlet = self._outlet
        sent = 0
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
                continue
            if sent >= 2 * TURN_BYTES:
                self._waiting = True
                outlet.service.loop.call_soon(self._go_on)
                break
            block = self._read_cached()
            if block is None:
                self._waiting = True
                outlet.service.disk.submit(self._read_in_thread)
                break
            if not self._send(block):
                return
            sent += len(block)
        if self._ended and not self._waiting:
            super().abandon()
        else:
            outlet.flush()

    def _send(self, block: bytes) -> bool:
        """False if there was nothing to send: the file has become shorter than announced."""
        if not block:
            self._ended = True
            error_log.error("a file became shorter by %d bytes", self._stop - self._position)
            super().abandon()
            self._outlet.response_sent(False)
            return False
        self._position += len(block)
        self._outlet.put(self.framing.encode(block))
        return True

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
        try:
            block = os.pread(self._fileno, size, self._position)
        except OSError as error:
            error_log.error("a file cannot be read: %s", error)
            block = b""
        self._outlet.service.post(self._take_block, block)

    def _take_block(self, block: bytes) -> None:
        self._waiting = False
        if self._ended:
            super().abandon()
        elif self._send(block):
            self._outlet.flush()
            if not self._outlet.paused:
                self._go_on()
