"""A WSGI app, `app(environ, start_response)`, becomes an `app(env)` (PEP 3333).

`environ` is env itself, so a view that sets `environ["upgrade.websocket"]` is seen. On
the pool a response leaves as soon as PEP 3333 says, before the app has ended; on the loop
when the app has returned its iterable.
"""

import contextvars
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Self

from iodine_aio.apps.file_bodies import find_regular
from iodine_aio.apps.threads import Delivery, close_iterable
from iodine_aio.errors import UsageError
from iodine_aio.wire.environ import Env
from iodine_aio.wire.segments import FileBody

_BLOCK_BYTES: Final = 64 * 1024
_END: Final = object()

Headers = list[tuple[str, str]]


class FileWrapper:
    """`environ["wsgi.file_wrapper"]`: a regular file in it is sent without a thread.

    PEP 3333, "Optional Platform-Specific File Handling".
    """

    def __init__(self, filelike: Any, block_size: int = _BLOCK_BYTES) -> None:
        self.filelike: Final = filelike
        self.block_size: Final = block_size
        # Werkzeug looks for these when it cuts a range out of the file.
        for name in ("close", "seekable", "seek", "tell"):
            if hasattr(filelike, name):
                setattr(self, name, getattr(filelike, name))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def file_body(self, length: int | None) -> FileBody | None:
        """The rest of a regular file; None of what is none.

        Args:
            length: the Content-Length that the app announced, or None.
        """
        try:
            found = find_regular(self.filelike)
        except ValueError:  # who reads it is told better
            return None
        if found is None:
            return None
        status, position = found
        stop = max(position, status.st_size) if length is None else position + length
        return FileBody(self.filelike, [(position, stop)])


# What WSGI says of every request and no other kind of app does.
WSGI_ENV: Final[Env] = {"wsgi.file_wrapper": FileWrapper}


