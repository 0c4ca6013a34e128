"""How many connections each worker has, where all of them can see it.

Workers that accept from one socket have no kernel to share its connections out among them:
who happens to wake up first has the next one. So each writes down what it has, into memory
that its parent had mapped before the first fork, and who is far ahead lets others go first
(`SharedListener`). Everybody writes to a place of his own, so that nothing is ever locked.
"""

import mmap
import socket
import sys
from collections.abc import Collection
from typing import Final
from weakref import WeakKeyDictionary

# So many processes, old ones that drain included, have a place in one page of memory. What
# comes on top accepts as if it were alone, and nobody waits for it.
MAX_WORKERS: Final = 255
_AWAY: Final = sys.maxsize  # in the place of a number: accepts nothing

_LEAD: Final = 4  # connections that a worker may be ahead of the least, and an eighth more

Turns = dict[int, int]  # place -> how often its worker has looked after its sockets


class Tallies:
    """The memory, as the parent has it: gives places to workers."""

    def __init__(self) -> None:
        # Two numbers each; the first of all is how many places were ever taken at once.
        self._cells: Final = memoryview(mmap.mmap(-1, 16 * (1 + MAX_WORKERS))).cast("q")
        self._taken: Final[set[int]] = set()

    def take(self) -> "Tally | None":
        """A place for one worker; None if there is none."""
        place = next((n for n in range(1, MAX_WORKERS + 1) if n not in self._taken), None)
        if place is None:
            return None
        self._taken.add(place)
        self._cells[2 * place] = _AWAY
        self._cells[0] = max(self._cells[0], place)
        return Tally(self._cells, place)

    def give_back(self, tally: "Tally | None") -> None:
        """The worker of that place has ended."""
        if tally is not None:
            tally.leave()
            self._taken.discard(tally.place)


class Tally:
    """A worker's own place, and its view of the others.

    Attributes:
        place: its number.
    """

    def __init__(self, cells: memoryview, place: int) -> None:
        self.place: Final = place
        self._cells: Final = cells
        self._counted: Final[list[Collection[object]]] = []
        self._disregarded: Turns = {}

    def count(self, connections: Collection[object]) -> None:
        """Lets `connections` be counted, whatever they are at any time; again: once only."""
        if not any(counted is connections for counted in self._counted):
            self._counted.append(connections)

    def leave(self) -> None:
        """Is waited for by nobody, until it looks again."""
        self._cells[2 * self.place] = _AWAY

    def room(self) -> int:
        """Tells the others what this worker has, and how many it may have more; or below 0.

        That is measured by whoever has least: only so are all of them about even.
        """
        cells, place = self._cells, self.place
        own = sum(map(len, self._counted))
        cells[2 * place] = own
        cells[2 * place + 1] += 1
        least = _AWAY
        for other in range(1, cells[0] + 1):
            if (
                cells[2 * other] < least
                and other != place
                and self._disregarded.get(other) != cells[2 * other + 1]
            ):
                least = cells[2 * other]
        return least + least // 8 + _LEAD - own

    def turns(self) -> Turns:
        """How often each of the others has looked after its sockets."""
        return {
            other: self._cells[2 * other + 1]
            for other in range(1, self._cells[0] + 1)
            if other != self.place
        }

    def disregard(self, before: Turns) -> None:
        """Waits no more for those that have not looked since `before`, until they do."""
        self._disregarded = dict(before.items() & self.turns().items())


_tallies: Final[WeakKeyDictionary[socket.socket, Tally]] = WeakKeyDictionary()


def share_socket(sock: socket.socket, tally: Tally) -> None:
    """Notes that other workers accept from `sock`, too."""
    _tallies[sock] = tally


def find_tally(sock: socket.socket) -> Tally | None:
    """What to share the connections of `sock` by; None if they are all for this process."""
    return _tallies.get(sock)
