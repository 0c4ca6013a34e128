"""A request head becomes `env`: CGI, PEP 3333 and Rack keys in one plain dict.

Fields of the same name are joined as RFC 9110, 5.2 says. Names with an underscore
are dropped, since `X_Forwarded_For` would land on the key of `X-Forwarded-For`;
so is `Proxy`, which CGI programs take for their own setting, and `Version`, whose key
is that of the protocol's version.
"""

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from iodine_aio.errors import ProtocolError
from iodine_aio.wire.request_line import METHODS, is_host, split_target

Env = dict[str, Any]

# A fixed table: a memo of whatever peers send would grow without bound.
_COMMON_NAMES: Final = [
    "Accept",
    "Accept-Charset",
    "Accept-Encoding",
    "Accept-Language",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Date",
    "DNT",
    "Expect",
    "Forwarded",
    "From",
    "Host",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Keep-Alive",
    "Max-Forwards",
    "Origin",
    "Pragma",
    "Priority",
    "Range",
    "Referer",
    "Sec-CH-UA",
    "Sec-CH-UA-Mobile",
    "Sec-CH-UA-Platform",
    "Sec-Fetch-Dest",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Sec-Fetch-User",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Upgrade-Insecure-Requests",
    "User-Agent",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "X-Request-ID",
    "X-Requested-With",
]


def _spell_key(name: bytes) -> str | None:
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        return key
    return None if key in ("PROXY", "VERSION") else "HTTP_" + key


_KEYS: Final[dict[bytes, str | None]] = {
    spelling: _spell_key(spelling)
    for name in _COMMON_NAMES
    for spelling in (name.encode(), name.lower().encode())
}


def make_template(address: Any, errors: object) -> Env:
    """The part of env that all requests of one listener have in common (PEP 3333, Rack).

    Args:
        address: what the listening socket is bound to: `(host, port, ...)`, or the path
            of a unix socket.
        errors: where an app may write what goes wrong, as `wsgi.errors`.
    """
    host, port = address[:2] if isinstance(address, tuple) else ("localhost", 80)
    env: Env = {
        "SCRIPT_NAME": "",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_SOFTWARE": "iodine_aio",
        "rack.hijack?": True,
        "rack.upgrade?": None,
        "rack.version": (1, 3),
        "upgrade.sse?": False,
        "upgrade.tcp?": False,
        "upgrade.websocket?": False,
        "wsgi.input_terminated": True,
        "wsgi.version": (1, 0),
    }
    for key, value in (
        ("errors", errors),
        ("multiprocess", False),
        ("multithread", False),
        ("run_once", False),
        ("url_scheme", "http"),
    ):
        env[f"wsgi.{key}"] = env[f"rack.{key}"] = value
    return env


def describe_line(method: bytes, target: bytes, version: bytes) -> tuple[Env, str | None]:
    """What a request line says, as keys of env, and the authority of its target, if there is one.

    Args:
        method, target, version: valid, as `parse_request_line` has them.

    Raises:
        ProtocolError: 400, the target is malformed.

    PEP 3333, "environ Variables"; RFC 9112, 3.2.
    """
    try:
        uri = target.decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolError("target is not ASCII", status=400) from None
    verb, protocol = METHODS[method], version.decode()
    path, query, authority = split_target(verb, uri)
    env = {
        "REQUEST_METHOD": verb,
        "REQUEST_URI": uri,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1") if "%" in path else path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": protocol,
        "HTTP_VERSION": protocol,
    }
    return env, authority


def build_env(
    template: Env, said: Env, authority: str | None, fields: Iterable[tuple[bytes, bytes]]
) -> Env:
    """The env of one request: `template` and `said`, completed by the request's fields.

    Args:
        template: what all requests of the connection have in common.
        said, authority: by the request line, as `describe_line` has it.
        fields: names and values as received.

    Raises:
        ProtocolError: 400, the Host is missing, doubled or malformed.
    """
    env = template | said
    for name, value in fields:
        key = _KEYS.get(name)
        if key is None:
            key = _spell_key(name)
            if key is None:
                continue
        # Not str.strip() alone: it also removes \x0b and \x85, which a proxy may keep.
        text = value.decode("latin-1").strip(" \t")
        if key in env:
            if key == "HTTP_HOST":
                raise ProtocolError("more than one Host", status=400)
            joint = "; " if key == "HTTP_COOKIE" else ", "
            text = env[key] + joint + text
        env[key] = text
    host = env.get("HTTP_HOST")
    if host is None:
        # "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
        # request message that lacks a Host header field" - RFC 9112, 3.2
        if env["SERVER_PROTOCOL"] == "HTTP/1.1":
            raise ProtocolError("no Host", status=400)
    elif not is_host(host):
        raise ProtocolError("malformed Host", status=400)
    if authority is not None:
        # "the origin server MUST ignore the received Host header field (if any) and
        # instead use the host information of the request-target" - RFC 9112, 3.2.2
        env["HTTP_HOST"] = authority
    return env
