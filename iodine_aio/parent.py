"""The parent of the workers: forks them, watches them, replaces them.

It serves nobody and runs no event loop, so that nothing of a loop or a thread is ever forked:
it waits in a selector for signals and for what its workers say.
"""

import atexit
import os
import selectors
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from iodine_aio import lifecycle
from iodine_aio.binds import Bind, parse_bind
from iodine_aio.control import Control, Words, make_pair
from iodine_aio.errors import EXIT_STARTUP, StartupError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.server import Server
from iodine_aio.signals import SignalPipe
from iodine_aio.slots import Key, SlotSockets
from iodine_aio.worker import Load, Worker, flush_outputs

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_RESTART_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1)
_SIGNALS: Final = (
    *_STOP_SIGNALS,
    *_RESTART_SIGNALS,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)
# What a terminal or an administrator sends to all processes is meant for the parent.
_NOT_FOR_WORKERS: Final = (
    signal.SIGINT,
    *_RESTART_SIGNALS,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

_LAST_SECONDS: Final = 3.0  # after its deadline, until a worker that stops is killed
_FORCE_SECONDS: Final = 1.5  # what workers get to cut everything
_STABLE_SECONDS: Final = 10.0  # a worker that lived for so long died of something new
_FIRST_PAUSE: Final = 0.5  # before the second replacement in a row
_LONGEST_PAUSE: Final = 10.0
_RETRY_SECONDS: Final = 60.0  # after a replacement that failed, until the next of the same worker

STARTING: Final = 0  # of the server: not all workers have been ready yet
SERVING: Final = 1
STOPPING: Final = 2


class Child:
    """The parent's record of one worker.

    Attributes:
        ready: it accepts connections.
        used: the listeners it has asked for.
        heard_at: when it last said something.
        deadline: when it is killed, if it is to end.
        failure: exit code and text, if it said why it ends.
    """

    __slots__ = (
        "control", "deadline", "failure", "heard_at", "pid", "ready", "slot", "started_at",
        "stopping", "used",
    )  # fmt: skip

    def __init__(self, pid: int, slot: "Slot", control: Control) -> None:
        self.pid = pid
        self.slot = slot
        self.control = control
        self.ready = False
        self.stopping = False
        self.used: set[Key] = set()
        self.started_at = self.heard_at = time.monotonic()
        self.deadline = float("inf")
        self.failure: tuple[int, str] | None = None

    def tell_to_end(self, order: list[Any], seconds: float) -> None:
        """Gives an order to end, and `seconds` for that."""
        self.stopping = True
        self.deadline = min(self.deadline, time.monotonic() + seconds)
        self.control.send(*order)
        if not self.ready:  # it reads no orders yet
            self.kill(signal.SIGTERM)

    def kill(self, number: int) -> None:
        """Sends it a signal; it has not been waited for, so the process id is its own."""
        os.kill(self.pid, number)


class Slot:
    """A place for one worker, one after the other.

    Attributes:
        worker: who serves there.
        newcomer: who will in its stead, once it is ready.
        failures: replacements in a row that did not live long.
        start_at: when the next one is due, if there is none.
    """

    __slots__ = ("failures", "newcomer", "number", "retry_at", "start_at", "worker")

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Child | None = None
        self.newcomer: Child | None = None
        self.failures = 0
        self.start_at = float("inf")
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
        self._server: Final = server
        self._settings: Final = server.settings
        self._load: Final = load
        self._sockets: Final = sockets
        self._on_ready: Final = on_ready
        self._state = STARTING
        self._slots: Final[dict[int, Slot]] = {}
        self._children: Final[dict[int, Child]] = {}
        self._due: Final[deque[Slot]] = deque()  # whose workers are to be replaced
        self._leaving: Child | None = None  # the one that a rolling restart waits for
        self._failure: StartupError | None = None
        self._signals: Final = SignalPipe(_SIGNALS)
        self._selector: Final = selectors.DefaultSelector()
        self._orders = 0

    def run(self) -> None:
        """Serves until told to stop.

        Raises:
            StartupError: a worker could not start at first, or a hook raised.
        """
        with self._signals.catch(), self._selector:
            self._selector.register(self._signals, selectors.EVENT_READ, None)
            self._enter("pre_start")
            try:
                for number in range(self._settings.worker_count):
                    slot = self._slots[number] = Slot(number)
                    slot.worker = self._fork(slot)
                self._enter("enter_master")
            except StartupError as error:
                self._give_up(error)
            while self._children or self._state != STOPPING:
                self._turn()
            lifecycle.enter_state_now("on_finish")
        if self._failure is not None:
            raise self._failure

    def _enter(self, state: str) -> None:
        try:
            lifecycle.enter_state_now(state)
        except Exception as error:
            text = f"a hook of {state} raised {type(error).__name__}: {error}"
            raise StartupError(text) from error

    # One turn.

    def _turn(self) -> None:
        events = self._selector.select(self._patience())
        for key, _ in events:
            if isinstance(key.data, Child):
                self._listen_to(key.data)
        for number in self._signals.take():
            self._take_signal(number)
        for child in tuple(self._children.values()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._bury(child, os.waitstatus_to_exitcode(status))
        self._look_at_the_time()
        self._go_on_replacing()

    def _patience(self) -> float | None:
        """Seconds until something is due; None: nothing is."""
        times = [slot.start_at for slot in self._slots.values()]
        for child in self._children.values():
            times.append(child.deadline)
            times.append(self._silence_ends(child))
        earliest = min(times, default=float("inf"))
        return None if earliest == float("inf") else max(0.0, earliest - time.monotonic())

    def _silence_ends(self, child: Child) -> float:
        timeout = self._settings.worker_timeout
        return child.heard_at + timeout if child.ready and timeout else float("inf")

    def _look_at_the_time(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.deadline <= now:
                error_log.error("worker %d was killed: it had not ended in time", child.pid)
                child.deadline = float("inf")
                child.kill(signal.SIGKILL)
            elif self._silence_ends(child) <= now:
                seconds = now - child.heard_at
                error_log.error(
                    "worker %d was killed: its loop stood still for %.1f seconds",
                    child.pid,
                    seconds,
                )
                child.heard_at = float("inf")
                child.kill(signal.SIGKILL)
        if self._state == SERVING:
            for slot in tuple(self._slots.values()):
                if slot.start_at <= now:
                    slot.start_at = float("inf")
                    self._replace_dead(slot)

    # What workers say.

    def _listen_to(self, child: Child) -> None:
        for words in child.control.receive():
            child.heard_at = time.monotonic()
            self._answer(child, words)
        if child.control.ended and child.control.sock.fileno() >= 0:
            self._selector.unregister(child.control.sock)
            child.control.close()

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
            found = self._sockets.open(bind, number, backlog, child.slot.number)
        except OSError as error:
            child.control.send("refused", error.errno, error.strerror or str(error))
        except UsageError as error:
            child.control.send("refused", 0, str(error))
        else:
            child.used.add((text, number))
            slots, sockets = [slot for slot, _ in found], [sock for _, sock in found]
            child.control.send("sockets", slots, sockets=sockets)

    def _welcome(self, child: Child) -> None:
        child.ready = True
        slot = child.slot
        if slot.newcomer is child:
            old, slot.worker, slot.newcomer = slot.worker, child, None
            if old is not None:
                self._leaving = old
                settings = self._settings
                seconds = settings.drain_timeout + settings.stop_timeout + _LAST_SECONDS
                old.tell_to_end(["drain"], seconds)
        workers = [slot.worker for slot in self._slots.values()]
        if self._state == STARTING and all(one is not None and one.ready for one in workers):
            self._state = SERVING
            self._on_ready()

    def _retire(self, child: Child, why: str) -> None:
        slot = child.slot
        if (
            slot.worker is child
            and self._state == SERVING
            and slot not in self._due
            and slot.newcomer is None
            and slot.retry_at <= time.monotonic()
        ):
            error_log.info("worker %d is replaced: %s", child.pid, why)
            self._due.append(slot)

    # Beginning.

    def _fork(self, slot: Slot) -> Child:
        """A new worker.

        Raises:
            StartupError: a hook raised.
            OSError: the system has no room for one.
        """
        self._enter("before_fork")
        ours, theirs = make_pair()
        flush_outputs()
        try:
            with self._signals.held():
                pid = os.fork()
                if not pid:
                    self._be_worker(theirs, ours)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        child = self._children[pid] = Child(pid, slot, ours)
        self._selector.register(ours.sock, selectors.EVENT_READ, child)
        self._enter("after_fork")
        return child

    def _be_worker(self, control: Control, parents_end: Control) -> NoReturn:
        code = EXIT_STARTUP
        try:
            # As multiprocessing does: what the parent wants done at its exit, it does itself.
            atexit._clear()
            self._signals.leave_in_child(_NOT_FOR_WORKERS)
            self._selector.close()
            parents_end.close()
            for child in self._children.values():
                # A worker must not keep the line of another one open.
                child.control.close()
            self._sockets.close_in_child()
            try:
                lifecycle.enter_state_now("after_fork")
                lifecycle.enter_state_now("enter_child")
                lifecycle.forget_state("pre_start")  # that was in the parent
            except Exception as error:
                control.send("failed", code, f"a hook raised {type(error).__name__}: {error}")
            else:
                code = Worker(control, self._server).run(self._load)
            atexit._run_exitfuncs()
        except BaseException as error:
            if isinstance(error, SystemExit) and isinstance(error.code, int):
                code = error.code
            else:
                traceback.print_exc()
        finally:
            flush_outputs()
            os._exit(code)

    def _replace_dead(self, slot: Slot) -> None:
        try:
            slot.worker = self._fork(slot)
        except (OSError, StartupError) as error:
            error_log.error("a worker cannot be started: %s", error)
            self._pause(slot)

    def _pause(self, slot: Slot) -> None:
        """The next worker of this slot is started after a while, at first at once."""
        pause = _FIRST_PAUSE * 2 ** (slot.failures - 1) if slot.failures else 0.0
        slot.failures += 1
        slot.start_at = time.monotonic() + min(pause, _LONGEST_PAUSE)

    # Ending.

    def _bury(self, child: Child, code: int) -> None:
        if child.control.sock.fileno() >= 0:
            self._listen_to(child)  # its last words
        if child.control.sock.fileno() >= 0:
            self._selector.unregister(child.control.sock)
            child.control.close()
        del self._children[child.pid]
        slot = child.slot
        if self._leaving is child:
            self._leaving = None
        if slot.newcomer is child:
            slot.newcomer = None
            if self._state == SERVING:
                self._lament_newcomer(slot, child, code)
        elif slot.worker is child:
            slot.worker, slot.newcomer = slot.newcomer, None
            if self._state == STARTING:
                status, text = self._reason(child, code)
                self._give_up(StartupError(text, status))
            elif self._state == SERVING:
                self._mourn(slot, child, code)

    def _reason(self, child: Child, code: int) -> tuple[int, str]:
        if child.failure is not None:
            return child.failure
        return EXIT_STARTUP, f"worker {child.pid} {_describe(code)} before it was ready"

    def _lament_newcomer(self, slot: Slot, child: Child, code: int) -> None:
        if child.stopping:
            return
        self._due.clear()
        slot.retry_at = time.monotonic() + _RETRY_SECONDS
        _, text = self._reason(child, code)
        error_log.error("no restart, the old workers go on: %s", text)

    def _mourn(self, slot: Slot, child: Child, code: int) -> None:
        """A worker has died, and nobody told it to."""
        if not child.ready:
            error_log.error("no new worker: %s", self._reason(child, code)[1])
        else:
            error_log.error("worker %d %s; another one takes its place", child.pid, _describe(code))
        lifecycle.enter_state_now("on_child_crush")
        if child.ready and time.monotonic() - child.started_at >= _STABLE_SECONDS:
            slot.failures = 0
        if slot.worker is None:
            self._pause(slot)

    def _give_up(self, error: StartupError) -> None:
        if self._failure is None:
            self._failure = error
        self._state = STOPPING
        for child in self._children.values():
            child.tell_to_end(["stop", 0], _FORCE_SECONDS)

    # Signals.

    def _take_signal(self, number: int) -> None:
        if number in _STOP_SIGNALS:
            self._stop()
        elif self._state != SERVING:
            return  # a server that starts runs the newest code, one that stops runs none soon
        elif number in _RESTART_SIGNALS:
            self._restart()

    def _stop(self) -> None:
        self._orders += 1
        seconds = self._settings.stop_timeout
        if self._orders == 1:
            lifecycle.enter_state_now("start_shutdown")
            order, seconds = ["stop", seconds], seconds + _LAST_SECONDS
        else:
            order, seconds = ["abort"], _FORCE_SECONDS
        self._state = STOPPING
        for child in self._children.values():
            child.tell_to_end(order, seconds)
            if self._orders > 2:
                child.kill(signal.SIGKILL)

    def _restart(self) -> None:
        """Replaces every worker, one after the other."""
        self._due.clear()
        for slot in self._slots.values():
            slot.failures = 0
            if slot.newcomer is not None:  # its code may be old already
                slot.newcomer.tell_to_end(["stop", 0], _FORCE_SECONDS)
            self._due.append(slot)

    def _go_on_replacing(self) -> None:
        if self._state != SERVING or self._leaving is not None:
            return
        if any(slot.newcomer is not None for slot in self._slots.values()):
            return
        while self._due:
            slot = self._due.popleft()
            if slot.worker is None:
                continue  # the next one there is new anyway
            try:
                slot.newcomer = self._fork(slot)
            except (OSError, StartupError) as error:
                self._due.clear()
                error_log.error("no restart, the old workers go on: %s", error)
            return


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
