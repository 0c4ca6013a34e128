"""The hub, over socket pairs within this process."""

import contextlib
import selectors
import socket

import pytest

from iodine_aio.pubsub import hub as hub_module
from iodine_aio.pubsub import outbox
from iodine_aio.pubsub.hub import Hub
from iodine_aio.pubsub.packets import (
    SUBSCRIBE,
    SUBSCRIBE_PATTERN,
    UNSUBSCRIBE,
    UNSUBSCRIBE_PATTERN,
    encode_announcement,
    encode_publication,
)
from tests.pubsub.parents import Parent, Process, Received


def test_message_reaches_every_other_process_that_has_subscribed(parent: Parent):
    """Not the one it came from, and not those that did not ask."""
    one, two, three, other = (parent.process() for _ in range(4))
    for process in (one, two, three):
        process.subscribe("news")
    other.subscribe("else")
    parent.work()
    one.say(encode_publication("news", "hello"), encode_publication("news", b"\xff"))
    parent.work()

    assert two.hear() == three.hear() == [("news", "hello"), ("news", b"\xff")]
    assert one.hear() == other.hear() == []


def test_message_that_nobody_else_wants_is_not_written(parent: Parent):
    """It costs the hub nothing but to read it."""
    one, two = parent.process(), parent.process()
    one.subscribe("news")
    parent.work()
    one.say(encode_publication("news", "hello"))
    parent.work()

    assert parent.hub.forwarded == 0
    assert two.hear() == []


def test_message_comes_once_to_who_wants_it_twice(parent: Parent):
    """By its name and by two patterns."""
    one, two = parent.process(), parent.process()
    two.subscribe("room.1")
    two.say(*(encode_announcement(SUBSCRIBE_PATTERN, p) for p in ("room.*", "*.1")))
    parent.work()
    one.say(encode_publication("room.1", "x"), encode_publication("room.2", "y"))
    parent.work()

    assert two.hear() == [("room.1", "x"), ("room.2", "y")]


def test_what_is_unsubscribed_comes_no_more(parent: Parent):
    """A channel and a pattern of the same name are two things."""
    one, two = parent.process(), parent.process()
    two.subscribe("a*")
    two.say(encode_announcement(SUBSCRIBE_PATTERN, "a*"))
    parent.work()
    two.say(encode_announcement(UNSUBSCRIBE, "a*"))
    parent.work()
    one.say(encode_publication("a*", "1"), encode_publication("ab", "2"))
    two.say(encode_announcement(UNSUBSCRIBE_PATTERN, "a*"))
    parent.work()
    one.say(encode_publication("a*", "3"))
    parent.work()

    assert two.hear() == [("a*", "1"), ("ab", "2")]


def test_pattern_that_comes_later_is_seen_by_channels_known_before(parent: Parent):
    """Which patterns match a channel is remembered, and forgotten when they change."""
    one, two, three = (parent.process() for _ in range(3))
    two.say(encode_announcement(SUBSCRIBE_PATTERN, "n*"))
    parent.work()
    one.say(encode_publication("news", "1"))
    parent.work()
    three.say(encode_announcement(SUBSCRIBE_PATTERN, "*s"))
    parent.work()
    one.say(encode_publication("news", "2"))
    parent.work()

    assert two.hear() == [("news", "1"), ("news", "2")]
    assert three.hear() == [("news", "2")]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x03\x09\x00\x00",
        encode_announcement(SUBSCRIBE_PATTERN, "[a"),
    ],
)
def test_process_that_writes_garbage_is_cut_off(
    parent: Parent, caplog: pytest.LogCaptureFixture, garbage: bytes
):
    """One entry; what it said before is delivered, and nobody else is affected."""
    bad, one, two = parent.process("worker 7"), parent.process(), parent.process()
    one.subscribe("news")
    parent.work()
    bad.say(encode_publication("news", "before"), garbage, encode_publication("news", "behind"))
    parent.work()
    two.say(encode_publication("news", "after"))
    parent.work()

    assert one.hear() == [("news", "before"), ("news", "after")]
    assert bad.cut_off
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("worker 7 is cut off from the others: ")


