"""A worker: what a forked process does from its first moment to its last.

It takes its orders from the parent, over the control line; signals that a terminal sends to
everybody are the parent's business. When the parent has gone, so does the worker.
"""

import _thread
import asyncio
import importlib
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from iodine_aio import lifecycle
from iodine_aio.binds import Bind, delegate_opening
from iodine_aio.carriers import deliver
from iodine_aio.errors import EXIT_APP, EXIT_BIND, EXIT_STARTUP, LoadError, StartupError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.loop import new_event_loop
from iodine_aio.protocols.writing import number_connections
from iodine_aio.pubsub.worker_link import WorkerLink
from iodine_aio.server import Server
from iodine_aio.stragglers import leaving_none_behind
from iodine_aio.supervision.control import MAX_TEXT, Control, Line, Words
from iodine_aio.supervision.memory import resident_bytes
from iodine_aio.tallies import Tally, share_socket

_ORPHAN_SECONDS: Final = 1.0  # what connections get when the parent has gone
_LAST_SECONDS: Final = 0.8  # until an orphan that has not ended yet is ended
_BEAT_SECONDS: Final = 5.0  # at most, between two signs of life

Load = Callable[[], object]


class Opener:
    """Opens listening sockets by asking the parent, who keeps them.

    Args:
        control: the worker's end of the line.
        tally: what sockets that belong to all workers are shared by; None: by nothing.

    Attributes:
        kept: sockets of slots without a worker, which this one accepts from.
        unread: orders that arrived while an answer was awaited.
    """

    def __init__(self, control: Control, tally: Tally | None) -> None:
        self._control: Final = control
        self._tally: Final = tally
        self._asked: Final[dict[Bind, int]] = {}
        self.kept: Final[dict[int, list[socket.socket]]] = {}
        self.unread: Final[list[Line]] = []

    def __call__(self, bind: Bind, backlog: int) -> list[socket.socket]:
        number = self._asked.get(bind, 0)
        self._asked[bind] = number + 1
        self._control.sock.setblocking(True)
        try:
            self._control.send("open", str(bind), bind.mode, number, backlog)
            return self._take(self._wait_for_answer())
        finally:
            self._control.sock.setblocking(False)

    def _wait_for_answer(self) -> Line:
        while not self._control.ended:
            answer: Line | None = None
            for line in self._control.receive():
                if line[0][0] in ("sockets", "refused"):
                    answer = line
                else:
                    self.unread.append(line)
            if answer is not None:
                return answer
        raise StartupError("the parent has ended")

    def _take(self, answer: Line) -> list[socket.socket]:
        words, found = answer
        if words[0] == "refused":
            raise OSError(words[1], words[2])
        if words[1][0] is None and self._tally is not None:
            share_socket(found[0], self._tally)
        for slot, sock in list(zip(words[1], found, strict=True))[1:]:
            self.kept.setdefault(slot, []).append(sock)
        return found


