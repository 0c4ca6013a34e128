"""Messages read from the bytes of a client.

A key of four zero bytes masks nothing, so that payloads can be read here.
"""

import gc
import sys
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.wire.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    encode_close,
    encode_frame,
)
from iodine_aio.wire.masking import unmask
from iodine_aio.wire.messages import MessageReader

KEY = b"\x00\x00\x00\x00"


def read(segments, max_message_bytes=1 << 20, max_fragments=4096):
    """Events of a stream in these segments, and (message, close code) of the failure."""
    reader = MessageReader(max_message_bytes, max_fragments)
    events = [event for segment in segments for event in reader.feed(segment)]
    failure = reader.failure
    return events, failure and (str(failure), failure.close_code)


def read_three_ways(stream, **limits):
    """The same, having found it alike whole, for every split in two, and byte by byte."""
    outcome = read([stream], **limits)
    for cut in range(1, len(stream)):
        assert read([stream[:cut], stream[cut:]], **limits) == outcome
    assert read([stream[i : i + 1] for i in range(len(stream))], **limits) == outcome
    return outcome


def bytes_until_failure(stream, **limits):
    """How many bytes a reader needs to see that the client broke the protocol."""
    reader = MessageReader(limits.get("max_message_bytes", 1 << 20), limits.get("max_fragments", 9))
    for i in range(len(stream)):
        reader.feed(stream[i : i + 1])
        if reader.failure:
            return i + 1
    return None


def mask(frame, key):
    """A server's frame as a client sends it."""
    head = {126: 4, 127: 10}.get(frame[1], 2)
    return bytes((frame[0], 0x80 | frame[1])) + frame[2:head] + key + unmask(frame[head:], key)


# ---- messages ----


