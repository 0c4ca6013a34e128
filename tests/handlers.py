"""Small apps, handlers and bodies, that send back or note what is done with them."""

import asyncio
from collections.abc import Iterator
from typing import Any


def hello(env: dict[str, Any]) -> Any:
    """An app that says hello."""
    return 200, {}, "hello"


class Echo:
    """Sends every message back."""

    def on_message(self, data: Any) -> None:
        self.write(data)  # type: ignore[attr-defined]


class Chat:
    """Says in the room what it hears."""

    def on_open(self) -> None:
        self.subscribe("room")  # type: ignore[attr-defined]

    def on_message(self, data: Any) -> None:
        self.publish("room", data)  # type: ignore[attr-defined]


class EchoStreaming(asyncio.Protocol):
    """An asyncio protocol that echoes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Recorder:
    """A handler that notes what it is called with; its test waits for `opened`, `closed`.

    Attributes:
        events: "open", each message, "shutdown" and "close", as they came.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[Any] = loop.create_future()

    def on_open(self) -> None:
        self.events.append("open")
        self.opened.set_result(None)

    def on_message(self, data: Any) -> None:
        self.events.append(data)

    def on_shutdown(self) -> None:
        self.events.append("shutdown")

    def on_close(self) -> None:
        self.events.append("close")
        self.closed.set_result(None)


class WebSocketRecorder(Recorder):
    """One that notes ("close", code, reason); `closed` gives code and reason."""

    def on_close(self, code: int, reason: str) -> None:  # type: ignore[override]
        self.events.append(("close", code, reason))
        if not self.closed.done():
            self.closed.set_result((code, reason))


class Body:
    """A response body that counts how often it was closed; pieces that are errors raise."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1
