"""The event loop: uvloop's, with the `sendfile` it lacks, and the descriptors it may use.

Nothing about asyncio's policies is touched when this module is imported.
"""

import asyncio
import errno
import io
import os
import socket
import ssl
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import IO, Any, Final, cast

if sys.platform == "win32":
    raise ImportError(
        "iodine_aio runs on Linux, macOS and BSD, not on Windows, where there is no uvloop"
        " (Windows Subsystem for Linux will do)"
    )
try:
    import uvloop
except ImportError as error:
    raise ImportError("iodine_aio needs uvloop (pip install uvloop)") from error

import resource

# One call reads this much of the disk while every other connection waits.
BLOCK_BYTES: Final = 256 * 1024
# Tried in turn where the hard limit is no number, or more than the kernel grants
# (macOS: "unlimited", but OPEN_MAX, 10240, is all that is granted).
DESCRIPTOR_LIMITS: Final = (1 << 20, 1 << 16, 10240, 4096)

_CURE: Final = "use asyncio.run(main(), loop_factory=iodine_aio.new_event_loop)"
_NOT_A_FILE: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTSOCK, errno.ESPIPE}
)
_PEER_GONE: Final = frozenset(
    {errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
)


class Loop(uvloop.Loop):
    """A `uvloop.Loop` that can send files: uvloop raises NotImplementedError for both."""

    async def sock_sendfile(
        self,
        sock: socket.socket,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """Send a part of a file on a connected socket, and return how many bytes were sent.

        Args:
            sock: a non-blocking stream socket, of which the loop has no transport.
            file: open in binary mode; its position is moved behind what was sent, on errors too.
            offset: where in the file to begin, in bytes.
            count: how many bytes at most, 1 or more; None sends up to the file's end.
            fallback: read and send where the kernel cannot do it alone.

        Raises:
            asyncio.SendfileNotAvailableError: the kernel cannot, and `fallback` is False.
            ConnectionError: the peer is gone.
            ValueError, TypeError: an argument is not as said above.
        """
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        _check_arguments(sock, file, offset, count)
        try:
            return await self._send_blocks(sock, file, offset, count, self.create_future)
        except asyncio.SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._copy_blocks(
            file, offset, count, lambda block: self.sock_sendall(sock, block)
        )

    async def sendfile(
        self,
        transport: asyncio.BaseTransport,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a part of a file on a transport, and return how many bytes were sent.

        What was written before goes out first. Reading is paused meanwhile, and the caller
        must not write. The arguments are those of `sock_sendfile`.

        Raises:
            NotImplementedError: the transport speaks TLS; read the file and write it.
            asyncio.SendfileNotAvailableError: the kernel cannot, and `fallback` is False.
            ConnectionError: the connection was lost before all was sent.
            RuntimeError: the transport is closing, has no socket, or is sending a file already.
            ValueError, TypeError: an argument is not as `sock_sendfile` says.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        if transport.get_extra_info("sslcontext") is not None:
            raise NotImplementedError("sendfile cannot encrypt: the transport speaks TLS")
        sock = transport.get_extra_info("socket")
        if sock is None:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        _check_arguments(sock, file, offset, count)
        stand_in = _StandIn(self, cast(asyncio.Transport, transport))
        try:
            await stand_in.drain()
            # The transport's own descriptor belongs to libuv: add_writer refuses it.
            with sock.dup() as duplicate:
                try:
                    return await self._send_blocks(
                        duplicate, file, offset, count, stand_in.new_waiter
                    )
                except asyncio.SendfileNotAvailableError:
                    if not fallback:
                        raise
            return await self._copy_blocks(file, offset, count, stand_in.write)
        finally:
            stand_in.leave()

    async def _send_blocks(
        self,
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
                await self._wait_until_writable(sock, new_waiter())
        except OSError as error:
            if not sent and error.errno in _NOT_A_FILE:
                raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from error
            if error.errno in _PEER_GONE:
                raise ConnectionError(error.errno, error.strerror) from error
            raise
        finally:
            _move_behind(file, offset, sent)
        return sent

    async def _wait_until_writable(self, sock: socket.socket, ready: asyncio.Future[None]) -> None:
        # By the socket, not its number: uvloop then holds off a close() until the writer is gone.
        self.add_writer(sock, _resolve, ready)
        try:
            await ready
        finally:
            self.remove_writer(sock)

    async def _copy_blocks(
        self,
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
                block = await self.run_in_executor(None, file.read, size)
                if not block:
                    break
                await send(block)
                sent += len(block)
        finally:
            _move_behind(file, offset, sent)
        return sent


class _StandIn(asyncio.Protocol):
    """Keeps the place of a transport's protocol while a file is sent.

    The protocol comes back to a transport as it left it, and is told of what
    it must know: a loss, and whether writing is paused.
    """

    def __init__(self, loop: Loop, transport: asyncio.Transport) -> None:
        # Any: it may be of either kind, or of none; uvloop asks for no base class.
        self._protocol: Any = transport.get_protocol()
        if isinstance(self._protocol, _StandIn):
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


def _check_arguments(sock: socket.socket, file: IO[bytes], offset: int, count: int | None) -> None:
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


def new_event_loop() -> Loop:
    """A new `Loop`, as `asyncio.run(main(), loop_factory=iodine_aio.new_event_loop)` wants it."""
    return Loop()


def descriptor_limit() -> int:
    """How many descriptors this process may have open; `sys.maxsize` where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors as far as it goes, and return what is in force.

    Best effort: where the kernel grants nothing more, the limit stays as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (hard, resource.RLIM_INFINITY):
        return descriptor_limit()
    wanted = DESCRIPTOR_LIMITS if hard == resource.RLIM_INFINITY else (hard, *DESCRIPTOR_LIMITS)
    for limit in wanted:
        if limit <= soft:
            break
        if hard != resource.RLIM_INFINITY and limit > hard:
            continue
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            continue
        break
    return descriptor_limit()


def __getattr__(name: str) -> Any:
    # Lazy, as in uvloop: from Python 3.14 merely to name asyncio's policy classes warns.
    if name not in ("EventLoopPolicy", "install"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if sys.version_info >= (3, 16):
        raise AttributeError(f"{name} went with Python 3.16: {_CURE}")
    globals()[name] = _policy_class() if name == "EventLoopPolicy" else _install
    return globals()[name]


def _policy_class() -> type[Any]:
    base: Any = uvloop.EventLoopPolicy

    class EventLoopPolicy(base):  # type: ignore[misc]
        """A policy that makes every new event loop a `Loop`. Gone in Python 3.16."""

        def _loop_factory(self) -> Loop:
            return new_event_loop()

    EventLoopPolicy.__module__, EventLoopPolicy.__qualname__ = __name__, "EventLoopPolicy"
    return EventLoopPolicy


def _install() -> None:
    """Make `Loop` what `asyncio.run` uses. Deprecated from Python 3.12, gone in 3.16."""
    if sys.version_info >= (3, 12):
        warnings.warn(
            f"install() is deprecated from Python 3.12: {_CURE}", DeprecationWarning, stacklevel=2
        )
    with warnings.catch_warnings():
        # Said once is enough: asyncio's own words name no cure.
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = sys.modules[__name__].EventLoopPolicy()
        asyncio.set_event_loop_policy(policy)
