"""The end of a connection within the call that says that its client takes more again.

asyncio's transport, closed in `resume_writing`, says twice that the connection is lost.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import iodine_aio
from tests.clients import exchange, listening
from tests.requests import GET

BLOCK = bytes(1 << 20)


@pytest.fixture
async def complaints() -> list[Any]:
    """What the loop is told of that nobody has caught."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


async def test_end_behind_a_slow_piece_ends_its_connection_once(complaints: list[Any]):
    """All was said, and the client has asked for no more."""

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, iter([BLOCK * 8])

    async with iodine_aio.serve(app, port=0) as server:
        data = await exchange(server, GET)

    assert data.endswith(b"0\r\n\r\n")
    assert complaints == []


async def test_body_that_raises_behind_a_slow_piece_ends_its_connection_once(
    complaints: list[Any],
):
    """It is broken off, and that is logged; nothing else is."""

    def pieces() -> Iterator[bytes]:
        yield BLOCK * 8
        raise ZeroDivisionError

    async with iodine_aio.serve(lambda env: (200, {}, pieces()), port=0) as server:
        data = await exchange(server, GET)

    assert not data.endswith(b"0\r\n\r\n")
    assert complaints == []


@pytest.mark.parametrize("end", ["close", "force_close"])
async def test_raw_handler_may_end_when_it_is_told_of_the_drain(complaints: list[Any], end: str):
    """`on_drained` is the natural place for a goodbye."""

    class Handler(iodine_aio.Protocol):
        def on_open(self) -> None:
            self.write(BLOCK * 8)

        def on_drained(self) -> None:
            getattr(self, end)()

    async with listening(Handler) as (reader, _):
        data = await reader.read()

    assert len(data) == len(BLOCK) * 8
    assert complaints == []
