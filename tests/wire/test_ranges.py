"""Byte ranges of a representation."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.errors import ResponseError, UsageError
from iodine_aio.wire.ranges import (
    MAX_RANGES,
    BadRange,
    RangeNotSatisfiable,
    encode_content_range,
    encode_unsatisfied_range,
    frame_parts,
    parse_range,
)


def test_range_from_first_to_last_includes_both():
    """bytes=0-499 are the first 500 bytes (RFC 9110, 14.1.2)."""
    assert parse_range("bytes=0-499", 10000) == [(0, 500)]


def test_range_without_last_goes_to_the_end():
    """bytes=9500- are the last 500 of 10000 (RFC 9110, 14.1.2)."""
    assert parse_range("bytes=9500-", 10000) == [(9500, 10000)]


def test_suffix_is_counted_from_the_end():
    """bytes=-500 are the last 500 of 10000 (RFC 9110, 14.1.2)."""
    assert parse_range("bytes=-500", 10000) == [(9500, 10000)]


def test_suffix_longer_than_file_asks_for_all_of_it():
    """bytes=-500 of a 10-byte file is the whole file (RFC 9110, 14.1.2)."""
    assert parse_range("bytes=-500", 10) == [(0, 10)]


def test_suffix_of_exactly_the_file_asks_for_all_of_it():
    """Nothing is before its first byte."""
    assert parse_range("bytes=-10", 10) == [(0, 10)]


@pytest.mark.parametrize("last", ["9", "10", "99999"])
def test_last_position_beyond_the_end_is_the_end(last):
    """The remainder of the representation is meant (RFC 9110, 14.1.2)."""
    assert parse_range(f"bytes=5-{last}", 10) == [(5, 10)]


def test_range_of_one_byte():
    """First and last may be the same: bytes=0-0 (RFC 9110, 14.1.2)."""
    assert parse_range("bytes=0-0", 10) == [(0, 1)]


def test_several_ranges_are_several_spans():
    """bytes=0-0,-1 are the first and the last byte only (RFC 9110, 14.1.2)."""
    assert parse_range("bytes=0-0,-1", 10000) == [(0, 1), (9999, 10000)]


def test_spans_ascend_whatever_their_order_was():
    """So that a file is read once, forwards."""
    assert parse_range("bytes=8-8, 4-4, 0-0", 10) == [(0, 1), (4, 5), (8, 9)]


@pytest.mark.parametrize("value", ["bytes=0-4,2-6", "bytes=2-6,0-4", "bytes=0-6,2-3", "bytes=0-6"])
def test_overlapping_ranges_become_one(value):
    """No byte is sent twice, however often it is asked for (CVE-2011-3192)."""
    assert parse_range(value, 10) == [(0, 7)]


def test_adjacent_ranges_become_one():
    """The second begins where the first ends."""
    assert parse_range("bytes=0-4,5-9", 20) == [(0, 10)]


def test_ranges_a_byte_apart_stay_two():
    """What was not asked for is not sent."""
    assert parse_range("bytes=0-4,6-9", 20) == [(0, 5), (6, 10)]


def test_range_beyond_the_end_is_left_out():
    """One that can be satisfied is enough (RFC 9110, 14.1.2)."""
    assert parse_range("bytes=0-4,20-29,-0", 10) == [(0, 5)]


@pytest.mark.parametrize("unit", ["bytes", "Bytes", "BYTES"])
def test_unit_is_compared_without_case(unit):
    """ "Range unit names are case-insensitive" (RFC 9110, 14.1)."""
    assert parse_range(f"{unit}=0-0", 10) == [(0, 1)]


@pytest.mark.parametrize("value", ["bytes= \t0-0\t , 4-4 ", "bytes=,0-0,,4-4,", "bytes=0-0, ,4-4"])
def test_white_space_and_nothing_around_commas_are_skipped(value):
    """A recipient must parse and ignore empty list elements (RFC 9110, 5.6.1.2)."""
    assert parse_range(value, 10) == [(0, 1), (4, 5)]


def test_leading_zeros_do_not_matter():
    """first-pos = 1*DIGIT (RFC 9110, 14.1.1)."""
    assert parse_range("bytes=0003-" + "0" * 5000 + "4", 10) == [(3, 5)]


@pytest.mark.parametrize(
    "value",
    [
        "bytes=10-",
        "bytes=10-10",
        "bytes=10-,-0",
        "bytes=-0",
        "bytes=-000",
        "bytes=9223372036854775808-",
        "bytes=18446744073709551616-18446744073709551617",
    ],
)
def test_nothing_within_the_file_cannot_be_satisfied(value):
    """Every first position is beyond the end, every suffix is 0: 416 (RFC 9110, 14.1.2)."""
    with pytest.raises(RangeNotSatisfiable, match="within 10 bytes") as caught:
        parse_range(value, 10)

    assert caught.value.status == 416


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=-0"])
def test_no_position_is_within_an_empty_file(value):
    """first-pos must be less than the length, which is 0 (RFC 9110, 14.1.2)."""
    with pytest.raises(RangeNotSatisfiable):
        parse_range(value, 0)


def test_suffix_of_an_empty_file_is_ignored():
    """It can be satisfied (RFC 9110, 14.1.2), but no Content-Range can say of nothing."""
    with pytest.raises(BadRange, match="empty"):
        parse_range("bytes=-5", 0)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes:0-0",
        "0-0",
        "=0-0",
        "items=0-0",
        "bytes =0-0",
        " bytes=0-0",
        "seconds=0-0",
    ],
)
def test_other_unit_is_ignored(value):
    """A range unit that is not understood must be ignored (RFC 9110, 14.2)."""
    with pytest.raises(BadRange, match="not in bytes"):
        parse_range(value, 10)


@pytest.mark.parametrize("value", ["bytes=", "bytes= ", "bytes=,", "bytes=, ,\t"])
def test_set_of_no_ranges_is_ignored(value):
    """range-set = 1#range-spec (RFC 9110, 14.1.1)."""
    with pytest.raises(BadRange, match="no members"):
        parse_range(value, 10)


