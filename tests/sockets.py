"""Blocking sockets, for tests whose server is in another process or thread."""

import socket


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or what there was of them when the connection ended."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def read_to_end(sock: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    return b"".join(iter(lambda: sock.recv(65536), b""))
