"""Packets: what is said between the processes of one server, and over Redis.

A packet is its length in four bytes (of what follows), a kind, the length of the channel
in two bytes, the channel as UTF-8, and for a publication its data. Text must be UTF-8 as
well. Numbers and bytes only: a peer that writes nonsense can be dropped, and can do nothing
else, which no way of sending objects can promise.
"""

from typing import Final

from iodine_aio.errors import ProtocolError, UsageError

TEXT: Final = 1
BINARY: Final = 2
SUBSCRIBE: Final = 3
UNSUBSCRIBE: Final = 4
SUBSCRIBE_PATTERN: Final = 5
UNSUBSCRIBE_PATTERN: Final = 6

MAX_CHANNEL_BYTES: Final = 0xFFFF
MAX_DATA_BYTES: Final = 16 * 1024 * 1024

ORIGIN_BYTES: Final = 16

# kind, channel, data (None of an announcement), and all of its bytes
Packet = tuple[int, str, str | bytes | None, bytes]

_HEAD_BYTES: Final = 3  # behind the length: kind, length of the channel
_MAX_LENGTH: Final = _HEAD_BYTES + MAX_CHANNEL_BYTES + MAX_DATA_BYTES

# No text begins with 0x89, a continuation byte: what others publish is no envelope of ours.
_ENVELOPE: Final = b"\x89iodine1"
_TEXT_MARK: Final = b"t"
_BINARY_MARK: Final = b"b"
_ENVELOPE_HEAD: Final = len(_ENVELOPE) + 1 + ORIGIN_BYTES


def encode_publication(channel: str, data: str | bytes) -> bytes:
    """The packet that carries one message.

    Raises:
        UsageError: the channel or the data is too long, or has a lone surrogate.
    """
    if isinstance(data, str):
        return _encode(TEXT, channel, _to_bytes("data", data))
    return _encode(BINARY, channel, data)


def encode_announcement(kind: int, channel: str) -> bytes:
    """The packet that says which channel or pattern is listened to, or no more.

    Raises:
        UsageError: the channel is too long, or has a lone surrogate.
    """
    return _encode(kind, channel, b"")


def _encode(kind: int, channel: str, data: bytes) -> bytes:
    name = _to_bytes("channel", channel)
    if len(name) > MAX_CHANNEL_BYTES:
        raise UsageError(f"channel of {len(name)} bytes, at most {MAX_CHANNEL_BYTES}")
    if len(data) > MAX_DATA_BYTES:
        raise UsageError(f"message of {len(data)} bytes, at most {MAX_DATA_BYTES}")
    length = _HEAD_BYTES + len(name) + len(data)
    return b"%b%c%b%b%b" % (length.to_bytes(4), kind, len(name).to_bytes(2), name, data)


def _to_bytes(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} {text[:40]!r} has a lone surrogate, it is no text") from None


class PacketReader:
    """Turns the bytes of one link into packets, whatever pieces they come in.

    Keeps at most one packet, and the eighth by which a bytearray grows ahead.

    Attributes:
        failure: what was no packet, once that has come; the link is of no use any more.
    """

    __slots__ = ("_buffer", "_wanted", "failure")

    def __init__(self) -> None:
        self.failure: ProtocolError | None = None
        self._buffer = bytearray()
        self._wanted = 4  # bytes before there is anything to be done

    def feed(self, data: bytes) -> list[Packet]:
        """Packets that these bytes complete, in order.

        What came before a malformed one, in the same bytes, is still returned; everything
        behind it is ignored.
        """
        packets: list[Packet] = []
        if self.failure is not None:
            return packets
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return packets
            source = self._buffer
        position, size = 0, len(source)
        self._wanted = 4
        try:
            while size - position >= 4:
                length = int.from_bytes(source[position : position + 4])
                if not _HEAD_BYTES <= length <= _MAX_LENGTH:
                    raise ProtocolError(f"packet of {length} bytes, at most {_MAX_LENGTH}")
                stop = position + 4 + length
                if stop > size:
                    self._wanted = 4 + length
                    break
                packets.append(_parse(bytes(source[position:stop])))
                position = stop
        except ProtocolError as error:
            # Not the error that was caught: its traceback holds the bytes that were read.
            self.failure = ProtocolError(str(error))
            self._buffer = bytearray()
            return packets
        if source is self._buffer:
            del self._buffer[:position]
        elif position < size:
            self._buffer += data[position:]
        return packets


def _parse(packet: bytes) -> Packet:
    kind = packet[4]
    start = 4 + _HEAD_BYTES + int.from_bytes(packet[5:7])
    if start > len(packet):
        raise ProtocolError(f"channel up to byte {start} of a packet of {len(packet)}")
    data: str | bytes | None
    try:
        channel = packet[4 + _HEAD_BYTES : start].decode()
        if kind == TEXT:
            data = packet[start:].decode()
        elif kind == BINARY:
            data = packet[start:]
        elif SUBSCRIBE <= kind <= UNSUBSCRIBE_PATTERN:
            if start < len(packet):
                raise ProtocolError(f"{len(packet) - start} bytes behind an announcement")
            data = None
        else:
            raise ProtocolError(f"packet of unknown kind {kind}")
    except UnicodeDecodeError:
        raise ProtocolError("text of a packet is not UTF-8") from None
    return kind, channel, data, packet


def encode_envelope(origin: bytes, data: str | bytes) -> bytes:
    """What is published on Redis: who says it, text or binary, and the data.

    Args:
        origin: ORIGIN_BYTES that no other publisher has.
        data: the message's.
    """
    if isinstance(data, str):
        return b"%b%b%b%b" % (_ENVELOPE, _TEXT_MARK, origin, _to_bytes("data", data))
    return b"%b%b%b%b" % (_ENVELOPE, _BINARY_MARK, origin, data)


def parse_envelope(value: bytes) -> tuple[bytes, str | bytes]:
    """Origin and data of what came from Redis.

    Without an envelope, as from redis-cli, it is text, and its origin is empty; bytes that
    cannot be text stay bytes.

    Raises:
        ProtocolError: it begins as an envelope, and is none.
    """
    if not value.startswith(_ENVELOPE):
        try:
            return b"", value.decode()
        except UnicodeDecodeError:
            return b"", value
    start = len(_ENVELOPE) + 1
    mark, origin = value[start - 1 : start], value[start:_ENVELOPE_HEAD]
    if len(value) < _ENVELOPE_HEAD or mark not in (_TEXT_MARK, _BINARY_MARK):
        raise ProtocolError(f"malformed envelope {value[:_ENVELOPE_HEAD]!r}")
    data = value[_ENVELOPE_HEAD:]
    if mark == _BINARY_MARK:
        return origin, data
    try:
        return origin, data.decode()
    except UnicodeDecodeError:
        raise ProtocolError("text of an envelope is not UTF-8") from None