def test_text_frame_of_the_rfc():
    """The masked "Hello" of RFC 6455, section 5.7."""
    outcome = read_three_ways(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")

    assert outcome == ([(TEXT, "Hello")], None)


def test_binary_frame():
    """Opcode 2 is binary: bytes of any value (RFC 6455, 5.6)."""
    outcome = read_three_ways(b"\x82\x83" + KEY + b"\x00\xff\xfe")

    assert outcome == ([(BINARY, b"\x00\xff\xfe")], None)


@pytest.mark.parametrize(("first", "event"), [(b"\x81", (TEXT, "")), (b"\x82", (BINARY, b""))])
def test_empty_message(first, event):
    """A payload may have no bytes (RFC 6455, 5.2)."""
    assert read_three_ways(first + b"\x80" + KEY) == ([event], None)


@pytest.mark.parametrize("size", [125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_form_of_length(size, opcode):
    """7, 16 and 64 bits of length (RFC 6455, 5.2)."""
    stream = mask(encode_frame(opcode, b"x" * size), b"\x01\x02\x03\x04")
    event = (opcode, "x" * size if opcode == TEXT else b"x" * size)

    assert read([stream]) == ([event], None)
    for cut in (1, 2, 3, 5, 9, 12, 14, 20, len(stream) - 1):
        assert read([stream[:cut], stream[cut:]]) == ([event], None)


def test_several_messages_in_one_read():
    """Messages come in the order of their frames."""
    stream = b"\x81\x81" + KEY + b"a" + b"\x82\x81" + KEY + b"b" + b"\x81\x81" + KEY + b"c"

    assert read_three_ways(stream) == ([(TEXT, "a"), (BINARY, b"b"), (TEXT, "c")], None)


def test_message_in_fragments():
    """Continuations are joined in order (RFC 6455, 5.4)."""
    stream = b"\x01\x81" + KEY + b"a" + b"\x00\x81" + KEY + b"b" + b"\x80\x81" + KEY + b"c"

    assert read_three_ways(stream) == ([(TEXT, "abc")], None)


def test_binary_message_in_fragments():
    """The opcode of the first fragment is that of the message (RFC 6455, 5.4)."""
    stream = b"\x02\x81" + KEY + b"\xff" + b"\x80\x81" + KEY + b"\x00"

    assert read_three_ways(stream) == ([(BINARY, b"\xff\x00")], None)


def test_empty_fragments():
    """A fragment may be empty, the last as well (RFC 6455, 5.4)."""
    stream = b"\x01\x80" + KEY + b"\x00\x81" + KEY + b"a" + b"\x80\x80" + KEY

    assert read_three_ways(stream) == ([(TEXT, "a")], None)


def test_message_follows_a_fragmented_one():
    """Nothing of a message remains for the next one."""
    fragmented = b"\x01\x81" + KEY + b"a" + b"\x80\x81" + KEY + b"b"

    outcome = read_three_ways(fragmented + b"\x81\x81" + KEY + b"c" + fragmented)

    assert outcome == ([(TEXT, "ab"), (TEXT, "c"), (TEXT, "ab")], None)


def test_fragments_have_keys_of_their_own():
    """The masking key is the frame's (RFC 6455, 5.3)."""
    stream = mask(encode_frame(TEXT, b"Hel", fin=False), b"\x01\x02\x03\x04")
    stream += mask(encode_frame(CONTINUATION, b"lo"), b"\xff\xee\xdd\xcc")

    assert read_three_ways(stream) == ([(TEXT, "Hello")], None)


@pytest.mark.parametrize("cut", [0, 7, 12])
def test_payloads_are_immutable(cut):
    """A message may be kept, hashed and sent on: it is bytes, never bytearray."""
    stream = b"\x02\x81" + KEY + b"a" + b"\x89\x81" + KEY + b"p" + b"\x80\x81" + KEY + b"b"

    events, _ = read([stream[:cut], stream[cut:]])

    assert events == [(PING, b"p"), (BINARY, b"ab")]
    assert [type(payload) for _, payload in events] == [bytes, bytes]


# ---- control frames ----


def test_ping_and_pong():
    """Application data of Ping and Pong is delivered (RFC 6455, 5.5.2 and 5.5.3)."""
    stream = b"\x89\x82" + KEY + b"hi" + b"\x8a\x80" + KEY

    assert read_three_ways(stream) == ([(PING, b"hi"), (PONG, b"")], None)


def test_control_frame_of_125_bytes():
    """A control frame has a payload of 125 bytes or less (RFC 6455, 5.5)."""
    assert read_three_ways(b"\x89\xfd" + KEY + b"x" * 125) == ([(PING, b"x" * 125)], None)


def test_control_frame_between_fragments():
    """Control frames may come in the middle of a fragmented message (RFC 6455, 5.4)."""
    stream = b"\x01\x81" + KEY + b"a" + b"\x89\x81" + KEY + b"p" + b"\x80\x81" + KEY + b"b"

    assert read_three_ways(stream) == ([(PING, b"p"), (TEXT, "ab")], None)


def test_control_frame_does_not_count_as_message():
    """The limit is that of messages; a control frame has its own."""
    outcome = read_three_ways(b"\x89\x83" + KEY + b"abc", max_message_bytes=2)

    assert outcome == ([(PING, b"abc")], None)


def test_close_with_code_and_reason():
    """Code and reason of the Close frame (RFC 6455, 5.5.1)."""
    outcome = read_three_ways(b"\x88\x85" + KEY + b"\x03\xe9bye")

    assert outcome == ([(CLOSE, (1001, "bye"))], None)


def test_close_without_a_body():
    """No code is 1005 (RFC 6455, 7.1.5)."""
    assert read_three_ways(b"\x88\x80" + KEY) == ([(CLOSE, (1005, ""))], None)


def test_close_between_fragments():
    """Close is a control frame and may come between fragments (RFC 6455, 5.4)."""
    outcome = read_three_ways(b"\x01\x81" + KEY + b"a" + b"\x88\x80" + KEY)

    assert outcome == ([(CLOSE, (1005, ""))], None)


@pytest.mark.parametrize(
    "rest", [b"\x81\x81" + KEY + b"a", b"\x88\x80" + KEY, b"\xff\xff", b"\x81\x01a"]
)
def test_bytes_after_close_are_ignored(rest):
    """After a Close frame all further data is discarded (RFC 6455, 5.5.1 and 1.4)."""
    outcome = read_three_ways(b"\x81\x81" + KEY + b"a" + b"\x88\x82" + KEY + b"\x03\xe8" + rest)

    assert outcome == ([(TEXT, "a"), (CLOSE, (1000, ""))], None)


# ---- rejected heads ----


@pytest.mark.parametrize("first", [b"\x81", b"\x82", b"\x01", b"\x89", b"\x88"])
def test_unmasked_frame_is_refused(first):
    """The server closes upon a frame that is not masked (RFC 6455, 5.1)."""
    stream = first + b"\x05Hello"

    assert read_three_ways(stream) == ([], ("frame is not masked", 1002))
    assert bytes_until_failure(stream) == 2


@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
@pytest.mark.parametrize("first", [0x81, 0x02, 0x88, 0x89])
def test_reserved_bit_is_refused(bit, first):
    """RSV1-3 must be 0 without an extension (RFC 6455, 5.2)."""
    stream = bytes((first | bit, 0x81)) + KEY + b"a"

    assert read_three_ways(stream) == ([], (f"reserved bits {bit:#x} are set", 1002))
    assert bytes_until_failure(stream) == 1


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("fin", [0, 0x80])
def test_reserved_opcode_is_refused(opcode, fin):
    """An unknown opcode fails the connection (RFC 6455, 5.2)."""
    stream = bytes((fin | opcode, 0x81)) + KEY + b"a"

    assert read_three_ways(stream) == ([], (f"reserved opcode {opcode:#x}", 1002))
    assert bytes_until_failure(stream) == 1


@pytest.mark.parametrize("first", [b"\x08", b"\x09", b"\x0a"])
def test_fragmented_control_frame_is_refused(first):
    """Control frames must not be fragmented (RFC 6455, 5.5)."""
    stream = first + b"\x80" + KEY

    assert read_three_ways(stream) == ([], ("control frame is fragmented", 1002))
    assert bytes_until_failure(stream) == 1


@pytest.mark.parametrize("first", [b"\x88", b"\x89", b"\x8a"])
@pytest.mark.parametrize("length", [b"\xfe\x00\x7e", b"\xff\x00\x00\x00\x00\x00\x01\x00\x00"])
def test_control_frame_over_125_bytes_is_refused(first, length):
    """A control frame has a payload of 125 bytes or less (RFC 6455, 5.5)."""
    stream = first + length + KEY

    assert read_three_ways(stream) == ([], ("control frame of more than 125 bytes", 1002))
    assert bytes_until_failure(stream) == 2


@pytest.mark.parametrize("length", [0, 5, 125])
def test_small_length_in_16_bits_is_refused(length):
    """The minimal number of bytes must encode the length (RFC 6455, 5.2)."""
    stream = b"\x82\xfe" + length.to_bytes(2, "big") + KEY + b"x" * length

    assert read_three_ways(stream) == ([], (f"length {length} in 16 bits", 1002))
    assert bytes_until_failure(stream) == 4


@pytest.mark.parametrize("length", [0, 125, 126, 65535])
def test_small_length_in_64_bits_is_refused(length):
    """The minimal number of bytes must encode the length (RFC 6455, 5.2)."""
    stream = b"\x82\xff" + length.to_bytes(8, "big") + KEY

    assert read_three_ways(stream) == ([], ("length of at most 16 bits in 64", 1002))
    assert bytes_until_failure(stream) == 8


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1])
def test_length_of_64_bits_is_refused(length):
    """The most significant bit of the length must be 0 (RFC 6455, 5.2)."""
    stream = b"\x82\xff" + length.to_bytes(8, "big") + KEY

    assert read_three_ways(stream) == ([], ("length of more than 63 bits", 1002))
    assert bytes_until_failure(stream) == 3


@pytest.mark.parametrize("first", [b"\x00", b"\x80"])
def test_continuation_of_nothing_is_refused(first):
    """A continuation needs a message that has begun (RFC 6455, 5.4)."""
    stream = first + b"\x81" + KEY + b"a"

    assert read_three_ways(stream) == ([], ("continuation of no message", 1002))
    assert bytes_until_failure(stream) == 1


def test_continuation_after_the_last_is_refused():
    """The final fragment ends the message (RFC 6455, 5.4)."""
    stream = b"\x01\x81" + KEY + b"a" + b"\x80\x81" + KEY + b"b" + b"\x80\x81" + KEY + b"c"

    assert read_three_ways(stream) == ([(TEXT, "ab")], ("continuation of no message", 1002))


@pytest.mark.parametrize("first", [b"\x01", b"\x81", b"\x02", b"\x82"])
def test_message_inside_a_fragmented_one_is_refused(first):
    """Fragments of two messages must not be interleaved (RFC 6455, 5.4)."""
    stream = b"\x01\x81" + KEY + b"a" + first + b"\x81" + KEY + b"b"

    assert read_three_ways(stream) == ([], ("message begun inside a fragmented one", 1002))
    assert bytes_until_failure(stream) == 8


def test_messages_before_a_violation_are_delivered():
    """What was sent before the violation was sent all the same."""
    stream = b"\x81\x81" + KEY + b"a" + b"\x89\x80" + KEY + b"\x83"

    outcome = read_three_ways(stream)

    assert outcome == ([(TEXT, "a"), (PING, b"")], ("reserved opcode 0x3", 1002))


def test_bytes_after_a_violation_are_ignored():
    """Nothing is processed once the connection has failed (RFC 6455, 7.1.7)."""
    reader = MessageReader(1000, 10)
    reader.feed(b"\x83")
    failure = reader.failure

    assert reader.feed(b"\x81\x81" + KEY + b"a") == []
    assert reader.failure is failure


# ---- rejected Close frames ----


def test_close_of_one_byte_is_refused():
    """The body of Close begins with two bytes of code (RFC 6455, 5.5.1)."""
    outcome = read_three_ways(b"\x88\x81" + KEY + b"\x03")

    assert outcome == ([], ("close payload of 1 byte", 1002))


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_close_with_reserved_code_is_refused(code):
    """1005 is never on the wire, for one (RFC 6455, 7.4)."""
    outcome = read_three_ways(b"\x88\x82" + KEY + code.to_bytes(2, "big"))

    assert outcome == ([], (f"close code {code} is not allowed", 1002))


def test_close_with_reason_that_is_not_utf8_is_refused():
    """The reason is UTF-8 (RFC 6455, 5.5.1)."""
    outcome = read_three_ways(b"\x88\x83" + KEY + b"\x03\xe8\xff")

    assert outcome == ([], ("close reason is not UTF-8", 1007))


# ---- UTF-8 ----


def test_character_across_fragments():
    """Fragments of text are cut anywhere, and need not be UTF-8 each (RFC 6455, 5.6)."""
    stream = b"\x01\x81" + KEY + b"\xe2" + b"\x00\x81" + KEY + b"\x82" + b"\x80\x81" + KEY + b"\xac"

    assert read_three_ways(stream) == ([(TEXT, "\N{EURO SIGN}")], None)


@pytest.mark.parametrize("text", ["\x00", "\x7f", "é", "\ud7ff\ue000", "\uffff", "\U0010ffff"])
def test_every_width_of_character(text):
    """All that RFC 3629 encodes is text."""
    payload = text.encode()
    stream = bytes((0x81, 0x80 | len(payload))) + KEY + payload

    assert read_three_ways(stream) == ([(TEXT, text)], None)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80",
        b"\xff",
        b"\xc0\xaf",
        b"\xe0\x80\x80",
        b"\xf0\x80\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"a\xc3(",
    ],
)
def test_text_that_is_not_utf8_is_refused(payload):
    """Overlong, surrogate, too high, stray: all fail the connection (RFC 6455, 8.1)."""
    stream = bytes((0x81, 0x80 | len(payload))) + KEY + payload

    assert read_three_ways(stream) == ([], ("text is not UTF-8", 1007))


