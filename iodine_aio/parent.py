"""The parent of the workers: starts them, watches them, replaces them.

It serves nobody and runs no event loop, so that nothing of a loop or a thread is ever forked:
it waits in a selector for signals, for what its workers say, and for what they publish.
"""

import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from iodine_aio import lifecycle, systemd
from iodine_aio.binds import Bind, parse_bind
from iodine_aio.children import Child, Children, describe_end, enter_state
from iodine_aio.control import Words
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.pubsub.cluster import Hub
from iodine_aio.server import Server
from iodine_aio.signals import SignalPipe
from iodine_aio.slots import SlotSockets
from iodine_aio.worker import Load, Worker

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_RESTART_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1)
# What a terminal or an administrator sends to all processes is meant for the parent.
_NOT_FOR_WORKERS: Final = (signal.SIGINT, *_RESTART_SIGNALS, signal.SIGTTIN, signal.SIGTTOU)
_SIGNALS: Final = (*_NOT_FOR_WORKERS, signal.SIGTERM, signal.SIGCHLD)

_LAST_SECONDS: Final = 3.0  # after its deadline, until a worker that stops is killed
_FORCE_SECONDS: Final = 1.5  # what workers get to cut everything
_STABLE_SECONDS: Final = 10.0  # a worker that lived for so long died of something new
_FIRST_PAUSE: Final = 0.5  # before the second replacement in a row
_LONGEST_PAUSE: Final = 10.0
_RETRY_SECONDS: Final = 60.0  # after a replacement that failed, until the next of the same worker

_STARTING: Final = 0  # not all workers have been ready yet
_SERVING: Final = 1
_STOPPING: Final = 2
_NEVER: Final = float("inf")


class Slot:
    """A place for one worker, one after the other.

    Attributes:
        worker: who serves there.
        newcomer: who will in its stead, once it is ready.
        failures: replacements in a row that did not live long.
        start_at: when the next one is due, if there is none.
        retry_at: until when nobody is replaced who asks for it.
    """

    __slots__ = ("failures", "newcomer", "number", "retry_at", "start_at", "worker")

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.worker: Child | None = None
        self.newcomer: Child | None = None
        self.failures = 0
        self.start_at = _NEVER
        self.retry_at = 0.0


