"""Forked processes, as their parent sees them."""

import atexit
import os
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from iodine_aio import lifecycle
from iodine_aio.errors import EXIT_STARTUP, StartupError
from iodine_aio.pubsub.hub import Hub
from iodine_aio.supervision.control import Control, make_pair
from iodine_aio.supervision.signals import SignalPipe
from iodine_aio.supervision.slots import Key, SlotSockets
from iodine_aio.supervision.worker import flush_outputs
from iodine_aio.tallies import Tallies, Tally

_LAST_SECONDS: Final = 3.0  # after its deadline, until a worker that stops is killed
_FORCE_SECONDS: Final = 1.5  # what workers get to cut everything

# What a worker does, with its ends of the two lines to its parent, and its place among the
# others; returns its exit code.
Work = Callable[[Control, socket.socket, Tally | None], int]


class Child:
    """One worker.

    Attributes:
        slot: the number of its place.
        tally: where it writes how many connections it has.
        ready: it accepts connections.
        ready_at: since when it has.
        stopping: it was told to end.
        used: the listeners it has asked for.
        heard_at: when it last said something.
        deadline: when it is killed, if it is to end.
        failure: exit code and text, if it said why it ends.
    """

    __slots__ = (
        *("control", "deadline", "failure", "heard_at", "link", "pid", "ready", "slot"),
        *("ready_at", "stopping", "tally", "used"),
    )

    def __init__(
        self, pid: int, slot: int, control: Control, link: socket.socket, tally: Tally | None
    ) -> None:
        self.pid: Final = pid
        self.slot: Final = slot
        self.control: Final = control
        self.link: Final = link
        self.tally: Final = tally
        self.ready = False
        self.stopping = False
        self.used: Final[set[Key]] = set()
        self.heard_at = time.monotonic()
        self.ready_at = 0.0
        self.deadline = float("inf")
        self.failure: tuple[int, str] | None = None

    def drain(self, seconds: float) -> None:
        """Lets it end, with everything that is open, within `seconds`."""
        self._tell_to_end(["drain"], seconds + _LAST_SECONDS)

    def stop(self, seconds: float) -> None:
        """Lets it end, and what has not within `seconds` is cut."""
        self._tell_to_end(["stop", seconds], seconds + _LAST_SECONDS)

    def stop_at_once(self) -> None:
        """Lets it cut everything and end."""
        self._tell_to_end(["stop", 0], _FORCE_SECONDS)

    def abort(self) -> None:
        """As `stop_at_once`, for one that stops already and waits for its app."""
        self._tell_to_end(["abort"], _FORCE_SECONDS)

    def _tell_to_end(self, order: Sequence[Any], seconds: float) -> None:
        """Gives an order to end, and `seconds` for that."""
        self.stopping = True
        self.deadline = min(self.deadline, time.monotonic() + seconds)
        self.control.send(*order)
        if not self.ready:  # it reads no orders yet
            self.kill(signal.SIGTERM)

    def kill(self, number: int) -> None:
        """Sends it a signal; it has not been waited for, so the process id is its own."""
        os.kill(self.pid, number)

    def explain(self, code: int) -> tuple[int, str]:
        """Exit code and text for one that ended with `code` before it was ready."""
        if self.failure is not None:
            return self.failure
        return EXIT_STARTUP, f"worker {self.pid} {describe_end(code)} before it was ready"


class Children:
    """Forks workers, and knows which there are.

    Args:
        work: what each of them does.
        sockets: those of the parent.
        selector: of the parent; watches what workers say, `data` is the Child.
        hub: of the parent; carries what workers publish.
        signals: those of the parent.
        ignored: signals that do nothing in a worker.
    """

    def __init__(
        self,
        work: Work,
        sockets: SlotSockets,
        selector: selectors.BaseSelector,
        hub: Hub,
        signals: SignalPipe,
        ignored: Sequence[int],
    ) -> None:
        self._work: Final = work
        self._sockets: Final = sockets
        self._selector: Final = selector
        self._hub: Final = hub
        self._signals: Final = signals
        self._ignored: Final = ignored
        self._alive: Final[dict[int, Child]] = {}
        self._tallies: Final = Tallies()

    @property
    def alive(self) -> list[Child]:
        """Those that have not been waited for."""
        return list(self._alive.values())

    def fork(self, slot: int) -> Child:
        """A new worker.

        Raises:
            StartupError: a hook raised.
            OSError: the system has no room for one.
        """
        enter_state("before_fork")
        ours, theirs = make_pair()
        our_link, their_link = socket.socketpair()
        flush_outputs()
        tally = self._tallies.take()
        try:
            with self._signals.held():
                pid = os.fork()
                if not pid:
                    ours.close()
                    our_link.close()
                    self._be_worker(theirs, their_link, tally)
        except OSError:
            self._tallies.give_back(tally)
            ours.close()
            our_link.close()
            raise
        finally:
            theirs.close()
            their_link.close()
        child = self._alive[pid] = Child(pid, slot, ours, our_link, tally)
        self._selector.register(ours.sock, selectors.EVENT_READ, child)
        self._hub.add(our_link, f"worker {pid}")
        enter_state("after_fork")
        return child

    def reap(self) -> list[tuple[Child, int]]:
        """Those that have ended since the last look, with their exit codes (-9: SIGKILL)."""
        ended = []
        for child in self.alive:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                del self._alive[child.pid]
                self._hub.remove(child.link)
                self._tallies.give_back(child.tally)
                ended.append((child, os.waitstatus_to_exitcode(status)))
        return ended

    def hang_up(self, child: Child) -> None:
        """Listens to it no more."""
        if child.control.sock.fileno() >= 0:
            self._selector.unregister(child.control.sock)
            child.control.close()

    def _be_worker(self, control: Control, link: socket.socket, tally: Tally | None) -> NoReturn:
        code = EXIT_STARTUP
        try:
            # As multiprocessing does: what the parent wants done at its exit, it does itself.
            atexit._clear()
            self._signals.leave_in_child(self._ignored)
            # Closed, not emptied: the kernel's side of a selector is shared with the parent.
            self._selector.close()
            self._hub.abandon()
            for child in self._alive.values():
                # A worker must not keep the line of another one open.
                child.control.close()
            self._sockets.close_in_child()
            try:
                enter_state("after_fork")
                enter_state("enter_child")
            except StartupError as error:
                control.send("failed", error.exit_code, str(error))
            else:
                lifecycle.forget_state("pre_start")  # that was in the parent
                code = self._work(control, link, tally)
            atexit._run_exitfuncs()
        except BaseException as error:
            if isinstance(error, SystemExit) and isinstance(error.code, int):
                code = error.code
            else:
                traceback.print_exc()
        finally:
            flush_outputs()
            os._exit(code)


def enter_state(state: str) -> None:
    """Calls the hooks of a starting state.

    Raises:
        StartupError: one of them raised.
    """
    try:
        lifecycle.enter_state_now(state)
    except Exception as error:
        text = f"a hook of {state} raised {type(error).__name__}: {error}"
        raise StartupError(text) from error


def describe_end(code: int) -> str:
    """What has become of a process, from its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
