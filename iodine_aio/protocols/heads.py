"""A request head, once it is complete: the line by us, the fields by llhttp.

Since a head is parsed in one go, a server needs one parser, and a connection none.
"""

import functools
from typing import Final

import httptools

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.environ import Env, build_env, describe_line
from iodine_aio.wire.request_line import parse_request_line

# What the operator should hear of, once: clients that speak something else to this port.
_TLS: Final = "a TLS handshake on a plain HTTP port"
_HTTP2: Final = "HTTP/2 with prior knowledge, which is not spoken here"
TELLING: Final = frozenset((_TLS, _HTTP2))


MAX_RECALLED: Final = 256  # bytes of a request line that is kept


def _read_line(line: bytes) -> tuple[Env, str | None]:
    return describe_line(*parse_request_line(line))


# Most requests are for what was asked for before. What it returns is copied, never changed.
_recall_line: Final = functools.lru_cache(maxsize=512)(_read_line)


class HeadParser:
    """Parses heads, one whole head at a time; also what httptools calls back.

    The parser of httptools is made anew, unless the last head left it as new: it was a
    whole HTTP/1.1 message without a field that may end the connection. Not to be shared
    between threads.

    Attributes:
        fields: those of the last head, names and values as received.
    """

    __slots__ = ("_complete", "_parser", "_whole", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self._parser: httptools.HttpRequestParser | None = None
        self._complete = False
        self._whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._complete = True

    def on_message_complete(self) -> None:
        self._whole = True

    def parse(self, head: bytes, template: Env) -> Env:
        """The env of a request head, given from its first byte to the empty line.

        Raises:
            ProtocolError: 400, 501 or 505.
        """
        line = head.partition(b"\r\n")[0]
        try:
            said, authority = (_recall_line if len(line) <= MAX_RECALLED else _read_line)(line)
        except ProtocolError:
            _refuse_http2(head)
            raise
        fields = self.fields = []
        parser = self._parser
        if parser is None:
            parser = httptools.HttpRequestParser(self)
        self._parser = None
        self._complete = self._whole = False
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._whole = False  # said of every request that offers one, before anybody decided
        except httptools.HttpParserError as error:
            raise ProtocolError(f"malformed head: {error}", status=400) from None
        if not self._complete:
            raise ProtocolError("malformed head", status=400)
        env = build_env(template, said, authority, fields)
        if (
            self._whole
            and env["SERVER_PROTOCOL"] == "HTTP/1.1"
            and "HTTP_CONNECTION" not in env
            and "HTTP_PROXY_CONNECTION" not in env  # which llhttp takes for the same
        ):
            self._parser = parser
        return env


def check_partial_head(data: bytes, max_head_bytes: int) -> None:
    """Refuses what cannot become a request any more, though its end is not there.

    The verdict depends on the bytes alone, never on how they were cut into reads.

    Args:
        data: a head without its end, or one that is longer than allowed.
        max_head_bytes: more than this is refused.

    Raises:
        ProtocolError: 400, 414, 431, 501 or 505.
    """
    window = data[:max_head_bytes]
    if window[0] == 0x16:
        raise ProtocolError(_TLS, status=400)
    line_end = window.find(b"\r\n")
    bare_lf = _find_bare_lf(window)
    if (
        window[0] <= 32
        or window[0] >= 127
        or 0 <= bare_lf < line_end
        or (line_end < 0 and bare_lf >= 0)
    ):
        raise ProtocolError("not a request line", status=400)
    if line_end >= 0:
        _refuse_http2(window)
        parse_request_line(window[:line_end])
    if bare_lf >= 0:
        raise ProtocolError("bare LF in the head", status=400)
    if len(data) > max_head_bytes:
        if line_end < 0:
            raise ProtocolError("request line too long", status=414)
        raise ProtocolError(f"head longer than {max_head_bytes} bytes", status=431)


def _find_bare_lf(data: bytes) -> int:
    # Asked at every byte of a head that comes byte by byte: no loop over its lines.
    if data.count(b"\n") == data.count(b"\r\n"):
        return -1
    at = data.find(b"\n")
    while at > 0 and data[at - 1] == 13:
        at = data.find(b"\n", at + 1)
    return at


def _refuse_http2(head: bytes) -> None:
    # The connection preface of RFC 9113, 3.4.
    if head.startswith(b"PRI * HTTP/2.0\r\n"):
        raise ProtocolError(_HTTP2, status=505)
