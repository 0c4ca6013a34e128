"""A response's head (RFC 9110 s15, RFC 9112 s4-5).

What an app returns is checked here: nothing that could split a response, or that
contradicts its own length, reaches the wire.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from iodine_aio.errors import ResponseError
from iodine_aio.wire.fields import is_token, list_members

_STATUS_LINES: Final[dict[int, str]] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}

# As WSGI apps say them.
_KNOWN_STATUSES: Final[dict[str, tuple[int, str]]] = {
    line[9:-2]: (number, line) for number, line in _STATUS_LINES.items()
}

# What a field means to us. The rest is the app's own business.
_ORDINARY: Final = 0
_CONTENT_LENGTH: Final = 1
_CONNECTION: Final = 2
_FRAMING: Final = 3  # Transfer-Encoding, Keep-Alive: ours alone, left out
_DATE: Final = 4
_UPGRADE: Final = 5
_HIJACK: Final = 6
_SENDFILE: Final = 8
_ACCEPT: Final = 7  # Sec-WebSocket-Accept, -Extensions: ours alone in a 101

_KINDS: Final[dict[str, int]] = {
    "content-length": _CONTENT_LENGTH,
    "connection": _CONNECTION,
    "transfer-encoding": _FRAMING,
    "keep-alive": _FRAMING,
    "date": _DATE,
    "upgrade": _UPGRADE,
    "rack.hijack": _HIJACK,
    "x-sendfile": _SENDFILE,
    "sec-websocket-accept": _ACCEPT,
    "sec-websocket-extensions": _ACCEPT,
}
# The usual spellings, so that most names need neither a check nor a copy.
_KNOWN: Final[dict[str, int]] = {
    spelling: _KINDS.get(name.lower(), _ORDINARY)
    for name in [
        "Accept-Ranges",
        "Access-Control-Allow-Origin",
        "Age",
        "Allow",
        "Cache-Control",
        "Connection",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Content-Length",
        "Content-Range",
        "Content-Security-Policy",
        "Content-Type",
        "Date",
        "ETag",
        "Expires",
        "Keep-Alive",
        "Last-Modified",
        "Link",
        "Location",
        "Pragma",
        "Referrer-Policy",
        "Retry-After",
        "Server",
        "Set-Cookie",
        "Strict-Transport-Security",
        "Transfer-Encoding",
        "Upgrade",
        "Vary",
        "WWW-Authenticate",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "rack.hijack",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
    ]
    for spelling in (name, name.lower())
}

_KNOWN_BYTES: Final = {name.encode(): kind for name, kind in _KNOWN.items() if kind != _HIJACK}

Headers = Mapping[str, str | list[str]] | Iterable[tuple[str, str | list[str]]]


@dataclass(slots=True)
class Directives:
    """What an app's fields ask of the server, beside what they tell the client.

    Attributes:
        close: the connection is to be closed.
        dated: the app sent its own Date.
        hijack: the callable of a `rack.hijack` field, or None.
        sendfile: the path of an X-Sendfile field, or None; it is in the head's block, too.
    """

    close: bool = False
    dated: bool = False
    hijack: Callable[[Any], object] | None = None
    sendfile: str | None = None


NO_DIRECTIVES: Final = Directives()  # as nearly every head has


class ResponseHead:
    """What an app said about its response, checked.

    Attributes:
        status: 200-599, or whatever an upgrading app returned.
        status_line: with its CRLF.
        block: the field lines that go out as they are, each with its CRLF.
        content_length: the app's own, or None.
        directives: `NO_DIRECTIVES` where there are none.
    """

    __slots__ = ("block", "content_length", "directives", "status", "status_line")

    def __init__(self, status: object) -> None:
        self.status, self.status_line = parse_status(status)
        self.block = ""
        self.content_length: int | None = None
        self.directives = NO_DIRECTIVES

    def give_directives(self) -> Directives:
        """Its own, to be written to."""
        if self.directives is NO_DIRECTIVES:
            self.directives = Directives()
        return self.directives

    def fields(self) -> list[tuple[str, str]]:
        """Names and values of `block`."""
        # Not splitlines(): it also splits at \x0b, \x85 and others, within a value.
        lines = self.block.split("\r\n")[:-1]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


def parse_status(status: object) -> tuple[int, str]:
    """Number and status line of what an app returned as its status.

    Args:
        status: an int, or as in WSGI a str such as ``"200 Fine"``.

    Raises:
        ResponseError: it is neither.
    """
    if type(status) is int:
        line = _STATUS_LINES.get(status)
        return status, line if line is not None else f"HTTP/1.1 {status} \r\n"
    if isinstance(status, str):
        known = _KNOWN_STATUSES.get(status)
        if known is not None:
            return known
        digits, _, reason = status.partition(" ")
        number = digits.removeprefix("-")
        if number.isascii() and number.isdigit():
            if not reason.isprintable():
                raise ResponseError(f"status {status!r} has a control character in its reason")
            value = int(digits)  # "0200" is no status-code - RFC 9112, 4
            return value, f"HTTP/1.1 {value} {reason}\r\n"
    elif isinstance(status, int) and not isinstance(status, bool):
        return parse_status(int(status))  # an IntEnum such as http.HTTPStatus
    raise ResponseError(f"status is {status!r}, must be an int or a str such as '200 OK'")


def make_head(status: object, headers: Headers) -> ResponseHead:
    """What an app says about its response, checked, for one response or for many.

    An app may return it in the place of its headers; the status is then its own.

    Args:
        status: as `parse_status` takes it.
        headers: a mapping or pairs; a value is a str, or a list of them (one line each).

    Raises:
        ResponseError: the status, a name or a value cannot be sent.
    """
    head = ResponseHead(status)
    lines: list[str] = []
    pairs: Iterable[tuple[Any, Any]]
    if type(headers) is list or type(headers) is tuple:  # without asking an abstract class
        pairs = headers
    else:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
    try:
        for name, value in pairs:
            kind = _KNOWN.get(name)
            if kind is None:
                kind = _classify(name)
            if type(name) is not str:
                name = _text_of(name)
            if kind:
                if (
                    kind == _CONTENT_LENGTH
                    and head.content_length is None
                    and type(value) is str
                    and value.isascii()
                    and value.isdigit()
                ):
                    head.content_length = int(value)  # as nearly every response has it
                    continue
                if kind == _HIJACK:
                    head.give_directives().hijack = value  # type: ignore[assignment]
                    continue
                value = _file_special(head, kind, name, value)
                if value is None:
                    continue
            if type(value) is str:
                lines.append(f"{name}: {value}\r\n")
            else:
                lines.extend(f"{name}: {member}\r\n" for member in _members(name, value))
    except (TypeError, ValueError) as error:
        raise ResponseError(
            f"headers are {type(headers).__name__}, must be a dict, or pairs of name and value:"
            f" {error}"
        ) from error
    head.block = _check_block("".join(lines), len(lines))
    return head


def _check_block(block: str, count: int) -> str:
    # "Field values containing CR, LF, or NUL characters are invalid and dangerous"
    # - RFC 9110, 5.5. Each line has one CR and one LF of ours.
    if block.count("\n") != count or block.count("\r") != count or "\0" in block:
        raise ResponseError("a header value contains CR, LF or NUL")
    return block


def make_raw_head(status: object, pairs: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    """A head of pairs of bytes, which are sent as they are (ASGI).

    Raises:
        ResponseError: as `make_head` does.
        AttributeError, TypeError, ValueError: they are no pairs of bytes.
    """
    head = ResponseHead(status)
    lines: list[bytes] = []
    for name, value in pairs:
        kind = _KNOWN_BYTES.get(name)
        if kind is None:
            kind = _classify(name.decode("latin-1"))
        if kind == _CONTENT_LENGTH and head.content_length is None and value.isdigit():
            head.content_length = int(value)  # as nearly every response has it
            continue
        if kind:
            field = _file_special(head, kind, name.decode("latin-1"), value.decode("latin-1"))
            if field is None:
                continue
            value = field.encode("latin-1")
        lines.append(b"%b: %b\r\n" % (name, value))
    # Decoded once for all of them, as it is encoded once with what is ours.
    head.block = _check_block(b"".join(lines).decode("latin-1"), len(lines))
    return head


def _classify(name: object) -> int:
    if not isinstance(name, str) or not is_token(name):
        raise ResponseError(f"header name {name!r} is not a token")
    return _KINDS.get(name.lower(), _ORDINARY)


def _text_of(text: str) -> str:
    """What a str is equal to, whatever its class says of itself."""
    return str.__str__(text)


def _members(name: str, value: object) -> list[str]:
    if isinstance(value, str):  # a subclass, such as a safe string, or of an enumeration
        return [_text_of(value)]
    if isinstance(value, (list, tuple)) and all(isinstance(member, str) for member in value):
        return [_text_of(member) for member in value]
    raise ResponseError(f"header {name} is {value!r}, must be a str or a list of str")


def _file_special(head: ResponseHead, kind: int, name: str, value: Any) -> Any:
    if kind == _CONTENT_LENGTH:
        text = value if isinstance(value, str) else ""
        if not (text.isascii() and text.isdigit()):
            raise ResponseError(f"Content-Length is {value!r}, must be digits")
        if head.content_length not in (None, int(text)):
            raise ResponseError("two different Content-Length fields")
        head.content_length = int(text)
        return None
    if kind == _CONNECTION:
        tokens = list_members(", ".join(_members(name, value)))
        if "close" in tokens:
            head.give_directives().close = True
        # "A sender of Upgrade MUST also send an 'Upgrade' connection option"
        # - RFC 9110, 7.8. Every other option is hop by hop, and so ours.
        return "upgrade" if "upgrade" in tokens else None
    if kind == _FRAMING:
        return None
    if kind == _SENDFILE:
        head.give_directives().sendfile = _members(name, value)[0]
    if kind == _DATE:
        head.give_directives().dated = True
    return value


# What a 101 says itself, whatever the app's fields say.
_NOT_IN_101: Final = ("connection", "upgrade", "sec-websocket-accept", "sec-websocket-extensions")


def block_for_101(block: str) -> str:
    """The app's field lines without those that a 101 sets itself (ruling of RFC 6455, 4.2.2)."""
    # Not splitlines(): it also splits at \x0b, \x85 and others, within a value.
    return "".join(
        f"{line}\r\n"
        for line in block.split("\r\n")[:-1]
        if line.partition(":")[0].lower() not in _NOT_IN_101
    )
