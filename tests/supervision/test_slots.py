"""Listening sockets by slot."""

import errno
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from iodine_aio.binds import Bind
from iodine_aio.supervision.slots import SlotSockets

ANY = Bind("127.0.0.1", 0)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="one socket for all")


@pytest.fixture
def sockets() -> Iterator[SlotSockets]:
    sockets = SlotSockets()
    yield sockets
    sockets.close()


def the_only(found: list[tuple[int | None, socket.socket]]) -> socket.socket:
    ((_, sock),) = found
    return sock


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_slot_has_a_socket_of_its_own(sockets: SlotSockets, host: str):
    """At the same port, be it a free one; asked again, it is the same."""
    found = [the_only(sockets.open(Bind(host, 0), 0, 16, slot)) for slot in (0, 1, 2)]
    again = the_only(sockets.open(Bind(host, 0), 0, 16, 1))

    assert len({sock.getsockname() for sock in found}) == 1
    assert len(set(found)) == 3
    assert again is found[1]


def test_same_bind_twice_is_two_ports(sockets: SlotSockets):
    """`listen(0, A)` and `listen(0, B)`."""
    one = the_only(sockets.open(ANY, 0, 16, 0))
    two = the_only(sockets.open(ANY, 1, 16, 0))

    assert one.getsockname() != two.getsockname()


def test_address_in_use_is_an_error(sockets: SlotSockets):
    """Of one that shares its port, too."""
    port = the_only(sockets.open(ANY, 0, 16, 0)).getsockname()[1]
    with pytest.raises(OSError, match="cannot listen on") as caught:
        SlotSockets().open(Bind("127.0.0.1", port), 0, 16, 0)

    assert caught.value.errno == errno.EADDRINUSE


def test_unix_socket_is_shared(sockets: SlotSockets):
    """There is one, of no slot, and its file goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        found = [sockets.open(Bind(path=str(path)), 0, 16, slot) for slot in (0, 1)]
        there = path.exists()
        sockets.close()

        assert found[0] == found[1] == [(None, the_only(found[0]))]
        assert there
        assert not path.exists()


@linux
def test_sockets_of_an_empty_slot_are_lent(sockets: SlotSockets):
    """Its keeper gets them now, and its successor when it asks."""
    own = [the_only(sockets.open(ANY, 0, 16, slot)) for slot in (0, 1)]
    lent = sockets.lend(1, 0)
    asked = sockets.open(ANY, 0, 16, 0)
    kept = sockets.kept_by(0)
    keeper = sockets.take_back(1)

    assert lent == [own[1]]
    assert asked == [(0, own[0]), (1, own[1])]
    assert kept == [1]
    assert keeper == 0
    assert sockets.take_back(1) is None
    assert sockets.open(ANY, 0, 16, 0) == [(0, own[0])]


def test_what_nobody_uses_is_closed(sockets: SlotSockets):
    """The others stay."""
    used = the_only(sockets.open(ANY, 0, 16, 0))
    unused = the_only(sockets.open(ANY, 1, 16, 0))
    sockets.close_unused([(str(ANY), 0)])

    assert used.fileno() >= 0
    assert unused.fileno() == -1


def test_child_closes_and_removes_nothing(sockets: SlotSockets):
    """The file of a unix socket is its parent's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        sock = the_only(sockets.open(Bind(path=str(path)), 0, 16, 0))
        sockets.close_in_child()
        sockets.close()

        assert sock.fileno() == -1
        assert path.exists()
