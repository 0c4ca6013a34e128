"""Where one server listens: its binds, and once they are open their sockets, urls and ports."""

import socket
from collections.abc import Sequence
from typing import Final

from iodine_aio.binds import Bind, Opener, remove_unix_socket, socket_url


class Addresses:
    """The places where one server listens.

    Attributes:
        scheme: what its urls begin with.
        sockets: those that listen; of one bind there may be several.
        urls: one for each bind that was opened, in their order.
        ports: the same; 0 for a unix socket.
    """

    def __init__(self, binds: Sequence[Bind]) -> None:
        self.scheme = "http"
        self.sockets: list[socket.socket] = []
        self.urls: list[str] = []
        self.ports: list[int] = []
        self._binds: Final = list(binds)

    def open(self, opener: Opener, backlog: int) -> None:
        """Opens all of them; what was open before is somebody else's.

        Raises:
            OSError: one cannot be listened on; those before it are open.
        """
        self.sockets, self.urls, self.ports = [], [], []
        for bind in self._binds:
            found = opener(bind, backlog)
            self.sockets.extend(found)
            self.urls.append(socket_url(found[0], self.scheme))
            name = found[0].getsockname()
            self.ports.append(name[1] if isinstance(name, tuple) else 0)

    def close(self) -> None:
        """Closes the sockets, and removes the files of unix sockets; urls and ports are told on."""
        for sock in self.sockets:
            remove_unix_socket(sock)
            sock.close()
        self.sockets.clear()

    def adopt(self, sock: socket.socket) -> bool:
        """Takes over a socket that listens where another one does; False if there is none."""
        if not any(sock.getsockname() == other.getsockname() for other in self.sockets):
            return False
        self.sockets.append(sock)
        return True

    def release(self, sock: socket.socket) -> bool:
        """Gives back a socket, open as it is; False if it is not among them."""
        if sock not in self.sockets:
            return False
        self.sockets.remove(sock)
        return True
