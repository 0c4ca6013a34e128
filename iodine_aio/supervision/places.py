"""The places of workers, and the listening sockets that belong to them.

A place outlives its worker. While it is empty, the worker of another one keeps its sockets.
"""

import time
from collections.abc import Iterator
from typing import Any, Final

from iodine_aio.binds import Bind, parse_bind
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.supervision.backoff import Backoff
from iodine_aio.supervision.children import Child, Children
from iodine_aio.supervision.slots import SlotSockets

NEVER: Final = float("inf")


class Slot:
    """A place for one worker, one after the other.

    Attributes:
        worker: who serves there.
        newcomer: who will in its stead, once it is ready.
        backoff: how long it is left empty.
        start_at: when the next one is due, if there is none.
        retry_at: until when nobody is replaced who asks for it.
    """

    __slots__ = ("backoff", "newcomer", "number", "retry_at", "start_at", "worker")

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.worker: Child | None = None
        self.newcomer: Child | None = None
        self.backoff: Final = Backoff()
        self.start_at = NEVER
        self.retry_at = 0.0

    @property
    def occupants(self) -> list[Child]:
        """Who serves there, and who will soon."""
        return [child for child in (self.worker, self.newcomer) if child is not None]


class Places:
    """All slots of a server.

    Args:
        children: forks workers.
        sockets: of the parent.
    """

    def __init__(self, children: Children, sockets: SlotSockets) -> None:
        self._children: Final = children
        self._sockets: Final = sockets
        self._slots: Final[dict[int, Slot]] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._slots.values()))

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, child: Child) -> Slot | None:
        """The place of a worker, if it still exists."""
        return self._slots.get(child.slot)

    def add(self) -> Slot:
        """A new place, with the lowest number that is free."""
        number = next(n for n in range(len(self._slots) + 1) if n not in self._slots)
        slot = self._slots[number] = Slot(number)
        return slot

    def remove(self) -> Slot:
        """Removes the last place, and gives its sockets to the worker of another one."""
        slot = self._slots.pop(max(self._slots))
        self._hand_on(slot.number)
        return slot

    def start(self, slot: Slot) -> None:
        """Starts a worker where there is none; later, if that cannot be now."""
        slot.start_at = NEVER
        self._take_back(slot.number)
        try:
            slot.worker = self._children.fork(slot.number)
        except (OSError, StartupError) as error:
            error_log.error("no new worker: %s", error)
            self.start_later(slot)

    def start_later(self, slot: Slot) -> None:
        """The next worker is due at once or, if that did not help, ever later."""
        pause = slot.backoff.next_pause()
        slot.start_at = time.monotonic() + pause
        if pause:
            self._hand_on(slot.number)

    def open(self, child: Child, text: str, mode: Any, number: int, backlog: int) -> None:
        """Gives a worker the sockets of a listener that it asks for."""
        try:
            bind = parse_bind(text, 0)
            if bind.path is not None:
                bind = Bind(path=bind.path, mode=mode)
            found = self._sockets.open(bind, number, backlog, child.slot)
        except OSError as error:
            child.control.send("refused", error.errno, error.strerror or str(error))
        except UsageError as error:
            child.control.send("refused", 0, str(error))
        else:
            child.used.add((text, number))
            sockets = [sock for _, sock in found]
            child.control.send("sockets", [slot for slot, _ in found], sockets=sockets)

    def close_unused(self) -> None:
        """Closes the listeners that no worker has any more."""
        used = [child.used for child in self._children.alive]
        self._sockets.close_unused(set().union(*used))

    def _hand_on(self, number: int) -> None:
        """Lends the sockets of an empty place, and those that it has kept of others."""
        for lent in (number, *self._sockets.kept_by(number)):
            self._lend(lent, number)

    def _lend(self, number: int, empty: int) -> None:
        """Lets the best worker accept from the sockets of `number`; not that of `empty`."""
        keepers = [slot for slot in self._slots.values() if slot.number not in (number, empty)]
        if not keepers:
            return
        # One that serves; else one that will soon: it gets them when it has begun.
        keeper = min(
            keepers,
            key=lambda slot: (
                slot.worker is None,
                slot.worker is not None and not slot.worker.ready,
                len(self._sockets.kept_by(slot.number)),
            ),
        )
        sockets = self._sockets.lend(number, keeper.number)
        for child in keeper.occupants:
            child.control.send("adopt", number, sockets=sockets)

    def _take_back(self, number: int) -> None:
        """Lets nobody else accept from the sockets of a place that is empty no longer."""
        keeper = self._sockets.take_back(number)
        if keeper is not None:
            for child in self._slots[keeper].occupants:
                child.control.send("release", number)
