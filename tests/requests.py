"""Requests, as the bytes that clients send.

GET asks for the connection to be closed, KEPT keeps it; HANDSHAKE opens a WebSocket at
/chat. `encode_handshake` makes one that differs, `encode_upgrade` asks for another
protocol than WebSocket.
"""

from collections.abc import Sequence

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of KEY: RFC 6455, 1.3
HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def encode_handshake(
    *,
    target: str = "/",
    method: str = "GET",
    key: str | None = KEY,
    version: str | None = "13",
    fields: Sequence[str] = (),
    http: str = "1.1",
) -> bytes:
    """A WebSocket handshake; without the fields whose value is None."""
    lines = [f"{method} {target} HTTP/{http}", "Host: h", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", *fields]
    if key is not None:
        lines.append(f"Sec-WebSocket-Key: {key}")
    if version is not None:
        lines.append(f"Sec-WebSocket-Version: {version}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def encode_upgrade(*fields: str, upgrade: str = "echo") -> bytes:
    """An upgrade request to something else than a WebSocket."""
    lines = ["GET / HTTP/1.1", "Host: h", f"Upgrade: {upgrade}", "Connection: upgrade", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
