"""The body of a request, cut out of the stream (RFC 9112, sections 6 and 7.1).

A reader is fed bytes until it is `done`, and tells how many of them were its own.
"""

from typing import Final

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.fields import is_token


class LengthReader:
    """Reads a body of `Content-Length` bytes, 1 or more."""

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """The body's bytes in `data`, and how many bytes of `data` were used."""
        piece = data[: self.remaining]
        self.remaining -= len(piece)
        self.done = self.remaining == 0
        return piece, len(piece)


_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_SIZE: Final = 0  # states: a chunk's size line is next
_DATA: Final = 1  # its data
_DATA_END: Final = 2  # the CRLF behind its data
_TRAILER: Final = 3  # a trailer line, or the empty line that ends the body

# A size line without extension; 8 digits count 4 GiB, more than any body may have.
_MAX_PLAIN_SIZE_LINE: Final = 32


class ChunkedReader:
    """Decodes the chunked coding; trailers are checked and forgotten.

    Args:
        max_body_bytes: more data in sum is refused.
        max_extra_bytes: what extensions and trailers of one body may take together.

    Raises from `feed`:
        ProtocolError: 400 malformed, 413 too long.

    RFC 9112, 7.1. Every line must end in CRLF: each leniency here has been a way to
    smuggle a request.
    """

    __slots__ = ("_extra", "_max_body", "_need", "_rest", "_state", "_total", "done")

    def __init__(self, max_body_bytes: int, max_extra_bytes: int) -> None:
        self.done = False
        self._max_body = max_body_bytes
        self._extra = max_extra_bytes
        self._total = 0
        self._need = 0
        self._state = _SIZE
        self._rest = b""

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """The decoded bytes of `data`, and how many bytes of `data` were used.

        A line that is not complete counts as used, and is kept.
        """
        kept = len(self._rest)
        if kept:
            data = self._rest + data
            self._rest = b""
        pieces: list[bytes] = []
        position = 0
        size = len(data)
        while position < size:
            if self._state == _DATA:
                piece = data[position : position + self._need]
                pieces.append(piece)
                position += len(piece)
                self._need -= len(piece)
                if self._need == 0:
                    self._state = _DATA_END
                continue
            if self._state == _DATA_END:
                end = data[position : position + 2]
                if end != b"\r\n":
                    if end == b"\r":
                        break
                    raise ProtocolError("chunk data not followed by CRLF", status=400)
                position += 2
                self._state = _SIZE
                continue
            at = data.find(b"\n", position)
            if at < 0:
                if size - position > self._extra + _MAX_PLAIN_SIZE_LINE:
                    raise ProtocolError("chunk extensions or trailers too long", status=400)
                self._check_line(data[position:].removesuffix(b"\r"))
                break
            if data[at - 1 : at] != b"\r" or at == position:
                raise ProtocolError("bare LF in the chunked coding", status=400)
            line = data[position : at - 1]
            position = at + 1
            if self._state == _SIZE:
                self._read_size(line)
            elif line:
                self._spend(len(line) + 2)
                self._check_line(line)
                name, colon, _ = line.partition(b":")
                if not colon or not is_token(name.decode("latin-1")):
                    raise ProtocolError("malformed trailer", status=400)
            else:
                self.done = True
                break
        else:
            return b"".join(pieces), position - kept
        if self.done:
            return b"".join(pieces), position - kept
        self._rest = data[position:]
        return b"".join(pieces), size - kept

    def _read_size(self, line: bytes) -> None:
        digits, semicolon, _ = line.partition(b";")
        if semicolon:
            self._check_line(line)
            self._spend(len(line) - len(digits))
            # BWS before the semicolon is part of the grammar - RFC 9112, 7.1.1
            digits = digits.rstrip(b" \t")
        # Not int(digits, 16) alone: it takes "0x5", "+5", "5_0" and white space.
        if not digits or len(digits) > 16 or not _HEX.issuperset(digits):
            raise ProtocolError("malformed chunk size", status=400)
        self._need = int(digits, 16)
        self._total += self._need
        if self._total > self._max_body:
            raise ProtocolError(f"body longer than {self._max_body} bytes", status=413)
        self._state = _DATA if self._need else _TRAILER

    def _spend(self, count: int) -> None:
        self._extra -= count
        if self._extra < 0:
            raise ProtocolError("chunk extensions and trailers too long", status=400)

    def _check_line(self, line: bytes) -> None:
        if b"\r" in line or b"\0" in line:
            raise ProtocolError("control character in the chunked coding", status=400)
