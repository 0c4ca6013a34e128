"""How the body of a response is delimited on the wire (RFC 9112, sections 6 and 7)."""

from typing import Final

LAST_CHUNK: Final = b"0\r\n\r\n"


def encode_chunk(piece: bytes) -> bytes:
    """`piece`, which is not empty, in the chunked coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Framing:
    """How a streamed body is delimited: by length, by chunks, or by the connection's end.

    Args:
        length: the announced Content-Length, or None.
        chunked: the chunked coding is used.

    RFC 9112, section 6.
    """

    __slots__ = ("chunked", "remaining")

    def __init__(self, length: int | None, chunked: bool) -> None:
        self.remaining = length
        self.chunked = chunked

    def encode(self, piece: bytes) -> bytes:
        """`piece` as it goes on the wire; what exceeds the announced length is cut."""
        if self.chunked:
            # An empty chunk would end the body.
            return encode_chunk(piece) if piece else b""
        if self.remaining is None:
            return piece
        piece = piece[: self.remaining]
        self.remaining -= len(piece)
        return piece

    def skip(self, size: int) -> None:
        """Counts bytes of the announced length that were sent without `encode`."""
        if self.remaining is not None:
            self.remaining -= size

    @property
    def remaining_bytes(self) -> int:
        """Announced bytes that are still missing."""
        return self.remaining or 0

    @property
    def field(self) -> str:
        """The field line that announces it; none where the connection's end delimits."""
        if self.chunked:
            return "Transfer-Encoding: chunked\r\n"
        return "" if self.remaining is None else f"Content-Length: {self.remaining}\r\n"

    @property
    def by_close(self) -> bool:
        """True if only the end of the connection ends the body."""
        return self.remaining is None and not self.chunked

    def end(self) -> bytes:
        """What ends the body on the wire."""
        return LAST_CHUNK if self.chunked else b""

    @property
    def complete(self) -> bool:
        """False while announced bytes are missing: such a connection must be closed."""
        return not self.remaining