def test_process_of_too_many_channels_is_cut_off(parent: Parent, monkeypatch: pytest.MonkeyPatch):
    """The parent's memory is not a worker's to fill."""
    monkeypatch.setattr(hub_module, "MAX_CHANNELS", 3)
    bad = parent.process()
    bad.subscribe("a", "b", "c", "a", "d")
    parent.work()

    assert bad.cut_off


def test_process_that_ends_loses_its_own_subscriptions_only(parent: Parent):
    """Its last words are heard, those of others reach the others."""
    one, two, three = (parent.process() for _ in range(3))
    for process in (one, two, three):
        process.subscribe("news")
    parent.work()
    two.say(encode_publication("news", "farewell"))
    two.sock.close()
    one.say(encode_publication("news", "hello"))
    parent.work()

    assert sorted(three.hear()) == [("news", "farewell"), ("news", "hello")]
    assert one.hear() == [("news", "farewell")]


def test_last_words_are_heard_of_a_process_that_is_removed(parent: Parent):
    """The signal of its end may be seen before what it wrote."""
    ours, theirs = socket.socketpair()
    parent.hub.add(ours, "a worker")
    one = parent.process()
    one.subscribe("news")
    parent.work()
    with theirs:
        theirs.sendall(encode_publication("news", "farewell"))
    parent.hub.remove(ours)
    parent.hub.remove(ours)  # twice: it may have been seen already

    assert one.hear() == [("news", "farewell")]
    assert ours.fileno() == -1


