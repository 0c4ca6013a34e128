"""Binds become sockets with urls and ports, and sockets come and go beside them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from iodine_aio.addresses import Addresses
from iodine_aio.binds import Bind, open_socket


def open_two(bind: Bind, backlog: int) -> list[socket.socket]:
    """As a worker gets them: its own, and one that it keeps for another."""
    first = open_socket(bind, backlog, share_port=True)
    port = first.getsockname()[1]
    second = socket.create_server(("127.0.0.1", port), reuse_port=True)
    return [first, second]


@pytest.fixture
def addresses() -> Iterator[Addresses]:
    """One, of two sockets."""
    made = Addresses([Bind("127.0.0.1")])
    made.open(open_two, 5)
    yield made
    made.close()


def test_every_bind_has_one_url_and_one_port(tmp_path: Path):
    """However many sockets it has; they are told when nothing is open any more."""
    made = Addresses([Bind("127.0.0.1"), Bind(path=str(tmp_path / "socket"))])
    made.scheme = "tcp"
    made.open(lambda bind, backlog: [open_socket(bind, backlog)], 5)
    there = (tmp_path / "socket").exists()
    opened = list(made.sockets)
    made.close()

    assert made.urls == [f"tcp://127.0.0.1:{made.ports[0]}", f"unix:{tmp_path}/socket"]
    assert made.ports[0] > 0
    assert made.ports[1] == 0
    assert there
    assert not (tmp_path / "socket").exists()
    assert [sock.fileno() for sock in opened] == [-1, -1]
    assert made.sockets == []


def test_several_sockets_of_a_bind_are_one_url(addresses: Addresses):
    """All of them listen there."""
    assert len(addresses.sockets) == 2
    assert addresses.urls == [f"http://127.0.0.1:{addresses.ports[0]}"]


def test_only_what_listens_at_the_same_place_is_adopted(addresses: Addresses):
    """Another address is of another server."""
    with (
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
        socket.create_server(("127.0.0.1", addresses.ports[0]), reuse_port=True) as here,
    ):
        assert not addresses.adopt(elsewhere)
        assert addresses.adopt(here)
        assert elsewhere not in addresses.sockets
        assert addresses.sockets[2:] == [here]
        assert len(addresses.urls) == 1


def test_what_is_released_stays_open(addresses: Addresses):
    """It is whosever it was; once more, there is nothing to release."""
    second = addresses.sockets[1]

    assert addresses.release(second)
    assert not addresses.release(second)
    assert second.fileno() >= 0
    assert len(addresses.sockets) == 1
    second.close()
