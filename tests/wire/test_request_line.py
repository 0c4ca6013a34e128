"""The request line, its target, and the value of Host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.request_line import is_host, parse_request_line, split_target

METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"M-SEARCH"]


def refusal_of(function, *args):
    """The status of the ProtocolError that a call raises."""
    with pytest.raises(ProtocolError) as caught:
        function(*args)
    return caught.value.status


# ---- the line ----


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_line_has_method_target_and_version(method, version):
    """Three words with one space between them (RFC 9112, 3)."""
    parsed = parse_request_line(method + b" /a?b " + version)

    assert parsed == (method, b"/a?b", version)


@pytest.mark.parametrize(
    "version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9"]
)
def test_other_version_is_505(version):
    """A major version that is not served is refused as such (RFC 9110, 15.6.6)."""
    assert refusal_of(parse_request_line, b"GET / " + version) == 505


@pytest.mark.parametrize("line", [b"GET /", b"GET /a?b"])
def test_http09_request_is_505(line):
    """HTTP/0.9 had a line of two words, and is not spoken any more."""
    assert refusal_of(parse_request_line, line) == 505


@pytest.mark.parametrize(
    "version",
    [
        b"http/1.1",
        b"HTTP/1",
        b"HTTP/1.",
        b"HTTP/.1",
        b"HTTP/11",
        b"HTTP/1.10",
        b"HTTP/01.1",
        b"HTTP/1.\xb9",
        b"HTTP/a.b",
        b"HTTP-1.1",
        b"RTSP/1.0",
        b"1.1",
        b"",
    ],
)
def test_malformed_version_is_400(version):
    """HTTP-version = "HTTP" "/" DIGIT "." DIGIT, with case (RFC 9112, 2.3)."""
    assert refusal_of(parse_request_line, b"GET / " + version) == 400


@pytest.mark.parametrize(
    "method", [b"BREW", b"get", b"Get", b"CONNECT", b"X-1", b"!#$%&'*+-.^_`|~"]
)
def test_unknown_method_is_501(method):
    """A token that is no method of this server is not implemented (RFC 9110, 9.1)."""
    assert refusal_of(parse_request_line, method + b" / HTTP/1.1") == 501


@pytest.mark.parametrize("method", [b"", b"G@T", b"GET:", b"GE\0T", b"G\rT", b"\xc7ET", b"GET\t"])
def test_method_that_is_no_token_is_400(method):
    """method = token (RFC 9110, 9.1)."""
    assert refusal_of(parse_request_line, method + b" / HTTP/1.1") == 400


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"GET",
        b"GET ",
        b"POST /",
        b"GET a",
        b"GET  HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET / / HTTP/1.1",
        b"GET\t/\tHTTP/1.1",
    ],
)
def test_line_of_other_than_three_words_is_400(line):
    """White space in the line is taken strictly (RFC 9112, 3.2)."""
    assert refusal_of(parse_request_line, line) == 400


@pytest.mark.parametrize(
    "line", [b"GET /\nHost:a", b"BREW /\na HTTP/1.1", b"GET / HTTP/2.0\n", b"\nGET / HTTP/1.1"]
)
def test_bare_lf_is_400_whatever_else_is_wrong(line):
    """Whoever sees the LF before the line's end says 400, so 501 and 505 come after it."""
    assert refusal_of(parse_request_line, line) == 400


@given(st.binary())
def test_any_line_is_parsed_or_refused(line):
    """Nothing but ProtocolError is raised, whatever is sent."""
    try:
        parsed = parse_request_line(line)
    except ProtocolError as error:
        parsed = error.status

    assert parsed in (400, 501, 505) or b" ".join(parsed) == line