@pytest.mark.parametrize("payload", [b"a\xc3", b"\xe2\x82", b"\xed\xa0", b"\xf0\x9f\x98"])
def test_text_that_ends_inside_a_character_is_refused(payload):
    """The whole message is valid UTF-8 (RFC 6455, 8.1)."""
    whole = bytes((0x81, 0x80 | len(payload))) + KEY + payload
    fragment = bytes((0x01, 0x80 | len(payload))) + KEY + payload

    assert read_three_ways(whole) == ([], ("text is not UTF-8", 1007))
    assert read_three_ways(fragment + b"\x80\x80" + KEY) == ([], ("text is not UTF-8", 1007))


@pytest.mark.parametrize(
    ("payload", "offending"),
    [
        (b"abc\x80def", 4),
        (b"\xc0\xafabc", 1),
        (b"\xed\xa0\x80", 2),
        (b"\xf4\x90\x80\x80", 2),
        (b"\xf5abc", 1),
        (b"\xe2\x82(abc", 3),
    ],
)
@pytest.mark.parametrize("first", [b"\x81", b"\x01"])
def test_bad_utf8_is_seen_before_the_frame_is_complete(payload, offending, first):
    """A client need not send the rest of a message that is lost already (RFC 6455, 8.1)."""
    stream = first + b"\xfe\x10\x00" + KEY + payload

    assert read_three_ways(stream) == ([], ("text is not UTF-8", 1007))
    assert bytes_until_failure(stream) == 8 + offending