def test_process_that_hangs_stalls_nobody_and_grows_nothing(
    small_parent: Parent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """What it cannot take is dropped, counted, and told in one entry."""
    monkeypatch.setattr(outbox, "SILENT_SECONDS", 3600.0)  # longer than a busy machine needs
    parent = small_parent
    one, two, hung = parent.process(), parent.process(), parent.process("worker 3")
    for process in (two, hung):
        process.subscribe("news")
    parent.work()
    heard: Received = []
    most = 0
    for number in range(2000):
        one.say(encode_publication("news", f"{number:<1000}"))
        parent.work()
        heard += two.hear()  # type: ignore[arg-type]
        most = max(most, *(peer.outbox.size for peer in parent.hub._peers.values()))

    assert [int(data) for _, data in heard] == list(range(2000))
    assert most <= 64 * 1024
    assert parent.hub.dropped + parent.hub.forwarded == 4000
    assert parent.hub.dropped > 1000
    assert [record.getMessage() for record in caplog.records] == [
        "worker 3 does not read fast enough: 1 messages were dropped, 1 in all"
    ]


def test_process_that_wakes_up_gets_what_was_kept_in_order(small_parent: Parent):
    """And what is published from then on; each once."""
    parent = small_parent
    one, slow = parent.process(), parent.process()
    slow.subscribe("news")
    parent.work()
    for number in range(2000):
        one.say(encode_publication("news", f"{number:<1000}"))
        parent.work()
    heard: Received = []
    while more := slow.hear():
        heard.extend(more)  # type: ignore[arg-type]
        parent.work()
    one.say(encode_publication("news", "2000"))
    parent.work()
    heard.extend(slow.hear())  # type: ignore[arg-type]
    numbers = [int(data) for _, data in heard]

    assert numbers == [*range(len(numbers) - 1), 2000]
    assert len(numbers) == parent.hub.forwarded == 2001 - parent.hub.dropped


def test_hub_forgets_channels_that_nobody_listens_to_any_more(parent: Parent):
    """Channels that come and go leave nothing behind, nor does a process."""
    hub = parent.hub
    one, two = parent.process(), parent.process()
    for number in range(500):
        for kind in (SUBSCRIBE, SUBSCRIBE_PATTERN, UNSUBSCRIBE, UNSUBSCRIBE_PATTERN):
            one.say(encode_announcement(kind, f"room {number}"))
        parent.work()
    two.subscribe("a", "b")
    parent.work()
    two.sock.close()
    parent.work()

    assert (len(hub._channels), len(hub._patterns), len(hub._peers)) == (0, 0, 1)


def test_bridge_is_handed_everything(parent: Parent):
    """It carries messages elsewhere, whoever listens here."""
    bridge = parent.process("the bridge", bridge=True)
    one = parent.process()
    one.say(encode_publication("news", "x"))
    parent.work()

    assert bridge.hear() == [("news", "x")]


def test_message_of_a_bridge_reaches_those_who_listen(parent: Parent):
    """And not the bridge again, be there one or two."""
    bridge = parent.process("the bridge", bridge=True)
    one, two = parent.process(), parent.process()
    one.subscribe("news")
    parent.work()
    bridge.hear()
    bridge.say(encode_publication("news", "x"))
    parent.work()

    assert one.hear() == [("news", "x")]
    assert two.hear() == bridge.hear() == []


def test_bridge_is_told_of_first_and_last_listener(parent: Parent):
    """Of the whole server; a process that ends listens no more."""
    bridge = parent.process("the bridge", bridge=True)
    one, two = parent.process(), parent.process()
    for process in (one, two):
        process.subscribe("news")
        process.say(encode_announcement(SUBSCRIBE_PATTERN, "n*"))
    parent.work()
    first = bridge.hear()
    one.say(
        encode_announcement(UNSUBSCRIBE, "news"), encode_announcement(UNSUBSCRIBE_PATTERN, "n*")
    )
    parent.work()
    second = bridge.hear()
    two.sock.close()
    parent.work()

    assert first == [(SUBSCRIBE, "news"), (SUBSCRIBE_PATTERN, "n*")]
    assert second == []
    assert bridge.hear() == [(UNSUBSCRIBE, "news"), (UNSUBSCRIBE_PATTERN, "n*")]


def test_new_bridge_is_told_what_is_listened_to(parent: Parent):
    """The one before it has died."""
    one = parent.process()
    one.subscribe("news")
    one.say(encode_announcement(SUBSCRIBE_PATTERN, "n*"))
    parent.work()
    parent.process("the bridge", bridge=True).sock.close()
    parent.work()
    bridge = parent.process("the bridge", bridge=True)

    assert bridge.hear() == [(SUBSCRIBE, "news"), (SUBSCRIBE_PATTERN, "n*")]


def test_hung_bridge_knows_in_the_end_what_is_listened_to(small_parent: Parent):
    """Messages are lost on it, announcements are not."""
    parent = small_parent
    bridge = parent.process("the bridge", bridge=True)
    one = parent.process()
    wanted = set()
    for number in range(2000):
        one.say(encode_publication("news", bytes(1000)))
        one.subscribe(f"room {number}")
        if number % 2:
            one.say(encode_announcement(UNSUBSCRIBE, f"room {number}"))
        else:
            wanted.add(f"room {number}")
        parent.work()
    told: set[str] = set()
    while heard := bridge.hear():
        for first, second in heard:
            if first == SUBSCRIBE:
                told.add(str(second))
            elif first == UNSUBSCRIBE:
                told.discard(str(second))
        parent.work()

    assert parent.hub.dropped > 0
    assert told == wanted


def test_forked_child_closes_the_links_and_leaves_the_selector_alone(parent: Parent):
    """What the child closes stays open in the parent, and watched."""
    ours, theirs = socket.socketpair()
    twin = ours.dup()  # as fork() makes them
    watched = parent.selector.get_map()
    parent.hub.add(ours, "a worker")
    with twin, theirs:
        parent.hub.abandon()

        assert ours.fileno() == -1
        assert ours in [key.fileobj for key in watched.values()]
        assert theirs.send(b"x") == 1


def test_links_added_before_the_selector_are_watched_too():
    """A parent may open them first."""
    with contextlib.ExitStack() as stack:
        hub = Hub()
        pairs = [socket.socketpair() for _ in range(2)]
        for ours, _ in pairs:
            hub.add(ours)
        one, two = (Process(stack.enter_context(theirs)) for _, theirs in pairs)
        selector = stack.enter_context(selectors.DefaultSelector())
        stack.callback(hub.close)
        hub.register(selector)
        two.subscribe("news")
        one.say(encode_publication("news", "x"))
        heard = []
        while not heard:
            for key, mask in selector.select(0):
                hub.handle(key, mask)
            heard = two.hear()

        assert heard == [("news", "x")]
