"""What clients send, kept as files: each is answered alike however its bytes arrive.

`tests/corpus/NAME.http` holds the literal bytes of one connection, and `expected.json`
the statuses that answer them in order, whether the connection is closed afterwards, and
the requests that the app is given, as it echoes them. A path of `/smuggled` lies behind
whatever is refused: it must never be looked at.
"""

import asyncio
import json
from pathlib import Path

import pytest

import iodine_aio
from iodine_aio.protocols.http1 import HTTPProtocol
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings
from tests.transports import FakeLoop, FakeTransport

CORPUS = Path(__file__).parent.parent / "corpus"
EXPECTED = json.loads((CORPUS / "expected.json").read_text())
# Small limits keep the files small, so that each can be split at every byte.
LIMITS = {"max_head_bytes": 1024, "max_body_bytes": 256}
TEMPLATE = {
    "SCRIPT_NAME": "",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "80",
    "upgrade.tcp?": False,
    "upgrade.websocket?": False,
}
READING_SECONDS = 5
SLOW_IN_TWO = ["pipelined-more-than-one-turn", "trailers-unbounded-in-sum"]


class Echo:
    """Answers with the request itself, and remembers it."""

    def __init__(self):
        self.requests = []

    def __call__(self, env):
        self.requests.append(self._describe(env))
        return 200, [], self.requests[-1]

    def _describe(self, env):
        path, query = env["PATH_INFO"], env["QUERY_STRING"]
        words = [env["REQUEST_METHOD"], f"{path}?{query}" if query else path]
        if path == "/host":
            words.append(f"HTTP_HOST={env['HTTP_HOST']}")
        if path == "/fields":
            words += [
                f"{key}={env[key]}"
                for key in sorted(env)
                if key.startswith(("HTTP_", "CONTENT_"))
                if key not in ("HTTP_HOST", "HTTP_VERSION")
            ]
        if path != "/noread" and (body := env["wsgi.input"].read()):
            words.append(body.decode())
        return " ".join(words)


def read_answers(data, requests):
    """Statuses and bodies of the responses in `data`; interim ones are passed over."""
    statuses, bodies = [], []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"half a head: {head!r}"
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        assert lines[0].startswith(f"HTTP/1.1 {status} ")
        if status == 100:
            continue
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(fields["content-length"])
        at = len(statuses)
        if at < len(requests) and requests[at].startswith("HEAD "):
            length = 0
        statuses.append(status)
        bodies.append(data[:length].decode())
        assert len(data) >= length
        data = data[length:]
    return statuses, bodies


def exchange(pieces):
    """Statuses, whether it is closed, and the app's requests, of one fed connection."""
    loop, transport, echo = FakeLoop(), FakeTransport(), Echo()
    service = Service(echo, Settings(**LIMITS))
    service.start(loop)
    protocol = HTTPProtocol(service, TEMPLATE)
    protocol.connection_made(transport)
    for piece in pieces:
        protocol.data_received(piece)
        loop.run()
    closed = transport.ended
    protocol.connection_lost(None)
    return bytes(transport.written), closed, echo.requests


def check_answers(name, written, requests):
    """What was answered is what `expected.json` says, and nothing was smuggled in."""
    expected = EXPECTED[name]
    statuses, bodies = read_answers(written, requests)
    echoed = [request for request in requests if not request.startswith("HEAD ")]

    assert requests == expected["requests"]
    assert statuses == expected["statuses"]
    assert [body for body in bodies if body][: len(echoed)] == echoed
    assert not any(request.startswith("GET /smuggled") for request in requests)


def check_pieces(name, pieces):
    written, closed, requests = exchange(pieces)

    check_answers(name, written, requests)
    assert closed is EXPECTED[name]["closed"]


def test_every_file_has_an_expectation():
    """The files and the names of `expected.json` are the same."""
    assert {path.stem for path in CORPUS.glob("*.http")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_answers_when_read_whole(name):
    """The bytes of one file in one read."""
    check_pieces(name, [(CORPUS / f"{name}.http").read_bytes()])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW_IN_TWO else name
        for name in EXPECTED
    ],
)
def test_answers_when_read_in_two(name):
    """The bytes of one file in two reads, split anywhere."""
    data = (CORPUS / f"{name}.http").read_bytes()
    for at in range(1, len(data)):
        check_pieces(name, [data[:at], data[at:]])


@pytest.mark.parametrize("name", EXPECTED)
def test_answers_when_read_byte_by_byte(name):
    """The bytes of one file, each in a read of its own."""
    data = (CORPUS / f"{name}.http").read_bytes()
    check_pieces(name, [data[at : at + 1] for at in range(len(data))])


@pytest.mark.parametrize("name", EXPECTED)
async def test_answers_over_a_socket(name):
    """The bytes of one file to a real server; a refused client still gets its answer."""
    echo = Echo()
    async with iodine_aio.serve(echo, port=0, **LIMITS) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write((CORPUS / f"{name}.http").read_bytes())
        if not EXPECTED[name]["closed"]:
            writer.write_eof()
        async with asyncio.timeout(READING_SECONDS):
            written = await reader.read()
        writer.close()
        await writer.wait_closed()

    check_answers(name, written, echo.requests)


def test_slow_answer_holds_the_fast_one_back():
    """Responses leave in the order of their requests (RFC 9112, 9.3.2)."""
    loop, transport = FakeLoop(), FakeTransport()
    slow = asyncio.Future(loop=loop)
    called = []

    def app(env):
        called.append(env["PATH_INFO"])
        return slow if env["PATH_INFO"] == "/slow" else (200, [], "fast")

    service = Service(app, Settings())
    service.start(loop)
    protocol = HTTPProtocol(service, TEMPLATE)
    protocol.connection_made(transport)
    protocol.data_received(
        b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /fast HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    loop.run()

    assert called == ["/slow"]
    assert not transport.written

    slow.set_result((200, [], "slow"))
    loop.run()

    assert called == ["/slow", "/fast"]
    assert read_answers(bytes(transport.written), [])[1] == ["slow", "fast"]


def test_interim_response_asks_for_the_body():
    """A client that waits for 100 gets it before it sends the body (RFC 9110, 10.1.1)."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    written, _, requests = exchange([head])

    assert written == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not requests


def test_interim_response_is_left_out_when_the_body_is_there():
    """A server may omit the 100 if it has received content already (RFC 9110, 10.1.1)."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    written, _, requests = exchange([head + b"hi"])

    assert b" 100 " not in written
    assert requests == ["POST / hi"]


def test_interim_response_is_not_sent_to_http10():
    """A 1.0 client cannot read an interim response (RFC 9110, 15.2)."""
    head = b"POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    written, _, _ = exchange([head])

    assert written == b""


def test_interim_response_is_not_sent_before_a_refusal():
    """A body that is too long is not asked for (RFC 9110, 10.1.1)."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\nExpect: 100-continue\r\n\r\n"
    written, closed, _ = exchange([head])

    assert written.startswith(b"HTTP/1.1 413 ")
    assert closed


@pytest.mark.parametrize("field", [b"Expect: x", b"Content-Length: 999"])
def test_refused_head_request_has_no_body(field: bytes):
    """A server must not send content in the response to HEAD (RFC 9110, 9.3.2)."""
    written, closed, _ = exchange([b"HEAD /h HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n"])

    assert written.endswith(b"\r\n\r\n")
    assert closed
