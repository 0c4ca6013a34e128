"""Many bad clients, few log entries, and none that a client wrote."""

import asyncio
import logging

import pytest

import iodine_aio
from iodine_aio.logs import MAX_ENTRIES
from tests.clients import exchange
from tests.loops import until

CLIENTS = 20  # at once


async def storm(server, request, count):
    """Sends `request` so often; returns the statuses of the answers."""
    statuses = set()

    async def send_some():
        for _ in range(count // CLIENTS):
            statuses.add((await exchange(server, request))[9:12])

    await asyncio.gather(*(send_some() for _ in range(CLIENTS)))
    return statuses


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("iodine")]


def hello(env):
    return 200, {"Connection": "close"}, "hello"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x00garbage \xff\x1b[2J\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", b"431"),
    ],
    ids=["garbage", "length", "chunk", "method", "head"],
)
async def test_bad_request_writes_nothing(request_bytes, status, caplog):
    """Not even its access line: there was no request."""
    caplog.set_level(logging.DEBUG)
    async with iodine_aio.serve(hello, port=0, access_log=True) as server:
        assert await storm(server, request_bytes, 60) == {status}

    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("request_bytes", "status", "said"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400", "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505", "HTTP/2"),
    ],
    ids=["tls", "http2"],
)
async def test_client_of_another_protocol_is_told_of_once(request_bytes, status, said, caplog):
    """However many come."""
    caplog.set_level(logging.DEBUG)
    async with iodine_aio.serve(hello, port=0, access_log=True) as server:
        assert await storm(server, request_bytes, 60) == {status}

    (line,) = lines(caplog)
    assert said in line


@pytest.mark.slow
@pytest.mark.one_loop
async def test_ten_thousand_bad_requests_write_one_line(caplog):
    """Of several kinds, and one of them of another protocol."""
    caplog.set_level(logging.DEBUG)
    bad = (b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x1b\n", b"G\r\n\r\n")
    async with iodine_aio.serve(hello, port=0, access_log=True) as server:
        for request in bad:
            assert await storm(server, request, 2500) == {b"400"}

    assert len(lines(caplog)) == 1


async def test_failing_app_writes_one_entry_and_one_line_a_request(caplog):
    """The entry has the cause, the line the status."""
    caplog.set_level(logging.INFO)

    def app(env):
        raise ValueError(env["PATH_INFO"])

    request = b"GET /%0a%1b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with iodine_aio.serve(app, port=0, access_log=True) as server:
        assert await storm(server, request, 40) == {b"500"}

    entries = [line for line in lines(caplog) if line.startswith("GET ")]
    assert entries == [r"GET '/\n\x1b' failed"] * 40
    assert len(lines(caplog)) == 80


async def test_websocket_violations_write_nothing(caplog):
    """A peer that breaks RFC 6455 hears of it, the log does not."""
    caplog.set_level(logging.INFO)

    def app(env):
        env["upgrade.websocket"] = iodine_aio.WebSocket
        return 0, {}, None

    handshake = (
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with iodine_aio.serve(app, port=0) as server:
        assert await storm(server, handshake + b"\x81\x01\x1b", 60) == {b"101"}

    assert lines(caplog) == []


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_subscriber_that_always_raises_is_told_of_a_few_times(kind, caplog):
    """With its traceback, and in the end with a count: clients say how many messages there are."""
    heard = []

    def hear(message):
        heard.append(message)
        raise ValueError(message.data)

    async def hear_later(message):
        hear(message)

    subscription = iodine_aio.subscribe("room", hear if kind == "plain" else hear_later)
    for number in range(200):
        iodine_aio.publish("room", str(number))
    await until(lambda: len(heard) == 200)
    subscription.cancel()
    await until(lambda: "times more" in lines(caplog)[-1])

    assert caplog.text.count("Traceback") == MAX_ENTRIES
    assert lines(caplog)[MAX_ENTRIES:] == [
        f"a subscriber of 'room' raised {200 - MAX_ENTRIES} times more"
    ]


@pytest.mark.parametrize(
    "target",
    [
        b"/%1b[2J%1b]0;owned%07",
        b"/%0d%0a127.0.0.1%20-%20-%20forged",
        b"/%9b31m%c2%9b31m%e2%80%ae",
        b"/%s%d%(name)s{0}%%",
        b"http://a/%1b%0a",
        b'/"%22\\x1b',
    ],
)
async def test_target_stays_one_printable_line(target, caplog):
    """What is encoded in it is logged as it came, and is never decoded."""
    caplog.set_level(logging.INFO)
    async with iodine_aio.serve(hello, port=0, access_log=True) as server:
        response = await exchange(server, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)

    assert response.startswith(b"HTTP/1.1 200 ")
    (line,) = lines(caplog)
    assert line.isascii()
    assert line.isprintable()
    assert target.decode() in line


@pytest.mark.parametrize(
    "byte", [b"\x1b", b"\r", b"\n", b"\x9b", b"\x00", b"\x7f", b"\xe2\x80\xae"]
)
async def test_target_with_a_raw_control_character_is_no_request(byte, caplog):
    """Refused, and not logged."""
    caplog.set_level(logging.DEBUG)
    async with iodine_aio.serve(hello, port=0, access_log=True) as server:
        response = await exchange(server, b"GET /%b[2J HTTP/1.1\r\nHost: a\r\n\r\n" % byte)

    assert response.startswith(b"HTTP/1.1 400 ")
    assert lines(caplog) == []


async def test_answer_quotes_no_control_character(caplog):
    """A refusal's text goes to the client's terminal, or to a page."""
    async with iodine_aio.serve(hello, port=0) as server:
        for bad in (
            b"G\x1bT / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/\x1b[1\r\n\r\n",
            b"<a> / HTTP/1.1\r\n\r\n",
        ):
            response = await exchange(server, bad)

            assert response.replace(b"\r\n", b"").decode("ascii").isprintable()
            assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in response