def test_binary_is_not_judged_as_text():
    """Binary data is arbitrary, in fragments as well (RFC 6455, 5.6)."""
    stream = b"\x02\x81" + KEY + b"\xff" + b"\x80\x81" + KEY + b"\xc0"

    assert read_three_ways(stream) == ([(BINARY, b"\xff\xc0")], None)


# ---- limits ----


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [5, 130])
def test_message_of_the_limit_is_read(opcode, size):
    """`max_message_bytes` is the largest message, not the smallest refused."""
    stream = mask(encode_frame(opcode, b"x" * size), KEY)

    events, failure = read_three_ways(stream, max_message_bytes=size)

    assert [len(payload) for _, payload in events] == [size]
    assert failure is None


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"\x81\x86", 6),
        (b"\x82\x86", 6),
        (b"\x01\x86", 6),
        (b"\x82\xfe\x00\x7e", 126),
        (b"\x82\xff\x00\x00\x00\x00\x40\x00\x00\x00", 1 << 30),
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", (1 << 63) - 1),
    ],
)
def test_message_over_the_limit_is_refused_by_its_head(head, size):
    """1009 is a message too big to process (RFC 6455, 7.4.1); nothing of it is awaited."""
    outcome = read_three_ways(head + KEY + b"xxxxxx", max_message_bytes=5)

    assert outcome == ([], (f"message of {size} bytes, at most 5", 1009))
    assert bytes_until_failure(head + KEY, max_message_bytes=5) == len(head)