@pytest.mark.parametrize(
    "spec",
    [
        "-",
        "5",
        "a-b",
        "+5-6",
        "5-+6",
        "--5",
        "-5-",
        "5--6",
        "1-2-3",
        "0x5-6",
        "5_0-60",
        "5.0-6",
        "1e1-20",
        "5 -6",
        "5- 6",
        "- 6",
        "5-6;q=1",
        "*",
        "\x0b5-6",
        "5-6\x0c",
        "\xa05-6",
        "5-6\n",
        "\xb2-6",
        "\u0665-6",
        "5-\uff16",
        "bytes=5-6",
    ],
)
def test_malformed_range_is_ignored(spec):
    """Nothing but ASCII digits and one hyphen is a range (RFC 9110, 14.1.1)."""
    with pytest.raises(BadRange, match="malformed"):
        parse_range(f"bytes={spec}", 10)


def test_one_malformed_range_spoils_all():
    """The set is invalid as a whole (RFC 9110, 14.1.1)."""
    with pytest.raises(BadRange):
        parse_range("bytes=0-0,x,4-4", 10)


@pytest.mark.parametrize("spec", ["5-4", "10-9", "100-99", "0-0,7-6", f"1{'0' * 5000}-9"])
def test_range_that_ends_before_it_begins_is_ignored(spec):
    """ "An int-range is invalid if the last-pos value is ... less" (RFC 9110, 14.1.1)."""
    with pytest.raises(BadRange, match="ends before it begins"):
        parse_range(f"bytes={spec}", 1000)


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, 2**63, 2**64, 2**64 + 5])
def test_numbers_do_not_overflow(number):
    """No width of integer is special (CVE-2017-7529)."""
    assert parse_range(f"bytes=3-{number}", 10) == [(3, 10)]
    assert parse_range(f"bytes=-{number}", 10) == [(0, 10)]


