"""WebSocket frames, as the bytes that clients send (RFC 6455, section 5).

They are under a mask of zeros, so that payloads can be read. Nothing here comes from the
library: what it writes is compared with this.
"""

import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A frame of the shortest length; bits above the opcode's four are its RSV bits."""
    size = len(payload)
    first = opcode | 0x80 if final else opcode
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0xFE]) + struct.pack("!H", size)
    else:
        head = bytes([first, 0xFF]) + struct.pack("!Q", size)
    return head + bytes(4) + payload


def text_frame(text: str) -> bytes:
    """A whole text message."""
    return frame(TEXT, text.encode())


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    """A client's goodbye; without a code its payload is empty."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)