def test_fragments_over_the_limit_in_sum_are_refused():
    """The limit is the message's, not the frame's (RFC 6455, 10.4)."""
    stream = b"\x01\x83" + KEY + b"abc" + b"\x00\x82" + KEY + b"de" + b"\x80\x81" + KEY + b"f"

    outcome = read_three_ways(stream, max_message_bytes=5)

    assert outcome == ([], ("message of 6 bytes, at most 5", 1009))
    assert bytes_until_failure(stream, max_message_bytes=5) == 9 + 8 + 2


def test_characters_are_counted_in_bytes():
    """The limit is that of the payload, before it is decoded."""
    outcome = read_three_ways(b"\x81\x84" + KEY + b"\xc3\xa9\xc3\xa9", max_message_bytes=3)

    assert outcome == ([], ("message of 4 bytes, at most 3", 1009))


def test_limit_is_that_of_one_message():
    """A message that has ended counts no more."""
    stream = b"\x01\x83" + KEY + b"abc" + b"\x80\x80" + KEY

    events, failure = read_three_ways(stream * 3, max_message_bytes=3, max_fragments=2)

    assert events == [(TEXT, "abc")] * 3
    assert failure is None


def test_fragments_up_to_the_limit_are_read():
    """`max_fragments` is the largest number of frames; control frames do not count."""
    stream = b"\x01\x80" + KEY + b"\x89\x80" + KEY + b"\x00\x80" + KEY + b"\x80\x81" + KEY + b"a"

    assert read_three_ways(stream, max_fragments=3) == ([(PING, b""), (TEXT, "a")], None)