@pytest.mark.parametrize("digits", [20, 4300, 4301, 100_000])
def test_numbers_of_any_length_are_read(digits):
    """int() would refuse 4301 digits, and take quadratic time for as many as it takes."""
    nines = "9" * digits

    assert parse_range(f"bytes=3-{nines}", 10) == [(3, 10)]
    assert parse_range(f"bytes=-{nines}", 10) == [(0, 10)]
    with pytest.raises(RangeNotSatisfiable):
        parse_range(f"bytes={nines}-{nines}", 10)


def test_message_of_an_error_is_short():
    """What a peer sends does not fill the log."""
    for value in ["x" * 8000, "bytes=" + "x" * 8000, "bytes=" + "9" * 8000 + "-"]:
        with pytest.raises((BadRange, RangeNotSatisfiable)) as caught:
            parse_range(value, 10)

        assert len(str(caught.value)) < 160


def test_as_many_ranges_as_allowed_are_read():
    """The bound itself is allowed."""
    value = ",".join(f"{2 * i}-{2 * i}" for i in range(MAX_RANGES))

    assert len(parse_range(f"bytes={value}", 1000)) == MAX_RANGES


@pytest.mark.parametrize("count", [MAX_RANGES + 1, 1500])
def test_more_ranges_than_allowed_are_ignored(count):
    """A peer gets the file once, not a thousand parts of it (CVE-2011-3192)."""
    value = ",".join(f"{2 * i}-{2 * i}" for i in range(count))

    with pytest.raises(BadRange, match="more than"):
        parse_range(f"bytes={value}", 10_000)


def test_empty_members_count_too():
    """ "A reasonable number of empty list elements" (RFC 9110, 5.6.1.2)."""
    with pytest.raises(BadRange, match="more than"):
        parse_range("bytes=0-0" + "," * 8000, 10)


POSITION = st.integers(0, 30)
SPEC = st.one_of(
    st.tuples(POSITION, st.integers(0, 10)).map(lambda p: f"{p[0]}-{p[0] + p[1]}"),
    POSITION.map(lambda first: f"{first}-"),
    POSITION.map(lambda length: f"-{length}"),
)


def choose_bytes(specs, size):
    """The set of positions that are asked for, found one by one."""
    chosen = set()
    for spec in specs:
        first, _, last = spec.partition("-")
        for i in range(size):
            if first:
                wanted = int(first) <= i and (not last or i <= int(last))
            else:
                wanted = i >= size - int(last)
            if wanted:
                chosen.add(i)
    return chosen


@given(st.lists(SPEC, min_size=1, max_size=MAX_RANGES), st.integers(1, 25))
def test_spans_hold_what_is_asked_for_and_nothing_else(specs, size):
    """As a set of positions; and they ascend, with a gap between any two."""
    chosen = choose_bytes(specs, size)
    value = "bytes=" + ",".join(specs)

    if not chosen:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(value, size)
        return
    spans = parse_range(value, size)
    assert {i for start, stop in spans for i in range(start, stop)} == chosen
    assert all(start < stop for start, stop in spans)
    assert all(a[1] < b[0] for a, b in pairwise(spans))


@given(st.text(st.sampled_from("0123456789-, =\tbytesx+_\u0665\xb2"), max_size=60), POSITION)
def test_any_value_is_spans_or_one_of_two_errors(text, size):
    """Nothing else is raised, whatever a peer sends."""
    for value in (text, f"bytes={text}"):
        try:
            spans = parse_range(value, size)
        except (BadRange, RangeNotSatisfiable):
            continue
        assert spans
        assert all(0 <= start < stop <= size for start, stop in spans)


