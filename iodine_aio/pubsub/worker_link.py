"""A process's side of channels across the processes of one machine: its link to the hub.

What the hub promises of a process holds of the parent, too: where it does not read, messages
are lost, and nobody is held up.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, cast

from iodine_aio.logs import error_log
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.outbox import MAX_QUEUED_BYTES, WRITE_BYTES, Losses, Outbox
from iodine_aio.pubsub.packets import (
    MAX_DATA_BYTES,
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE,
    UNSUBSCRIBE_PATTERN,
    Packet,
    PacketReader,
    encode_publication,
)

_CLOSE_SECONDS: Final = 1.0


class Link(asyncio.Protocol):
    """A process's end of its link to the hub.

    Whatever is handed over in one turn of the loop is written at once. When the parent is
    gone it falls silent.

    Args:
        sock: closed with the link.
        receive: is called with each packet that arrives.
        end: is called when the parent is gone, or closes the link.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[Packet], object],
        end: Callable[[], object],
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._sock: Final = sock
        self._receive: Final = receive
        self._end: Final = end
        self._reader: Final = PacketReader()
        self._outbox: Final = Outbox(max_queued_bytes)
        self._losses: Final = Losses("the parent does not read fast enough")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: asyncio.Transport | None = None
        self._flushing = False  # a flush is due
        self._paused = False
        self._closing = False
        self._lost = False
        self._ended: asyncio.Future[None] | None = None

    @property
    def dropped(self) -> int:
        """Messages that the parent was too slow for."""
        return self._losses.total

    async def open(self) -> None:
        """Begins to read and write on the running loop; what was put before is written."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        await self._loop.create_unix_connection(lambda: self, sock=self._sock)

    async def close(self) -> None:
        """Ends the link, when all is written or nobody has read for a second."""
        self._closing = True
        transport = self._transport
        if transport is None or self._ended is None:
            self._sock.close()
            return
        while chunk := self._outbox.take(WRITE_BYTES):
            transport.write(chunk)
        transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.shield(self._ended)
        transport.abort()
        await self._ended

    def publish(self, channel: str, data: str | bytes) -> None:
        """Hands a message to the hub, or drops it where that does not keep up."""
        if self._lost or self._closing:
            return
        if self._outbox.put(encode_publication(channel, data)):
            self._flush_soon()
        else:
            self._losses.add()

    def announce(self, kind: int, channel: str) -> None:
        """Says to the hub what is listened to here, sooner or later."""
        if not self._lost and not self._closing:
            self._outbox.announce(kind, channel)
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing and not self._paused and self._transport is not None:
            assert self._loop is not None
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        transport, outbox = self._transport, self._outbox
        while transport is not None and not self._paused:
            chunk = outbox.take(WRITE_BYTES)
            if not chunk:
                break
            transport.write(chunk)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flush_soon()

    def data_received(self, data: bytes) -> None:
        receive = self._receive
        for packet in self._reader.feed(data):
            receive(packet)
        if self._reader.failure is not None and self._transport is not None:
            error_log.warning("the parent writes nonsense: %s", self._reader.failure)
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._transport = None
        self._outbox.clear()
        self._losses.tell()
        if not self._closing:
            self._end()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


class WorkerLink:
    """The engine of a worker: carries messages to the other workers, through the parent.

    Args:
        sock: the worker's end of a socket pair, whose other end the hub has.
        deliver: takes messages of others, as `Broker.deliver` does.
    """

    def __init__(
        self,
        sock: socket.socket,
        deliver: Callable[[Message], object],
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._link: Final = Link(sock, self._receive, self._end, max_queued_bytes)
        self._deliver: Final = deliver
        self._too_long: Final = Losses(f"longer than {MAX_DATA_BYTES} bytes")

    @property
    def dropped(self) -> int:
        """Messages that did not leave this process: too long, or the parent too slow."""
        return self._link.dropped + self._too_long.total

    async def open(self) -> None:
        """Begins to read and write on the running loop; what was said before is written."""
        await self._link.open()

    async def close(self) -> None:
        """Ends the link, when all is written or nobody has read for a second."""
        await self._link.close()
        self._too_long.tell()

    def subscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are wanted here from now on."""
        self._link.announce(SUBSCRIBE_PATTERN if pattern else SUBSCRIBE, channel)

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are not wanted here any more."""
        self._link.announce(UNSUBSCRIBE_PATTERN if pattern else UNSUBSCRIBE, channel)

    def publish(self, message: Message) -> None:
        """Carries `message` to the other workers."""
        if len(message.raw) > MAX_DATA_BYTES:
            self._too_long.add()
        else:
            self._link.publish(message.channel, message.data)

    def _receive(self, packet: Packet) -> None:
        _, channel, data, _ = packet
        if data is not None:
            self._deliver(Message(channel, data))

    def _end(self) -> None:
        error_log.warning("the parent is gone: messages stay in this process")
