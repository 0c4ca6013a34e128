"""Lines between a parent and a worker, over a real socket pair."""

import socket
from collections.abc import Iterator

import pytest

from iodine_aio.supervision.control import MAX_LINE_BYTES, Control, make_pair


@pytest.fixture
def pair() -> Iterator[tuple[Control, Control]]:
    ours, theirs = make_pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_words_arrive_as_they_were_said(pair: tuple[Control, Control]):
    """Several lines at once, in their order."""
    ours, theirs = pair
    ours.send("stop", 1.5)
    ours.send("refused", 98, "a\nb \u00e9")

    assert theirs.receive() == [(["stop", 1.5], []), (["refused", 98, "a\nb \u00e9"], [])]


def test_line_that_comes_in_pieces_is_one(pair: tuple[Control, Control]):
    """Nothing is said before its end."""
    ours, theirs = pair
    theirs.sock.sendall(b'[0, "be')
    first = ours.receive()
    theirs.sock.sendall(b'at"]\n')

    assert first == []
    assert ours.receive() == [(["beat"], [])]
    assert not ours.ended


def test_sockets_come_with_their_line(pair: tuple[Control, Control]):
    """Copies, not blocking and closed on exec, in the order of the lines."""
    ours, theirs = pair
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ours.send("adopt", 3, sockets=[one])
        ours.send("drain")
        ours.send("sockets", [0, 1], sockets=[two, one])
        lines = theirs.receive()
        while len(lines) < 3:  # the kernel ends a read where other descriptors begin
            lines += theirs.receive()
        names = [[sock.getsockname() for sock in sockets] for _, sockets in lines]
        flags = [(s.getblocking(), s.get_inheritable()) for _, sockets in lines for s in sockets]
        for _, sockets in lines:
            for sock in sockets:
                sock.close()

        assert [words for words, _ in lines] == [["adopt", 3], ["drain"], ["sockets", [0, 1]]]
        assert names == [
            [one.getsockname()], [], [two.getsockname(), one.getsockname()],
        ]  # fmt: skip
        assert flags == [(False, False)] * 3


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"{}\n", b"[]\n", b'["beat"]\n', b"[0, 1]\n", b"\xff\n", b"\n"]
)
def test_nonsense_ends_the_line(pair: tuple[Control, Control], line: bytes):
    """What was said before it counts."""
    ours, theirs = pair
    theirs.sock.sendall(b'[0, "beat"]\n' + line)

    assert ours.receive() == [(["beat"], [])]
    assert ours.ended


def test_line_without_end_is_not_kept(pair: tuple[Control, Control]):
    """A bound, as for everything that is read."""
    ours, theirs = pair
    theirs.sock.setblocking(False)
    for _ in range(4):
        theirs.sock.send(b"x" * (MAX_LINE_BYTES // 2))
        ours.receive()

    assert ours.ended


def test_end_of_the_other_is_seen(pair: tuple[Control, Control]):
    """And to speak to it is no error."""
    ours, theirs = pair
    theirs.close()
    ours.send("drain")

    assert ours.receive() == []
    assert ours.ended


def test_other_that_reads_nothing_holds_up_nobody(pair: tuple[Control, Control]):
    """The parent's end does not wait."""
    ours, theirs = pair
    for _ in range(10_000):
        ours.send("drain")

    assert theirs.receive()[0] == (["drain"], [])