def test_content_range_names_first_last_and_length():
    """bytes 42-1233/1234 (RFC 9110, 14.4)."""
    assert encode_content_range(42, 1234, 1234) == "bytes 42-1233/1234"


def test_content_range_of_a_416_names_the_length():
    """bytes */1234 (RFC 9110, 14.4)."""
    assert encode_unsatisfied_range(1234) == "bytes */1234"


def test_two_parts_on_the_wire():
    """Each with its type and range, as in the RFC's example (RFC 9110, 15.3.7.2)."""
    data = b"0123456789"
    framed = frame_parts([(0, 2), (5, 9)], 10, "text/plain", "THIS")
    body = framed.heads[0] + data[0:2] + framed.heads[1] + data[5:9] + framed.end

    assert framed.content_type == "multipart/byteranges; boundary=THIS"
    assert body == (
        b"--THIS\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Range: bytes 0-1/10\r\n"
        b"\r\n"
        b"01\r\n"
        b"--THIS\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Range: bytes 5-8/10\r\n"
        b"\r\n"
        b"5678\r\n"
        b"--THIS--\r\n"
    )
    assert framed.length == len(body)


def test_parts_of_no_type_have_no_type():
    """A part has the Content-Type that the whole would have had (RFC 9110, 15.3.7.2)."""
    framed = frame_parts([(0, 1), (5, 6)], 10, None, "THIS")

    assert framed.heads[0] == b"--THIS\r\nContent-Range: bytes 0-0/10\r\n\r\n"


SPANS = st.lists(st.integers(0, 200), min_size=4, max_size=40, unique=True).map(
    lambda cuts: list(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)


@given(SPANS, st.none() | st.just("text/html; charset=utf-8"), st.integers(1, 70))
def test_length_is_that_of_what_is_produced(spans, content_type, width):
    """The Content-Length is right before a byte of the file is read."""
    data = bytes(range(200))
    framed = frame_parts(spans, len(data), content_type, "b" * width)
    pieces = [data[start:stop] for start, stop in spans]
    body = b"".join(h + p for h, p in zip(framed.heads, pieces, strict=True)) + framed.end

    assert framed.length == len(body)


@given(SPANS)
def test_parts_come_back_out_of_the_multipart(spans):
    """Taken apart at its boundary, the body yields the spans' bytes."""
    data = bytes(range(48, 58)) * 20
    framed = frame_parts(spans, len(data), "text/plain", "xYx")
    pieces = [data[start:stop] for start, stop in spans]
    body = b"".join(h + p for h, p in zip(framed.heads, pieces, strict=True)) + framed.end

    opening, *parts, closing = (b"\r\n" + body).split(b"\r\n--xYx")
    assert (opening, closing) == (b"", b"--\r\n")
    assert [part.partition(b"\r\n\r\n")[2] for part in parts] == pieces


def test_longest_boundary_is_taken():
    """A boundary has up to 70 characters (RFC 2046, 5.1.1)."""
    assert (
        frame_parts([(0, 1), (5, 6)], 10, None, "a" * 70).end == b"\r\n--" + b"a" * 70 + b"--\r\n"
    )


@pytest.mark.parametrize("boundary", ["", "a" * 71, "a b", 'a"', "a\r\n", "a;b", "\xe9", "\u0665"])
def test_boundary_that_needs_quotes_or_is_none_is_refused(boundary):
    """1 to 70 letters and digits: valid unquoted, in the field and in the body."""
    with pytest.raises(UsageError, match="boundary"):
        frame_parts([(0, 1), (5, 6)], 10, None, boundary)


@pytest.mark.parametrize("content_type", ["a/b\r\nX: 1", "a/b\n", "a/b\0", "a/\xe9"])
def test_type_that_would_split_a_part_is_refused(content_type):
    """No check of the response's own fields would see it."""
    with pytest.raises(ResponseError, match="content type"):
        frame_parts([(0, 1), (5, 6)], 10, content_type, "THIS")
