"""Server-sent events: the head of their stream, and what an event is on the wire.

Lines end in LF, an event in an empty line; no preamble. Source: the WHATWG HTML
standard, "Server-sent events".
"""

import re
from dataclasses import dataclass
from typing import Final

from iodine_aio.errors import UsageError
from iodine_aio.wire.negotiation import weigh_media_type

KEEP_ALIVE: Final = b":\n\n"  # a comment: keeps proxies from taking silence for the end

_TYPE: Final = "text/event-stream"
# "If the stream's last event ID contains U+0000 NULL, then ignore the field"; a line end
# would begin another field.
_NOT_IN_A_FIELD: Final = re.compile(r"[\0\r\n]")

# What is said of a body that is not sent, or is ours to say.
_NOT_IN_HEAD: Final = frozenset(
    (
        *("accept-ranges", "connection", "content-encoding", "content-range", "content-type"),
        *("etag", "last-modified", "upgrade", "x-sendfile"),
    )
)
# What the app may know better.
_DEFAULTS: Final = (
    ("cache-control", "Cache-Control: no-cache\r\n"),
    ("x-accel-buffering", "X-Accel-Buffering: no\r\n"),  # nginx would keep events back
)


@dataclass(frozen=True, slots=True)
class Event:
    """An event with more than its data, to be written to an event stream.

    Args:
        data: text, or bytes that are UTF-8; None: the client notes `id` and
            `retry_seconds`, and nothing happens there.
        event: what the client listens for, as by `addEventListener`; "" is "message".
        id: what the client sends as Last-Event-ID when it comes back; "" has it forget.
        retry_seconds: how long the client waits before it comes back.

    Raises:
        UsageError: a field has a type or a character that cannot be sent.
    """

    data: str | bytes | None = None
    event: str = ""
    id: str | int | None = None
    retry_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.data is not None:
            _text_of(self.data)
        for name, value in (("event", self.event), ("id", "" if self.id is None else self.id)):
            if not isinstance(value, str if name == "event" else (str, int)):
                raise UsageError(f"{name} of an event is {type(value).__name__}, must be a str")
            if _NOT_IN_A_FIELD.search(text := str(value)):
                raise UsageError(f"{name} of an event has a line end or NUL in it: {value!r}")
            _encode(text)
        seconds = self.retry_seconds
        if seconds is not None and (
            not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf")
        ):
            raise UsageError(f"retry_seconds is {seconds!r}, must be seconds")


def encode_event(data: str | bytes | Event) -> bytes:
    """An event as it goes on the wire; each line of its data is a field of its own.

    Raises:
        UsageError: `data` is of another type, or no text.
    """
    if not isinstance(data, Event):
        return _encode(f"{_data_fields(_text_of(data))}\n")
    head = f"event: {data.event}\n" if data.event else ""
    if data.id is not None:
        head += f"id: {data.id}\n"
    if data.retry_seconds is not None:
        head += f"retry: {round(data.retry_seconds * 1000)}\n"
    fields = "" if data.data is None else _data_fields(_text_of(data.data))
    return _encode(f"{head}{fields}\n")


def encode_stream_head(block: str, date_line: str, chunked: bool) -> str:
    """The head before the events, with the app's own field lines.

    Args:
        block: the app's lines, each with its CRLF.
        date_line: with its CRLF; empty if `block` has one.
        chunked: else the connection's end is the stream's.
    """
    kept = []
    names = set()
    # Not splitlines(): it also splits at \x0b, \x85 and others, within a value.
    for line in block.split("\r\n")[:-1]:
        name = line.partition(":")[0].lower()
        if name not in _NOT_IN_HEAD:
            names.add(name)
            kept.append(f"{line}\r\n")
    kept += [line for name, line in _DEFAULTS if name not in names]
    framing = "Transfer-Encoding: chunked\r\n" if chunked else ""
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {_TYPE}\r\n{''.join(kept)}{date_line}{framing}"
        "Connection: close\r\n\r\n"
    )


def asks_for_events(accept: str) -> bool:
    """True if an Accept field names event streams, and does not refuse them."""
    return bool(weigh_media_type(accept, _TYPE))


def takes_events(accept: str) -> bool:
    """True if an Accept field allows for event streams, be it by `*/*` (RFC 9110, 12.5.1)."""
    if not accept:
        return True
    # "the most specific reference has precedence"
    for name in (_TYPE, "text/*", "*/*"):
        weight = weigh_media_type(accept, name)
        if weight is not None:
            return weight > 0
    return False


def _data_fields(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" in text:
        text = text.replace("\n", "\ndata: ")
    return f"data: {text}\n"


def _text_of(data: object) -> str:
    if isinstance(data, str):
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        try:
            return bytes(data).decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"an event is text, and these bytes are not: {error}") from None
    raise UsageError(f"cannot write {type(data).__name__}, must be str, bytes or Event")


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"an event is text, and this str is not: {error}") from None
