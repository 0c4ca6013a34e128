"""What systemd passes on, and is told."""

import os
import socket
import tempfile
from collections.abc import Iterator

import pytest

from iodine_aio.supervision.systemd import Watchdog, notify, take_descriptors


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(f"{folder}/notify")
        sock.setblocking(False)
        yield sock


def test_descriptors_are_taken_once(monkeypatch: pytest.MonkeyPatch):
    """They begin with 3; no child is to believe that they are its own."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")

    assert take_descriptors() == [3, 4]
    assert take_descriptors() == []


@pytest.mark.parametrize(
    ("pid", "count"),
    [("1", "2"), ("", "2"), (str(os.getpid()), "x")],
    ids=["another's", "nobody's", "no number"],  # the same in every run
)
def test_descriptors_of_others_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, pid: str, count: str
):
    """Whoever inherited the environment of a service is none."""
    monkeypatch.setenv("LISTEN_PID", pid)
    monkeypatch.setenv("LISTEN_FDS", count)

    assert take_descriptors() == []


def test_state_is_told(monkeypatch: pytest.MonkeyPatch, manager: socket.socket):
    """As it is, in one datagram."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    notify("READY=1")

    assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nobody/there", "relative"])
def test_without_a_listener_nothing_is_told(monkeypatch: pytest.MonkeyPatch, address: str):
    """And nothing fails."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify("READY=1")


def test_watchdog_is_told_twice_in_an_interval(
    monkeypatch: pytest.MonkeyPatch, manager: socket.socket
):
    """Not more often than that."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    watchdog = Watchdog()
    now = watchdog.due
    for seconds in range(11):
        watchdog.pat(now + seconds)
    told = []
    while len(told) < 3:
        told.append(manager.recv(100))

    assert told == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        manager.recv(100)


@pytest.mark.parametrize(("usec", "pid"), [("", None), ("x", None), ("1000000", "1")])
def test_watchdog_of_others_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None
):
    """It is never due."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)

    assert Watchdog().due == float("inf")
