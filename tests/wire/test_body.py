"""Bodies of requests, cut out of the stream."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.body import ChunkedReader, LengthReader

MAX_BODY = 64
MAX_EXTRA = 32


def chunked_reader():
    return ChunkedReader(MAX_BODY, MAX_EXTRA)


def read(reader, pieces):
    """The body that `reader` finds in `pieces`, and what is left behind it."""
    body, left = [], b""
    for piece in pieces:
        if reader.done:
            left += piece
            continue
        found, used = reader.feed(piece)
        assert 0 <= used <= len(piece)
        assert reader.done or used == len(piece)
        body.append(found)
        left += piece[used:]
    return b"".join(body), left


def splits(data):
    """`data` whole, split in every two, and byte by byte."""
    yield [data]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]


def check_chunked(data, body, left=b""):
    for pieces in splits(data):
        reader = chunked_reader()
        assert read(reader, pieces) == (body, left)
        assert reader.done


def check_refused(data, status=400):
    for pieces in splits(data):
        with pytest.raises(ProtocolError) as caught:
            read(chunked_reader(), pieces)
        assert caught.value.status == status


# ---- by length ----


def test_length_reader_takes_its_bytes_and_no_more():
    """The body ends after Content-Length bytes (RFC 9112, 6.3)."""
    for pieces in splits(b"hello, next"):
        assert read(LengthReader(5), pieces) == (b"hello", b", next")


def test_length_reader_is_not_done_before_its_last_byte():
    """A message that is cut short is incomplete (RFC 9112, 8)."""
    reader = LengthReader(5)
    reader.feed(b"hell")

    assert not reader.done

    reader.feed(b"o")

    assert reader.done


# ---- by chunks ----


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
        (b"0000000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n\r\n"),
    ],
)
def test_chunks_are_joined(data, body):
    """chunked-body = *chunk last-chunk trailer-section CRLF (RFC 9112, 7.1)."""
    check_chunked(data, body)


def test_bytes_behind_the_last_chunk_are_left():
    """What follows belongs to the next request (RFC 9112, 9.3.2)."""
    check_chunked(b"1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n", b"x", b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "extension", [b";a", b";a=b", b'; a="b;c"', b" ;a", b"\t;a", b";", b";\xff"]
)
def test_chunk_extension_is_ignored(extension):
    """A recipient must ignore unrecognized chunk extensions (RFC 9112, 7.1.1)."""
    check_chunked(b"1%b\r\nx\r\n0%b\r\n\r\n" % (extension, extension), b"x")


@pytest.mark.parametrize("trailer", [b"X: y", b"X:", b"x-a:\xff", b"Content-Length: 5"])
def test_trailer_is_passed_over(trailer):
    """A recipient may discard trailers, never merge them (RFC 9112, 7.1.2)."""
    check_chunked(b"1\r\nx\r\n0\r\n%b\r\n\r\nnext" % trailer, b"x", b"next")


@pytest.mark.parametrize(
    "size",
    [
        b"",
        b" ",
        b" 5",
        b"5 ",
        b"\x0b5",
        b"5\x0c",
        b"+5",
        b"-5",
        b"0x5",
        b"0_5",
        b"g",
        b"5.",
        b"5,",
        b'"5"',
        b"\xd9\xa5",
        b"\xb2",
        b"5\x00",
        b";a",
        b"00000000000000005",
    ],
)
def test_chunk_size_is_hexadecimal_digits(size):
    """chunk-size = 1*HEXDIG; what int() takes besides is refused (RFC 9112, 7.1)."""
    check_refused(size + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"\n",
        b"5;a\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX: y\nZ: z\r\n\r\n",
    ],
)
def test_bare_lf_is_refused(data):
    """A line of the coding ends in CRLF (RFC 9112, 7.1)."""
    check_refused(data)


@pytest.mark.parametrize(
    "data",
    [b"5\rhello\r\n", b"5\r\r\nhello\r\n", b"5;a\rb\r\nhello\r\n", b"0\r\nX: y\rZ: z\r\n\r\n"],
)
def test_bare_cr_is_refused(data):
    """A bare CR is no line end, and no part of a line (RFC 9112, 2.2)."""
    check_refused(data)


@pytest.mark.parametrize("end", [b"AB", b"\n", b"\rX", b"\n\r", b"\n\n", b"  ", b"0\r\n\r\n"])
def test_chunk_data_not_followed_by_crlf_is_refused(end):
    """chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF (RFC 9112, 7.1)."""
    check_refused(b"5\r\nhello" + end + b"0\r\n\r\n")


@pytest.mark.parametrize("data", [b"5;\0\r\nhello\r\n0\r\n\r\n", b"0\r\nX: \0\r\n\r\n"])
def test_nul_is_refused(data):
    """NUL is "invalid and dangerous" in a value (RFC 9110, 5.5)."""
    check_refused(data)


@pytest.mark.parametrize("trailer", [b"X", b": y", b"X : y", b" X: y", b"X y: z", b"X\xff: y"])
def test_malformed_trailer_is_refused(trailer):
    """A trailer is a field line: a token, a colon, a value (RFC 9112, 7.1.2)."""
    check_refused(b"0\r\n" + trailer + b"\r\n\r\n")


def test_body_at_the_limit_is_taken():
    """`max_body_bytes` itself is allowed."""
    check_chunked(b"40\r\n%b\r\n0\r\n\r\n" % (b"x" * 64), b"x" * 64)


@pytest.mark.parametrize(
    "data", [b"41\r\n", b"FFFFFFFFFFFFFFFF\r\n", b"3f\r\n%b\r\n2\r\n" % (b"x" * 63)]
)
def test_longer_body_is_413(data):
    """The sum of all chunks counts, and before they are read (RFC 9110, 15.5.14)."""
    check_refused(data, 413)


@pytest.mark.parametrize(
    "data",
    [
        b"1;" + b"a" * 40 + b"\r\n",
        (b"1;" + b"a" * 10 + b"\r\nx\r\n") * 4,
        b"0\r\nX: " + b"a" * 40 + b"\r\n\r\n",
        b"0\r\n" + b"X: yyyyyy\r\n" * 4,
        b"1;aaaaaaaaaaaaaaa\r\nx\r\n0\r\nX: yyyyyyyyyyyyyyy\r\n\r\n",
        b"1;" + b"a" * 100,
        b"0\r\n" + b"a" * 100,
    ],
)
def test_extensions_and_trailers_are_bounded_together(data):
    """A recipient limits what it ignores (RFC 9112, 7.1.1; CVE-2026-22815)."""
    check_refused(data)


@st.composite
def chunked_bodies(draw):
    """Chunks, their coding, and places to split it at."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=12), max_size=5))
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = draw(st.lists(st.integers(0, len(coded))))
    return b"".join(chunks), coded, sorted(cuts)


