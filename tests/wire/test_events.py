"""Server-sent events on the wire: their fields, and the head of their stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.errors import UsageError
from iodine_aio.wire.events import (
    Event,
    asks_for_events,
    encode_event,
    encode_stream_head,
    takes_events,
)


def read_events(stream: bytes) -> list[dict[str, str]]:
    """What a browser makes of a stream: the standard's rules, word for word."""
    events, fields = [], {}
    data: list[str] = []
    text = stream.decode().replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        if not line:
            if data:
                events.append({**fields, "data": "\n".join(data)})
            fields, data = {}, []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name:
            fields[name] = value
    return events


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        ("tick", b"data: tick\n\n"),
        (b"tick", b"data: tick\n\n"),
        (bytearray("ü".encode()), b"data: \xc3\xbc\n\n"),
        (" indented", b"data:  indented\n\n"),
        ("", b"data: \n\n"),
        ("one\ntwo", b"data: one\ndata: two\n\n"),
        ("one\r\ntwo", b"data: one\ndata: two\n\n"),
        ("one\rtwo", b"data: one\ndata: two\n\n"),
        ("one\n\rtwo", b"data: one\ndata: \ndata: two\n\n"),
        ("ends\n", b"data: ends\ndata: \n\n"),
        ("id: 5", b"data: id: 5\n\n"),
        ("\u2028\x0b\x85", "data: \u2028\x0b\x85\n\n".encode()),
    ],
)
def test_each_line_of_the_data_is_a_field(data: str | bytes, wire: bytes):
    """Lines end where the client would see their end, and nowhere else."""
    assert encode_event(data) == wire


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (Event("tick"), b"data: tick\n\n"),
        (Event("12", event="noon"), b"event: noon\ndata: 12\n\n"),
        (Event("x", id="a 1"), b"id: a 1\ndata: x\n\n"),
        (Event("x", id=7), b"id: 7\ndata: x\n\n"),
        (Event("x", id=""), b"id: \ndata: x\n\n"),
        (Event(retry_seconds=2.5), b"retry: 2500\n\n"),
        (Event(retry_seconds=0), b"retry: 0\n\n"),
        (Event(b"x", "e", "i", 1), b"event: e\nid: i\nretry: 1000\ndata: x\n\n"),
    ],
)
def test_fields_of_an_event_stand_before_its_data(event: Event, wire: bytes):
    """Those that were not said are left out; an empty id is one."""
    assert encode_event(event) == wire


@pytest.mark.parametrize("end", ["\n", "\r", "\0"])
@pytest.mark.parametrize("name", ["event", "id"])
def test_line_end_or_nul_in_a_field_is_refused(name: str, end: str):
    """It would begin a field of its own: somebody else's event."""
    with pytest.raises(UsageError, match=f"^{name} of an event"):
        Event("x", **{name: f"a{end}data: forged"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"event": 5}, "event of an event is int"),
        ({"event": None}, "event of an event is NoneType"),
        ({"id": 1.5}, "id of an event is float"),
        ({"retry_seconds": "3"}, "retry_seconds is '3'"),
        ({"retry_seconds": -1}, "retry_seconds is -1"),
        ({"retry_seconds": float("inf")}, "retry_seconds is inf"),
        ({"retry_seconds": float("nan")}, "retry_seconds is nan"),
        ({"data": b"\xff"}, "these bytes are not"),
        ({"data": 5}, "cannot write int"),
        ({"id": "\ud800"}, "this str is not"),
    ],
)
def test_field_that_cannot_be_sent_is_refused(values: dict[str, object], message: str):
    """At the event that was made wrongly, not where it is written."""
    with pytest.raises(UsageError, match=message):
        Event(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"\xff", b"\xc3", "\ud800", None, 5, ["x"]])
def test_data_that_is_no_text_is_refused(data: object):
    """The stream is UTF-8, always."""
    with pytest.raises(UsageError):
        encode_event(data)  # type: ignore[arg-type]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))))
def test_client_reads_what_was_written(texts: list[str]):
    """Any text, one event each."""
    stream = b"".join(encode_event(text) for text in texts)

    assert read_events(stream) == [{"data": text} for text in texts]


def test_head_says_what_a_stream_is():
    """No cache keeps it, no proxy holds it back, and the connection is its own."""
    assert encode_stream_head("", "Date: d\r\n", True) == (
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: text/event-stream\r\n"
        "Cache-Control: no-cache\r\n"
        "X-Accel-Buffering: no\r\n"
        "Date: d\r\n"
        "Transfer-Encoding: chunked\r\n"
        "Connection: close\r\n"
        "\r\n"
    )


def test_head_keeps_fields_of_the_app():
    """Cookies, and what it knows better than we do."""
    block = "Set-Cookie: a=1\r\ncache-control: no-store\r\nX-Accel-Buffering: yes\r\n"

    assert encode_stream_head(block, "", False) == (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{block}Connection: close\r\n\r\n"
    )


def test_head_leaves_out_what_was_said_of_another_body():
    """A framework describes the empty page that its view returned."""
    block = (
        "Content-Type: text/html\r\nContent-Encoding: gzip\r\nETag: x\r\nLast-Modified: x\r\n"
        "Accept-Ranges: bytes\r\nContent-Range: x\r\nX-Sendfile: /x\r\nUpgrade: x\r\n"
        "Connection: upgrade\r\n"
    )

    assert encode_stream_head(block, "", True) == encode_stream_head("", "", True)


@pytest.mark.parametrize(
    ("accept", "asks", "takes"),
    [
        ("text/event-stream", True, True),
        ("Text/Event-Stream", True, True),
        ("text/html, text/event-stream ;q=0.1", True, True),
        ("text/event-stream;charset=utf-8", True, True),
        ("text/event-stream;q=0, */*", False, False),
        ("text/event-stream;q=2", False, False),
        ("text/event-streams", False, False),
        ("text/*", False, True),
        ("text/*;q=0, */*", False, False),
        ("text/html, */*;q=0.8", False, True),
        ("*/*", False, True),
        ("", False, True),
        ("text/html", False, False),
    ],
)
def test_accept_tells_who_takes_events(accept: str, asks: bool, takes: bool):
    """Whoever names them asks; the most specific range decides who takes them."""
    assert (asks_for_events(accept), takes_events(accept)) == (asks, takes)
