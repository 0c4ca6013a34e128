"""A request head as env."""

import pytest

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.environ import build_env, describe_line

HOST = (b"Host", b"a")


def env_of(*fields, method=b"GET", target=b"/", version=b"HTTP/1.1", template=None):
    """The env of a request with a Host and `fields`."""
    return build_env(template or {}, *describe_line(method, target, version), [HOST, *fields])


def refusal_of(fields, **line):
    """The status that refuses a head of `fields`."""
    arguments = {"method": b"GET", "target": b"/", "version": b"HTTP/1.1", **line}
    with pytest.raises(ProtocolError) as caught:
        build_env({}, *describe_line(**arguments), fields)
    return caught.value.status


# ---- the line ----


def test_line_becomes_cgi_keys():
    """Method, path and query as PEP 3333 names them."""
    env = env_of(method=b"PUT", target=b"/a%20b?c=%20")

    assert env["REQUEST_METHOD"] == "PUT"
    assert env["PATH_INFO"] == "/a b"
    assert env["QUERY_STRING"] == "c=%20"
    assert env["REQUEST_URI"] == "/a%20b?c=%20"


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_version_stands_in_both_its_keys(version):
    """SERVER_PROTOCOL of PEP 3333, and HTTP_VERSION of Rack 2."""
    env = env_of((b"Version", b"HTTP/9.9"), version=version.encode())

    assert env["SERVER_PROTOCOL"] == env["HTTP_VERSION"] == version


def test_path_holds_its_bytes_as_latin1():
    """A native string of PEP 3333 holds bytes: %C3%A9 is two characters."""
    assert env_of(target=b"/%C3%A9")["PATH_INFO"] == "/\xc3\xa9"


def test_bad_percent_encoding_stays():
    """What is no pct-encoded triplet is left as it was sent (RFC 3986, 2.1)."""
    assert env_of(target=b"/%zz%4%")["PATH_INFO"] == "/%zz%4%"


def test_path_is_decoded_once():
    """%2561 is %61, never "a" (RFC 3986, 2.4)."""
    assert env_of(target=b"/%2561")["PATH_INFO"] == "/%61"


def test_query_of_nothing_is_empty():
    """QUERY_STRING is always there (PEP 3333)."""
    assert env_of()["QUERY_STRING"] == ""


def test_template_is_copied():
    """What one request changes is not seen by the next."""
    template = {"SERVER_NAME": "s"}
    env = env_of(template=template)
    env["SERVER_NAME"] = "changed"

    assert template == {"SERVER_NAME": "s"}


# ---- fields ----


@pytest.mark.parametrize("name", [b"X-Some-Thing", b"x-some-thing", b"X-SOME-THING"])
def test_field_name_is_spelled_as_in_cgi(name):
    """Upper case, dashes as underscores, HTTP_ in front (PEP 3333)."""
    assert env_of((name, b"v"))["HTTP_X_SOME_THING"] == "v"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"Content-Type", "CONTENT_TYPE"),
        (b"content-length", "CONTENT_LENGTH"),
        (b"CONTENT-LENGTH", "CONTENT_LENGTH"),
    ],
)
def test_content_type_and_length_bear_no_prefix(name, key):
    """CGI names these two without HTTP_ (RFC 3875, 4.1.2 and 4.1.3)."""
    env = env_of((name, b"5"))

    assert env[key] == "5"
    assert f"HTTP_{key}" not in env


@pytest.mark.parametrize(
    "name", [b"X_Forwarded_For", b"X-Forwarded_For", b"Content_Length", b"_", b"HTTP_HOST"]
)
def test_name_with_underscore_is_dropped(name):
    """It would land on the key of the name with a dash."""
    assert env_of((name, b"evil")) == env_of()


@pytest.mark.parametrize("name", [b"Proxy", b"proxy", b"PROXY"])
def test_proxy_is_dropped(name):
    """HTTP_PROXY is a setting of CGI programs (CVE-2016-5385, httpoxy)."""
    assert env_of((name, b"http://evil")) == env_of()


def test_same_names_are_joined_by_comma():
    """Field lines of one name are one list, in order (RFC 9110, 5.3)."""
    assert env_of((b"Via", b"1"), (b"via", b""), (b"VIA", b"3"))["HTTP_VIA"] == "1, , 3"


def test_cookies_are_joined_by_semicolon():
    """Cookie is no comma-separated list (RFC 6265, 4.2.1; RFC 9113, 8.2.3)."""
    assert env_of((b"Cookie", b"a=1"), (b"cookie", b"b=2"))["HTTP_COOKIE"] == "a=1; b=2"


def test_space_and_tab_around_a_value_are_dropped():
    """OWS is no part of a value (RFC 9110, 5.5)."""
    assert env_of((b"X", b" \ta \t b\t "))["HTTP_X"] == "a \t b"


@pytest.mark.parametrize("space", [b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0"])
def test_other_white_space_stays(space):
    """Only OWS is taken off: a proxy may have kept the rest (RFC 9110, 5.5)."""
    assert env_of((b"X", space + b"v" + space))["HTTP_X"].encode("latin-1") == space + b"v" + space


def test_value_holds_its_bytes_as_latin1():
    """A native string of PEP 3333 holds bytes."""
    assert env_of((b"X", b"\xc3\xa9"))["HTTP_X"] == "\xc3\xa9"


def test_thousand_names_leave_nothing_behind():
    """The table of names is fixed: a peer cannot make it grow."""
    from iodine_aio.wire import environ

    size = len(environ._KEYS)
    env_of(*((b"X-%d" % number, b"") for number in range(1000)))

    assert len(environ._KEYS) == size


# ---- Host ----


def test_http11_without_host_is_400():
    """A 1.1 request that lacks Host is refused (RFC 9112, 3.2)."""
    assert refusal_of([]) == 400


def test_http11_absolute_form_without_host_is_400():
    """Host must be sent with the absolute-form too (RFC 9112, 3.2.2)."""
    assert refusal_of([], target=b"http://a/") == 400


def test_http10_needs_no_host():
    """Host came with HTTP/1.1 (RFC 9112, C.1)."""
    assert "HTTP_HOST" not in build_env({}, *describe_line(b"GET", b"/", b"HTTP/1.0"), [])


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize("second", [(b"Host", b"a"), (b"host", b"b"), (b"HOST", b"")])
def test_two_hosts_are_400(second, version):
    """More than one Host field line is refused (RFC 9112, 3.2)."""
    assert refusal_of([HOST, second], version=version) == 400


@pytest.mark.parametrize("value", [b"a b", b"u@a", b"a/b", b"a:x", b"a,b", b"\xe9"])
def test_malformed_host_is_400(value):
    """A Host with an invalid value is refused (RFC 9112, 3.2)."""
    assert refusal_of([(b"Host", value)]) == 400


def test_malformed_host_is_400_though_the_target_has_one():
    """The absolute-form does not excuse the field (RFC 9112, 3.2)."""
    assert refusal_of([(b"Host", b"a b")], target=b"http://a/") == 400


def test_authority_of_the_target_overrides_host():
    """The origin server ignores the received Host (RFC 9112, 3.2.2)."""
    assert env_of(target=b"http://b:80/")["HTTP_HOST"] == "b:80"


def test_bad_target_is_400():
    """The target is checked here too (RFC 9112, 3.2)."""
    assert refusal_of([HOST], target=b"a") == 400


def test_target_beyond_ascii_is_400():
    """A URI is written in ASCII (RFC 3986, 2)."""
    assert refusal_of([(b"Host", b"a")], target=b"/\xc3\xa9") == 400
