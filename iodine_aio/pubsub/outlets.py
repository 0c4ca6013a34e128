"""Sockets that a published frame is written to without asking their connections.

Of ten thousand subscribers none is in a cache when its turn comes: what a message does not
touch costs nothing. While nothing is in the way it touches no more than their descriptors.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from threading import active_count
from typing import Final, NamedTuple, Protocol


class Writable(Protocol):
    """What writes, as a transport does."""

    def write(self, data: bytes | memoryview) -> None:
        """Sends `data`, and calls nobody who might subscribe or unsubscribe."""


Report = Callable[[Writable, Exception], object]


class Outlet(NamedTuple):
    """Where frames for a subscriber go, while nothing waits there to be sent before them.

    Attributes:
        descriptor: of the socket.
        transport: of the same, for what the socket does not take.
        loop: of the transport. While it does not run it may have closed its descriptors
            without a word to their connections, and the numbers be somebody else's.
    """

    descriptor: int
    transport: Writable
    loop: object


class Outlets:
    """Those of a channel, at one moment; all of the loop that runs."""

    __slots__ = ("_descriptors", "_transports")

    def __init__(self, outlets: Iterable[Outlet]) -> None:
        self._transports: Final[dict[int, Writable]] = {
            descriptor: transport for descriptor, transport, _ in outlets
        }
        # What the kernel keeps of sockets lies about in the order in which they were made:
        # going through ten thousand of them in another one takes a tenth longer.
        self._descriptors: Final = tuple(sorted(self._transports))

    def __len__(self) -> int:
        return len(self._descriptors)

    def write(self, frame: bytes, but: Outlet | None, report: Report) -> None:
        """Sends `frame` to each.

        Args:
            but: is left out.
            report: is called with a transport, and with what it raised.
        """
        descriptors = self._descriptors
        if but is not None:
            place = descriptors.index(but.descriptor)
            descriptors = descriptors[:place] + descriptors[place + 1 :]
        if active_count() > 1:
            # `os.write` lets go of the interpreter's lock: a thread that computes would have
            # it for milliseconds then, at each of ten thousand sockets.
            for descriptor in descriptors:
                self._write_through(descriptor, frame, report)
            return
        size = len(frame)
        write = os.write
        for descriptor in descriptors:
            try:
                sent = write(descriptor, frame)
            except OSError:  # it is full or broken: its transport knows what to do then
                sent = 0
            if sent != size:
                # A view: all that wait for the rest of a frame share it.
                rest = memoryview(frame)[sent:] if sent else frame
                self._write_through(descriptor, rest, report)

    def _write_through(self, descriptor: int, data: bytes | memoryview, report: Report) -> None:
        transport = self._transports[descriptor]
        try:
            transport.write(data)
        except Exception as error:  # the others are to have it all the same
            report(transport, error)


def find_running_loop() -> object | None:
    """The loop in which this is called; None outside of one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
