"""Files sent by the kernel, on sockets and transports: what uvloop leaves out.

The semantics are those of asyncio's `loop.sendfile` and `loop.sock_sendfile`.
"""

import asyncio
import errno
import io
import os
import socket
from collections.abc import Awaitable, Callable
from typing import IO, Any, Final, cast

# One call reads this much of the disk while every other connection waits.
BLOCK_BYTES: Final = 256 * 1024
_NOT_A_FILE: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTSOCK, errno.ESPIPE}
)
_PEER_GONE: Final = frozenset(
    {errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
)


class StandIn(asyncio.Protocol):
    """Keeps the place of a transport's protocol while a file is sent.

    The protocol comes back to a transport as it left it, and is told of what
    it must know: a loss, and whether writing is paused.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        # Any: it may be of either kind, or of none; uvloop asks for no base class.
        self._protocol: Any = transport.get_protocol()
        if isinstance(self._protocol, StandIn):
            raise RuntimeError("a file is being sent on this transport already")
        self._loop = loop
        self._transport = transport
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._was_reading = transport.is_reading()
        self._limits = transport.get_write_buffer_limits()
        transport.pause_reading()
        transport.set_protocol(self)
        # With limits of 0 whoever has not been told of a pause is told now, if anything is
        # pending; silence means that the protocol knows already. No attribute says so.
        self._paused = False
        transport.set_write_buffer_limits(0)
        pending = transport.get_write_buffer_size() > 0
        self._protocol_paused = pending and not self._paused
        self._paused = pending

    def leave(self) -> None:
        """Give the transport back to its protocol."""
        if self._lost:
            return
        low, high = self._limits
        self._transport.set_write_buffer_limits(high, low)
        self._transport.set_protocol(self._protocol)
        if self._paused and not self._protocol_paused:
            self._protocol.pause_writing()
        elif self._protocol_paused and not self._paused:
            self._protocol.resume_writing()
        if self._was_reading:
            self._transport.resume_reading()

    def new_waiter(self) -> asyncio.Future[None]:
        """A future that fails when the connection is lost; the latest one only."""
        if self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "connection lost")
        self._waiter = self._loop.create_future()
        return self._waiter

    async def drain(self) -> None:
        """Wait until nothing is pending in the transport."""
        while self._paused:
            await self.new_waiter()
        if self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "connection lost")

    async def write(self, block: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "connection lost")
        self._transport.write(block)
        await self.drain()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waiter is not None:
            _resolve(self._waiter)

    # Reading is paused, so the next two come only if the protocol resumes it: it wants them.

    def data_received(self, data: bytes) -> None:
        if not isinstance(self._protocol, asyncio.BufferedProtocol):
            self._protocol.data_received(data)
            return
        while data:
            buffer = memoryview(self._protocol.get_buffer(len(data))).cast("B")
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self._protocol.buffer_updated(size)
            data = data[size:]

    def eof_received(self) -> bool | None:
        return cast("bool | None", self._protocol.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._waiter is not None and not self._waiter.done():
            lost = ConnectionResetError(errno.ECONNRESET, "connection lost")
            lost.__cause__ = exc
            self._waiter.set_exception(lost)
        self._protocol.connection_lost(exc)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _is_seekable(file: IO[bytes]) -> bool:
    # mmap objects have seek, and seekable from Python 3.13 only.
    return file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek")


def _move_behind(file: IO[bytes], offset: int, sent: int) -> None:
    if sent and _is_seekable(file):
        file.seek(offset + sent)


def check_arguments(sock: socket.socket, file: IO[bytes], offset: int, count: int | None) -> None:
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if count is not None:
        _check_integer("count", count, 1)
    _check_integer("offset", offset, 0)


def _check_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer (got {value!r})")
    if value < least:
        raise ValueError(f"{name} must be {least} or more (got {value!r})")


async def send_blocks(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    file: IO[bytes],
    offset: int,
    count: int | None,
    new_waiter: Callable[[], asyncio.Future[None]],
) -> int:
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation) as error:
        raise asyncio.SendfileNotAvailableError("the file has no descriptor") from error
    sent = 0
    try:
        while count is None or sent < count:
            size = BLOCK_BYTES if count is None else min(BLOCK_BYTES, count - sent)
            try:
                taken = os.sendfile(sock.fileno(), descriptor, offset + sent, size)
            except (BlockingIOError, InterruptedError):
                pass
            else:
                sent += taken
                if not taken or sent == count:
                    break
            # After a block, too: a fast reader must not keep the loop to itself.
            await _wait_until_writable(loop, sock, new_waiter())
    except OSError as error:
        if not sent and error.errno in _NOT_A_FILE:
            raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from error
        if error.errno in _PEER_GONE:
            raise ConnectionError(error.errno, error.strerror) from error
        raise
    finally:
        _move_behind(file, offset, sent)
    return sent


async def _wait_until_writable(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, ready: asyncio.Future[None]
) -> None:
    # By the socket, not its number: uvloop then holds off a close() until the writer is gone.
    loop.add_writer(sock, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


async def copy_blocks(
    loop: asyncio.AbstractEventLoop,
    file: IO[bytes],
    offset: int,
    count: int | None,
    send: Callable[[bytes], Awaitable[None]],
) -> int:
    if offset or _is_seekable(file):
        file.seek(offset)
    sent = 0
    try:
        while count is None or sent < count:
            size = BLOCK_BYTES if count is None else min(BLOCK_BYTES, count - sent)
            block = await loop.run_in_executor(None, file.read, size)
            if not block:
                break
            await send(block)
            sent += len(block)
    finally:
        _move_behind(file, offset, sent)
    return sent
