"""WebSocket messages, read from the bytes that a client sends (RFC 6455, section 5).

Nothing is kept that may be refused: the head of a frame is judged byte by
byte, its length against the limit before any of the payload is stored, and
text as it arrives. Between two messages a reader holds no buffer at all.
"""

import codecs
from typing import Any, Final

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.frames import (
    BINARY,
    CLOSE,
    CLOSE_BAD_DATA,
    CLOSE_PROTOCOL_ERROR,
    CLOSE_TOO_BIG,
    CONTINUATION,
    PONG,
    TEXT,
    parse_close,
)
from iodine_aio.wire.masking import unmask

Event = tuple[int, Any]

_WHOLE_TEXT: Final = 0x80 | TEXT
_WHOLE_BINARY: Final = 0x80 | BINARY

_from_bytes: Final = int.from_bytes  # the look-up on the type takes 50 ns
_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


class _Partial:
    """A message that has begun and not ended, and its frame of the moment."""

    __slots__ = ("decoder", "final", "frames", "key", "length", "offset", "opcode", "payload")

    def __init__(self, opcode: int) -> None:
        self.opcode = opcode
        self.payload = bytearray()  # unmasked; one-byte pieces in a list would be 60 times the size
        self.decoder = _utf8_decoder() if opcode == TEXT else None
        self.frames = 0
        self.final = False
        self.key = b""
        self.length = 0
        self.offset = 0


