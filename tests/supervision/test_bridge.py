"""The bridge to Redis that the parent starts, and starts again."""

import subprocess
from typing import Any

import pytest

from iodine_aio.errors import EXIT_STARTUP, StartupError
from iodine_aio.supervision.bridge import Bridge


class Process:
    """A process that has ended with the next of `codes`."""

    codes: list[int]

    def __init__(self, *_: Any, **__: Any) -> None:
        self.code = self.codes.pop(0)

    def poll(self) -> int:
        return self.code


class NoHub:
    """A hub that does without its links."""

    def add(self, sock: Any, *_: Any, **__: Any) -> None:
        self.sock = sock

    def remove(self, sock: Any) -> None:
        sock.close()


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> Bridge:
    monkeypatch.setattr(subprocess, "Popen", Process)
    return Bridge("redis://a", NoHub())  # type: ignore[arg-type]


def test_bridge_that_cannot_begin_at_first_ends_the_start(bridge: Bridge):
    """Its URL, or its installation, will be no better next time."""
    Process.codes = [EXIT_STARTUP]
    bridge.look(1.0)

    with pytest.raises(StartupError, match="bridge to Redis cannot begin"):
        bridge.look(2.0)
    bridge._sock.close()


def test_bridge_whose_successor_cannot_begin_ends_nothing(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
):
    """The server serves already, while redis-py is being replaced perhaps: it tries again."""
    Process.codes = [-9, EXIT_STARTUP, 0]
    for now in (1.0, 2.0, 4.0, 5.0, 7.0):
        bridge.look(now)

    assert Process.codes == []
    assert caplog.text.count("another takes its place") == 2
    bridge._sock.close()
