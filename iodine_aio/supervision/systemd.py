"""What systemd says to a service, and wants to hear (sd_notify(3), sd_listen_fds(3))."""

import contextlib
import os
import socket
import time
from typing import Final

_FIRST_DESCRIPTOR: Final = 3


def take_descriptors() -> list[int]:
    """The sockets that systemd has opened for this process; none, if it has not.

    The environment is cleared of them, so that no child believes they were meant for it.
    """
    words = {
        name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    }
    if words["LISTEN_PID"] != str(os.getpid()) or not words["LISTEN_FDS"].isdigit():
        return []
    return [_FIRST_DESCRIPTOR + number for number in range(int(words["LISTEN_FDS"]))]


def notify(state: str) -> None:
    """Tells systemd, as in ``READY=1``, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    # It may have gone: that is no reason for a server to stop.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address.replace("@", "\0", 1))


def notify_reloading() -> None:
    """Tells systemd that new code is being loaded, until the next ``READY=1``."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


class Watchdog:
    """Tells systemd twice in each of its intervals that this process is well.

    Attributes:
        due: when it is to be told next, in the time of `time.monotonic`.
        interval: seconds between two times; 0: systemd does not want to know.
    """

    def __init__(self) -> None:
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval: Final = int(microseconds) / 2e6 if for_us and microseconds.isdigit() else 0.0
        self.due = time.monotonic() if self.interval else float("inf")

    def pat(self, now: float) -> None:
        """Tells it, if that is due."""
        if self.due <= now:
            self.due = now + self.interval
            notify("WATCHDOG=1")
