"""What waits to be written to one peer, and what was lost of it."""

import time
from collections import deque
from typing import Final

from iodine_aio.logs import error_log
from iodine_aio.pubsub.packets import (
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE_PATTERN,
    encode_announcement,
)

MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024  # in each direction
WRITE_BYTES: Final = 64 * 1024  # taken for one write
SILENT_SECONDS: Final = 10.0  # between two entries of one Losses


class Losses:
    """Counts messages that were dropped, and says so in the log now and then.

    Attributes:
        total: how many since the beginning.
    """

    __slots__ = ("_next", "_reason", "_untold", "total")

    def __init__(self, reason: str) -> None:
        self.total = 0
        self._reason = reason
        self._untold = 0
        self._next = 0.0

    def add(self, count: int = 1) -> None:
        """Notes that `count` more were dropped; the first is told at once."""
        self.total += count
        self._untold += count
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SILENT_SECONDS
            self.tell()

    def tell(self) -> None:
        """Says in the log what it has not yet."""
        if self._untold:
            error_log.warning(
                "%s: %d messages were dropped, %d in all", self._reason, self._untold, self.total
            )
            self._untold = 0


class Outbox:
    """Packets that wait for one peer, in order and bounded.

    A publication that finds no room is dropped. An announcement never is, since the peer
    would be wrong for ever: what there is to say of each channel waits beside the queue.

    Attributes:
        size: bytes that wait in the queue.
    """

    __slots__ = ("_late", "_max_bytes", "_packets", "size")

    def __init__(self, max_bytes: int) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._packets: deque[bytes | memoryview] = deque()
        self._late: dict[tuple[bool, str], int] = {}  # (is a pattern, channel) -> kind

    def put(self, packet: bytes) -> bool:
        """Queues a publication; False if there is no room."""
        size = self.size + len(packet)
        if size > self._max_bytes and self.size:
            return False
        self.size = size
        self._packets.append(packet)
        return True

    def announce(self, kind: int, channel: str) -> None:
        """Queues an announcement, or keeps it until there is room."""
        if not self._late and self.size < self._max_bytes:
            self._append(encode_announcement(kind, channel))
            return
        key = (kind in (SUBSCRIBE_PATTERN, UNSUBSCRIBE_PATTERN), channel)
        # What takes back something that was not said yet leaves nothing to be said: else
        # channels that come and go would pile up.
        if self._late.setdefault(key, kind) != kind:
            del self._late[key]

    def take(self, size: int) -> bytes | memoryview:
        """Takes what is to be written next, about `size` bytes; empty if nothing waits."""
        packets = self._packets
        if not packets:
            return b""
        taken = [packets.popleft()]
        total = len(taken[0])
        while packets and total + len(packets[0]) <= size:
            taken.append(packets.popleft())
            total += len(taken[-1])
        self.size -= total
        while self._late and self.size < self._max_bytes:
            key = next(iter(self._late))
            self._append(encode_announcement(self._late.pop(key), key[1]))
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def put_back(self, rest: bytes | memoryview) -> None:
        """Returns what was taken and could not be written."""
        self._packets.appendleft(rest)
        self.size += len(rest)

    def clear(self) -> None:
        """Forgets all that waits."""
        self._packets.clear()
        self._late.clear()
        self.size = 0

    def _append(self, packet: bytes) -> None:
        self._packets.append(packet)
        self.size += len(packet)
