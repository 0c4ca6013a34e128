"""Taking the mask off payloads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.wire.masking import unmask


def xor_byte_by_byte(payload, key, offset=0):
    """The algorithm as the RFC puts it: octet i is XORed with key octet i mod 4."""
    return bytes(byte ^ key[(i + offset) % 4] for i, byte in enumerate(payload))


def test_example_of_the_rfc():
    """The masked "Hello" of RFC 6455, section 5.7."""
    plain = unmask(b"\x7f\x9f\x4d\x51\x58", b"\x37\xfa\x21\x3d")

    assert plain == b"Hello"


def test_nothing_unmasks_to_nothing():
    """A payload may be empty (RFC 6455, 5.2)."""
    assert unmask(b"", b"\x37\xfa\x21\x3d") == b""


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 125, 767, 768, 769, 770, 771, 772, 5000])
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 1001])
def test_every_size_and_offset_agrees_with_the_rfc(size, offset):
    """Octet i is XORed with octet i mod 4 of the key (RFC 6455, 5.3)."""
    payload = bytes(i * 7 & 0xFF for i in range(size))

    plain = unmask(payload, b"\x00\x7f\x80\xff", offset)

    assert plain == xor_byte_by_byte(payload, b"\x00\x7f\x80\xff", offset)


@pytest.mark.parametrize("size", [3, 1000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_becomes_new_immutable_bytes(size, kind):
    """The result is bytes, and the payload stays as it was."""
    payload = kind(b"a" * size)

    plain = unmask(payload, b"\x01\x01\x01\x01")

    assert type(plain) is bytes
    assert plain == b"`" * size
    assert bytes(payload) == b"a" * size


@given(
    payload=st.binary(max_size=300) | st.binary(min_size=700, max_size=2000),
    key=st.binary(min_size=4, max_size=4),
    cut=st.integers(0, 2000),
)
def test_pieces_unmask_as_the_whole_does(payload, key, cut):
    """Unmasking two pieces, the second with its offset, is unmasking the whole."""
    cut = min(cut, len(payload))

    pieces = unmask(payload[:cut], key) + unmask(payload[cut:], key, cut)

    assert pieces == unmask(payload, key) == xor_byte_by_byte(payload, key)


@given(payload=st.binary(max_size=2000), key=st.binary(min_size=4, max_size=4))
def test_masking_is_its_own_inverse(payload, key):
    """The same algorithm masks and unmasks (RFC 6455, 5.3)."""
    assert unmask(unmask(payload, key), key) == payload
