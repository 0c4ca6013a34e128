"""A parent whose hub works when it is told to, and processes at the other ends."""

import contextlib
import selectors
import socket

from iodine_aio.pubsub.hub import Hub
from iodine_aio.pubsub.outbox import MAX_QUEUED_BYTES
from iodine_aio.pubsub.packets import (
    SUBSCRIBE,
    PacketReader,
    encode_announcement,
)

Received = list[tuple[str, str | bytes]]


class Process:
    """The other end of a link: it writes packets, and reads what the hub has sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = PacketReader()

    def say(self, *packets: bytes) -> None:
        self.sock.sendall(b"".join(packets))

    def subscribe(self, *channels: str) -> None:
        self.say(*(encode_announcement(SUBSCRIBE, channel) for channel in channels))

    def hear(self) -> list[tuple[int, str]] | Received:
        """Announcements as (kind, channel), messages as (channel, data); until now."""
        heard: list[tuple[int, str]] | Received = []
        with contextlib.suppress(BlockingIOError):
            while data := self.sock.recv(1 << 20, socket.MSG_DONTWAIT):
                for kind, channel, body, _ in self.reader.feed(data):
                    heard.append((kind, channel) if body is None else (channel, body))  # type: ignore[arg-type]
        return heard

    @property
    def cut_off(self) -> bool:
        return self.sock.recv(1, socket.MSG_PEEK) == b""


class Parent:
    """A hub on a selector of its own, that works when it is told to."""

    def __init__(self, max_queued_bytes: int = MAX_QUEUED_BYTES) -> None:
        self.selector = selectors.DefaultSelector()
        self.hub = Hub(max_queued_bytes)
        self.hub.register(self.selector)
        self.ends: list[socket.socket] = []

    def pair(self, name: str = "a worker", bridge: bool = False) -> socket.socket:
        """A socket whose other end the hub has."""
        ours, theirs = socket.socketpair()
        self.hub.add(ours, name, bridge)
        self.ends.append(theirs)
        return theirs

    def process(self, name: str = "a worker", bridge: bool = False) -> Process:
        return Process(self.pair(name, bridge))

    def work(self) -> None:
        """All that can be done without waiting."""
        while ready := self.selector.select(0):
            for key, mask in ready:
                assert key.data is self.hub
                self.hub.handle(key, mask)

    def close(self) -> None:
        self.hub.close()
        self.selector.close()
        for end in self.ends:
            end.close()
