"""The parent's side of channels across the processes of one machine: the hub of all links.

At most once, and in order for each publisher. Whoever does not read loses messages, and
holds up nobody: every queue is bounded, and no write blocks.
"""

import selectors
import socket
from typing import Final

from iodine_aio.errors import ProtocolError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.pubsub.outbox import MAX_QUEUED_BYTES, WRITE_BYTES, Losses, Outbox
from iodine_aio.pubsub.packets import (
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE,
    UNSUBSCRIBE_PATTERN,
    Packet,
    PacketReader,
)
from iodine_aio.pubsub.patterns import Pattern, compile_pattern

MAX_CHANNELS: Final = 1_000_000  # of one process
MAX_MATCHES: Final = 1024  # channels whose patterns are remembered

_READ_BYTES: Final = 256 * 1024
_LAST_READS: Final = 64  # of a process that has ended

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class _Peer:
    """The hub's end of a link.

    Attributes:
        bridge: it is handed every message, and told what all others listen to.
        reads: False once writing to it has failed.
    """

    __slots__ = (
        *("bridge", "channels", "losses", "name", "outbox", "patterns", "reader", "reads"),
        *("sock", "waits"),
    )

    def __init__(self, sock: socket.socket, name: str, bridge: bool, max_bytes: int) -> None:
        self.sock = sock
        self.name = name
        self.bridge = bridge
        self.reader = PacketReader()
        self.outbox = Outbox(max_bytes)
        self.losses = Losses(f"{name} does not read fast enough")
        self.channels: set[str] = set()
        self.patterns: set[str] = set()
        self.reads = True
        self.waits = False  # until it can be written to


