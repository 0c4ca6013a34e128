"""What a hostile peer's pieces cost: work grows as their number, never as its square.

Work is counted, not timed: the functions called, and the bytes handed to them.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from iodine_aio.protocols.http1 import HTTPProtocol
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.tcp import TCPProtocol
from iodine_aio.protocols.upgrade import adopt
from iodine_aio.protocols.websocket import WebSocketProtocol
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import make_template
from tests.transports import FakeLoop, FakeTransport

TEMPLATE = make_template(("127.0.0.1", 3000), None)
KEY = b"\x00\x00\x00\x00"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire:
    """One connection, and what reading its bytes takes."""

    def __init__(self, make: Callable[[Service], Any], app: Any = None) -> None:
        self.loop = FakeLoop()
        self.service = Service(app, Settings(max_message_fragments=1 << 20))
        self.service.start(self.loop)  # type: ignore[arg-type]
        self.transport = FakeTransport()
        self.protocol = make(self.service)
        self.protocol.connection_made(self.transport)

    def feed(self, segments: Sequence[bytes]) -> None:
        for segment in segments:
            self.protocol.data_received(segment)
            self.loop.run()
            assert self.transport.reading

    def cost_of(self, segments: Sequence[bytes]) -> tuple[int, int]:
        """Calls, and the bytes of the new objects that are handed to functions."""
        calls = moved = 0
        recent: list[bytes] = []  # handed on, these are not copied

        def count(frame: Any, event: str, argument: object) -> None:
            nonlocal calls, moved
            if event == "call":
                calls += 1
                for value in frame.f_locals.values():
                    if type(value) is bytes and len(value) > 1:
                        at = [i for i, one in enumerate(recent) if one is value]
                        if at:
                            del recent[at[0]]
                        else:
                            moved += len(value)
                        recent.insert(0, value)
                        del recent[8:]
            elif event == "c_call":
                calls += 1

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            self.feed(segments)
        finally:
            sys.setprofile(before)
        return calls, moved


def cut(stream: bytes, step: int) -> list[bytes]:
    return [stream[i : i + step] for i in range(0, len(stream), step)]


def http() -> Wire:
    def app(env: dict[str, Any]) -> Any:
        return 200, {}, env["CONTENT_LENGTH"]

    return Wire(lambda service: HTTPProtocol(service, TEMPLATE), app)


class Counter:
    """A handler that counts what it is handed."""

    def __init__(self) -> None:
        self.messages = self.size = 0

    def on_message(self, data: str | bytes) -> None:
        self.messages += 1
        self.size += len(data)


def upgraded(kind: type[WebSocketProtocol] | type[TCPProtocol]) -> tuple[Wire, Counter]:
    counter = Counter()

    def make(service: Service) -> Any:
        connection = kind(service, counter, None)
        adopt(counter, connection)
        return connection

    wire = Wire(make)
    # Out of the sets of open connections again, which the process shares.
    wire.protocol.registry.discard(wire.protocol)
    return wire, counter


def assert_linear(few: tuple[int, int], many: tuple[int, int], factor: int) -> None:
    for name, one, other in zip(("calls", "bytes"), few, many, strict=True):
        assert other <= 1.1 * factor * one, f"{one} {name} became {other}"


# ---- HTTP ----


def one_byte_chunks(count: int) -> bytes:
    return b"1\r\nx\r\n" * count + b"0\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 7, 100])
def test_one_byte_chunks_cost_what_they_are(step: int):
    """Ten times the chunks are ten times the work, whatever reads they come in."""
    costs = []
    for count in (500, 5000):
        wire = http()
        wire.feed([CHUNKED])
        costs.append(wire.cost_of(cut(one_byte_chunks(count), step)))

        assert wire.transport.written.endswith(b"\r\n\r\n%d" % count)
    assert_linear(*costs, 10)


@pytest.mark.slow
def test_a_hundred_thousand_one_byte_chunks_cost_no_more_each():
    """In reads of the largest size that uvloop makes: three of them to one."""
    costs = []
    for count in (42_667, 128_001):
        wire = http()
        wire.feed([CHUNKED])
        costs.append(wire.cost_of(cut(one_byte_chunks(count), 256_000)))

        assert wire.transport.written.endswith(b"\r\n\r\n%d" % count)
    assert_linear(*costs, 3)


def test_body_byte_by_byte_costs_what_it_is():
    """One that has a Content-Length."""
    costs = []
    for count in (500, 5000):
        wire = http()
        wire.feed([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % count])
        costs.append(wire.cost_of(cut(b"x" * count, 1)))

        assert wire.transport.written.endswith(b"\r\n\r\n%d" % count)
    assert_linear(*costs, 10)


def test_head_byte_by_byte_takes_no_calls_for_the_lines_before():
    """1500 lines in one head: each byte costs what the byte before cost."""
    calls = []
    for count in (150, 1500):
        wire = http()
        head = b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * count
        wire.feed(cut(head[:-200], 1))
        calls.append(wire.cost_of(cut(head[-200:], 1))[0])

        assert not wire.transport.written
    assert calls[1] < 1.1 * calls[0]


@pytest.mark.parametrize("step", [1000, 60_000])
def test_pipelined_requests_cost_what_they_are(step: int):
    """Turns that are taken up again read nothing anew."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    calls = []
    for count in (200, 2000):
        wire = Wire(
            lambda service: HTTPProtocol(service, TEMPLATE),
            lambda env: (200, {}, b""),
        )
        calls.append(wire.cost_of(cut(request * count, step))[0])

    assert calls[1] < 1.1 * 10 * calls[0]


