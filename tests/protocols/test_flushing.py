"""What is answered in one turn of the loop leaves at its end."""

import asyncio
import contextlib
import itertools
import socket
from typing import Any

import pytest

import iodine_aio
from iodine_aio.protocols import flushing
from iodine_aio.protocols.flushing import MAX_CONNECTIONS, MAX_SECONDS, TurnEnd
from iodine_aio.protocols.http1 import HTTPProtocol
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import make_template
from tests.requests import KEPT
from tests.transports import FakeLoop, FakeTransport

TEMPLATE = make_template(("127.0.0.1", 3000), None)


class Connection:
    """Notes when it is flushed."""

    def __init__(self, flushed: list[Any], error: Exception | None = None) -> None:
        self.flushed = flushed
        self.error = error

    def flush(self) -> None:
        self.flushed.append(self)
        if self.error is not None:
            raise self.error


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only member is the time."""
    now = [0.0]
    monkeypatch.setattr(flushing, "monotonic", lambda: now[0])
    return now


def test_all_are_flushed_once_when_the_turn_is_over(clock: list[float]):
    """In the order in which they came."""
    flushed: list[Any] = []
    loop = FakeLoop()
    turn_end = TurnEnd(loop)  # type: ignore[arg-type]
    connections = [Connection(flushed) for _ in range(3)]
    for connection in connections:
        turn_end.add(connection)

    assert flushed == []
    loop.run()
    assert flushed == connections
    turn_end.add(connections[0])
    loop.run()
    assert flushed == [*connections, connections[0]]


def test_no_more_than_so_many_wait(clock: list[float]):
    """What they keep back is bounded with them."""
    flushed: list[Any] = []
    turn_end = TurnEnd(FakeLoop())  # type: ignore[arg-type]
    for _ in range(MAX_CONNECTIONS + 1):
        turn_end.add(Connection(flushed))

    assert len(flushed) == MAX_CONNECTIONS


def test_none_waits_for_long(clock: list[float]):
    """Where an app takes its time, answers do not wait for those of many others."""
    flushed: list[Any] = []
    turn_end = TurnEnd(FakeLoop())  # type: ignore[arg-type]
    for moment in (0.0, MAX_SECONDS / 2, MAX_SECONDS * 1.5, MAX_SECONDS * 2):
        clock[0] = moment
        turn_end.add(Connection(flushed))

    assert len(flushed) == 3


def test_one_that_fails_affects_nobody_else(clock: list[float], caplog: pytest.LogCaptureFixture):
    """It is logged."""
    flushed: list[Any] = []
    loop = FakeLoop()
    turn_end = TurnEnd(loop)  # type: ignore[arg-type]
    for error in (None, RuntimeError("no"), None):
        turn_end.add(Connection(flushed, error))
    loop.run()

    assert len(flushed) == 3
    assert len(caplog.records) == 1


@contextlib.contextmanager
def clients(port: int, count: int, request: bytes):
    """Sockets whose requests the loop finds all at once."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)
        ]
        for sock in made:
            sock.setblocking(False)
            sock.sendall(request)
        yield made


@pytest.mark.parametrize("patience", [60.0, -1.0])
async def test_requests_of_one_turn_are_answered_before_any_answer_leaves(
    patience: float, monkeypatch: pytest.MonkeyPatch
):
    """Unless that takes long: then an answer waits for the next one at most."""
    monkeypatch.setattr(flushing, "MAX_SECONDS", patience)
    numbers = itertools.count(1)
    arrived: list[list[int]] = []
    sockets: list[socket.socket] = []

    def app(env: iodine_aio.Env) -> Any:
        if not sockets:  # the first request of each connection sees that it was accepted
            return 200, {}, b""
        there = []
        for sock in sockets:
            with contextlib.suppress(BlockingIOError):
                there += [int(sock.recv(65536, socket.MSG_PEEK).rpartition(b"\n")[2])]
        arrived.append(there)
        return 200, {}, str(next(numbers)).encode()

    async with iodine_aio.serve(app, port=0) as server:
        loop = asyncio.get_running_loop()
        with clients(server.port, 4, KEPT) as made:
            for sock in made:
                assert b"200 OK" in await loop.sock_recv(sock, 65536)
            sockets[:] = made
            for sock in made:
                sock.sendall(KEPT)
            for sock in made:
                assert b"200 OK" in await loop.sock_recv(sock, 65536)

    assert [len(there) for there in arrived] == ([0] * 4 if patience > 0 else [0, 0, 2, 2])


def test_client_that_ends_its_side_at_once_gets_its_answer():
    """Though the end is read in the turn of the request, and the transport closes itself."""
    service = Service(lambda env: (200, {}, b"hello"), Settings())
    service.start(FakeLoop())  # type: ignore[arg-type]
    connection, transport = HTTPProtocol(service, TEMPLATE), FakeTransport()
    connection.connection_made(transport)
    connection.data_received(KEPT)

    assert not transport.written
    assert connection.eof_received() is False
    assert transport.written.endswith(b"\r\n\r\nhello")