# ---- the target ----


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", ("/", "", None)),
        ("/a/b", ("/a/b", "", None)),
        ("/a?b=c", ("/a", "b=c", None)),
        ("/a?", ("/a", "", None)),
        ("/a?b?c", ("/a", "b?c", None)),
        ("/?/..//", ("/", "/..//", None)),
        ("//a/b", ("//a/b", "", None)),
        ("/%2e%2e/", ("/%2e%2e/", "", None)),
        ("/http://a", ("/http://a", "", None)),
        ("/a;b=c:@,d", ("/a;b=c:@,d", "", None)),
    ],
)
def test_origin_form_is_split_at_the_first_question_mark(target, expected):
    """origin-form = absolute-path [ "?" query ] (RFC 9112, 3.2.1)."""
    assert split_target("GET", target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://a/b?c", ("/b", "c", "a")),
        ("HTTPS://a:8443/b", ("/b", "", "a:8443")),
        ("http://a", ("/", "", "a")),
        ("http://a?c", ("/", "c", "a")),
        ("http://a?c/d", ("/", "c/d", "a")),
        ("http://[::1]:80/", ("/", "", "[::1]:80")),
        ("http://a//b", ("//b", "", "a")),
    ],
)
def test_absolute_form_tells_the_authority(target, expected):
    """A server must accept the absolute-form (RFC 9112, 3.2.2)."""
    assert split_target("GET", target) == expected


def test_asterisk_is_for_options():
    """The asterisk-form asks about the server as a whole (RFC 9112, 3.2.4)."""
    assert split_target("OPTIONS", "*") == ("*", "", None)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_asterisk_of_another_method_is_400(method):
    """The asterisk-form "is only used for a server-wide OPTIONS" (RFC 9112, 3.2.4)."""
    assert refusal_of(split_target, method, "*") == 400


@pytest.mark.parametrize(
    "target", ["a", "a/b", "a:80", "?a", "**", "ftp://a/", "http:/a", "http:a", "://a/"]
)
def test_target_of_no_known_form_is_400(target):
    """There are four forms, and CONNECT's is not served (RFC 9112, 3.2)."""
    assert refusal_of(split_target, "GET", target) == 400


@pytest.mark.parametrize(
    "target",
    ["http:///a", "http://", "http://?a", "http://u@a/", "http://u:p@a/", "http://a:b/"],
)
def test_bad_authority_is_400(target):
    """User information is treated as an error, and an empty host too (RFC 9110, 4.2)."""
    assert refusal_of(split_target, "GET", target) == 400


@pytest.mark.parametrize("target", ["/a#b", "/#", "http://a/b#c", "/a?b#c"])
def test_fragment_is_400(target):
    """A fragment is not part of a target (RFC 9110, 7.1)."""
    assert refusal_of(split_target, "GET", target) == 400


@given(st.text(st.characters(codec="ascii"), min_size=1))
def test_any_target_is_split_or_refused(target):
    """Nothing but ProtocolError is raised, and a path always begins with a slash."""
    try:
        path, _, _ = split_target("GET", target)
    except ProtocolError as error:
        path = error.status

    assert path == 400 or path.startswith("/")


# ---- Host ----


@pytest.mark.parametrize(
    "value",
    ["a", "a:80", "a:", "", "127.0.0.1:80", "[::1]", "[::1]:80", "[v1.a]", "a_b.c-d~", "a%20b"],
)
def test_host_is_a_name_and_perhaps_a_port(value):
    """Host = uri-host [ ":" port ] (RFC 9110, 7.2)."""
    assert is_host(value)


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "a/b",
        "a\\b",
        "u@a",
        "a?b",
        "a#b",
        "a, b",
        "a,b",
        "a:80x",
        "a:-1",
        "a:80:90",
        "a:٨٠",
        "é",
        "a\0",
        "a\x0b",
        "[::1",
        "::1]",
        "[::1]80",
        "[[::1]]",
        "[::1]:x",
        "a[b]",
        '"a"',
        "<a>",
    ],
)
def test_host_that_leads_astray_is_none(value):
    """What two programs could read as two hosts is refused (RFC 9112, 3.2)."""
    assert not is_host(value)
