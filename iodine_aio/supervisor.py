"""`run()`: serves in the loop that is running, else makes this process a server."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from iodine_aio.binds import Bind
from iodine_aio.descriptors import raise_descriptor_limit
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.loop import new_event_loop
from iodine_aio.restart_signal import refusing_restarts
from iodine_aio.server import Server
from iodine_aio.serving import make_server
from iodine_aio.stragglers import leaving_none_behind
from iodine_aio.supervision import systemd
from iodine_aio.supervision.parent import Supervisor
from iodine_aio.supervision.slots import SlotSockets
from iodine_aio.supervision.worker import Load

_STOP_SIGNALS: Final = (int(signal.SIGINT), int(signal.SIGTERM))


def run(
    app: Any = None,
    *,
    host: str | None = None,
    port: int | None = None,
    bind: str | Sequence[str] | None = None,
    **options: Any,
) -> Server:
    """Serves `app`, and whatever `listen()` has prepared.

    Outside a loop: serves until SIGINT or SIGTERM (a second one cuts what is open), and
    returns the stopped server. In a running loop: binds, serves on that loop, and returns
    at once a server to be awaited, or used by `async with`; signals are left alone.

    Args:
        app: `app(env)`, plain or `async def`, or an object or class with `call(env)`; None
            where only files are served.
        host, port: where to listen, 127.0.0.1:3000 unless said; port 0 is a free one.
        bind: or one or several of ``host:port``, ``unix:/path?mode=660``, ``fd://3``.
        options: fields of Settings.

    Raises:
        UsageError: an argument is wrong.
        OSError: the address cannot be listened on.
        StartupError: a hook of `on_state` raised (outside a loop; else from awaiting).
    """
    in_loop = _loop_is_running()
    server = make_server(app, host, port, bind, **_package_options(options, in_loop))
    workers = server.settings.worker_count
    if workers > 1 and in_loop:
        raise UsageError(f"workers is {workers}, but a program with a running loop cannot fork")
    # Not served inside an `except`: what the app raises would carry "no running event loop"
    # as its context, in every traceback.
    if in_loop:
        server.open()
        server.start()
    else:
        raise_descriptor_limit()
        if workers > 1:
            run_workers(server)
        else:
            server.open()
            run_process(server)
    return server


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _package_options(options: dict[str, Any], in_loop: bool) -> dict[str, Any]:
    """Completes `options` by what was set on the package, as in ``iodine_aio.threads = 4``."""
    package = sys.modules["iodine_aio"]
    workers = getattr(package, "workers", None) or getattr(package, "processes", None)
    if in_loop:
        workers = None  # is for a program that is nothing but the server
    for name, value in (("threads", getattr(package, "threads", None)), ("workers", workers)):
        if value is not None:
            options.setdefault(name, value)
    return options


def run_process(server: Server, banner: bool = True) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP, in a loop of our own; the server is open already.

    Raises:
        StartupError: a hook of `on_state` raised.
    """
    try:
        with (
            _pid_file(server.settings.pid_file),
            asyncio.Runner(loop_factory=new_event_loop) as runner,
        ):
            runner.run(_run(server, banner))
    finally:
        server.close_sockets()


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    """Has this process's id in `path` meanwhile.

    What a server has left there that has ended is replaced. Whether one still runs is told by
    its lock: anybody may have its process id today.

    Raises:
        StartupError: the file cannot be written, or is of a server that runs.
    """
    if path is None:
        yield
        return
    text = f"{os.getpid()}\n"
    try:
        file = open(path, "a+")  # noqa: SIM115 - closed below, and its lock with it
    except OSError as error:
        raise StartupError(f"pid file {path!r} cannot be written: {error.strerror}") from error
    with file:
        try:
            # Not flock(): workers would inherit it, and hold it when their parent was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise StartupError(
                f"pid file {path!r} is of a server that runs, pid {file.read().strip()}:"
                " stop it, or choose another file"
            ) from None
        except OSError as error:  # some file systems have no locks
            error_log.warning("pid file %r cannot be locked: %s", path, error.strerror)
        file.truncate(0)
        file.write(text)
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError), open(path) as found:
                if found.read() == text:
                    os.unlink(path)


async def _run(server: Server, banner: bool) -> None:
    with _stopped_by_signals(server):
        async with leaving_none_behind(server.seconds_left):
            try:
                server.start()
                await server.started()
                _tell_systemd(server)
                if banner:
                    _say_where(server, "")
                await server
            finally:
                await server.stop(0)  # where the start has failed, it still lasts


def _tell_systemd(server: Server) -> None:
    watchdog = systemd.Watchdog()
    loop = asyncio.get_running_loop()

    def pat() -> None:
        watchdog.pat(time.monotonic())
        loop.call_later(watchdog.interval, pat)

    if watchdog.interval:
        pat()
    systemd.notify("READY=1")
    server.watch_stop(lambda: systemd.notify("STOPPING=1"))


def _say_where(server: Server, workers: str) -> None:
    print(
        f"iodine_aio serves on {', '.join(server.urls)}"
        f" (pid {os.getpid()}, {workers}Ctrl-C ends it)",
        file=sys.stderr,
        flush=True,
    )


def _nothing() -> None:
    """Is all that is left to do where the server is complete."""


def run_workers(
    server: Server, load: Load = _nothing, preload: bool = False, banner: bool = True
) -> None:
    """Serves on several processes until SIGINT or SIGTERM; this one only watches them.

    Args:
        server: what they serve, unopened; it is not started here.
        load: completes the server, in each worker.
        preload: or here, once.

    Raises:
        UsageError: this is not the main thread.
        OSError: an address cannot be listened on.
        StartupError: a worker could not begin; `exit_code` tells why.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("only the main thread may have workers: it alone hears of signals")
    sockets = SlotSockets()
    asked: dict[Bind, int] = {}

    def open_first(bind: Bind, backlog: int) -> list[socket.socket]:
        number = asked[bind] = asked.get(bind, -1) + 1
        return [sock for _, sock in sockets.open(bind, number, backlog, 0)]

    settings = server.settings

    def welcome() -> None:
        if banner:
            _say_where(server, f"{settings.worker_count} workers, ")

    try:
        server.open(open_first)
        if preload:
            load()
        with _pid_file(settings.pid_file):
            Supervisor(server, _nothing if preload else load, sockets, welcome).run()
    finally:
        sockets.close()


@contextlib.contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    asked = False
    numbers = list(_STOP_SIGNALS)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)

    def stop(number: int) -> None:
        nonlocal asked
        if asked:
            server.abort()
        elif server.running:
            asked = True
            if number == signal.SIGHUP:
                error_log.warning(
                    "SIGHUP ends a process that serves alone: add -w N to have workers restarted"
                )
            server.stop_soon()

    # Not only remove_signal_handler() afterwards: it would put the default in the place
    # of whatever handler the program, or asyncio.Runner, had.
    previous: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        with refusing_restarts():
            yield
    finally:
        # Held meanwhile, so that none finds the default between the two.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
