"""The opening handshake of a WebSocket, server's side (RFC 6455, section 4.2)."""

import base64
import binascii
import hashlib
from typing import Final

from iodine_aio.wire.environ import Env
from iodine_aio.wire.fields import list_members

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455, 4.2.2, 5.4)."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def offers_upgrade(env: Env) -> bool:
    """True if the request may leave HTTP (RFC 9110, 7.8).

    "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0
    request"; without the connection option the field was not meant for us.
    """
    return (
        "HTTP_UPGRADE" in env
        and env["SERVER_PROTOCOL"] == "HTTP/1.1"
        and "upgrade" in list_members(env.get("HTTP_CONNECTION", ""))
    )


def refusal_status(env: Env) -> int | None:
    """Why the request is no WebSocket handshake: 426 or 400; None if it is one.

    426 asks to come back with an upgrade to version 13; 400 answers a handshake that
    is broken. RFC 6455, 4.2.1 and 4.4.
    """
    if (
        not offers_upgrade(env)
        or "websocket" not in list_members(env["HTTP_UPGRADE"])
        or env["REQUEST_METHOD"] != "GET"
        or env.get("HTTP_SEC_WEBSOCKET_VERSION") != "13"
    ):
        return 426
    # "when decoded, is 16 bytes in length" - RFC 6455, 4.2.1
    key = env.get("HTTP_SEC_WEBSOCKET_KEY", "")
    try:
        valid = len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    return None if valid else 400
