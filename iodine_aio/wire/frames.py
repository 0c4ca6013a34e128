"""WebSocket frames, as a server sends them (RFC 6455, section 5).

A frame is a head of 2, 4 or 10 bytes and a payload; a server masks nothing.
The payload of a Close frame has a grammar of its own, read and written here
(section 5.5.1); frames that clients send are read by `messages`.
"""

from typing import Final

from iodine_aio.errors import ProtocolError, UsageError

# Opcodes (section 11.8); from 0x8 on they are those of control frames.
CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

# Close codes (section 7.4.1 and IANA's registry).
CLOSE_NORMAL: Final = 1000
CLOSE_GOING_AWAY: Final = 1001
CLOSE_PROTOCOL_ERROR: Final = 1002
CLOSE_UNSUPPORTED: Final = 1003
CLOSE_NO_STATUS: Final = 1005  # never on the wire: the Close frame was empty
CLOSE_ABNORMAL: Final = 1006  # never on the wire: there was no Close frame
CLOSE_BAD_DATA: Final = 1007
CLOSE_POLICY: Final = 1008
CLOSE_TOO_BIG: Final = 1009
CLOSE_MANDATORY_EXTENSION: Final = 1010
CLOSE_INTERNAL: Final = 1011
CLOSE_SERVICE_RESTART: Final = 1012
CLOSE_TRY_AGAIN_LATER: Final = 1013
CLOSE_BAD_GATEWAY: Final = 1014
CLOSE_TLS_HANDSHAKE: Final = 1015  # never on the wire: there was no connection

MAX_REASON_BYTES: Final = 123  # 125 of a control frame, less 2 of the code

# The heads of all final frames with payloads of 0 to 125 bytes: 756 times 2 bytes.
_SMALL_HEADS: Final = {
    opcode: tuple(bytes((0x80 | opcode, size)) for size in range(126))
    for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
}


def encode_frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """One unmasked frame, its length written in the fewest bytes.

    Args:
        opcode: `TEXT`, `BINARY`, `CONTINUATION`, `CLOSE`, `PING` or `PONG`.
        payload: for `TEXT`, and only there, bytes of UTF-8.
        fin: whether the message ends with this frame.

    Raises:
        UsageError: no such opcode, or a control frame that is split or has
            more than 125 bytes.

    RFC 6455, sections 5.2 and 5.5.
    """
    size = len(payload)
    if fin and size < 126 and opcode in _SMALL_HEADS:
        return _SMALL_HEADS[opcode][size] + payload
    if opcode not in _SMALL_HEADS:
        raise UsageError(f"no frame has opcode {opcode:#x}")
    if opcode >= CLOSE:
        if not fin:
            raise UsageError("control frame cannot be a fragment")
        raise UsageError(f"control frame of {size} bytes, at most 125")
    first = opcode | 0x80 if fin else opcode
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126, size >> 8, size & 0xFF)) + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may carry this code, in either direction.

    RFC 6455, section 7.4.
    """
    return (
        CLOSE_NORMAL <= code <= CLOSE_UNSUPPORTED
        or CLOSE_BAD_DATA <= code <= CLOSE_BAD_GATEWAY
        or 3000 <= code <= 4999
    )


def encode_close(code: int | None = CLOSE_NORMAL, reason: str = "") -> bytes:
    """A Close frame.

    Args:
        code: the close code, or None for a frame without a payload.
        reason: for people; cut between two characters to 123 bytes of UTF-8,
            a lone surrogate becomes `?`.

    Raises:
        UsageError: the code is one that no frame may carry.

    RFC 6455, section 5.5.1.
    """
    if code is None:
        return _SMALL_HEADS[CLOSE][0]
    if not may_be_sent(code):
        raise UsageError(f"close code {code} cannot be sent")
    text = reason[:MAX_REASON_BYTES].encode("utf-8", "replace")
    if len(text) > MAX_REASON_BYTES:
        text = text[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return encode_frame(CLOSE, code.to_bytes(2, "big") + text)


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason from the payload of a Close frame.

    Args:
        payload: at most 125 bytes, the mask taken off.

    Returns:
        `(1005, "")` for an empty payload.

    Raises:
        ProtocolError: one byte, or a code that no frame may carry (1002); a
            reason that is not UTF-8 (1007).

    RFC 6455, sections 5.5.1, 7.1.5 and 7.4.
    """
    if not payload:
        return CLOSE_NO_STATUS, ""
    if len(payload) == 1:
        raise ProtocolError("close payload of 1 byte", close_code=CLOSE_PROTOCOL_ERROR)
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise ProtocolError(f"close code {code} is not allowed", close_code=CLOSE_PROTOCOL_ERROR)
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError("close reason is not UTF-8", close_code=CLOSE_BAD_DATA) from None
