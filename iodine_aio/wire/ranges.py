"""Byte ranges of a representation (RFC 9110, section 14).

Everything here is arithmetic on integers: no file is opened and no header
is written. Ranges are half-open, `start <= i < stop`, in bytes.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from iodine_aio.errors import IodineError, ProtocolError, ResponseError, UsageError

# A request for more parts is answered by the whole: no client that reads needs as many,
# and each part costs a head and a read, whatever its size.
MAX_RANGES: Final = 32

# int-range = first-pos "-" [ last-pos ]; suffix-range = "-" suffix-length
# Not int() alone: it takes "+5", "5_0" and the digits of other scripts.
_RANGE_SPEC: Final = re.compile("([0-9]*)-([0-9]*)")

_MAX_BOUNDARY: Final = 70  # RFC 2046, 5.1.1


class BadRange(IodineError):
    """A Range field that must be ignored: the whole representation answers it."""


class RangeNotSatisfiable(ProtocolError):
    """No range overlaps the representation; answered by 416."""

    def __init__(self, value: str, size: int) -> None:
        super().__init__(f"no range of {value!r} is within {size} bytes", status=416)


def parse_range(value: str, size: int) -> list[tuple[int, int]]:
    """Spans that a Range field asks of a representation of `size` bytes.

    Args:
        value: the field's value, as in ``"bytes=0-99,-1"``.
        size: length in bytes, 0 or more.

    Returns:
        Half-open `(start, stop)` pairs, ascending and merged; never empty. Spans that
        overlap or touch become one.

    Raises:
        RangeNotSatisfiable: no span overlaps the representation (416).
        BadRange: the field is malformed, of another unit, or has more than MAX_RANGES
            members, and must be ignored.

    RFC 9110, sections 14.1.2 and 14.2.
    """
    unit, equals, members = value.partition("=")
    # "An origin server MUST ignore a Range header field that contains a range unit it
    # does not understand." "range unit names are case-insensitive"
    if not equals or unit.lower() != "bytes":
        raise BadRange(f"Range {value[:80]!r} is not in bytes")
    # Counted before anything is cut up: members that are empty count too.
    if members.count(",") >= MAX_RANGES:
        raise BadRange(f"Range of more than {MAX_RANGES} members")
    spans = []
    empty = True
    for member in members.split(","):
        spec = member.strip(" \t")
        if spec:
            empty = False
            span = _parse_spec(spec, size)
            if span is not None:
                spans.append(span)
    if empty:
        raise BadRange(f"Range {value[:80]!r} has no members")
    if not spans:
        raise RangeNotSatisfiable(value[:80], size)
    return _merge(spans) if len(spans) > 1 else spans


def _parse_spec(spec: str, size: int) -> tuple[int, int] | None:
    """The span of one member, or None if it is beyond the representation."""
    match = _RANGE_SPEC.fullmatch(spec)
    if match is None or spec == "-":
        raise BadRange(f"malformed range {spec[:80]!r}")
    first, last = match.groups()
    if not first:
        suffix = last.lstrip("0")
        # "a suffix-range is satisfiable if the suffix-length is non-zero"
        if not suffix:
            return None
        # Satisfiable, then, but no Content-Range can tell of a part of nothing.
        if not size:
            raise BadRange(f"range {spec[:80]!r} of an empty representation")
        return size - _clamp(suffix, size), size
    first = first.lstrip("0")
    if not last:
        stop = size
    else:
        last = last.lstrip("0")
        # Compared as text: numbers of thousands of digits never become integers.
        # "An int-range is invalid if the last-pos value is present and less than first-pos"
        if (len(last), last) < (len(first), first):
            raise BadRange(f"range {spec[:80]!r} ends before it begins")
        stop = min(_clamp(last, size) + 1, size)
    start = _clamp(first, size)
    return (start, stop) if start < size else None


def _clamp(digits: str, size: int) -> int:
    """The number that `digits`, without leading zeros, are; but at most `size`."""
    return min(int(digits or "0"), size) if len(digits) <= len(str(size)) else size


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    # "A server that sends a multipart response MAY coalesce any of the ranges that
    # overlap": so that no byte is sent twice (CVE-2011-3192).
    spans.sort()
    merged = []
    start, stop = spans[0]
    for next_start, next_stop in spans:
        if next_start > stop:
            merged.append((start, stop))
            start = next_start
        stop = max(stop, next_stop)
    merged.append((start, stop))
    return merged


def encode_content_range(start: int, stop: int, size: int) -> str:
    """Content-Range of a 206: a half-open span, which is not empty (RFC 9110, 14.4)."""
    return f"bytes {start}-{stop - 1}/{size}"


def encode_unsatisfied_range(size: int) -> str:
    """Content-Range of a 416 (RFC 9110, 14.4 and 15.5.17)."""
    return f"bytes */{size}"


class Multipart(NamedTuple):
    """The framing of several parts: heads[0], bytes of span 0, heads[1] ... end.

    Attributes:
        content_type: of the whole response. It bears no Content-Range: that is in the parts.
        heads: what precedes each span's bytes.
        end: what follows the last span's bytes.
        length: of heads, spans and end in sum: the Content-Length.
    """

    content_type: str
    heads: list[bytes]
    end: bytes
    length: int


def frame_parts(
    spans: Sequence[tuple[int, int]], size: int, content_type: str | None, boundary: str
) -> Multipart:
    """The multipart/byteranges framing of `spans` of a representation of `size` bytes.

    Args:
        spans: two or more. "A server MUST NOT generate a multipart response to a request
            for a single range"; spans merged to a single one need none.
        size: length of the whole representation.
        content_type: of the representation, goes into each part; None leaves it out.
        boundary: 1 to 70 ASCII letters and digits, drawn at random: it must not occur in
            the bytes sent.

    Many small spans can need more bytes than the whole has: compare `length` with `size`.

    Raises:
        UsageError: the boundary is none.
        ResponseError: `content_type` cannot be sent.

    RFC 9110, 14.6 and 15.3.7.2; RFC 2046, 5.1.1.
    """
    if not (boundary.isascii() and boundary.isalnum() and len(boundary) <= _MAX_BOUNDARY):
        raise UsageError(f"boundary {boundary!r} is not 1 to 70 ASCII letters and digits")
    if content_type is None:
        field = ""
    elif content_type.isascii() and content_type.isprintable():
        field = f"Content-Type: {content_type}\r\n"
    else:
        raise ResponseError(f"content type {content_type!r} cannot be sent")
    heads = []
    end = f"\r\n--{boundary}--\r\n".encode("ascii")
    length = len(end)
    opening = f"--{boundary}\r\n{field}Content-Range: "
    for start, stop in spans:
        head = f"{opening}{encode_content_range(start, stop, size)}\r\n\r\n".encode("ascii")
        heads.append(head)
        length += len(head) + stop - start
        if len(heads) == 1:
            opening = f"\r\n{opening}"  # ends the part before
    return Multipart(f"multipart/byteranges; boundary={boundary}", heads, end, length)
