"""The event loop: uvloop's, with the `sendfile` it lacks.

Nothing about asyncio's policies is touched when this module is imported.
"""

import asyncio
import socket
import ssl
import sys
import warnings
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

from iodine_aio.sendfile import StandIn, check_arguments, copy_blocks, send_blocks

_CURE: Final = "use asyncio.run(main(), loop_factory=iodine_aio.new_event_loop)"


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
        check_arguments(sock, file, offset, count)
        try:
            return await send_blocks(self, sock, file, offset, count, self.create_future)
        except asyncio.SendfileNotAvailableError:
            if not fallback:
                raise
        return await copy_blocks(
            self, file, offset, count, lambda block: self.sock_sendall(sock, block)
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
        check_arguments(sock, file, offset, count)
        stand_in = StandIn(self, cast(asyncio.Transport, transport))
        try:
            await stand_in.drain()
            # The transport's own descriptor belongs to libuv: add_writer refuses it.
            with sock.dup() as duplicate:
                try:
                    return await send_blocks(
                        self, duplicate, file, offset, count, stand_in.new_waiter
                    )
                except asyncio.SendfileNotAvailableError:
                    if not fallback:
                        raise
            return await copy_blocks(self, file, offset, count, stand_in.write)
        finally:
            stand_in.leave()


def new_event_loop() -> Loop:
    """A new `Loop`, as `asyncio.run(main(), loop_factory=iodine_aio.new_event_loop)` wants it."""
    return Loop()


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
