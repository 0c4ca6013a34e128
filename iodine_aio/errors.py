"""What can go wrong, sorted by whose fault it is.

Raised in `wire`, answered in `protocols`, logged once.
"""

from typing import Final


class IodineError(Exception):
    """Root of all that iodine_aio raises on purpose."""


class ProtocolError(IodineError):
    """The peer broke the protocol.

    Attributes:
        status: HTTP status that answers it, or None after an upgrade.
        close_code: WebSocket close code, or None before one.
    """

    def __init__(
        self, message: str, *, status: int | None = None, close_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.status: Final = status
        self.close_code: Final = close_code


class ResponseError(IodineError):
    """The app's response cannot be put on the wire; answered by 500 and logged."""


class UsageError(IodineError):
    """The caller broke this library's contract; fix the program."""


class StartupError(IodineError):
    """The server cannot begin to serve: a hook failed, or a resource is missing.

    Attributes:
        exit_code: what the command line ends with.
    """

    def __init__(self, message: str, exit_code: int = 5) -> None:
        super().__init__(message)
        self.exit_code: Final = exit_code


class LoadError(IodineError):
    """The app that was named cannot be imported or called."""


class ClientGoneError(IodineError, ConnectionError):
    """The client went away, and somebody was still reading from it."""


def as_exception(error: BaseException) -> Exception:
    """`error` of an app or a handler, or what a future can carry in its place.

    A StopIteration is refused there; what is no Exception at all would end the loop, and
    with it everybody else's connection.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    text = "sys.exit()" if isinstance(error, SystemExit) else type(error).__name__
    replacement = UsageError(f"{text} came out of an app or a handler")
    replacement.__cause__ = error
    return replacement


# How a process says what happened to whoever started it.
EXIT_USAGE: Final = 2
EXIT_APP: Final = 3
EXIT_BIND: Final = 4
EXIT_STARTUP: Final = 5
