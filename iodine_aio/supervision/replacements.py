"""Workers that are replaced while they serve: one after the other, each by a newcomer.

A newcomer takes the place when it is ready, and only then is its predecessor told to end;
one that cannot start ends the restart, and the old workers go on.
"""

import time
from collections import deque
from typing import Final

from iodine_aio.errors import StartupError
from iodine_aio.logs import error_log
from iodine_aio.settings import Settings
from iodine_aio.supervision import systemd
from iodine_aio.supervision.children import Child, Children
from iodine_aio.supervision.places import Places, Slot

_RETRY_SECONDS: Final = 60.0  # after a newcomer that failed, until the next of the same place


class Replacements:
    """Those of one server.

    Args:
        children: forks newcomers.
        places: where they serve.
        settings: how long a worker may take to end.
    """

    def __init__(self, children: Children, places: Places, settings: Settings) -> None:
        self._children: Final = children
        self._places: Final = places
        self._settings: Final = settings
        self._due: Final[deque[Slot]] = deque()  # whose workers are to be replaced
        self._leaving: Child | None = None  # who drains, before the next one is replaced
        self._restarting = False

    def ask_for(self, child: Child, why: str) -> None:
        """Replaces a worker that is old, unless that was in vain a moment ago."""
        slot = self._places.find(child)
        if (
            slot is not None
            and slot.worker is child
            and slot.newcomer is None
            and slot not in self._due
            and slot.retry_at <= time.monotonic()
        ):
            error_log.info("worker %d is replaced: %s", child.pid, why)
            self._due.append(slot)

    def restart_all(self) -> None:
        """Replaces every worker, one after the other."""
        self._restarting = True
        systemd.notify_reloading()
        self._due.clear()
        for slot in self._places:
            slot.backoff.forget()
            if slot.newcomer is not None:  # its code may be old already
                slot.newcomer.stop_at_once()
            self._due.append(slot)

    def go_on(self) -> None:
        """Starts the next newcomer, when the last one is there and its predecessor gone."""
        if self._leaving is not None or any(slot.newcomer is not None for slot in self._places):
            return
        while self._due:
            slot = self._due.popleft()
            if slot.worker is None:
                continue  # the next one there is new anyway
            try:
                slot.newcomer = self._children.fork(slot.number)
            except (OSError, StartupError) as error:
                self._give_up(str(error))
            return
        if self._restarting:
            self._restarting = False
            self._places.close_unused()
            error_log.info("%d workers were restarted", len(self._places))
            systemd.notify("READY=1")

    def take_over(self, child: Child) -> None:
        """A worker is ready: if it is a newcomer, its predecessor ends."""
        slot = self._places.find(child)
        if slot is not None and slot.newcomer is child:
            old, slot.worker, slot.newcomer = slot.worker, child, None
            if old is not None:
                self._leaving = old
                old.drain(self._settings.drain_timeout + self._settings.stop_timeout)

    def lose(self, child: Child, code: int) -> bool:
        """A worker has ended with exit code `code`; True if it was a newcomer."""
        if self._leaving is child:
            self._leaving = None
        slot = self._places.find(child)
        if slot is None or slot.newcomer is not child:
            return False
        slot.newcomer = None
        if not child.stopping:
            slot.retry_at = time.monotonic() + _RETRY_SECONDS
            self._give_up(child.explain(code)[1])
        return True

    def forget(self, slot: Slot) -> None:
        """Replaces nobody in a place that was removed."""
        if slot in self._due:
            self._due.remove(slot)

    def _give_up(self, text: str) -> None:
        self._due.clear()
        if self._restarting:
            self._restarting = False
            systemd.notify("READY=1")
        error_log.error("no restart, the old workers go on: %s", text)