# ---- WebSocket ----


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 7, 100])
def test_one_byte_frames_cost_what_they_are(step: int):
    """Ten times the frames are ten times the work, whatever reads they come in."""
    costs = []
    for count in (500, 5000):
        wire, counter = upgraded(WebSocketProtocol)
        costs.append(wire.cost_of(cut((b"\x81\x81" + KEY + b"x") * count, step)))

        assert (counter.messages, counter.size) == (count, count)
    assert_linear(*costs, 10)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 7, 100])
def test_one_byte_continuations_cost_what_they_are(step: int):
    """A message of ten times the fragments is ten times the work."""
    costs = []
    for count in (500, 5000):
        wire, counter = upgraded(WebSocketProtocol)
        message = b"\x01\x80" + KEY + (b"\x00\x81" + KEY + b"x") * count + b"\x80\x80" + KEY
        costs.append(wire.cost_of(cut(message, step)))

        assert (counter.messages, counter.size) == (1, count)
    assert_linear(*costs, 10)


@pytest.mark.slow
def test_a_hundred_thousand_one_byte_frames_cost_no_more_each():
    """As messages of their own, and as the fragments of one: six full reads to two."""
    costs = []
    for count in (36_571, 109_713):
        wire, counter = upgraded(WebSocketProtocol)
        frames = (b"\x82\x81" + KEY + b"x") * count
        fragments = b"\x02\x80" + KEY + (b"\x00\x81" + KEY + b"x") * count + b"\x80\x80" + KEY
        costs.append(wire.cost_of(cut(frames + fragments, 256_000)))

        assert (counter.messages, counter.size) == (count + 1, 2 * count)
    assert_linear(*costs, 3)


def test_long_message_byte_by_byte_costs_what_it_is():
    """What came before of it is not touched again."""
    costs = []
    for count in (500, 5000):
        wire, counter = upgraded(WebSocketProtocol)
        message = b"\x82\xfe" + count.to_bytes(2, "big") + KEY + b"x" * count
        costs.append(wire.cost_of(cut(message, 1)))

        assert (counter.messages, counter.size) == (1, count)
    assert_linear(*costs, 10)


# ---- raw ----


def test_one_byte_reads_cost_what_they_are():
    """A raw connection hands over what comes."""
    costs = []
    for count in (500, 5000):
        wire, counter = upgraded(TCPProtocol)
        costs.append(wire.cost_of([b"x"] * count))

        assert (counter.messages, counter.size) == (count, count)
    assert_linear(*costs, 10)
