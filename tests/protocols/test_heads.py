"""Request heads: lines that come again are read once, and each request has an env of its own."""

import tracemalloc

import pytest

from iodine_aio.errors import ProtocolError
from iodine_aio.protocols import heads
from iodine_aio.protocols.heads import MAX_RECALLED, HeadParser

TEMPLATE = {"SERVER_NAME": "a"}


def parse(parser, line, *fields):
    head = b"\r\n".join([line, b"Host: a", *fields, b"", b""])
    return parser.parse(head, TEMPLATE)


@pytest.fixture
def reads(monkeypatch):
    """Which request lines were read, instead of recalled."""
    lines = []
    parse_line = heads.parse_request_line

    def note(line):
        lines.append(line)
        return parse_line(line)

    heads._recall_line.cache_clear()
    monkeypatch.setattr(heads, "parse_request_line", note)
    yield lines
    heads._recall_line.cache_clear()


def test_a_line_that_comes_again_is_read_once(reads):
    parser = HeadParser()
    said = [parse(parser, b"GET /a%20b?c=1 HTTP/1.1") for _ in range(3)]

    assert reads == [b"GET /a%20b?c=1 HTTP/1.1"]
    assert said[0] == said[1] == said[2]
    assert said[0]["PATH_INFO"] == "/a b"


def test_what_an_app_does_to_its_env_is_not_in_the_next_one(reads):
    parser = HeadParser()
    env = parse(parser, b"GET / HTTP/1.1")
    kept = dict(env)
    env["PATH_INFO"] = "/other"
    env["user"] = 1
    del env["REQUEST_METHOD"]

    assert parse(parser, b"GET / HTTP/1.1") == kept
    assert TEMPLATE == {"SERVER_NAME": "a"}


@pytest.mark.parametrize(
    "other",
    [
        b"GET / HTTP/1.0",
        b"HEAD / HTTP/1.1",
        b"GET /? HTTP/1.1",
        b"GET /?a HTTP/1.1",
        b"GET http://b/ HTTP/1.1",
    ],
)
def test_lines_that_differ_are_not_mixed_up(reads, other):
    parser = HeadParser()
    first = parse(parser, b"GET / HTTP/1.1")
    env = parse(parser, other)
    method, target, version = other.decode().split(" ")

    assert (env["REQUEST_METHOD"], env["REQUEST_URI"]) == (method, target)
    assert env["SERVER_PROTOCOL"] == env["HTTP_VERSION"] == version
    assert env["HTTP_HOST"] == ("b" if "//" in target else "a")
    assert parse(parser, b"GET / HTTP/1.1") == first


@pytest.mark.parametrize("line", [b"GET / HTTP/2.0", b"BREW / HTTP/1.1", b"GET /# HTTP/1.1"])
def test_lines_that_are_refused_are_refused_every_time(reads, line):
    refusals = []
    for _ in range(2):
        with pytest.raises(ProtocolError) as caught:
            parse(HeadParser(), line)
        refusals.append((caught.value.status, str(caught.value)))

    assert refusals[0] == refusals[1]
    assert reads == [line, line]


def test_long_lines_are_not_kept(reads):
    line = b"GET /" + MAX_RECALLED * b"a" + b" HTTP/1.1"
    for _ in range(2):
        parse(HeadParser(), line)

    assert reads == [line, line]


def test_what_is_kept_is_bounded(reads):
    """Whatever clients ask for, it is some hundred KiB."""
    parser = HeadParser()
    lines = [b"GET /%0200d HTTP/1.1" % number for number in range(8000)]
    for line in lines[:2000]:
        parse(parser, line)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for line in lines[2000:]:
            parse(parser, line)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        reads.clear()

    assert grown < 3 * 2**20


@pytest.mark.parametrize(
    "field",
    [
        b"Connection: close",
        b"Connection: keep-alive",
        b"Proxy-Connection: close",
        b"Proxy-Connection: keep-alive",
        b"Connection: upgrade\r\nUpgrade: websocket",
        b"Upgrade: websocket",
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Keep-Alive: 5",
        b"TE: trailers",
    ],
)
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_no_field_of_one_request_changes_how_the_next_one_is_read(field, version):
    """The next one is somebody else's: one parser reads them all."""
    parser = HeadParser()
    env = parse(HeadParser(), b"GET /next HTTP/1.1", b"X: 1")
    for method in (b"GET", b"POST", b"HEAD", b"OPTIONS"):
        parse(parser, method + b" / " + version, field)
        assert parse(parser, b"GET /next HTTP/1.1", b"X: 1") == env
