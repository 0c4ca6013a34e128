"""What makes a server out of what the caller wrote: `serve`, `listen`."""

import asyncio
import contextlib
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from iodine_aio.binds import Bind, parse_bind
from iodine_aio.errors import UsageError
from iodine_aio.server import Server
from iodine_aio.settings import Settings

_prepared: Final[list[Server]] = []  # by listen(), before anything runs
_imported: Final[list[str]] = []  # what the command imports at this moment


@contextlib.contextmanager
def importing(target: str) -> Iterator[None]:
    """While the command imports `target`, that can make no server of its own.

    It would serve within the import, and the command would never come to do so, or only
    when a signal to stop has ended the other.
    """
    _imported.append(target)
    try:
        yield
    finally:
        _imported.remove(target)


def make_server(
    app: Any,
    host: str | None = None,
    port: int | None = None,
    bind: str | Sequence[str] | None = None,
    **options: Any,
) -> Server:
    """A server that is neither bound nor started.

    Args:
        app: see `build_app`; None serves only files, or what `listen` has prepared.
        host, port: where to listen, 127.0.0.1:3000 unless said; port 0 is a free one.
        bind: or one or several of ``host:port``, ``unix:/path?mode=660``, ``fd://3``.
        options: fields of Settings.

    Raises:
        UsageError: an argument is unknown or contradicts another; or the command imports
            the caller.
    """
    if _imported:
        raise UsageError(
            f"{_imported[0]} makes a server of its own, while the command imports it to serve it:"
            " put that under `if __name__ == '__main__'`"
        )
    settings = make_settings(**options)
    if bind is not None and (host is not None or port is not None):
        raise UsageError("give either bind, or host and port")
    if port is not None and not isinstance(port, int):
        raise UsageError(f"port is {port!r}, must be an int")
    default_port = 3000 if port is None else port
    if app is None and not settings.serves_files:
        if bind is not None or host is not None or port is not None:
            raise UsageError("an address, but no app to serve there")
        if not _prepared:
            raise UsageError("nothing to serve: give an app, or listen() before")
        binds = []
    elif bind is None:
        binds = [Bind(host=host if host is not None else "127.0.0.1", port=default_port)]
    else:
        texts = [bind] if isinstance(bind, str) else bind
        binds = [parse_bind(text, default_port) for text in texts]
    server = Server(app, binds, settings)
    if app is None and settings.serves_files:
        server.set_app(None)
    join_prepared(server)
    return server


def join_prepared(server: Server) -> None:
    """Lets `server` serve what `listen` has prepared as well."""
    while _prepared:
        server.join(_prepared.pop(0))


def make_settings(**options: Any) -> Settings:
    """Settings of keyword arguments; an unknown one is a UsageError that lists them."""
    names = ["host", "port", "bind", *Settings.__dataclass_fields__]
    unknown = sorted(set(options) - set(Settings.__dataclass_fields__))
    if unknown:
        close = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(f"no option {', '.join(unknown)}{hint}, there are: {', '.join(names)}")
    return Settings(**options)


def serve(
    app: Any,
    *,
    host: str | None = None,
    port: int | None = None,
    bind: str | Sequence[str] | None = None,
    **options: Any,
) -> Server:
    """Serves `app` on the running loop; see `run`, which this is the async-only spelling of.

    Raises:
        UsageError: no loop is running, or an argument is wrong.
        OSError: the address cannot be listened on.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError(
            "serve() needs a running event loop; outside one use iodine_aio.run(app)"
        ) from None
    server = make_server(app, host, port, bind, **options)
    if (workers := server.settings.worker_count) > 1:
        raise UsageError(f"workers is {workers}, but a program with a running loop cannot fork")
    server.open()
    server.start()
    return server


def listen(
    port: int | str,
    handler: Any,
    *,
    host: str = "127.0.0.1",
    timeout: float = 0,
    busy_message: str | bytes = b"",
    **options: Any,
) -> Server:
    """Serves raw TCP connections: each gets a handler of its own, without HTTP.

    Called in a running loop it listens at once. Else it waits for the next `run()`.

    Args:
        port: a TCP port on `host`, or a bind such as ``unix:/tmp/echo.sock``.
        handler: a class (an asyncio protocol too), or a function that makes a handler.
        timeout: seconds of silence before the handler's `ping` is called (without one the
            connection is closed); 0: never.
        busy_message: is sent to a connection that there is no room for.
        options: fields of Settings.

    Raises:
        UsageError: the handler or an option cannot be.
        OSError: in a running loop: the address cannot be listened on.
    """
    if isinstance(port, str) and not port.isdigit():
        bind = parse_bind(port, 0)
    else:
        bind = Bind(host=host, port=int(port))
    server = Server(None, [bind], make_settings(**options))
    message = busy_message.encode() if isinstance(busy_message, str) else busy_message
    server.set_raw_handler(handler, timeout, message)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _prepared.append(server)
    else:
        server.open()
        server.start()
    return server
