"""The request line: method, target and version (RFC 9112, section 3).

httptools reads fields; the line is read here, because llhttp is lenient with it
(several spaces, RTSP, HTTP/0.9) and reports unknown methods and garbage alike.
"""

import functools
import re
from typing import Final

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.fields import is_token

# What llhttp takes in an HTTP request, CONNECT left out: it asks for a tunnel.
METHODS: Final = {
    name.encode(): name
    for name in (
        "ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR"
        " MKCOL MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT"
        " SEARCH SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE"
    ).split()
}
_VERSIONS: Final = frozenset((b"HTTP/1.1", b"HTTP/1.0"))


def parse_request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and version of a request line given without its CRLF.

    Raises:
        ProtocolError: 400 malformed; 501 a method nobody here knows; 505 a version
            other than HTTP/1.0 and HTTP/1.1.

    RFC 9112, 3: "recipients of an invalid request-line SHOULD respond with either a
    400 (Bad Request) error"; white space is taken strictly, as 3.2 advises.
    """
    parts = line.split(b" ")
    if len(parts) == 3:
        method, target, version = parts
        if version in _VERSIONS and method in METHODS and target:
            return method, target, version
    else:
        method, target, version = parts[0], parts[1] if len(parts) == 2 else b"", b""
    # Before all other verdicts: it is known before the line's end is.
    if b"\n" in line:
        raise ProtocolError("bare LF in the request line", status=400)
    if not is_token(method.decode("latin-1")):
        raise ProtocolError("request line without a method", status=400)
    if len(parts) == 2 and method == b"GET" and target.startswith(b"/"):
        raise ProtocolError("HTTP/0.9 request", status=505)
    if len(parts) != 3 or not target:
        raise ProtocolError("malformed request line", status=400)
    if version not in _VERSIONS:
        if len(version) == 8 and version[:5] == b"HTTP/" and _is_dotted_digits(version[5:]):
            raise ProtocolError(f"version {version.decode()} is not spoken here", status=505)
        raise ProtocolError("malformed version", status=400)
    raise ProtocolError(f"method {method.decode()} is not implemented", status=501)


def _is_dotted_digits(text: bytes) -> bool:
    return text[:1].isdigit() and text[1:2] == b"." and text[2:].isdigit()


def split_target(method: str, target: str) -> tuple[str, str, str | None]:
    """Path, query and authority of a request target, which is not empty.

    The path is still percent-encoded; the authority is None unless the target is in
    absolute form.

    Raises:
        ProtocolError: 400, the target has none of the forms a server is sent.

    RFC 9112, 3.2.
    """
    text = target
    authority: str | None = None
    if target[0] != "/":
        if target == "*" and method == "OPTIONS":
            return "*", "", None
        scheme, colon, rest = target.partition("://")
        if not colon or scheme.lower() not in ("http", "https"):
            raise ProtocolError("target in no known form", status=400)
        end = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
        authority = rest[:end]
        # "A recipient SHOULD parse for userinfo and treat its presence as an error"
        # - RFC 9110, 4.2.4
        if not authority or "@" in authority or not is_host(authority):
            raise ProtocolError("target with a bad authority", status=400)
        text = rest[end:]
        if not text.startswith("/"):
            text = "/" + text
    # A fragment is never sent (RFC 9110, 7.1): who sends one wants to be misread.
    if "#" in text:
        raise ProtocolError("target with a fragment", status=400)
    path, _, query = text.partition("?")
    return path, query, authority


_HOST_CHARACTERS: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%:[]"
)


# Most of them, at a glance.
_PLAIN_HOST: Final = re.compile(r"[0-9A-Za-z.\-]+(?::[0-9]+)?")


@functools.lru_cache(maxsize=64)  # nearly all requests of a server name the same one
def is_host(value: str) -> bool:
    """True if `value` can be a Host: a name or address and perhaps a port.

    Not the full grammar: it refuses what routes a request astray (white space,
    slashes, user names, two ports). RFC 9110, 7.2; RFC 3986, 3.2.2.
    """
    if _PLAIN_HOST.fullmatch(value):
        return True
    if not _HOST_CHARACTERS.issuperset(value):
        return False
    if value.startswith("["):
        address, bracket, port = value[1:].partition("]")
        if not bracket or "[" in address or (port and port[0] != ":"):
            return False
        port = port[1:]
    else:
        name, _, port = value.partition(":")
        if "[" in name or "]" in name or "," in name:
            return False
    return port == "" or (port.isascii() and port.isdigit())