@given(chunked_bodies(), st.binary(max_size=8))
def test_coded_body_comes_back_however_it_is_split(coded_body, behind):
    """Decoding undoes the coding, and what is behind is left (RFC 9112, 7.1.3)."""
    body, coded, cuts = coded_body
    bounds = [0, *cuts, len(coded)]
    pieces = [coded[start:stop] for start, stop in itertools.pairwise(bounds)]

    assert read(chunked_reader(), [*pieces, behind]) == (body, behind)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_bytes_are_judged_alike_however_they_are_split(data, at):
    """The verdict depends on the bytes alone."""

    def judge(pieces):
        try:
            reader = chunked_reader()
            return read(reader, pieces), reader.done
        except ProtocolError as error:
            return error.status

    whole = judge([data])

    assert judge([data[:at], data[at:]]) == whole
    assert judge([data[i : i + 1] for i in range(len(data))]) == whole


def test_reader_keeps_no_data_back():
    """Memory stays level while a body of many chunks goes through it."""
    reader = ChunkedReader(1 << 30, MAX_EXTRA)
    block = b"400\r\n%b\r\n" % (b"x" * 1024) * 64
    reader.feed(block)
    tracemalloc.start()
    try:
        for _ in range(20):
            reader.feed(block)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < len(block)


def test_endless_line_is_not_kept():
    """A size line without an end is refused before it fills the memory."""
    reader = chunked_reader()
    for _ in range(MAX_EXTRA + 32):
        reader.feed(b"0")

    with pytest.raises(ProtocolError, match="too long"):
        reader.feed(b"0")