class MessageReader:
    """Turns the bytes of one client into messages, whatever pieces they come in.

    What it keeps of an unfinished message is at most `max_message_bytes` and
    the eighth by which a bytearray grows ahead, and 130 bytes of an unfinished
    head or control frame.

    Args:
        max_message_bytes: payload bytes of one message, fragments in sum; more is 1009.
        max_fragments: frames of one message, 1 or more; more is 1009.

    Attributes:
        failure: how the client broke the protocol, once it has; it carries
            the close code that answers it.

    RFC 6455, sections 5 and 8.1.
    """

    __slots__ = ("_ended", "_head", "_partial", "failure", "max_fragments", "max_message_bytes")

    def __init__(self, max_message_bytes: int, max_fragments: int) -> None:
        self.max_message_bytes = max_message_bytes
        self.max_fragments = max_fragments
        self.failure: ProtocolError | None = None
        self._ended = False
        self._head = b""  # of a frame that cannot be begun yet, or a whole control frame's
        self._partial: _Partial | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Messages and control frames that these bytes complete, in order.

        After a violation or a Close frame all further bytes are ignored. What
        came before a violation, in the same bytes, is still returned.

        Returns:
            `(TEXT, str)`, `(BINARY, bytes)`, `(PING, bytes)`, `(PONG, bytes)` or
            `(CLOSE, (code, reason))`.

        RFC 6455, section 6.2.
        """
        events: list[Event] = []
        if self._ended:
            return events
        if self._head:
            data = self._head + data
            self._head = b""
        size = len(data)
        limit = self.max_message_bytes
        partial = self._partial
        position = 0
        try:
            if partial is not None and partial.offset < partial.length:
                position = self._read_payload(partial, data, 0, events)
                partial = self._partial
            while position < size:
                start = position + 6
                # The usual frame comes first: a whole small message in one read. Its mask
                # is taken off in place, to call unmask() would be a sixth of the time.
                if start <= size and partial is None:
                    length = data[position + 1] - 128
                    stop = start + length
                    if 0 <= length < 126 and length <= limit and stop <= size:
                        first = data[position]
                        if _WHOLE_TEXT <= first <= _WHOLE_BINARY:
                            key = (data[position + 2 : start] * 32)[:length]
                            plain = (
                                _from_bytes(data[start:stop], "little") ^ _from_bytes(key, "little")
                            ).to_bytes(length, "little")
                            if first == _WHOLE_TEXT:
                                events.append((TEXT, plain.decode()))
                            else:
                                events.append((BINARY, plain))
                            position = stop
                            continue
                position = self._read_frame(data, position, events)
                partial = self._partial
        except UnicodeDecodeError:
            self._fail("text is not UTF-8", CLOSE_BAD_DATA)
        except ProtocolError as error:
            self._fail(str(error), error.close_code)
        return events

    def _fail(self, message: str, close_code: int | None) -> None:
        # Not the error that was caught: its traceback holds the bytes that were read.
        self.failure = ProtocolError(message, close_code=close_code)
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._head = b""
        self._partial = None

    def _read_frame(self, data: bytes, position: int, events: list[Event]) -> int:
        """Read one frame, or as much of it as is there; return where it stops."""
        size = len(data)
        first = data[position]
        opcode = first & 0x0F
        partial = self._partial
        # "MUST be 0 unless an extension is negotiated that defines meanings
        # for non-zero values." - RFC 6455, 5.2
        if first & 0x70:
            raise _violation(f"reserved bits {first & 0x70:#x} are set")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise _violation(f"reserved opcode {opcode:#x}")
            if first < 0x80:
                raise _violation("control frame is fragmented")
        elif opcode > BINARY:
            raise _violation(f"reserved opcode {opcode:#x}")
        elif opcode == CONTINUATION:
            if partial is None:
                raise _violation("continuation of no message")
            if partial.frames >= self.max_fragments:
                raise _excess(f"message of more than {self.max_fragments} frames")
        elif partial is not None:
            raise _violation("message begun inside a fragmented one")

        if size - position < 2:
            self._head = data[position:]
            return size
        length = data[position + 1] - 128
        # "The server MUST close the connection upon receiving a frame that is
        # not masked." - RFC 6455, 5.1
        if length < 0:
            raise _violation("frame is not masked")
        start = position + 6
        if length > 125:
            if opcode >= CLOSE:
                raise _violation("control frame of more than 125 bytes")
            start = position + (8 if length == 126 else 14)
            announced = _read_length(data, position + 2, length)
            if announced is None:
                self._head = data[position:]
                return size
            length = announced
        if opcode < CLOSE:
            total = length if partial is None else length + len(partial.payload)
            if total > self.max_message_bytes:
                raise _excess(f"message of {total} bytes, at most {self.max_message_bytes}")
        stop = start + length
        # A control frame waits until it is whole, and is read anew: it is short.
        if start > size or (stop > size and opcode >= CLOSE):
            self._head = data[position:]
            return size

        key = data[start - 4 : start]
        if opcode >= CLOSE:
            plain = unmask(data[start:stop], key)
            if opcode == CLOSE:
                events.append((CLOSE, parse_close(plain)))
                self._end()
                return size
            events.append((opcode, plain))
            return stop
        if partial is None:
            if first >= 0x80 and stop <= size:
                plain = unmask(data[start:stop], key)
                events.append((opcode, plain.decode() if opcode == TEXT else plain))
                return stop
            partial = self._partial = _Partial(opcode)
        partial.frames += 1
        partial.final = first >= 0x80
        partial.key = key
        partial.length = length
        partial.offset = 0
        return self._read_payload(partial, data, start, events)

    def _read_payload(self, partial: _Partial, data: bytes, start: int, events: list[Event]) -> int:
        """Read what is there of the payload of a frame; return where it stops."""
        offset = partial.offset
        plain = unmask(data[start : start + partial.length - offset], partial.key, offset)
        # "When an endpoint is to interpret a byte stream as UTF-8 but finds
        # that the byte stream is not, in fact, a valid UTF-8 stream, that
        # endpoint MUST _Fail the WebSocket Connection_." - RFC 6455, 8.1
        if (decoder := partial.decoder) is not None:
            decoder.decode(plain)
            # Python's decoder waits for the third byte of a surrogate.
            if b"\xed\xa0" <= decoder.getstate()[0] < b"\xee":
                raise ProtocolError("text is not UTF-8", close_code=CLOSE_BAD_DATA)
        partial.payload += plain
        partial.offset = offset = offset + len(plain)
        if partial.final and offset == partial.length:
            self._partial = None
            payload = partial.payload
            is_text = partial.opcode == TEXT
            events.append((partial.opcode, payload.decode() if is_text else bytes(payload)))
        return start + len(plain)


def _read_length(data: bytes, start: int, form: int) -> int | None:
    """An extended length of form 126 or 127, or None while it is incomplete.

    "The minimal number of bytes MUST be used to encode the length" - RFC 6455, 5.2
    """
    if form == 126:
        if len(data) < start + 2:
            return None
        length = data[start] << 8 | data[start + 1]
        if length < 126:
            raise _violation(f"length {length} in 16 bits")
        return length
    # "(the most significant bit MUST be 0)" - RFC 6455, 5.2
    if len(data) > start and data[start] >= 0x80:
        raise _violation("length of more than 63 bits")
    if data[start : start + 6] == b"\x00\x00\x00\x00\x00\x00":
        raise _violation("length of at most 16 bits in 64")
    if len(data) < start + 8:
        return None
    return int.from_bytes(data[start : start + 8], "big")


def _violation(message: str) -> ProtocolError:
    return ProtocolError(message, close_code=CLOSE_PROTOCOL_ERROR)


def _excess(message: str) -> ProtocolError:
    return ProtocolError(message, close_code=CLOSE_TOO_BIG)
