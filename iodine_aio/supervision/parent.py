"""The parent of the workers: starts them, watches them, replaces them.

It serves nobody and runs no event loop, so that nothing of a loop or a thread is ever forked:
it waits in a selector for signals, for what its workers say, and for what they publish.
"""

import selectors
import signal
import time
from collections.abc import Callable
from typing import Final

from iodine_aio import lifecycle
from iodine_aio.errors import StartupError
from iodine_aio.logs import error_log
from iodine_aio.pubsub.hub import Hub
from iodine_aio.server import Server
from iodine_aio.supervision import systemd
from iodine_aio.supervision.bridge import Bridge
from iodine_aio.supervision.children import Child, Children, describe_end, enter_state
from iodine_aio.supervision.control import Words
from iodine_aio.supervision.places import NEVER, Places, Slot
from iodine_aio.supervision.replacements import Replacements
from iodine_aio.supervision.signals import SignalPipe
from iodine_aio.supervision.slots import SlotSockets
from iodine_aio.supervision.worker import Load, Worker

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_RESTART_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1)
# What a terminal or an administrator sends to all processes is meant for the parent.
_NOT_FOR_WORKERS: Final = (signal.SIGINT, *_RESTART_SIGNALS, signal.SIGTTIN, signal.SIGTTOU)
_SIGNALS: Final = (*_NOT_FOR_WORKERS, signal.SIGTERM, signal.SIGCHLD)

