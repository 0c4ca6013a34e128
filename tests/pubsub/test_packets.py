"""Packets between processes, and envelopes on Redis."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iodine_aio
from iodine_aio.errors import ProtocolError, UsageError
from iodine_aio.pubsub.packets import (
    MAX_CHANNEL_BYTES,
    MAX_DATA_BYTES,
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE,
    UNSUBSCRIBE_PATTERN,
    Packet,
    PacketReader,
    encode_announcement,
    encode_envelope,
    encode_publication,
    parse_envelope,
)

ANNOUNCEMENTS = (SUBSCRIBE, UNSUBSCRIBE, SUBSCRIBE_PATTERN, UNSUBSCRIBE_PATTERN)
ORIGIN = bytes(range(16))

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
publications = st.tuples(text, text | st.binary(max_size=40)).map(lambda p: encode_publication(*p))
announcements = st.tuples(st.sampled_from(ANNOUNCEMENTS), text).map(
    lambda p: encode_announcement(*p)
)
wires = st.lists(publications | announcements | st.binary(max_size=12), max_size=6).map(b"".join)


def read(*pieces: bytes) -> tuple[list[Packet], str]:
    """Packets of these reads, and what was wrong with them."""
    reader = PacketReader()
    packets = [packet for piece in pieces for packet in reader.feed(piece)]
    return packets, str(reader.failure or "")


def test_publication_of_text_is_these_bytes():
    """The layout: length, kind, length of the channel, channel, data."""
    packet = encode_publication("news", "hé")

    assert packet == b"\x00\x00\x00\x0a\x01\x00\x04newsh\xc3\xa9"


def test_publication_of_bytes_has_another_kind():
    """Text and binary stay apart on the way."""
    packet = encode_publication("news", b"h")

    assert packet == b"\x00\x00\x00\x08\x02\x00\x04newsh"


def test_announcement_is_these_bytes():
    """A publication without data, of another kind."""
    packet = encode_announcement(SUBSCRIBE_PATTERN, "n*")

    assert packet == b"\x00\x00\x00\x05\x05\x00\x02n*"


@pytest.mark.slow
@given(text, text | st.binary())
def test_publication_is_read_as_it_was_written(channel: str, data: str | bytes):
    """Channel, data and their types; and the very bytes, to be forwarded."""
    wire = encode_publication(channel, data)

    assert read(wire) == ([(1 if isinstance(data, str) else 2, channel, data, wire)], "")


@given(st.sampled_from(ANNOUNCEMENTS), text)
def test_announcement_is_read_as_it_was_written(kind: int, channel: str):
    """Kind and channel; there is no data."""
    wire = encode_announcement(kind, channel)

    assert read(wire) == ([(kind, channel, None, wire)], "")


@pytest.mark.slow
@given(wires)
def test_packets_are_the_same_in_every_split_in_two(wire: bytes):
    """The kernel may cut a stream anywhere, a malformed one too."""
    whole = read(wire)

    assert all(read(wire[:cut], wire[cut:]) == whole for cut in range(len(wire) + 1))


@pytest.mark.slow
@given(wires)
def test_packets_are_the_same_byte_by_byte(wire: bytes):
    """However slowly they come."""
    assert read(*(wire[i : i + 1] for i in range(len(wire)))) == read(wire)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"\x00\x00\x00\x02\x01\x00", "packet of 2 bytes"),
        (b"\xff\xff\xff\xff", "packet of 4294967295 bytes"),
        (b"GET / HTTP/1.1\r\n", "packet of 1195725856 bytes"),
        (b"\x00\x00\x00\x03\x00\x00\x00", "unknown kind 0"),
        (b"\x00\x00\x00\x03\x07\x00\x00", "unknown kind 7"),
        (b"\x00\x00\x00\x04\x01\x00\x02n", "channel up to byte 9 of a packet of 8"),
        (b"\x00\x00\x00\x05\x03\x00\x01nx", "1 bytes behind an announcement"),
        (b"\x00\x00\x00\x04\x01\x00\x01\xff", "not UTF-8"),
        (b"\x00\x00\x00\x05\x01\x00\x01n\xff", "not UTF-8"),
    ],
)
def test_malformed_packet_is_refused(wire: bytes, message: str):
    """Its reader says why, and hears nothing any more."""
    good = encode_publication("news", "good")

    packets, failure = read(good + wire, good)

    assert [packet[2] for packet in packets] == ["good"]
    assert message in failure


def test_length_is_judged_before_the_packet_is_kept():
    """Four bytes that announce 1 GB cost nothing."""
    reader = PacketReader()
    reader.feed(b"\x40\x00\x00\x00")

    assert str(reader.failure) == "packet of 1073741824 bytes, at most 16842754"


def test_longest_message_fits():
    """16 MiB, in a channel of as many bytes as two can count."""
    packets, failure = read(encode_publication("c" * MAX_CHANNEL_BYTES, bytes(MAX_DATA_BYTES)))

    assert (len(packets), failure) == (1, "")


@pytest.mark.parametrize(
    ("channel", "data"),
    [
        ("c" * (MAX_CHANNEL_BYTES + 1), b""),
        ("c", bytes(MAX_DATA_BYTES + 1)),
        ("\ud800", b""),
        ("c", "\ud800"),
    ],
)
def test_message_that_no_packet_can_carry_is_refused(channel: str, data: str | bytes):
    """Too long, or no text: the caller's fault."""
    with pytest.raises(UsageError):
        encode_publication(channel, data)


@given(text | st.binary())
def test_envelope_is_read_as_it_was_written(data: str | bytes):
    """Who said it, and the data in its type."""
    assert parse_envelope(encode_envelope(ORIGIN, data)) == (ORIGIN, data)


def test_message_without_envelope_is_text():
    """As redis-cli publishes it."""
    assert parse_envelope("grüezi".encode()) == (b"", "grüezi")


def test_message_without_envelope_that_is_no_text_stays_bytes():
    """Nothing of it is lost."""
    assert parse_envelope(b"\xff\x00") == (b"", b"\xff\x00")


@given(text)
def test_no_text_looks_like_an_envelope(data: str):
    """An envelope begins with what UTF-8 never does."""
    assert parse_envelope(data.encode()) == (b"", data)


@pytest.mark.parametrize(
    "value",
    [
        encode_envelope(ORIGIN, "")[:-1],
        encode_envelope(ORIGIN, "x").replace(b"1t", b"1x"),
        encode_envelope(ORIGIN, b"\xff").replace(b"1b", b"1t"),
    ],
)
def test_malformed_envelope_is_refused(value: bytes):
    """Cut, of an unknown kind, or text that is none."""
    with pytest.raises(ProtocolError):
        parse_envelope(value)


@pytest.mark.slow
def test_nothing_is_ever_unpickled_or_evaluated():
    """Whoever can write to a link or to Redis must not be able to run code."""
    banned = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "eval", "exec"}
    found = set()
    for path in Path(iodine_aio.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = set()
            if isinstance(node, ast.Name):
                names = {node.id}
            elif isinstance(node, ast.Attribute):
                names = {node.attr}
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {str(node.module), *(alias.name for alias in node.names)}
            found |= {(path.name, name) for name in names & banned}

    assert found == set()