def test_fragments_over_the_limit_are_refused():
    """A million empty fragments would be a message of no bytes (RFC 6455, 10.4)."""
    stream = b"\x02\x80" + KEY + b"\x00\x80" + KEY + b"\x00\x80" + KEY + b"\x00"

    outcome = read_three_ways(stream, max_fragments=3)

    assert outcome == ([], ("message of more than 3 frames", 1009))
    assert bytes_until_failure(stream, max_fragments=3) == len(stream)


# ---- cost ----


@pytest.fixture
def traced():
    """Memory is traced while the test runs."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def count_calls(segments):
    """Calls of functions, Python's and C's, that reading takes."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    reader = MessageReader(1 << 20, 1 << 20)
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for segment in segments:
            reader.feed(segment)
    finally:
        sys.setprofile(before)
    assert reader.failure is None
    return calls


@pytest.mark.parametrize(
    "frame",
    [b"\x81\x81" + KEY + b"a", b"\x89\x81" + KEY + b"a", b"\x81\xfe\x00\x7e" + KEY + b"a" * 126],
)
@pytest.mark.parametrize("step", [1, 7, 4096])
def test_twice_the_frames_take_twice_the_calls(frame, step):
    """Reading is linear in the bytes, whatever pieces they come in."""
    once, twice = (frame * count for count in (64, 128))
    few = count_calls([once[i : i + step] for i in range(0, len(once), step)])
    many = count_calls([twice[i : i + step] for i in range(0, len(twice), step)])

    assert many < 2.05 * few


def test_twice_the_fragments_take_twice_the_calls():
    """A message of n fragments costs n, not n squared."""
    once, twice = (b"\x01\x80" + KEY + (b"\x00\x81" + KEY + b"a") * n for n in (500, 1000))

    assert count_calls([twice]) < 2.05 * count_calls([once])


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("head", [b"\x82\xff", b"\x81\xff"])
def test_read_does_not_copy_what_came_before(head):
    """One more byte of a long frame allocates little: in sum that is linear."""
    reader = MessageReader(1 << 20, 10)
    reader.feed(head + (262_144).to_bytes(8, "big") + KEY + b"x" * 200_000)
    costly = 0
    for _ in range(500):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        reader.feed(b"x")
        costly += tracemalloc.get_traced_memory()[1] - before > 2000

    # The buffer grows by an eighth at a time, so at most once here.
    assert costly <= 1


@pytest.mark.usefixtures("traced")
def test_one_byte_fragments_take_the_room_of_their_bytes():
    """What is kept of a message is its bytes, not an object for each of its frames."""
    reader = MessageReader(1 << 20, 1 << 20)
    reader.feed(b"\x02\x80" + KEY)
    fragments = (b"\x00\x81" + KEY + b"a") * 1000
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(6):
        reader.feed(fragments)

    assert tracemalloc.get_traced_memory()[0] - before < 1.15 * 6_000 + 2000


@pytest.mark.usefixtures("traced")
def test_announced_length_reserves_no_memory():
    """A head costs the client 14 bytes; it must not cost the server a gigabyte."""
    reader = MessageReader(1 << 40, 10)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    reader.feed(b"\x82\xff" + (1 << 39).to_bytes(8, "big") + KEY + b"x")

    assert tracemalloc.get_traced_memory()[1] - before < 4000
    assert reader.failure is None


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "end",
    [b"\x03", b"\x81", b"\x88\x80" + KEY, b"\x88\x81" + KEY + b"\x03", b"\x80\x81" + KEY + b"\xff"],
)
def test_ended_reader_holds_no_buffers(end):
    """After a violation or a Close frame the unfinished message is released."""
    reader = MessageReader(1 << 20, 10)
    reader.feed(b"\x01\x80" + KEY)
    before = tracemalloc.get_traced_memory()[0]
    reader.feed(b"\x00\xff" + (100_000).to_bytes(8, "big") + KEY + b"x" * 100_000)
    reader.feed(end)

    assert tracemalloc.get_traced_memory()[0] - before < 2000


