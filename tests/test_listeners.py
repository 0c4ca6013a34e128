import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import uvloop

from iodine_aio.descriptors import Levels, make_levels
from iodine_aio.listeners import Listeners
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings

FULL = Levels(0, 0, 1 << 20)  # every descriptor is above the brim
ROOMY = make_levels(1024)


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.write(b"hello")
        stream.close()


def on_both_loops(test: Callable[[], Awaitable[None]]) -> Callable[[str], None]:
    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    @functools.wraps(test)
    def run(loop: str) -> None:
        factory = uvloop.new_event_loop if loop == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]

    del run.__wrapped__  # type: ignore[attr-defined]
    return run


def open_listener() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0), backlog=128)
    sock.setblocking(False)
    return sock


async def greeted(sock: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    data = await reader.read()
    writer.close()
    return data


async def take_turns() -> None:
    """The loop looks at its sockets a hundred times."""
    for _ in range(100):
        await asyncio.sleep(0)


@on_both_loops
async def test_client_that_comes_during_a_rest_is_served_after_it():
    """It waits in the kernel's queue, and the listening socket is the same."""
    with open_listener() as sock:
        listeners = Listeners(128, Service(None, Settings()))
        await listeners.add(sock, Greeting)
        assert await greeted(sock) == b"hello"
        listeners.levels = FULL
        listeners.rest()
        waiting = [asyncio.ensure_future(greeted(sock)) for _ in range(5)]
        await take_turns()

        assert not any(one.done() for one in waiting)
        listeners.levels = ROOMY
        assert await asyncio.gather(*waiting) == [b"hello"] * 5
        listeners.close()


@on_both_loops
async def test_what_was_accepted_before_a_rest_is_served():
    """asyncio makes a transport of it one turn later."""
    with open_listener() as sock:
        listeners = Listeners(128, Service(None, Settings()))

        class Resting(Greeting):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                listeners.rest()

        await listeners.add(sock, Resting)
        with socket.create_connection(sock.getsockname()):
            clients = [greeted(sock) for _ in range(8)]

            assert await asyncio.gather(*clients) == [b"hello"] * 8
        listeners.close()


@on_both_loops
async def test_close_ends_a_rest():
    """Nothing is accepted, and no timer goes on."""
    with open_listener() as sock:
        listeners = Listeners(128, Service(None, Settings()))
        await listeners.add(sock, Greeting)
        listeners.levels = FULL
        listeners.rest()
        listeners.close()
        listeners.levels = ROOMY
        listeners.rest()
        client = asyncio.ensure_future(greeted(sock))
        await take_turns()

        assert not client.done()
    with pytest.raises(ConnectionResetError):
        await client


@on_both_loops
async def test_rest_takes_no_processor_time_for_those_who_wait():
    """It looks fifty times a second, not whenever the socket is readable."""
    looks = 0

    class Counting(tuple[int, int, int]):
        @property
        def brim(self) -> int:
            nonlocal looks
            looks += 1
            return 0

        ceiling, limit = 0, 1 << 20

    with open_listener() as sock:
        listeners = Listeners(128, Service(None, Settings()))
        await listeners.add(sock, Greeting)
        listeners.levels = Counting((0, 0, 0))  # type: ignore[assignment]
        listeners.rest()
        client = asyncio.ensure_future(greeted(sock))
        await asyncio.wait([client], timeout=0.1)

        assert looks < 50
        assert not client.done()
        listeners.levels = ROOMY
        assert await client == b"hello"
        listeners.close()
