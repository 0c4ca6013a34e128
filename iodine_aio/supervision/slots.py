"""The listening sockets of a server with workers: one a slot where the platform has it.

They belong to the parent, which opens them and never accepts. A worker gets copies of those
of its slot; when it ends, who waits in their backlog is served by the next worker there. The
sockets of a slot without a worker are kept by that of another one: closing one of several
sockets of an address would cut who waits there.
"""

import os
import socket
import sys
from collections.abc import Collection
from typing import Final

from iodine_aio.binds import Bind, open_socket, remove_unix_socket

# Elsewhere SO_REUSEPORT is no share of the load: there, one socket gets everything.
_ONE_A_SLOT: Final = sys.platform.startswith("linux")

Key = tuple[str, int]  # a bind as it is written, and how many of the same came before


class _Listening:
    """The sockets of one bind."""

    __slots__ = ("backlog", "bind", "shared", "sockets")

    def __init__(self, bind: Bind, backlog: int, slot: int) -> None:
        self.bind = bind
        self.backlog = backlog
        self.shared = bind.host is None or not _ONE_A_SLOT
        first = open_socket(bind, backlog, share_port=not self.shared)
        self.sockets = {slot: first}

    @property
    def first(self) -> socket.socket:
        return next(iter(self.sockets.values()))

    def socket_of(self, slot: int) -> socket.socket:
        if slot not in self.sockets:
            self.sockets[slot] = self._open_another()
        return self.sockets[slot]

    def _open_another(self) -> socket.socket:
        sock = socket.socket(self.first.family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(self.first.getsockname())
            sock.listen(self.backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        for sock in self.sockets.values():
            remove_unix_socket(sock)
            sock.close()


class SlotSockets:
    """Opens, keeps and closes them."""

    def __init__(self) -> None:
        self._listening: Final[dict[Key, _Listening]] = {}
        self._keepers: Final[dict[int, int]] = {}  # slot without a worker -> its keeper

    def open(
        self, bind: Bind, number: int, backlog: int, slot: int
    ) -> list[tuple[int | None, socket.socket]]:
        """What `slot` accepts from for `bind`, each with the slot that it belongs to; None: to all.

        Args:
            number: how many listeners with the same bind came before.
            backlog: how many connections may wait, of each socket.

        Raises:
            OSError: the address cannot be listened on.
        """
        key = (str(bind), number)
        listening = self._listening.get(key)
        if listening is None:
            listening = self._listening[key] = _Listening(bind, backlog, slot)
        if listening.shared:
            return [(None, listening.first)]
        found: list[tuple[int | None, socket.socket]] = [(slot, listening.socket_of(slot))]
        for lent, keeper in self._keepers.items():
            if keeper == slot and lent in listening.sockets:
                found.append((lent, listening.sockets[lent]))
        return found

    def lend(self, slot: int, keeper: int) -> list[socket.socket]:
        """The sockets of `slot`, which `keeper` accepts from until `take_back`."""
        self._keepers[slot] = keeper
        return [
            listening.sockets[slot]
            for listening in self._listening.values()
            if not listening.shared and slot in listening.sockets
        ]

    def take_back(self, slot: int) -> int | None:
        """The slot that is not to accept from the sockets of `slot` any more, if any."""
        return self._keepers.pop(slot, None)

    def kept_by(self, keeper: int) -> list[int]:
        """The slots whose sockets are lent to `keeper`."""
        return [lent for lent, other in self._keepers.items() if other == keeper]

    def close_unused(self, used: Collection[Key]) -> None:
        """Listens no more where no worker does: new code may have other listeners."""
        for key in [key for key in self._listening if key not in used]:
            self._listening.pop(key).close()

    def close(self) -> None:
        """Listens no more."""
        self.close_unused(())

    def close_in_child(self) -> None:
        """Closes this process's descriptors; all of it goes on in the parent."""
        for listening in self._listening.values():
            for sock in listening.sockets.values():
                # Detached, so that nothing here ever removes the file of a unix socket.
                os.close(sock.detach())
        self._listening.clear()
