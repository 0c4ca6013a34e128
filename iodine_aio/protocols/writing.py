"""What a connection writes: kept back within a turn, bounded, from any thread.

All that one turn of callbacks writes goes out by one write. What the peer does not take
is bounded by the soft limit (the writer is told) and the hard one (the policy decides).
"""

import asyncio
import fcntl
import itertools
import struct
import termios
from threading import Lock, get_ident
from typing import Any, Final

from iodine_aio.errors import UsageError
from iodine_aio.logs import error_log
from iodine_aio.protocols.service import Service
from iodine_aio.wire.events import Event

OPEN: Final = 0  # states of a connection
CLOSING: Final = 1  # nothing is written any more; what was written goes out
CLOSED: Final = 2

FLUSH_BYTES: Final = 64 * 1024  # what is kept back at most, before it is written

_ids = itertools.count(1)

# One lock for all: it is held for an addition only, and few threads write.
_posting: Final = Lock()


def number_connections(first: int) -> None:
    """The ids of connections begin with `first`: those of another process shall be others."""
    global _ids
    _ids = itertools.count(first)


class Writing(asyncio.Protocol):
    """The writing half of a connection that a user's object serves.

    Attributes:
        id: a number that no other connection of this process has.
        transport: None before the connection is made, and after it is lost.
    """

    __slots__ = (
        "_drains",
        "_kept",
        "_output",
        "_paused",
        "_posted",
        "_state",
        "_subscriptions",
        "_undrained",
        "_unsent",
        "_waiters",
        "id",
        "service",
        "transport",
    )

    def __init__(self, service: Service) -> None:
        self.service = service
        self.id = next(_ids)
        self.transport: asyncio.Transport | None = None
        self._state = OPEN
        self._output: list[bytes] | None = None  # a list while writes are kept back
        self._kept = 0
        self._paused = False
        self._posted = 0  # bytes that other threads wrote and that are on their way here
        self._unsent = 0
        self._drains = False  # someone wants to hear when all was sent
        self._undrained = False
        self._waiters: list[asyncio.Future[None]] | None = None
        self._subscriptions: dict[tuple[str, bool], Any] | None = None  # None until the first

    def encode(self, data: str | bytes | Event) -> bytes:
        """`data` as it goes on the wire."""
        raise NotImplementedError

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes when all that was written is sent."""
        raise NotImplementedError

    def say_drained(self) -> None:
        """Everything that was written may have been sent."""
        raise NotImplementedError

    def write(self, data: str | bytes | Event) -> bool:
        """Sends `data`; see `WebSocket.write`."""
        if get_ident() != self.service.thread_id:
            return self._write_from_thread(data)
        if self._state:
            return False
        frame = self.encode(data)
        if not self._paused and not self._posted:
            self._send(frame)
            return True
        pending = self.pending
        if pending > self.service.settings.hard_limit_bytes:
            self._refuse_write()
            return False
        self._unsent += len(frame)
        self._send(frame)
        return pending <= self.service.settings.soft_limit_bytes

    def deliver_frame(self, frame: bytes) -> None:
        """Sends what was published, or drops it if too much waits for this peer already."""
        if self._state:
            return
        if self._paused or self._posted:
            if self.pending > self.service.settings.hard_limit_bytes:
                self.service.broker.dropped += 1
                self._refuse_write()
                return
            self._unsent += len(frame)
        self._send(frame)

    async def send(self, data: str | bytes | Event) -> bool:
        """Writes, then drains."""
        self.write(data)
        return await self.drain()

    async def drain(self) -> bool:
        """Waits until the connection takes more; False if it is gone."""
        self.flush()
        if self._paused and self._state != CLOSED:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter
        else:
            await asyncio.sleep(0)  # a writer that never waits must not keep the loop to itself
        return self._state == OPEN

    @property
    def is_open(self) -> bool:
        """False when it is closed, or closing."""
        return self._state == OPEN

    @property
    def pending(self) -> int:
        """Bytes written and not sent yet, those of other threads and those kept back included."""
        if self.transport is None or self._state == CLOSED:
            return 0
        return self.transport.get_write_buffer_size() + self._kept + self._posted

    @property
    def _mark(self) -> int:
        """With more bytes than this waiting, the peer does not take what is written."""
        return min(self.service.settings.soft_limit_bytes, FLUSH_BYTES)

    def _set_marks(self) -> None:
        """Has the transport say in time that the peer does not take what is written."""
        assert self.transport is not None
        if self._drains:
            # Told of every drain, not only of those from above asyncio's own mark.
            self.transport.set_write_buffer_limits(high=0)
        elif self._mark < FLUSH_BYTES:
            self.transport.set_write_buffer_limits(high=self._mark)

    def _send(self, frame: bytes) -> None:
        self._undrained = True
        output = self._output
        if output is None:
            self._transmit(frame)
            if self._drains:
                self.service.loop.call_soon(self.say_drained)
            return
        if not output and self._subscriptions is not None:
            self.service.broker.holders.add(self)
        output.append(frame)
        self._kept += len(frame)
        if self._kept > FLUSH_BYTES:
            self.flush()

    def _uncork(self) -> None:
        self.flush()
        self._output = None

    def flush(self) -> None:
        """Writes what was kept back."""
        if self._output and self._state != CLOSED:
            self._kept = 0
            if self._subscriptions is not None:
                self.service.broker.holders.discard(self)
            output, self._output = self._output, []
            self._transmit(output[0] if len(output) == 1 else b"".join(output))
            if self._drains:
                self.service.loop.call_soon(self.say_drained)

    def _transmit(self, data: bytes) -> None:
        # asyncio warns of what is written between a failed write and connection_lost.
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _write_from_thread(self, data: str | bytes | Event) -> bool:
        if self._state:
            return False
        settings = self.service.settings
        pending = self.pending
        if pending > settings.hard_limit_bytes:
            self.service.post(self._refuse_write)
            return False
        frame = self.encode(data)
        size = len(frame)
        with _posting:
            self._posted += size
        return self.service.post(self._send_posted, frame, size) and (
            pending <= settings.soft_limit_bytes
        )

    def _send_posted(self, frame: bytes, size: int) -> None:
        with _posting:
            self._posted -= size
        if self._state == OPEN:
            self._unsent += size
            self._send(frame)

    def _refuse_write(self) -> None:
        if self.service.settings.hard_limit_policy == "close" and self._state == OPEN:
            error_log.debug("connection %d closed: its peer reads too slowly", self.id)
            self.close(1008, "reads too slowly")

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


def bytes_of(data: object) -> bytes:
    """`data` as immutable bytes.

    Raises:
        UsageError: it is neither str nor bytes-like.
    """
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise UsageError(f"cannot write {type(data).__name__}, must be str or bytes")


def count_unsent(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not taken, those in the socket included where the system tells.

    A socket has room again only when a third of it was taken. That may be a megabyte, and
    more than a slow peer reads in `send_timeout`, while next to nothing waits for room.
    """
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None:
        return waiting
    try:
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # closed; macOS and BSD, which know it of terminals only
        return waiting
    return waiting + int(struct.unpack("i", queued)[0])


def half_close(transport: asyncio.WriteTransport) -> None:
    """Ends our sending side, behind what was written; closes where that cannot be."""
    try:
        transport.write_eof()
    except (OSError, NotImplementedError):  # the peer is gone already; TLS
        transport.close()