_STARTING: Final = 0  # not all workers have been ready yet
_SERVING: Final = 1
_STOPPING: Final = 2


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
        self._on_ready: Final = on_ready
        self._state = _STARTING
        self._failure: StartupError | None = None
        self._restart_asked = False  # too early: it begins when all are ready
        self._stops_asked = 0
        self._signals: Final = SignalPipe(_SIGNALS)
        self._selector: Final = selectors.DefaultSelector()
        self._hub: Final = Hub()
        url = server.settings.redis_url
        self._bridge: Final = None if url is None else Bridge(url, self._hub)
        self._watchdog: Final = systemd.Watchdog()
        self._children: Final = Children(
            lambda control, link, tally: Worker(control, link, tally, server).run(load),
            sockets,
            self._selector,
            self._hub,
            self._signals,
            _NOT_FOR_WORKERS,
        )
        self._places: Final = Places(self._children, sockets)
        self._replacements: Final = Replacements(self._children, self._places, self._settings)

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
                for _ in range(self._settings.worker_count):
                    slot = self._places.add()
                    slot.worker = self._children.fork(slot.number)
                enter_state("enter_master")
            except (OSError, StartupError) as error:
                self._give_up(StartupError(str(error)))
            while self._children.alive or self._state != _STOPPING:
                self._turn()
            if self._bridge is not None:
                self._bridge.close()
            self._hub.close()
            lifecycle.enter_state_now("on_finish")
        if self._failure is not None:
            raise self._failure

    # One turn.

    def _turn(self) -> None:
        patience = self._next_time() - time.monotonic()
        events = self._selector.select(None if patience == NEVER else max(0.0, patience))
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
            if self._state == _SERVING:
                self._replacements.go_on()

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
                self._add_worker()
            elif number == signal.SIGTTOU:
                self._remove_worker()

    def _next_time(self) -> float:
        """When something is due."""
        times = [self._watchdog.due]
        if self._bridge is not None and self._state != _STOPPING:
            times.append(self._bridge.due)
        times += [slot.start_at for slot in self._places]
        times += [child.deadline for child in self._children.alive]
        times += [self._end_of_silence(child) for child in self._children.alive]
        return min(times)

    def _end_of_silence(self, child: Child) -> float:
        timeout = self._settings.worker_timeout
        return child.heard_at + timeout if child.ready and timeout else NEVER

    def _look_at_the_time(self) -> None:
        now = time.monotonic()
        self._watchdog.pat(now)
        if self._bridge is not None and self._state != _STOPPING:
            try:
                self._bridge.look(now)
            except StartupError as error:
                self._give_up(error)
        for child in self._children.alive:
            if child.deadline <= now:
                error_log.error("worker %d was killed: it had not ended in time", child.pid)
                child.deadline = NEVER
                child.kill(signal.SIGKILL)
            elif self._end_of_silence(child) <= now:
                error_log.error(
                    "worker %d was killed: its loop stood still for %.1f seconds",
                    child.pid,
                    now - child.heard_at,
                )
                child.heard_at = NEVER
                child.kill(signal.SIGKILL)
        for slot in self._places:
            if slot.start_at <= now and self._state == _SERVING:
                self._places.start(slot)

    # What workers say.

    def _listen_to(self, child: Child) -> None:
        for words, _ in child.control.receive():
            if child.heard_at != NEVER:
                child.heard_at = time.monotonic()
            self._answer(child, words)
        if child.control.ended:
            self._children.hang_up(child)

    def _answer(self, child: Child, words: Words) -> None:
        match words:
            case ["beat"]:
                pass
            case ["open", str() as text, mode, int() as number, int() as backlog]:
                self._places.open(child, text, mode, number, backlog)
            case ["ready"]:
                self._welcome(child)
            case ["retire", str() as why]:
                self._retire(child, why)
            case ["failed", int() as code, str() as text]:
                child.failure = (code, text)
            case _:
                error_log.error("worker %d says %r", child.pid, words[0])

    def _welcome(self, child: Child) -> None:
        child.ready = True
        child.ready_at = time.monotonic()
        self._replacements.take_over(child)
        workers = [slot.worker for slot in self._places]
        if self._state == _STARTING and all(one is not None and one.ready for one in workers):
            self._state = _SERVING
            systemd.notify("READY=1")
            self._on_ready()
            if self._restart_asked:
                self._replacements.restart_all()

    def _retire(self, child: Child, why: str) -> None:
        if self._state == _SERVING:
            self._replacements.ask_for(child, why)

    # Who dies, and who comes after.

    def _bury(self, child: Child, code: int) -> None:
        if self._state == _STOPPING or self._replacements.lose(child, code):
            return
        slot = self._places.find(child)
        if slot is not None and slot.worker is child:
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
        if child.ready:
            slot.backoff.note_end(time.monotonic() - child.ready_at)
        slot.worker, slot.newcomer = slot.newcomer, None
        if slot.worker is None:
            self._places.start_later(slot)

    def _give_up(self, error: StartupError) -> None:
        self._failure = error
        self._state = _STOPPING
        for child in self._children.alive:
            child.stop_at_once()

    # Signals.

    def _stop(self) -> None:
        self._stops_asked += 1
        if self._stops_asked == 1:
            systemd.notify("STOPPING=1")
            lifecycle.enter_state_now("start_shutdown")
        self._state = _STOPPING
        for child in self._children.alive:
            if self._stops_asked == 1:
                child.stop(self._settings.stop_timeout)
            elif self._stops_asked == 2:
                child.abort()
            else:
                child.kill(signal.SIGKILL)

    def _restart(self) -> None:
        if self._state == _STARTING:
            self._restart_asked = True
        elif self._state == _SERVING:
            self._replacements.restart_all()

    def _add_worker(self) -> None:
        if self._state == _SERVING:
            self._places.start(self._places.add())
            error_log.info("%d workers from now on", len(self._places))

    def _remove_worker(self) -> None:
        if self._state != _SERVING or len(self._places) == 1:
            return
        slot = self._places.remove()
        error_log.info("%d workers from now on", len(self._places))
        self._replacements.forget(slot)
        if slot.worker is not None:
            slot.worker.drain(self._settings.drain_timeout + self._settings.stop_timeout)
        if slot.newcomer is not None:
            slot.newcomer.stop_at_once()