@pytest.mark.parametrize(
    "end", [b"\x81\x81" + KEY + b"\xff", b"\x88\x83" + KEY + b"\x03\xe8\xff", b"\x83"]
)
def test_failure_holds_no_traceback(end):
    """A traceback would keep alive the bytes that were read."""
    reader = MessageReader(1000, 10)
    reader.feed(end)

    assert reader.failure.__traceback__ is None
    assert reader.failure.__context__ is None
    assert reader.failure.__cause__ is None


def test_idle_reader_holds_no_buffers():
    """Ten thousand of these sit idle: between messages one is as small as a new one."""
    reader = MessageReader(1 << 20, 10)
    stream = b"\x01\x81" + KEY + b"a" + b"\x89\x80" + KEY + b"\x80\x81" + KEY + b"b"
    for i in range(len(stream)):
        reader.feed(stream[i : i + 1])

    assert gc.get_referents(reader) == gc.get_referents(MessageReader(1 << 20, 10))
    assert sys.getsizeof(reader) <= 96
    assert not hasattr(reader, "__dict__")


# ---- properties ----

keys = st.binary(min_size=4, max_size=4)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
payloads = st.binary(max_size=200) | st.sampled_from([b"x" * 65536, b"\x00" * 1000])


@st.composite
def conversations(draw):
    """Masked frames as one stream, and the events that they are to be read as."""
    frames = []
    events = []
    for opcode in draw(st.lists(st.sampled_from([TEXT, BINARY, PING, PONG]), max_size=5)):
        if opcode >= CLOSE:
            payload = draw(st.binary(max_size=125))
            frames.append(encode_frame(opcode, payload))
            events.append((opcode, payload))
            continue
        message = draw(texts if opcode == TEXT else payloads)
        payload = message.encode() if opcode == TEXT else message
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        for i in range(len(cuts)):
            fragment = payload[cuts[i - 1] if i else 0 : cuts[i]]
            frames.append(encode_frame(CONTINUATION if i else opcode, fragment, fin=False))
            if draw(st.booleans()):
                frames.append(encode_frame(PONG, b"!"))
                events.append((PONG, b"!"))
        last = payload[cuts[-1] if cuts else 0 :]
        frames.append(encode_frame(CONTINUATION if cuts else opcode, last))
        events.append((opcode, message))
    if draw(st.booleans()):
        frames.append(encode_close(3000, "bye"))
        events.append((CLOSE, (3000, "bye")))
    return b"".join(mask(frame, draw(keys)) for frame in frames), events


def split(stream, cuts):
    """The stream in segments that begin at these positions."""
    borders = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(borders)]


cuts = st.lists(st.integers(0, 100_000), max_size=20)


@given(conversation=conversations(), cuts=cuts)
def test_frames_that_are_written_can_be_read(conversation, cuts):
    """read(encode(x)) == x, in any segmentation."""
    stream, events = conversation

    assert read(split(stream, cuts)) == (events, None)


# Bytes of which heads are made, so that many streams get past the first one.
head_bytes = st.sampled_from(b"\x00\x01\x02\x80\x81\x82\x83\x88\x89\x8a\xfe\xff\xc3\xed\x03\xe8")
streams = st.lists(head_bytes | st.integers(0, 255), max_size=60).map(bytes)


@given(stream=streams, cuts=cuts)
def test_any_bytes_are_read_alike_in_any_segments(stream, cuts):
    """No input raises, and where a read ends changes nothing."""
    limits = {"max_message_bytes": 40, "max_fragments": 3}

    assert read(split(stream, cuts), **limits) == read([stream], **limits)
