"""Frames as a server sends them, and the payload of Close frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.errors import ProtocolError, UsageError
from iodine_aio.wire.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    encode_close,
    encode_frame,
    may_be_sent,
    parse_close,
)

CODES_ON_THE_WIRE = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
CODES_OF_PROGRAMS = [3000, 3999, 4000, 4999]
CODES_NEVER_SENT = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


# ---- frames ----


def test_text_frame_of_the_rfc():
    """The unmasked "Hello" of RFC 6455, section 5.7."""
    assert encode_frame(TEXT, b"Hello") == b"\x81\x05Hello"


def test_fragments_of_the_rfc():
    """ "Hel" and "lo" of RFC 6455, section 5.7."""
    frames = encode_frame(TEXT, b"Hel", fin=False) + encode_frame(CONTINUATION, b"lo")

    assert frames == b"\x01\x03Hel\x80\x02lo"


def test_ping_of_the_rfc():
    """The unmasked Ping of RFC 6455, section 5.7."""
    assert encode_frame(PING, b"Hello") == b"\x89\x05Hello"


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (256, b"\x82\x7e\x01\x00"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_length_takes_the_fewest_bytes(size, head):
    """The minimal number of bytes encodes the length (RFC 6455, 5.2)."""
    payload = b"x" * size

    assert encode_frame(BINARY, payload) == head + payload


def test_large_fragment_is_not_final():
    """FIN stays 0 with an extended length as well (RFC 6455, 5.4)."""
    assert encode_frame(BINARY, b"x" * 126, fin=False)[:4] == b"\x02\x7e\x00\x7e"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_frame_of_any_buffer_is_bytes(kind):
    """A frame can be kept and sent to many: it is immutable."""
    frame = encode_frame(BINARY, kind(b"ab"))

    assert type(frame) is bytes
    assert frame == b"\x82\x02ab"


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frame_holds_125_bytes(opcode):
    """A control frame has a payload of 125 bytes or less (RFC 6455, 5.5)."""
    assert encode_frame(opcode, b"x" * 125) == bytes((0x80 | opcode, 125)) + b"x" * 125


def test_longer_control_frame_is_refused():
    """A control frame has a payload of 125 bytes or less (RFC 6455, 5.5)."""
    with pytest.raises(UsageError, match="control frame of 126 bytes, at most 125"):
        encode_frame(PING, b"x" * 126)


def test_fragmented_control_frame_is_refused():
    """A control frame must not be fragmented (RFC 6455, 5.5)."""
    with pytest.raises(UsageError, match="control frame cannot be a fragment"):
        encode_frame(PING, b"", fin=False)


@pytest.mark.parametrize("opcode", [-1, 3, 7, 0xB, 0xF, 0x81])
@pytest.mark.parametrize("size", [0, 126])
def test_unknown_opcode_is_refused(opcode, size):
    """Opcodes 3-7 and B-F are reserved (RFC 6455, 5.2)."""
    with pytest.raises(UsageError, match="no frame has opcode"):
        encode_frame(opcode, b"x" * size)


# ---- writing Close ----


def test_close_is_normal_unless_said_otherwise():
    """1000 is a normal closure (RFC 6455, 7.4.1)."""
    assert encode_close() == b"\x88\x02\x03\xe8"


def test_close_carries_code_and_reason():
    """Two bytes of code in network order, then UTF-8 (RFC 6455, 5.5.1)."""
    assert encode_close(1001, "café") == b"\x88\x07\x03\xe9caf\xc3\xa9"


def test_close_without_a_code_is_empty():
    """A Close frame may have no body (RFC 6455, 5.5.1)."""
    assert encode_close(None, "unsaid") == b"\x88\x00"


@pytest.mark.parametrize("code", CODES_ON_THE_WIRE + CODES_OF_PROGRAMS)
def test_defined_code_is_written(code):
    """Codes that a frame may carry (RFC 6455, 7.4)."""
    assert may_be_sent(code)
    assert encode_close(code) == b"\x88\x02" + code.to_bytes(2, "big")


@pytest.mark.parametrize("code", [*CODES_NEVER_SENT, -1, 65536])
def test_reserved_code_is_not_written(code):
    """1005, 1006 and 1015 must not be set in a Close frame (RFC 6455, 7.4.1)."""
    with pytest.raises(UsageError, match=f"close code {code} cannot be sent"):
        encode_close(code)


def test_reason_of_123_bytes_is_kept():
    """125 bytes of control frame less the code (RFC 6455, 5.5)."""
    assert encode_close(1000, "x" * 123) == b"\x88\x7d\x03\xe8" + b"x" * 123


def test_long_reason_is_cut():
    """The frame stays within 125 bytes (RFC 6455, 5.5)."""
    assert encode_close(1000, "x" * 10_000) == b"\x88\x7d\x03\xe8" + b"x" * 123


def test_long_reason_is_cut_between_characters():
    """The reason is UTF-8 still (RFC 6455, 5.5.1): 61 of two bytes fit in 123."""
    assert encode_close(1000, "é" * 100) == b"\x88\x7c\x03\xe8" + b"\xc3\xa9" * 61


def test_lone_surrogate_in_reason_becomes_question_mark():
    """A reason may quote what a client sent; closing must not fail for it."""
    assert encode_close(1000, "bad \ud800") == b"\x88\x07\x03\xe8bad ?"


# ---- reading Close ----


def test_empty_close_is_no_status():
    """Without a code it is considered to be 1005 (RFC 6455, 7.1.5)."""
    assert parse_close(b"") == (1005, "")


def test_code_without_reason():
    """The reason may be empty (RFC 6455, 7.1.6)."""
    assert parse_close(b"\x03\xe8") == (1000, "")


def test_code_and_reason():
    """The body begins with the code, UTF-8 follows (RFC 6455, 5.5.1)."""
    assert parse_close(b"\x0f\xa0caf\xc3\xa9") == (4000, "café")


def test_close_payload_of_one_byte_is_refused():
    """The first two bytes must be the code (RFC 6455, 5.5.1)."""
    with pytest.raises(ProtocolError, match="close payload of 1 byte") as caught:
        parse_close(b"\x03")

    assert caught.value.close_code == 1002


@pytest.mark.parametrize("code", CODES_ON_THE_WIRE + CODES_OF_PROGRAMS)
def test_defined_code_is_read(code):
    """Codes that a frame may carry (RFC 6455, 7.4)."""
    assert parse_close(code.to_bytes(2, "big")) == (code, "")


@pytest.mark.parametrize("code", CODES_NEVER_SENT)
def test_reserved_code_is_refused(code):
    """Codes outside of the ranges of RFC 6455, section 7.4."""
    with pytest.raises(ProtocolError, match=f"close code {code} is not allowed") as caught:
        parse_close(code.to_bytes(2, "big"))

    assert caught.value.close_code == 1002


@pytest.mark.parametrize("reason", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_reason_that_is_not_utf8_is_refused(reason):
    """The reason is UTF-8 (RFC 6455, 5.5.1 and 8.1)."""
    with pytest.raises(ProtocolError, match="close reason is not UTF-8") as caught:
        parse_close(b"\x03\xe8" + reason)

    assert caught.value.close_code == 1007


@given(
    code=st.sampled_from(CODES_ON_THE_WIRE + CODES_OF_PROGRAMS),
    reason=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_close_that_is_written_can_be_read(code, reason):
    """Reading gives the code, and the reason or as much of it as fits."""
    frame = encode_close(code, reason)
    read_code, read_reason = parse_close(frame[2:])

    assert len(frame) <= 127
    assert read_code == code
    assert reason.startswith(read_reason)
    assert read_reason == reason or len(frame) > 123