class Hub:
    """The parent's side of all links: hands each message to those who listen.

    It works on the parent's selector, where the `data` of its sockets is the hub itself:

        for key, mask in selector.select():
            if key.data is hub:
                hub.handle(key, mask)

    Attributes:
        forwarded: messages handed to a process, once for each.
        dropped: messages that a process was too slow for.
    """

    def __init__(self, max_queued_bytes: int = MAX_QUEUED_BYTES) -> None:
        self.forwarded = 0
        self.dropped = 0
        self._max_queued_bytes: Final = max_queued_bytes
        self._selector: selectors.BaseSelector | None = None
        self._peers: Final[dict[socket.socket, _Peer]] = {}
        self._bridges: Final[set[_Peer]] = set()
        self._channels: Final[dict[str, set[_Peer]]] = {}
        self._patterns: Final[dict[str, tuple[Pattern, set[_Peer]]]] = {}
        self._matches: Final[dict[str, tuple[set[_Peer], ...]]] = {}

    # What the parent calls.

    def register(self, selector: selectors.BaseSelector) -> None:
        """Watches the links, those of now and those to come, by `selector`."""
        self._selector = selector
        for peer in self._peers.values():
            selector.register(peer.sock, _READ | _WRITE * peer.waits, self)

    def add(self, sock: socket.socket, name: str = "a worker", bridge: bool = False) -> None:
        """Takes over one end of a socket pair, whose other end is a process's.

        Args:
            sock: closed by the hub.
            name: of the process, for the log.
            bridge: it leads elsewhere: it is handed every message of the others, and is
                told of a channel when its first listener among them comes, and its last goes.
        """
        sock.setblocking(False)
        peer = _Peer(sock, name, bridge, self._max_queued_bytes)
        self._peers[sock] = peer
        if self._selector is not None:
            self._selector.register(sock, _READ, self)
        if bridge:
            self._bridges.add(peer)
            for channel in self._channels:
                peer.outbox.announce(SUBSCRIBE, channel)
            for pattern in self._patterns:
                peer.outbox.announce(SUBSCRIBE_PATTERN, pattern)
            self._flush(peer)

    def remove(self, sock: socket.socket) -> None:
        """Closes the link of a process that has ended; what it said last is still heard."""
        peer = self._peers.get(sock)
        if peer is None:
            return
        for _ in range(_LAST_READS):
            if not self._read(peer):
                break
        self._drop(peer)

    def handle(self, key: selectors.SelectorKey, mask: int) -> None:
        """Does what can be done on the socket of `key` without waiting."""
        assert isinstance(key.fileobj, socket.socket)
        peer = self._peers.get(key.fileobj)
        if peer is None:
            return  # dropped after the selector returned
        if mask & _WRITE:
            self._flush(peer)
        if mask & _READ:
            self._read(peer)

    def close(self) -> None:
        """Closes all links."""
        for peer in tuple(self._peers.values()):
            self._drop(peer)

    def abandon(self) -> None:
        """Closes the sockets in a forked child, where the hub is the parent's."""
        # The selector is left alone: the kernel's side of it is shared with the parent.
        for sock in self._peers:
            sock.close()
        self._peers.clear()
        self._selector = None

    # Reading.

    def _read(self, peer: _Peer) -> bool:
        """Reads once; False if there was nothing, or there will be nothing any more."""
        try:
            data = peer.sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return False
        touched: set[_Peer] = set()
        failure: Exception | None = None
        try:
            for packet in peer.reader.feed(data):
                if packet[2] is None:
                    self._note(peer, packet, touched)
                else:
                    self._forward(peer, packet, touched)
            failure = peer.reader.failure
        except (ProtocolError, UsageError) as error:
            failure = error
        if failure is not None:
            error_log.warning("%s is cut off from the others: %s", peer.name, failure)
            self._drop(peer, touched)
        for other in touched:
            self._flush(other)
        return failure is None

    def _forward(self, sender: _Peer, packet: Packet, touched: set[_Peer]) -> None:
        channel, wire = packet[1], packet[3]
        receivers = self._bridges.union(self._channels.get(channel, ()))
        if self._patterns:
            receivers.update(*self._find_matches(channel))
        receivers.discard(sender)
        for peer in receivers:
            if not peer.reads:
                continue
            if peer.outbox.put(wire):
                self.forwarded += 1
                touched.add(peer)
            else:
                self.dropped += 1
                peer.losses.add()

    def _find_matches(self, channel: str) -> tuple[set[_Peer], ...]:
        """Who has subscribed to patterns that `channel` matches."""
        matches = self._matches.get(channel)
        if matches is None:
            matches = tuple(p for pattern, p in self._patterns.values() if pattern.matches(channel))
            if len(self._matches) >= MAX_MATCHES:
                self._matches.clear()
            self._matches[channel] = matches
        return matches

    def _note(self, peer: _Peer, packet: Packet, touched: set[_Peer]) -> None:
        """Keeps in mind what a process says that it listens to."""
        if peer.bridge:
            raise ProtocolError("a bridge subscribes to nothing, it has it all")
        kind, channel = packet[:2]
        pattern = kind in (SUBSCRIBE_PATTERN, UNSUBSCRIBE_PATTERN)
        own = peer.patterns if pattern else peer.channels
        if kind in (UNSUBSCRIBE, UNSUBSCRIBE_PATTERN):
            if channel in own:
                own.discard(channel)
                self._unsubscribe(peer, channel, pattern, touched)
        elif channel not in own:
            if len(own) >= MAX_CHANNELS:
                raise ProtocolError(f"subscriptions to more than {MAX_CHANNELS} channels")
            self._subscribe(peer, channel, pattern, touched)
            own.add(channel)

    def _subscribe(self, peer: _Peer, channel: str, pattern: bool, touched: set[_Peer]) -> None:
        if pattern:
            compiled = compile_pattern(channel)
            peers = self._patterns.setdefault(channel, (compiled, set()))[1]
            self._matches.clear()
        else:
            peers = self._channels.setdefault(channel, set())
        if not peers:
            self._tell_bridges(SUBSCRIBE_PATTERN if pattern else SUBSCRIBE, channel, touched)
        peers.add(peer)

    def _unsubscribe(self, peer: _Peer, channel: str, pattern: bool, touched: set[_Peer]) -> None:
        peers = self._patterns[channel][1] if pattern else self._channels[channel]
        peers.discard(peer)
        if peers:
            return
        if pattern:
            del self._patterns[channel]
            self._matches.clear()
        else:
            del self._channels[channel]
        self._tell_bridges(UNSUBSCRIBE_PATTERN if pattern else UNSUBSCRIBE, channel, touched)

    def _tell_bridges(self, kind: int, channel: str, touched: set[_Peer]) -> None:
        for bridge in self._bridges:
            bridge.outbox.announce(kind, channel)
        touched |= self._bridges

    # Writing.

    def _flush(self, peer: _Peer) -> None:
        """Writes what the process takes; the rest waits until it takes more."""
        outbox = peer.outbox
        blocked = False
        while peer.reads and not blocked:
            chunk = outbox.take(WRITE_BYTES)
            if not chunk:
                break
            try:
                sent = peer.sock.send(chunk)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # It is gone; what it said before it went is still to be read.
                peer.reads = False
                outbox.clear()
                break
            if sent < len(chunk):
                outbox.put_back(memoryview(chunk)[sent:])
                blocked = True
        if blocked is not peer.waits:
            peer.waits = blocked
            if self._selector is not None:
                self._selector.modify(peer.sock, _READ | _WRITE * blocked, self)

    def _drop(self, peer: _Peer, touched: set[_Peer] | None = None) -> None:
        """Closes a link, and forgets what its process listened to."""
        if self._peers.pop(peer.sock, None) is None:
            return
        self._bridges.discard(peer)
        if self._selector is not None:
            self._selector.unregister(peer.sock)
        peer.sock.close()
        peer.reads = peer.waits = False
        peer.outbox.clear()
        peer.losses.tell()
        told: set[_Peer] = set() if touched is None else touched
        for channel in peer.channels:
            self._unsubscribe(peer, channel, False, told)
        for pattern in peer.patterns:
            self._unsubscribe(peer, pattern, True, told)
        told.discard(peer)
        if touched is None:
            for other in told:
                self._flush(other)
