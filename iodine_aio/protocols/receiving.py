"""The body of a request on its way in: kept until it is whole, or handed on as it comes.

Both kinds are fed what was read, and tell how much of it was theirs.
"""

import asyncio
import contextlib
import io
import tempfile
from typing import IO, Final, Protocol

from iodine_aio.errors import ClientGoneError, ProtocolError
from iodine_aio.logs import error_log
from iodine_aio.settings import Settings
from iodine_aio.wire.body import ChunkedReader, LengthReader
from iodine_aio.wire.environ import Env

MAX_WAITING_BYTES: Final = 64 * 1024  # that were read and that the app has not taken yet

BodyReader = LengthReader | ChunkedReader


class WholeBody:
    """A body that the app gets when it is whole.

    Args:
        spool_bytes: a longer one is kept in a temporary file.
    """

    __slots__ = ("_file", "_reader", "_spool_bytes", "size")

    def __init__(self, reader: BodyReader, spool_bytes: int) -> None:
        self._reader = reader
        self._spool_bytes = spool_bytes
        self._file: IO[bytes] | None = None
        self.size = 0

    @property
    def done(self) -> bool:
        """True once all of it was read."""
        return self._reader.done

    def feed(self, data: bytes) -> int:
        """Takes its part of `data`; returns how many bytes that was.

        Raises:
            ProtocolError: 400 malformed, 413 too long, 500 the disk does not take it.
        """
        piece, used = self._reader.feed(data)
        if piece:
            self.size += len(piece)
            try:
                if self._file is None:
                    # 0 would be: never on the disk.
                    self._file = tempfile.SpooledTemporaryFile(max(1, self._spool_bytes))  # noqa: SIM115
                self._file.write(piece)
            except OSError as error:
                raise _not_kept(error) from None
        return used

    def open(self) -> IO[bytes]:
        """The whole of it, from its beginning.

        Raises:
            ProtocolError: 500 the disk does not take it.
        """
        file = io.BytesIO() if self._file is None else self._file
        try:
            file.seek(0)
        except OSError as error:  # the last of it is written only now
            raise _not_kept(error) from None
        return file

    def close(self) -> None:
        """Nobody reads it any more."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # once more what the disk did not take
                file.close()


def _not_kept(error: OSError) -> ProtocolError:
    # Not the peer's fault, but the rest of its body cannot be read either.
    error_log.error("a request body cannot be kept: %s", error)
    return ProtocolError("the body cannot be kept", status=500)


class Sluice(Protocol):
    """Where a stream's bytes come from: its connection."""

    def body_wanted(self, first: bool) -> None:
        """The app waits for more; `first`: for the first time."""


class RequestStream:
    """A body that the app reads while it comes: `await read()` until it is empty.

    Args:
        reader: decodes it; None where the request has no body.
    """

    __slots__ = ("_begun", "_lost", "_pieces", "_reader", "_size", "_sluice", "_waiter")

    def __init__(self, sluice: Sluice, reader: BodyReader | None) -> None:
        self._sluice = sluice
        self._reader = reader
        self._pieces: list[bytes] = []
        self._size = 0
        self._begun = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """True once all of it was read from the client."""
        return self._reader is None or self._reader.done

    @property
    def full(self) -> bool:
        """True while the app takes too little to read more for it."""
        return self._size >= MAX_WAITING_BYTES

    @property
    def ended(self) -> bool:
        """True once the app has taken all of it."""
        reader = self._reader
        return (reader is None or reader.done) and not self._pieces

    async def read(self) -> bytes:
        """What has come since, at least one byte; b"" at the end.

        Raises:
            ClientGoneError: the client went away before the end.
        """
        while not self._pieces and not self.done:
            if self._lost:
                raise ClientGoneError("the client went away in the middle of its request")
            first, self._begun = not self._begun, True
            self._sluice.body_wanted(first)
            if not self._pieces and not self.done:
                await self._wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        was_full, self._size = self.full, 0
        if was_full and not self._lost:
            self._sluice.body_wanted(False)
        return data

    async def wait_lost(self) -> None:
        """Waits until the client has gone, or the response has been sent."""
        while not self._lost:
            await self._wait()

    def feed(self, data: bytes) -> int:
        """Takes its part of `data`; returns how many bytes that was.

        Raises:
            ProtocolError: 400 malformed, 413 too long.
        """
        assert self._reader is not None
        piece, used = self._reader.feed(data)
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
        if piece or self._reader.done:
            self._wake()
        return used

    def close(self) -> None:
        """The client is gone, or the response is whole: nothing more comes."""
        self._lost = True
        if self._waiter is not None:
            self._wake()

    async def _wait(self) -> None:
        if self._waiter is None or self._waiter.done():
            self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._waiter)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def frame_body(env: Env, settings: Settings) -> BodyReader | None:
    """What decodes the body that a request's head announces; None if it has none.

    The transfer coding is ours: it is taken out of `env`.

    Raises:
        ProtocolError: 400, 413, 417 or 501, what is announced cannot be.
    """
    http11 = env["SERVER_PROTOCOL"] == "HTTP/1.1"
    reader: BodyReader | None = None
    coding = env.pop("HTTP_TRANSFER_ENCODING", None)
    if coding is not None:
        # "A server or client that receives an HTTP/1.0 message containing a
        # Transfer-Encoding header field MUST treat the message as if the framing is
        # faulty" - RFC 9112, 6.1
        if not http11:
            raise ProtocolError("Transfer-Encoding in HTTP/1.0", status=400)
        if coding.lower() != "chunked":
            raise ProtocolError("transfer coding is not chunked", status=501)
        reader = ChunkedReader(settings.max_body_bytes, settings.max_head_bytes)
    elif "CONTENT_LENGTH" in env:
        length = int(env["CONTENT_LENGTH"])
        if length > settings.max_body_bytes:
            raise ProtocolError(f"body longer than {settings.max_body_bytes} bytes", status=413)
        if length:
            reader = LengthReader(length)
    expectation = env.get("HTTP_EXPECT")
    if expectation is not None and http11 and expectation.lower() != "100-continue":
        raise ProtocolError("only 100-continue can be expected", status=417)
    return reader
