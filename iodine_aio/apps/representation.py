"""A file and a request become a response (RFC 9110, sections 8, 13 and 14).

What a file's head says is worked out once; a request without conditions and ranges is
then answered by what is ready.
"""

import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from iodine_aio.wire.dates import encode_date, parse_date, year_of
from iodine_aio.wire.environ import Env
from iodine_aio.wire.freshness import (
    NOT_MODIFIED,
    PART,
    PRECONDITION_FAILED,
    evaluate_preconditions,
)
from iodine_aio.wire.ranges import (
    BadRange,
    RangeNotSatisfiable,
    encode_content_range,
    encode_unsatisfied_range,
    frame_parts,
    parse_range,
)
from iodine_aio.wire.response import ResponseHead, make_head
from iodine_aio.wire.segments import FileBody, Segment

Answer = tuple[Any, Any, Any]
Fields = list[tuple[str, str]]

TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")

# What a client knows already that is told that nothing has changed (RFC 9110, 15.4.5).
_NOT_IN_304: Final = frozenset(
    "accept-ranges content-disposition content-encoding content-language content-type"
    " last-modified x-content-type-options".split()
)
# What a 412 and a 416 do not say: it is of the file, and they are not.
_NOT_IN_REFUSALS: Final = _NOT_IN_304 | {"cache-control", "etag", "expires"}
_CONTENT_TYPE: Final = frozenset(("content-type",))


def make_etag(status: os.stat_result, suffix: str = "") -> str:
    """A strong entity tag of a file.

    Not of its inode: a copy on another machine has the same tag.
    """
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}{suffix}"'


def find_modified(status: os.stat_result, now: int) -> int:
    """The Last-Modified of a file, in seconds since 1970.

    "An origin server with a clock MUST NOT generate a Last-Modified date that is later
    than the server's time of message origination" - RFC 9110, 8.8.2.1
    """
    return max(0, min(status.st_mtime_ns // 1_000_000_000, now))


class Representation:
    """What a file is to its clients.

    Args:
        size: in bytes.
        fields: of its 200; `ETag`, `Last-Modified` and `Content-Type` among them are read.
        open_file: is called where bytes have to be read; gives the file, which the body closes.
        content: all of it where it is small, None where it has to be read.
        offset: where in its file it begins.

    Attributes:
        ready: the answer to a plain GET or HEAD where `content` is known, else None.
    """

    __slots__ = (
        "_etag",
        "_has_ranges",
        "_head",
        "_modified",
        "_not_modified",
        "content",
        "fields",
        "offset",
        "open_file",
        "ready",
        "size",
    )

    def __init__(
        self,
        size: int,
        fields: Fields,
        open_file: Callable[[], Any],
        content: bytes | None = None,
        offset: int = 0,
    ) -> None:
        self.size: Final = size
        self.fields: Final = fields
        self.open_file: Final = open_file
        self.content: Final = content
        self.offset: Final = offset
        self._etag = _find(fields, "etag")
        modified = _find(fields, "last-modified")
        self._modified = (
            None if modified is None else parse_date(modified, year_of(int(time.time())))
        )
        self._has_ranges = _find(fields, "accept-ranges") != "none"
        self._head: ResponseHead | None = None
        self._not_modified: ResponseHead | None = None
        self.ready = None if content is None else (200, self._whole_head(), content)

    def answer(self, env: Env) -> Answer:
        """The response to a GET or HEAD.

        Raises:
            OSError: the file cannot be opened.
        """
        outcome = evaluate_preconditions(env, self._etag, self._modified, int(time.time()))
        if outcome == NOT_MODIFIED:
            if self._not_modified is None:
                self._not_modified = make_head(304, _without(self.fields, _NOT_IN_304))
            return 304, self._not_modified, b""
        if outcome == PRECONDITION_FAILED:
            return 412, [*_without(self.fields, _NOT_IN_REFUSALS), TEXT], "Precondition Failed"
        if outcome == PART and self._has_ranges:
            try:
                spans = parse_range(env["HTTP_RANGE"], self.size)
            except BadRange:
                pass
            except RangeNotSatisfiable:
                unsatisfied = ("Content-Range", encode_unsatisfied_range(self.size))
                fields = [*_without(self.fields, _NOT_IN_REFUSALS), unsatisfied, TEXT]
                return 416, fields, "Range Not Satisfiable"
            else:
                part = self._answer_part(spans)
                if part is not None:
                    return part
        if self.ready is not None:
            return self.ready
        head = self._whole_head()
        if env["REQUEST_METHOD"] == "HEAD":
            return 200, head, b""
        return 200, head, self.make_body()

    def _whole_head(self) -> ResponseHead:
        if self._head is None:
            self._head = make_head(200, self.fields)
            self._head.content_length = self.size
        return self._head

    def _answer_part(self, spans: list[tuple[int, int]]) -> Answer | None:
        """A 206; None where it would be no shorter than the whole."""
        if len(spans) == 1:
            content_range = ("Content-Range", encode_content_range(*spans[0], self.size))
            return 206, [*self.fields, content_range], self._cut(spans)
        parts = frame_parts(
            spans, self.size, _find(self.fields, "content-type"), secrets.token_hex(16)
        )
        if parts.length >= self.size:
            return None
        segments: list[Segment] = []
        for head, span in zip(parts.heads, spans, strict=True):
            segments += (head, span)
        segments.append(parts.end)
        fields = _without(self.fields, _CONTENT_TYPE)
        return (
            206,
            [*fields, ("Content-Type", parts.content_type)],
            self._cut(segments),
        )

    def make_body(self) -> Any:
        """All of its bytes.

        Raises:
            OSError: the file cannot be opened.
        """
        return self._cut([(0, self.size)])

    def _cut(self, segments: Sequence[Segment]) -> Any:
        content = self.content
        if content is not None:
            return b"".join(
                [
                    segment if isinstance(segment, bytes) else content[segment[0] : segment[1]]
                    for segment in segments
                ]
            )
        offset = self.offset
        if offset:
            segments = [
                segment
                if isinstance(segment, bytes)
                else (segment[0] + offset, segment[1] + offset)
                for segment in segments
            ]
        return FileBody(self.open_file(), segments)


def describe(
    status: os.stat_result, content_type: str, suffix: str = "", offset: int = 0
) -> Fields:
    """The fields that a file's 200 has in every case."""
    tag_suffix = f"-{suffix}" if suffix else ""
    if offset:
        tag_suffix += f"-{offset:x}"
    return [
        ("Content-Type", content_type),
        ("ETag", make_etag(status, tag_suffix)),
        ("Last-Modified", encode_date(find_modified(status, int(time.time())))),
        ("Accept-Ranges", "bytes"),
        # What a user has uploaded is of the type that its name says, and of no other.
        ("X-Content-Type-Options", "nosniff"),
    ]


def _find(fields: Fields, name: str) -> str | None:
    for field, value in fields:
        if field.lower() == name:
            return value
    return None


def _without(fields: Fields, names: frozenset[str]) -> Fields:
    return [field for field in fields if field[0].lower() not in names]