class WSGIApp:
    """Calls a WSGI app with env.

    Args:
        app: `app(environ, start_response)`.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app: Final = app

    def __call__(self, env: Env) -> Any:
        """On the loop: what it wrote and what it returned make one response."""
        # What comes in over one connection comes in one context. What frameworks keep there
        # (structlog does) is of one request, so that each gets a copy, as it does in the
        # pool; at 0.1 us, which a plain app of env is spared.
        context = contextvars.copy_context()
        return context.run(self._respond_at_once, env, context)

    def _respond_at_once(self, env: Env, context: contextvars.Context) -> Any:
        response = _Collected()
        iterable = self._app(env, response.start_response)
        return response.collect(iterable, context)


class _Said:
    """What an app says of its response, and whether it comes with all of it.

    Attributes:
        _sent: the head is on its way, or as good as that.
    """

    if not TYPE_CHECKING:  # mypy takes these for all that a method may assign to
        __slots__ = ()

    _headers: Headers | tuple[()]
    _sent: bool
    _status: str | None

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """What the app says first: its status and headers.

        Raises:
            UsageError: it was said already, or is nothing that can be sent.
            BaseException: that of `exc_info`, if the head was sent already.
        """
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a traceback refers to this frame
        elif self._status is not None:
            raise UsageError("start_response was called twice, the second time without exc_info")
        if not isinstance(status, str) or not isinstance(headers, list):
            raise UsageError(
                f"start_response was called with {type(status).__name__} and"
                f" {type(headers).__name__}, must be a str such as '200 OK' and a list of pairs"
            )
        self._status = status
        self._headers = headers
        return self.write

    def write(self, data: bytes) -> None:
        """Sends a piece of the body before the app returns.

        Raises:
            UsageError: `data` is not bytes.
            ClientGoneError: nobody is there to read it.
        """
        raise NotImplementedError

    def _whole(self, iterable: Any) -> Any:
        """A body that nobody has to wait for; None if its pieces have to be asked for."""
        kind = type(iterable)
        if kind is list or kind is tuple:
            for piece in iterable:
                _checked(piece)
            self._said()
            return iterable[0] if len(iterable) == 1 else iterable  # nothing to be joined
        if isinstance(iterable, FileWrapper):
            self._said()
            return iterable.file_body(self._announced())
        # Django's way to say so: its length is known once it has been joined.
        if getattr(iterable, "streaming", None) is False:
            body = b"".join([_checked(piece) for piece in iterable])
            self._said()
            return body
        return None

    def _said(self) -> str:
        if self._status is None:
            raise UsageError("the app has not called start_response")
        return self._status

    def _announced(self) -> int | None:
        for name, value in reversed(self._headers):  # most often it is the last
            # The name's length first, which costs less than another spelling of it.
            if len(name) == 14 and name.lower() == "content-length":
                return int(value) if value.isascii() and value.isdigit() else None
        return None


class WSGIDelivery(_Said, Delivery):
    """A response that leaves its thread as soon as there is something of it.

    What leaves is a copy: the app may have the lists in use again before they are read.
    """

    __slots__ = ("_headers", "_status")

    def respond(self, app: Callable[..., Any], env: Env) -> None:
        self._status = None
        self._headers = ()
        iterable = app(env, self.start_response)
        try:
            if self._body is None and (whole := self._whole(iterable)) is not None:
                if type(whole) is FileBody:
                    iterable = None  # closed by who sends it
                if type(whole) is list:
                    whole = tuple(whole)
                self.send((self._status, tuple(self._headers), whole))
                return
            for piece in iterable:
                if type(piece) is not bytes:
                    _checked(piece)
                if not piece:
                    continue
                if self._body is None:
                    announced = self._announced()
                    if announced is not None and len(piece) >= announced:
                        # "should stop iterating over the response when enough data has been
                        # sent" - PEP 3333: it leaves with its head, by one hop.
                        self.send((self._said(), tuple(self._headers), piece))
                        return
                    self.stream(self._said(), tuple(self._headers)).write(piece)
                else:
                    self._body.write(piece)
            if self._body is None:
                self.send((self._said(), tuple(self._headers), b""))
            else:
                self._body.finish()
        finally:
            close_iterable(iterable)

    def write(self, data: bytes) -> None:
        piece = _checked(data)
        body = self._body or self.stream(self._said(), tuple(self._headers))
        if piece:
            body.write(piece)


class _Collected(_Said):
    """A response that is kept until its app has returned."""

    __slots__ = ("_headers", "_kept", "_sent", "_status")

    def __init__(self) -> None:
        self._status = None
        self._headers = ()
        self._sent = False
        self._kept: list[bytes] | None = None  # what write() was given

    def write(self, data: bytes) -> None:
        piece = _checked(data)
        # What was written cannot be taken back, whether it has left or not.
        self._sent = True
        if self._kept is None:
            self._kept = []
        self._kept.append(piece)

    def collect(self, iterable: Any, context: contextvars.Context) -> tuple[str, Any, Any]:
        """In `context`: the response that the app returned."""
        if self._kept is None and (whole := self._whole(iterable)) is not None:
            if type(whole) is not FileBody:
                close_iterable(iterable)
            return self._said(), self._headers, whole
        rest = _Rest(iterable, self._kept or [], context)
        try:
            begun = rest.begin()
            status, announced = self._said(), self._announced()
            if not begun or (announced is not None and len(begun) >= announced):
                close_iterable(iterable)
                return status, self._headers, begun
            self._sent = True
            return status, self._headers, rest
        except BaseException:
            close_iterable(iterable)
            raise


class _Rest:
    """An app's iterable on the loop, begun, with what was written before it.

    Args:
        context: in which the app was called, and goes on.
    """

    __slots__ = ("_context", "_iterable", "_iterator", "_pieces")

    def __init__(self, iterable: Any, pieces: list[bytes], context: contextvars.Context) -> None:
        self._iterable = iterable
        self._iterator: Iterator[Any] = iter(())
        self._pieces = pieces
        self._context = context

    def begin(self) -> bytes:
        """In the context: pulls the first piece, where start_response is called at the latest."""
        self._iterator = iter(self._iterable)
        for piece in self._iterator:
            if _checked(piece):
                self._pieces.append(piece)
                break
        return b"".join(self._pieces)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        run, iterator = self._context.run, self._iterator
        while (piece := run(next, iterator, _END)) is not _END:
            yield _checked(piece)

    def close(self) -> None:
        iterable, self._iterable = self._iterable, None
        self._context.run(close_iterable, iterable)


def _checked(piece: Any) -> bytes:
    if not isinstance(piece, bytes):
        raise UsageError(f"the app's body has a {type(piece).__name__} in it, must be bytes")
    return piece
