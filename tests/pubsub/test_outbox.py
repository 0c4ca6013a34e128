"""What waits for a peer, and what was lost of it."""

import pytest

from iodine_aio.pubsub import outbox
from iodine_aio.pubsub.outbox import Losses, Outbox
from iodine_aio.pubsub.packets import (
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE,
    PacketReader,
)


def drain(box: Outbox) -> bytes:
    """All that it gives, ten bytes at a time."""
    pieces = []
    while piece := box.take(10):
        pieces.append(bytes(piece))
    return b"".join(pieces)


def announced(box: Outbox) -> list[tuple[int, str]]:
    return [packet[:2] for packet in PacketReader().feed(drain(box)) if packet[2] is None]


def full_outbox() -> Outbox:
    box = Outbox(4)
    assert box.put(b"\x00\x00\x00\x04\x02\x00\x00x")
    return box


def test_packets_leave_in_the_order_they_came():
    """Joined, as many as fit."""
    box = Outbox(100)
    for packet in (b"one", b"two", b"three", b"four"):
        box.put(packet)

    assert box.take(7) == b"onetwo"
    assert box.take(7) == b"three"
    assert box.take(7) == b"four"
    assert box.take(7) == b""


def test_packet_longer_than_asked_for_leaves_whole():
    """Something always leaves."""
    box = Outbox(100)
    box.put(b"x" * 50)

    assert box.take(10) == b"x" * 50


def test_what_was_not_written_comes_first_again():
    """A socket takes part of what it is given."""
    box = Outbox(100)
    box.put(b"abcdef")
    box.put(b"ghi")
    chunk = box.take(6)
    box.put_back(memoryview(chunk)[2:])

    assert box.size == 7
    assert drain(box) == b"cdefghi"


def test_packet_beyond_the_bound_is_dropped():
    """Those that are there stay."""
    box = Outbox(10)

    assert box.put(b"x" * 6)
    assert not box.put(b"y" * 5)
    assert box.put(b"z" * 4)
    assert drain(box) == b"xxxxxxzzzz"


def test_packet_longer_than_the_bound_passes_an_empty_queue():
    """Else it never would."""
    box = Outbox(10)

    assert box.put(b"x" * 20)
    assert not box.put(b"y")


def test_announcement_waits_until_there_is_room():
    """It is not lost, and does not grow the queue."""
    box = full_outbox()
    box.announce(SUBSCRIBE, "a")
    box.announce(SUBSCRIBE_PATTERN, "a")

    assert box.size == 8
    assert announced(box) == [(SUBSCRIBE, "a"), (SUBSCRIBE_PATTERN, "a")]


def test_announcement_that_takes_back_a_waiting_one_leaves_nothing():
    """Channels that come and go while nobody reads do not pile up."""
    box = full_outbox()
    for number in range(1000):
        box.announce(SUBSCRIBE, f"room {number}")
        box.announce(UNSUBSCRIBE, f"room {number}")

    assert announced(box) == []


def test_last_announcement_of_a_channel_is_what_is_said():
    """It was said that the channel is listened to; it is so again in the end."""
    box = Outbox(4)
    box.announce(SUBSCRIBE, "a")
    for kind in (UNSUBSCRIBE, SUBSCRIBE, UNSUBSCRIBE):
        box.announce(kind, "a")

    assert announced(box) == [(SUBSCRIBE, "a"), (UNSUBSCRIBE, "a")]


def test_late_announcements_come_before_those_behind_them():
    """The order in which channels are announced stays."""
    box = full_outbox()
    for channel in "abc":
        box.announce(SUBSCRIBE, channel)

    assert [channel for _, channel in announced(box)] == ["a", "b", "c"]


def test_cleared_outbox_is_empty():
    """Late announcements are forgotten too."""
    box = full_outbox()
    box.announce(SUBSCRIBE, "a")
    box.clear()

    assert box.size == 0
    assert box.take(10) == b""


def test_losses_are_told_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A flood of messages makes no flood of entries; none is left untold."""
    now = 1000.0
    monkeypatch.setattr(outbox.time, "monotonic", lambda: now)
    losses = Losses("worker 3 does not read")
    for _ in range(500):
        losses.add()
    now += 10
    losses.add(2)
    losses.add()
    losses.tell()
    losses.tell()

    assert losses.total == 503
    assert [record.getMessage() for record in caplog.records] == [
        "worker 3 does not read: 1 messages were dropped, 1 in all",
        "worker 3 does not read: 501 messages were dropped, 502 in all",
        "worker 3 does not read: 1 messages were dropped, 503 in all",
    ]