class Worker:
    """Serves until it is told not to.

    Args:
        control: its end of the line.
        link: its end of a socket pair with the parent's hub.
        tally: its place among the other workers, if there is one for it.
        server: what it serves, unstarted.
    """

    def __init__(
        self, control: Control, link: socket.socket, tally: Tally | None, server: Server
    ) -> None:
        self._control: Final = control
        self._server: Final = server
        server.set_engine(WorkerLink(link, deliver))
        self._settings: Final = server.settings
        self._opener: Final = Opener(control, tally)
        self._requests_left = 0
        self._loop: asyncio.AbstractEventLoop
        self._asked = False

    def run(self, load: Load) -> int:
        """Lets `load` complete the server, and serves; returns the exit code."""
        # Not of `threading`, where it would count as one that may want to compute.
        _thread.start_new_thread(self._end_after_parent, ())
        delegate_opening(self._opener)
        # 22 bits of process id, 30 of number: JavaScript counts to 53 bits exactly.
        number_connections((os.getpid() << 30) + 1)
        importlib.invalidate_caches()  # those of the parent may be as old as it is
        try:
            self._server.open()
            load()
        except OSError as error:
            return self._fail(EXIT_BIND, error.strerror or str(error))
        except StartupError as error:
            return self._fail(error.exit_code, str(error))
        except (LoadError, UsageError) as error:
            return self._fail(EXIT_APP, str(error))
        if self._settings.max_requests:
            self._count_requests()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            try:
                runner.run(self._serve_and_end())
            except StartupError as error:
                return self._fail(EXIT_STARTUP, str(error))
            except asyncio.CancelledError:  # told to end before it had begun
                return 0
        return 0

    def _fail(self, code: int, text: str) -> int:
        self._control.send("failed", code, text[:MAX_TEXT])
        return code

    async def _serve_and_end(self) -> None:
        async with leaving_none_behind(self._server.seconds_left):
            try:
                await self._serve()
            finally:
                await self._server.stop(0)  # where the start has failed, it still lasts

    async def _serve(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._control.sock.setblocking(False)
        loop.add_signal_handler(signal.SIGTERM, self._take_signal)
        server = self._server
        server.start()
        loop.add_reader(self._control.sock.fileno(), self._read)
        loop.call_soon(self._read)
        await server.started()
        self._control.send("ready")
        self._beat()
        await server

    # What the parent says.

    def _read(self) -> None:
        lines, self._opener.unread[:] = self._opener.unread + self._control.receive(), []
        for line in lines:
            self._obey(*line)
        if self._control.ended:
            self._loop.remove_reader(self._control.sock.fileno())
            self._loop.create_task(self._end_as_orphan())

    def _obey(self, words: Words, sockets: list[socket.socket]) -> None:
        server = self._server
        kept = self._opener.kept
        match words:
            case ["stop", float() | int() as seconds]:
                server.stop_soon(seconds)
            case ["drain"]:
                server.stop_soon(drain=self._settings.drain_timeout)
            case ["abort"]:
                server.stop_soon(0)
                server.abort()
            case ["adopt", int() as slot] if server.running:
                self._adopt(kept.setdefault(slot, []), sockets)
            case ["release", int() as slot]:
                for sock in kept.pop(slot, ()):
                    server.accept_no_more(sock)
            case _:
                for sock in sockets:
                    sock.close()

    def _adopt(self, kept: list[socket.socket], sockets: list[socket.socket]) -> None:
        # Of one that was lent while this worker began, some may have been opened already.
        known = {sock.getsockname() for sock in kept}
        for sock in sockets:
            if sock.getsockname() in known:
                sock.close()
            else:
                kept.append(sock)
                self._loop.create_task(self._server.accept_also(sock))

    def _take_signal(self) -> None:
        """SIGTERM to this process alone: another worker will take its place."""
        if self._asked:
            self._server.abort()
        self._asked = True
        self._server.stop_soon()

    def _end_after_parent(self) -> None:
        """In a thread: the end of an orphan that has not ended by then, whatever it is doing."""
        hang_up = select.poll()
        hang_up.register(self._control.sock, 0)  # nothing that is said, only that nothing will be
        hang_up.poll()
        time.sleep(_ORPHAN_SECONDS + _LAST_SECONDS)
        os._exit(1)

    async def _end_as_orphan(self) -> None:
        error_log.error("the parent process has gone: worker %d ends", os.getpid())
        await lifecycle.enter_state("on_parent_crush")
        self._server.stop_soon(_ORPHAN_SECONDS)

    # What it says to the parent.

    def _beat(self) -> None:
        """Says that the loop turns; and asks to be replaced when it has grown too old."""
        settings = self._settings
        seconds = min(_BEAT_SECONDS, settings.worker_timeout / 4 or _BEAT_SECONDS)
        self._control.send("beat")
        if settings.max_rss_bytes and (size := resident_bytes()) > settings.max_rss_bytes:
            self._control.send("retire", f"it has grown to {size >> 20} MiB")
        elif settings.max_requests and self._requests_left <= 0:
            self._control.send("retire", "it has served its number of requests")
        self._loop.call_later(seconds, self._beat)

    def _count_requests(self) -> None:
        # Not all at once, where all began at once.
        number = self._settings.max_requests
        self._requests_left = number + random.randrange(number // 10 + 1)
        service = self._server._service
        app = service.app

        def count(env: Any) -> Any:
            self._requests_left -= 1
            if not self._requests_left:
                self._control.send("retire", "it has served its number of requests")
            return app(env)  # type: ignore[misc]

        if app is not None:
            service.app = count


def flush_outputs() -> None:
    """Empties Python's buffers, so that a fork does not double what lies in them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or None
            continue
