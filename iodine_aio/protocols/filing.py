"""Files on their way, without waiting for the disk on the loop.

What the page cache holds the kernel sends from there, past the transport while nothing waits
in it (sendfile). Once the socket is full a small block goes to the transport, which then
says, as for every other body, when the client has taken it. What is not in the page cache,
looked at in steps of 256 KiB, a thread reads, so that a slow disk holds up its own response
and nobody else's. Where the kernel cannot send files, blocks are copied.

The pages that wait in the socket are the file's own. A file that is truncated or overwritten
in place while it is sent ends its response, which then does not look whole; what is done to
it once the socket holds the last byte may still reach the client, as it does with nginx.
"""

import contextlib
import os
from collections import deque
from typing import Final

from iodine_aio.logs import error_log
from iodine_aio.protocols.sending import BLOCK_BYTES, TURN_BYTES, Outlet, Sender
from iodine_aio.wire.framing import Framing
from iodine_aio.wire.segments import FileBody

DIRECT_BYTES: Final = 32 * 1024  # less than that waits for what is written with it
ROOM_BYTES: Final = 16 * 1024  # given to the transport, which says when the socket has room
LOOK_BYTES: Final = 256 * 1024  # between two looks into the page cache
FILE_TURN_BYTES: Final = 16 * TURN_BYTES  # before others get their turn

# Linux: fails instead of waiting for the disk. Elsewhere every block is read in a thread.
_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)
_BYTE: Final = [bytearray(1)]


class FileSender(Sender):
    """Sends the segments of a `FileBody`."""

    __slots__ = (
        "_copies",
        "_ended",
        "_fileno",
        "_modified",
        "_pauses_early",
        "_position",
        "_segments",
        "_size",
        "_stop",
        "_waiting",
    )

    def __init__(self, outlet: Outlet, body: FileBody, framing: Framing) -> None:
        super().__init__(outlet, body, framing)
        self._fileno = body.file.fileno()
        status = os.fstat(self._fileno)
        self._size, self._modified = status.st_size, status.st_mtime_ns
        self._segments = deque(body.segments)
        self._position = self._stop = 0  # of the span that is being sent
        self._copies = False  # the kernel cannot send it
        self._pauses_early = False
        self._ended = False
        self._waiting = False  # a block is being read in a thread, or a turn is to come

    def start(self) -> None:
        self._send()

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
        elif self._is_unchanged():
            self._send()

    def _send(self) -> None:
        outlet = self._outlet
        turn_ends = self.framing.remaining_bytes - FILE_TURN_BYTES
        while not self._ended and not outlet.paused:
            if self._position == self._stop:
                if not self._segments:
                    self._end()
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

    def _end(self) -> None:
        if self._is_unchanged():
            self._ended = True
            if self._pauses_early:
                self._outlet.pause_early(False)
            self._finish()

    def _send_cached(self) -> bool:
        """Sends a part; False if it is not in the page cache."""
        if _NOWAIT is None:
            return False
        size = self._stop - self._position
        if size < DIRECT_BYTES or self._copies:
            return self._copy(size)
        cached = self._count_cached(min(size, FILE_TURN_BYTES))
        if not cached:
            return False
        sock = self._outlet.find_empty_socket()
        if sock < 0:
            return self._wait_for_room(size)
        sent = 0
        try:
            sent = os.sendfile(sock, self._fileno, self._position, cached)
        except BlockingIOError:
            pass
        except OSError:  # what is wrong with the socket, the transport finds out
            self._copies = True
            return self._copy(size)
        self._position += sent
        self.framing.skip(sent)
        return sent == cached or self._wait_for_room(min(size - sent, ROOM_BYTES))

    def _count_cached(self, size: int) -> int:
        """How many of the next `size` bytes are in the page cache."""
        assert _NOWAIT is not None
        preadv, fileno, position = os.preadv, self._fileno, self._position
        seen = 0
        try:
            for seen in range(0, size, LOOK_BYTES):
                preadv(fileno, _BYTE, position + seen, _NOWAIT)
            preadv(fileno, _BYTE, position + size - 1, _NOWAIT)
        except OSError:  # not cached, or a file system that cannot say
            return seen
        return size

    def _wait_for_room(self, size: int) -> bool:
        """Hands a block to the transport, and pauses until the socket has taken all of it."""
        outlet = self._outlet
        if not self._pauses_early:
            self._pauses_early = True
            outlet.pause_early(True)
        if outlet.paused:
            return True
        copied = self._copy(size)
        outlet.flush()
        return copied

    def _copy(self, size: int) -> bool:
        """Puts out a block of up to `size` bytes; False if it is not in the page cache."""
        assert _NOWAIT is not None
        block = self._outlet.service.block[:size]
        try:
            count = os.preadv(self._fileno, [block], self._position, _NOWAIT)
        except OSError:  # not cached, or a file system that cannot say
            return False
        if count:
            self._position += count
            self.framing.skip(count)
            self._outlet.put(bytes(block[:count]))
        else:
            self._tell_shorter(self._stop - self._position)
        return True

    def _is_unchanged(self) -> bool:
        """False if the response has been given up, because the file is not what it was.

        One that only grew is: what is announced of it stays where it was.
        """
        status = os.fstat(self._fileno)
        if status.st_size < self._size:
            self._tell_shorter(self._size - status.st_size)
            return False
        if status.st_size == self._size and status.st_mtime_ns != self._modified:
            error_log.error("a file was overwritten while it was sent")
            self._give_up()
            return False
        return True

    def _tell_shorter(self, size: int) -> None:
        error_log.error("a file became shorter by %d bytes", size)
        self._give_up()

    def _give_up(self) -> None:
        self._ended = True
        super().abandon()
        if self.framing.remaining_bytes:
            self._outlet.response_sent(False)
        else:
            self._outlet.response_spoiled()

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
        elif not self._is_unchanged():
            pass
        elif not block:
            self._tell_shorter(self._stop - self._position)
        else:
            self._position += len(block)
            self._outlet.put(self.framing.encode(block))
            self._outlet.flush()
            if not self._outlet.paused:
                self._send()
