"""The head of a response, and the framing of its body."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.errors import ResponseError
from iodine_aio.wire.body import ChunkedReader
from iodine_aio.wire.framing import Framing
from iodine_aio.wire.response import (
    ResponseHead,
    block_for_101,
    make_head,
    make_raw_head,
    parse_status,
)


def head_of(headers):
    """A head with `headers` filed into it."""
    return make_head(200, headers)


class Text(str):
    """A str of another class, as frameworks have them."""


# ---- status ----


@pytest.mark.parametrize("status", [200, HTTPStatus.OK, "200 OK"])
def test_status_is_an_int_or_text(status):
    """As in Rack and as in WSGI (PEP 3333)."""
    assert parse_status(status) == (200, "HTTP/1.1 200 OK\r\n")


def test_reason_of_the_app_is_kept():
    """The reason phrase is the app's own (RFC 9112, 4)."""
    assert parse_status("200 Fine by me") == (200, "HTTP/1.1 200 Fine by me\r\n")


@pytest.mark.parametrize("status", [299, "299", "299 "])
def test_status_without_reason_keeps_its_space(status):
    """A server must send the space even without a reason (RFC 9112, 4)."""
    assert parse_status(status) == (299, "HTTP/1.1 299 \r\n")


def test_leading_zeros_of_a_status_are_not_sent():
    """status-code = 3DIGIT (RFC 9112, 4)."""
    assert parse_status("0200 OK") == (200, "HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("reason", ["a\r\nInjected: yes", "a\nb", "a\rb", "a\0b", "a\x1bb", "\x85"])
def test_reason_cannot_split_the_response(reason):
    """No control character leaves with the reason (CVE-2012-2374, CVE-2025-67724)."""
    with pytest.raises(ResponseError, match="control character"):
        parse_status(f"200 {reason}")


@pytest.mark.parametrize(
    "status",
    [None, "", "OK", "+200", "2_0", "20O", "\u0662\u0660\u0660", 200.0, True, b"200 OK", ()],
)
def test_status_of_neither_kind_is_refused(status):
    """What is no int and no text with digits in front is the app's fault."""
    with pytest.raises(ResponseError):
        parse_status(status)


# ---- fields ----


@pytest.mark.parametrize(
    "headers",
    [{"X-A": "1", "X-B": "2"}, [("X-A", "1"), ("X-B", "2")], iter([["X-A", "1"], ["X-B", "2"]])],
)
def test_headers_are_a_mapping_or_pairs(headers):
    """Rack has a mapping, WSGI pairs."""
    assert head_of(headers).block == "X-A: 1\r\nX-B: 2\r\n"


def test_list_is_one_line_a_member():
    """Set-Cookie cannot be joined (RFC 9110, 5.3)."""
    assert head_of({"Set-Cookie": ["a=1", "b=2"]}).block == "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"


def test_text_of_another_class_is_sent():
    """Safe strings of frameworks are strings."""
    assert head_of({"Location": Text("/a")}).block == "Location: /a\r\n"


@pytest.mark.parametrize("value", ["a\r\nInjected: yes", "a\nb", "a\rb", "a\0b", "\r\n", "a\r\n b"])
@pytest.mark.parametrize("wrap", [str, Text, lambda value: ["fine", value]])
@pytest.mark.parametrize(
    "name", ["X-A", "Set-Cookie", "Sec-WebSocket-Protocol", "Date", "Location"]
)
def test_value_cannot_split_the_response(name, wrap, value):
    """CR, LF and NUL in a value are "invalid and dangerous" (RFC 9110, 5.5)."""
    with pytest.raises(ResponseError, match="CR, LF or NUL"):
        head_of({name: wrap(value)})


@pytest.mark.parametrize(
    "name", ["", "X A", "X:", "X\r\nInjected", "X\n", "é", "X\0", "(X)", 1, None, b"X"]
)
def test_name_is_a_token(name):
    """field-name = token (RFC 9110, 5.1)."""
    with pytest.raises(ResponseError, match="not a token"):
        head_of([(name, "v")])


@pytest.mark.parametrize("value", [1, None, b"v", [1], {"a": "b"}, ["a", None]])
def test_value_is_text(value):
    """What is no str and no list of them is the app's fault."""
    with pytest.raises(ResponseError, match="must be a str"):
        head_of({"X-A": value})


@pytest.mark.parametrize("headers", [None, 1, ["X"], [("X", "a", "b")], [1]])
def test_headers_of_neither_kind_are_refused(headers):
    """What cannot be iterated by pairs is the app's fault."""
    with pytest.raises(ResponseError):
        head_of(headers)


@pytest.mark.parametrize(
    "name", ["Transfer-Encoding", "transfer-encoding", "Keep-Alive", "TRANSFER-ENCODING"]
)
def test_framing_is_not_the_apps(name):
    """Hop-by-hop fields are the server's alone (PEP 3333; RFC 9112, 6.1)."""
    assert head_of({name: "chunked"}).block == ""


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-length"])
def test_content_length_is_filed(name):
    """It is written by whoever frames the body."""
    head = head_of({name: "5"})

    assert head.content_length == 5
    assert head.block == ""


@pytest.mark.parametrize(
    "value", ["", "+5", "-5", "0x5", "5_0", " 5", "5 ", "\u0665", "5, 5", 5, None]
)
def test_content_length_is_digits(value):
    """Content-Length = 1*DIGIT (RFC 9110, 8.6)."""
    with pytest.raises(ResponseError, match="Content-Length"):
        head_of({"Content-Length": value})


def test_two_different_content_lengths_are_refused():
    """A message with two lengths can be read in two ways (RFC 9112, 6.3)."""
    with pytest.raises(ResponseError, match="two different"):
        head_of([("Content-Length", "5"), ("content-length", "6")])


@pytest.mark.parametrize("value", ["close", "Close", "foo, CLOSE", ["foo", "close"]])
def test_connection_close_is_obeyed(value):
    """The app may ask for the end of the connection (RFC 9112, 9.6)."""
    head = head_of({"Connection": value})

    assert head.directives.close
    assert head.block == ""


@pytest.mark.parametrize("value", ["keep-alive", "closed", "", "x-foo"])
def test_other_connection_options_are_left_out(value):
    """They are hop by hop, and so the server's (RFC 9110, 7.6.1)."""
    head = head_of({"Connection": value})

    assert not head.directives.close
    assert head.block == ""


def test_date_of_the_app_is_noted():
    """A Date is not sent twice (RFC 9110, 6.6.1)."""
    assert head_of({"date": "Sun, 06 Nov 1994 08:49:37 GMT"}).directives.dated
    assert not head_of({"X-Date": "x"}).directives.dated


def test_hijack_is_no_field():
    """rack.hijack is a callable, and never on the wire (Rack, "Hijacking")."""
    head = head_of({"rack.hijack": print, "X-A": "1"})

    assert head.directives.hijack is print
    assert head.block == "X-A: 1\r\n"


def test_101_says_its_own_fields_itself():
    """Upgrade, Connection, Accept and Extensions are the server's (RFC 6455, 4.2.2)."""
    block = "Upgrade: x\r\nCONNECTION: y\r\nX-A: 1\r\nSec-WebSocket-Accept: z\r\nX-B: 2\r\n"

    assert block_for_101(block) == "X-A: 1\r\nX-B: 2\r\n"


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"])
def test_101_splits_fields_at_crlf_only(character):
    """A value that looks like a line of its own takes no line end with it."""
    block = f"X-A: a{character}Upgrade: b\r\nX-B: 2\r\n"

    assert block_for_101(block) == block


# ---- framing ----


def test_length_cuts_what_exceeds_it():
    """No byte beyond Content-Length may follow (RFC 9112, 6.3)."""
    framing = Framing(5, False)

    assert (
        framing.encode(b"hel") + framing.encode(b"lo, junk") + framing.encode(b"junk") == b"hello"
    )
    assert framing.complete
    assert framing.end() == b""


def test_short_body_is_not_complete():
    """A body shorter than announced ends the connection (RFC 9112, 8)."""
    framing = Framing(5, False)
    framing.encode(b"hell")

    assert not framing.complete


def test_empty_piece_does_not_end_the_chunks():
    """A chunk of size 0 is the last one (RFC 9112, 7.1)."""
    assert Framing(None, True).encode(b"") == b""


def test_chunk_has_a_hexadecimal_size():
    """chunk-size = 1*HEXDIG (RFC 9112, 7.1)."""
    framing = Framing(None, True)

    assert framing.encode(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert framing.end() == b"0\r\n\r\n"
    assert framing.complete


def test_body_without_length_and_chunks_ends_with_the_connection():
    """What is left for HTTP/1.0 (RFC 9112, 6.3)."""
    framing = Framing(None, False)

    assert framing.by_close
    assert framing.encode(b"x") == b"x"
    assert framing.end() == b""
    assert not Framing(0, False).by_close
    assert not Framing(None, True).by_close


@given(st.lists(st.binary(max_size=300)))
def test_chunks_are_read_back(pieces):
    """Our own reader undoes the coding (RFC 9112, 7.1)."""
    framing = Framing(None, True)
    coded = b"".join([framing.encode(piece) for piece in pieces]) + framing.end()
    reader = ChunkedReader(1 << 20, 0)

    assert reader.feed(coded) == (b"".join(pieces), len(coded))
    assert reader.done


# ---- heads of bytes ----

_names = st.one_of(
    st.sampled_from(
        [b"content-length", b"Content-Type", b"CONNECTION", b"transfer-encoding", b"Date", b"x-a"]
    ),
    st.binary(max_size=4),
)
_values = st.one_of(
    st.sampled_from([b"5", b"05", b"+5", b"close", b"upgrade, x", b"\xe4", b"a\rb", b"a\nb"]),
    st.binary(max_size=4),
)


def said_by(make, *arguments):
    """All that a head says; None if it is refused."""
    try:
        head = make(*arguments)
    except ResponseError:
        return None
    return [getattr(head, name) for name in ResponseHead.__slots__]


@given(st.lists(st.tuples(_names, _values), max_size=4))
def test_head_of_bytes_says_what_the_same_head_of_text_says(pairs):
    """Or it is refused, as that is."""
    text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs]

    assert said_by(make_raw_head, 200, pairs) == said_by(head_of, text)


@pytest.mark.parametrize(
    "field",
    [(b"X-A", b"a\rb"), (b"X-A", b"a\nb"), (b"X-A", b"a\0b"), (b"X A", b"a"), (b"", b"a"),
     (b"Content-Length", b"+5"), (b"Content-Length", b"\xb2"), (b"Content-Length", b"")],
)  # fmt: skip
def test_field_of_bytes_that_splits_or_misleads_is_refused(field):
    """An app's bytes are trusted no more than its text."""
    with pytest.raises(ResponseError):
        make_raw_head(200, [field])


@pytest.mark.parametrize("pairs", [[("X-A", "a")], [(b"X-A", "a")], [b"X-A"], [(b"X-A", 1)]])
def test_head_of_bytes_is_made_of_nothing_else(pairs):
    """ASGI has no text in its fields."""
    with pytest.raises((AttributeError, TypeError, ValueError)):
        make_raw_head(200, pairs)