class Supervisor:
    """Runs a server on several processes, until SIGTERM or SIGINT.

    Args:
        server: what each worker serves; its settings say how many there are.
        load: is called in each worker, and completes the server there.
        sockets: what the parent has opened.
        on_ready: is called once, when all of them serve.
    """

    def __init__(
        self,
        server: Server,
        load: Load,
        sockets: SlotSockets,
        on_ready: Callable[[], object],
    ) -> None:
        self._settings: Final = server.settings
        self._sockets: Final = sockets
        self._on_ready: Final = on_ready
        self._state = _STARTING
        self._slots: Final[dict[int, Slot]] = {}
        self._due: Final[deque[Slot]] = deque()  # whose workers are to be replaced
        self._leaving: Child | None = None  # who drains, before the next one is replaced
        self._failure: StartupError | None = None
        self._restart_asked = False
        self._stops_asked = 0
        self._signals: Final = SignalPipe(_SIGNALS)
        self._selector: Final = selectors.DefaultSelector()
        self._hub: Final = Hub()
        self._watchdog: Final = systemd.Watchdog()
        self._children: Final = Children(
            lambda control, link: Worker(control, link, server).run(load),
            sockets,
            self._selector,
            self._hub,
            self._signals,
            _NOT_FOR_WORKERS,
        )

    def run(self) -> None:
        """Serves until told to stop.

        Raises:
            StartupError: a worker could not start at first, or a hook raised.
        """
        with self._signals.catch(), self._selector:
            self._selector.register(self._signals, selectors.EVENT_READ, None)
            self._hub.register(self._selector)
            enter_state("pre_start")
            try:
                for number in range(self._settings.worker_count):
                    slot = self._slots[number] = Slot(number)
                    slot.worker = self._children.fork(number)
                enter_state("enter_master")
            except (OSError, StartupError) as error:
                self._give_up(StartupError(str(error)))
            while self._children.alive or self._state != _STOPPING:
                self._turn()
            self._hub.close()
            lifecycle.enter_state_now("on_finish")
        if self._failure is not None:
            raise self._failure

    # One turn.

    def _turn(self) -> None:
        patience = self._next_time() - time.monotonic()
        events = self._selector.select(None if patience == _NEVER else max(0.0, patience))
        others = patience <= 0 or not events
        for key, mask in events:
            if key.data is self._hub:
                self._hub.handle(key, mask)
            else:
                others = True
                if key.data is not None:
                    self._listen_to(key.data)
        if others:
            self._take_signals()
            self._look_at_the_time()
            self._go_on_replacing()

    def _take_signals(self) -> None:
        taken = self._signals.take()
        if signal.SIGCHLD in taken:
            for child, code in self._children.reap():
                if child.control.sock.fileno() >= 0:
                    self._listen_to(child)  # its last words
                self._children.hang_up(child)
                self._bury(child, code)
        for number in taken:
            if number in _STOP_SIGNALS:
                self._stop()
            elif number in _RESTART_SIGNALS:
                self._restart()
            elif number == signal.SIGTTIN:
                self._add_slot()
            elif number == signal.SIGTTOU:
                self._remove_slot()

    def _next_time(self) -> float:
        """When something is due."""
        times = [self._watchdog.due]
        times += [slot.start_at for slot in self._slots.values()]
        times += [child.deadline for child in self._children.alive]
        times += [self._end_of_silence(child) for child in self._children.alive]
        return min(times)

    def _end_of_silence(self, child: Child) -> float:
        timeout = self._settings.worker_timeout
        return child.heard_at + timeout if child.ready and timeout else _NEVER

    def _look_at_the_time(self) -> None:
        now = time.monotonic()
        self._watchdog.pat(now)
        for child in self._children.alive:
            if child.deadline <= now:
                error_log.error("worker %d was killed: it had not ended in time", child.pid)
                child.deadline = _NEVER
                child.kill(signal.SIGKILL)
            elif self._end_of_silence(child) <= now:
                error_log.error(
                    "worker %d was killed: its loop stood still for %.1f seconds",
                    child.pid,
                    now - child.heard_at,
                )
                child.heard_at = _NEVER
                child.kill(signal.SIGKILL)
        for slot in self._slots.values():
            if slot.start_at <= now and self._state == _SERVING:
                self._start(slot)

    # What workers say.

    def _listen_to(self, child: Child) -> None:
        for words, _ in child.control.receive():
            if child.heard_at != _NEVER:
                child.heard_at = time.monotonic()
            self._answer(child, words)
        if child.control.ended:
            self._children.hang_up(child)

    def _answer(self, child: Child, words: Words) -> None:
        match words:
            case ["beat"]:
                pass
            case ["open", str() as text, mode, int() as number, int() as backlog]:
                self._open(child, text, mode, number, backlog)
            case ["ready"]:
                self._welcome(child)
            case ["retire", str() as why]:
                self._retire(child, why)
            case ["failed", int() as code, str() as text]:
                child.failure = (code, text)
            case _:
                error_log.error("worker %d says %r", child.pid, words[0])

    def _open(self, child: Child, text: str, mode: Any, number: int, backlog: int) -> None:
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

    def _welcome(self, child: Child) -> None:
        child.ready = True
        slot = self._slots.get(child.slot)
        if slot is not None and slot.newcomer is child:
            old, slot.worker, slot.newcomer = slot.worker, child, None
            if old is not None:
                self._leaving = old
                self._drain(old)
        workers = [slot.worker for slot in self._slots.values()]
        if self._state == _STARTING and all(one is not None and one.ready for one in workers):
            self._state = _SERVING
            systemd.notify("READY=1")
            self._on_ready()
            if self._restart_asked:
                self._restart()

    def _drain(self, child: Child) -> None:
        settings = self._settings
        seconds = settings.drain_timeout + settings.stop_timeout + _LAST_SECONDS
        child.tell_to_end(["drain"], seconds)

    def _retire(self, child: Child, why: str) -> None:
        slot = self._slots.get(child.slot)
        if (
            self._state == _SERVING
            and slot is not None
            and slot.worker is child
            and slot.newcomer is None
            and slot not in self._due
            and slot.retry_at <= time.monotonic()
        ):
            error_log.info("worker %d is replaced: %s", child.pid, why)
            self._due.append(slot)

    # Who dies, and who comes after.

    def _bury(self, child: Child, code: int) -> None:
        if self._leaving is child:
            self._leaving = None
        slot = self._slots.get(child.slot)
        if slot is None or self._state == _STOPPING:
            return
        if slot.newcomer is child:
            slot.newcomer = None
            if not child.stopping:
                self._due.clear()
                slot.retry_at = time.monotonic() + _RETRY_SECONDS
                self._say_no_restart(child.explain(code)[1])
        elif slot.worker is child:
            if self._state == _STARTING:
                status, text = child.explain(code)
                self._give_up(StartupError(text, status))
            else:
                self._mourn(slot, child, code)

    def _mourn(self, slot: Slot, child: Child, code: int) -> None:
        """A worker has died, and nobody told it to."""
        if child.ready:
            error_log.error("worker %d %s; another takes its place", child.pid, describe_end(code))
        else:
            error_log.error("no new worker: %s", child.explain(code)[1])
        lifecycle.enter_state_now("on_child_crush")
        if child.ready and time.monotonic() - child.started_at >= _STABLE_SECONDS:
            slot.failures = 0
        slot.worker, slot.newcomer = slot.newcomer, None
        if slot.worker is None:
            self._pause(slot)

    def _pause(self, slot: Slot) -> None:
        """The next worker of this slot is started at once, or, if that does not help, later."""
        pause = _FIRST_PAUSE * 2 ** min(slot.failures - 1, 10) if slot.failures else 0.0
        slot.failures += 1
        slot.start_at = time.monotonic() + min(pause, _LONGEST_PAUSE)
        if pause:
            self._lend(slot.number)

    def _start(self, slot: Slot) -> None:
        slot.start_at = _NEVER
        self._take_back(slot.number)
        try:
            slot.worker = self._children.fork(slot.number)
        except (OSError, StartupError) as error:
            error_log.error("no new worker: %s", error)
            self._pause(slot)

    def _go_on_replacing(self) -> None:
        """Starts the next newcomer, when the last one is there and its predecessor gone."""
        if self._state != _SERVING or self._leaving is not None:
            return
        if any(slot.newcomer is not None for slot in self._slots.values()):
            return
        while self._due:
            slot = self._due.popleft()
            if slot.worker is None:
                continue  # the next one there is new anyway
            try:
                slot.newcomer = self._children.fork(slot.number)
            except (OSError, StartupError) as error:
                self._due.clear()
                self._say_no_restart(str(error))
            return
        if self._restart_asked:
            self._restart_asked = False
            used = [child.used for child in self._children.alive]
            self._sockets.close_unused(set().union(*used))
            error_log.info("%d workers were restarted", len(self._slots))
            systemd.notify("READY=1")

    def _say_no_restart(self, text: str) -> None:
        if self._restart_asked:
            self._restart_asked = False
            systemd.notify("READY=1")
        error_log.error("no restart, the old workers go on: %s", text)

    def _give_up(self, error: StartupError) -> None:
        self._failure = error
        self._state = _STOPPING
        for child in self._children.alive:
            child.tell_to_end(["stop", 0], _FORCE_SECONDS)

    # Signals.

    def _stop(self) -> None:
        self._stops_asked += 1
        if self._stops_asked == 1:
            systemd.notify("STOPPING=1")
            lifecycle.enter_state_now("start_shutdown")
        self._state = _STOPPING
        timeout = self._settings.stop_timeout
        for child in self._children.alive:
            if self._stops_asked == 1:
                child.tell_to_end(["stop", timeout], timeout + _LAST_SECONDS)
            elif self._stops_asked == 2:
                child.tell_to_end(["abort"], _FORCE_SECONDS)
            else:
                child.kill(signal.SIGKILL)

    def _restart(self) -> None:
        """Replaces every worker, one after the other."""
        if self._state == _STOPPING:
            return
        self._restart_asked = True
        if self._state == _STARTING:
            return
        systemd.notify_reloading()
        self._due.clear()
        for slot in self._slots.values():
            slot.failures = 0
            if slot.newcomer is not None:  # its code may be old already
                slot.newcomer.tell_to_end(["stop", 0], _FORCE_SECONDS)
            self._due.append(slot)

    def _add_slot(self) -> None:
        if self._state != _SERVING:
            return
        number = next(n for n in range(len(self._slots) + 1) if n not in self._slots)
        slot = self._slots[number] = Slot(number)
        error_log.info("%d workers from now on", len(self._slots))
        self._start(slot)

    def _remove_slot(self) -> None:
        if self._state != _SERVING or len(self._slots) == 1:
            return
        slot = self._slots.pop(max(self._slots))
        error_log.info("%d workers from now on", len(self._slots))
        if slot in self._due:
            self._due.remove(slot)
        # Before it drains: nobody is to wait.
        for number in (slot.number, *self._sockets.kept_by(slot.number)):
            self._lend(number)
        if slot.worker is not None:
            self._drain(slot.worker)
        if slot.newcomer is not None:
            slot.newcomer.tell_to_end(["stop", 0], _FORCE_SECONDS)

    def _lend(self, number: int) -> None:
        """Lets the worker with the fewest sockets accept from those of a slot without one."""
        keepers = [
            slot
            for slot in self._slots.values()
            if slot.number != number and slot.worker is not None and slot.worker.ready
        ]
        if not keepers:
            return
        keeper = min(keepers, key=lambda slot: len(self._sockets.kept_by(slot.number)))
        sockets = self._sockets.lend(number, keeper.number)
        for child in self._workers_of(keeper.number):
            child.control.send("adopt", number, sockets=sockets)

    def _take_back(self, number: int) -> None:
        """A worker comes for the sockets of a slot that were lent."""
        keeper = self._sockets.take_back(number)
        if keeper is not None:
            for child in self._workers_of(keeper):
                child.control.send("release", number)

    def _workers_of(self, number: int) -> list[Child]:
        """Who serves at a slot, or will soon."""
        slot = self._slots[number]
        return [child for child in (slot.worker, slot.newcomer) if child is not None]
