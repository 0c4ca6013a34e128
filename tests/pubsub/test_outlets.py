"""Frames that go straight to sockets: each gets all of them, whatever becomes of the others."""

import os
import socket
import threading

import pytest

from iodine_aio.pubsub import outlets as outlets_module
from iodine_aio.pubsub.outlets import Outlet, Outlets

FRAME = b"\x81\x02hi"


class Transport:
    """Keeps what it is given."""

    def __init__(self):
        self.written = b""

    def write(self, data):
        self.written += data


class Broken:
    def write(self, data):
        raise RuntimeError("no")


class Peer:
    """Both ends of a connection, and the transport of ours."""

    def __init__(self, transport=None):
        self.transport = Transport() if transport is None else transport
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.outlet = Outlet(self.ours.fileno(), self.transport, None)

    def read(self):
        data = b""
        try:
            while more := self.theirs.recv(65536):
                data += more
        except BlockingIOError:
            pass
        return data


@pytest.fixture
def peers():
    made = [Peer() for _ in range(5)]
    yield made
    for peer in made:
        peer.ours.close()
        peer.theirs.close()


@pytest.fixture
def writes(monkeypatch):
    """Descriptors that were written to past their transports."""
    seen = []
    write = os.write

    def note(descriptor, data):
        seen.append(descriptor)
        return write(descriptor, data)

    monkeypatch.setattr(outlets_module.os, "write", note)
    return seen


@pytest.fixture
def thread():
    """One that lives beside the test's."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield thread
    end.set()
    thread.join()


def write(peers, frame=FRAME, but=None):
    """What was reported."""
    reported = []
    Outlets(peer.outlet for peer in peers).write(
        frame, but, lambda transport, error: reported.append((transport, str(error)))
    )
    return reported


def test_a_frame_is_written_once_to_each_in_the_order_of_descriptors(peers, writes):
    """No transport is touched."""
    assert write(reversed(peers)) == []

    assert writes == sorted(peer.outlet.descriptor for peer in peers)
    assert [peer.read() for peer in peers] == [FRAME] * 5
    assert not any(peer.transport.written for peer in peers)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("crowded", [False, True])
def test_one_may_be_left_out(peers, place, crowded, request):
    """Beside other threads too."""
    if crowded:
        request.getfixturevalue("thread")
    write(peers, but=peers[place].outlet)

    heard = [peer.read() + peer.transport.written for peer in peers]
    assert heard.pop(place) == b""
    assert heard == [FRAME] * 4


def test_what_a_full_socket_does_not_take_is_its_transports(peers):
    """All of it, or the rest; the others have it at once."""
    full, partly = peers[1], peers[3]
    filled = 0
    while True:
        try:
            filled += full.ours.send(bytes(65536))
        except BlockingIOError:
            break
    frame = bytes(8 << 20)  # more than a socket takes at once
    write([partly], frame)
    taken = partly.read()
    write([full])

    assert 0 < len(taken) < len(frame)
    assert taken + partly.transport.written == frame
    assert full.transport.written == FRAME
    assert len(full.read()) == filled


def test_what_waits_of_a_frame_is_kept_once_for_all(peers):
    """A thousand clients that lag with a megabyte are not a gigabyte."""
    rests = []
    frame = bytes(8 << 20)
    for peer in peers:
        peer.transport.write = rests.append
    write(peers, frame)

    assert len(rests) == 5
    assert all(rest.obj is frame for rest in rests)


def test_socket_whose_peer_is_gone_is_left_to_its_transport(peers):
    """Which finds out what there is to say."""
    peers[2].theirs.close()
    assert write(peers) == []

    assert peers[2].transport.written == FRAME
    assert [peer.read() for peer in (*peers[:2], *peers[3:])] == [FRAME] * 4


@pytest.mark.parametrize("crowded", [False, True])
def test_transport_that_raises_is_reported_and_affects_nobody_else(peers, crowded, request):
    """Beside other threads too."""
    if crowded:
        request.getfixturevalue("thread")
    broken = peers[0].transport = Broken()
    peers[0].outlet = Outlet(peers[0].outlet.descriptor, broken, None)
    peers[0].theirs.close()

    assert write(peers) == [(broken, "no")]
    assert [peer.read() + peer.transport.written for peer in peers[1:]] == [FRAME] * 4


def test_beside_other_threads_only_transports_write(peers, writes, thread):
    """They keep the interpreter's lock, which a thread that computes would take at each write."""
    write(peers)

    assert writes == []
    assert [peer.transport.written for peer in peers] == [FRAME] * 5


def test_none_is_nothing():
    """Neither written nor counted."""
    nobody = Outlets([])
    nobody.write(FRAME, None, None)
    assert len(nobody) == 0
