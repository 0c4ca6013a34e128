"""`run()`: serves in the loop that is running, else makes this process a server."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

from iodine_aio.descriptors import raise_descriptor_limit
from iodine_aio.loop import new_event_loop
from iodine_aio.server import Server
from iodine_aio.serving import make_server

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
    server = make_server(app, host, port, bind, **_package_options(options))
    # Not served inside an `except`: what the app raises would carry "no running event loop"
    # as its context, in every traceback.
    if _loop_is_running():
        server.open()
        server.start()
    else:
        raise_descriptor_limit()
        server.open()
        run_process(server)
    return server


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _package_options(options: dict[str, Any]) -> dict[str, Any]:
    """Completes `options` by what was set on the package, as in ``iodine_aio.threads = 4``."""
    package = sys.modules["iodine_aio"]
    workers = getattr(package, "workers", None) or getattr(package, "processes", None)
    for name, value in (("threads", getattr(package, "threads", None)), ("workers", workers)):
        if value is not None:
            options.setdefault(name, value)
    return options


def run_process(server: Server, banner: bool = True) -> None:
    """Serves until SIGINT or SIGTERM, in a loop of our own; the server is open already.

    Raises:
        StartupError: a hook of `on_state` raised.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(server, banner))


async def _run(server: Server, banner: bool) -> None:
    with _stopped_by_signals(server):
        server.start()
        await server.started()
        if banner:
            print(
                f"iodine_aio serves on {', '.join(server.urls)}"
                f" (pid {os.getpid()}, Ctrl-C ends it)",
                file=sys.stderr,
                flush=True,
            )
        await server


@contextlib.contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            server.abort()
        elif server.running:
            asked = True
            server.stop_soon()

    # Not only remove_signal_handler() afterwards: it would put the default in the place
    # of whatever handler the program, or asyncio.Runner, had.
    previous: dict[int, Any] = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
