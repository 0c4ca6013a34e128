"""What a parent and one of its workers say to each other: lines of JSON over a socketpair.

Parent to worker: `stop SECONDS`, `drain`, `abort`; `sockets SLOTS` and `adopt SLOT` with
sockets, `refused ERRNO TEXT`, `release SLOT`. Worker to parent: `open BIND MODE NUMBER
BACKLOG`, `ready`, `beat`, `retire WHY`, `failed CODE TEXT`. Nothing is ever unpickled.
"""

import json
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

MAX_LINE_BYTES: Final = 64 * 1024
MAX_TEXT: Final = 4000  # characters of an error's text
_MAX_DESCRIPTORS: Final = 250  # that the kernel passes on in one message (SCM_MAX_FD is 253)

Words = list[Any]
Line = tuple[Words, list[socket.socket]]


class Control:
    """One end of the line.

    Attributes:
        sock: this end.
        ended: the other end is closed, or speaks nonsense.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock: Final = sock
        self.ended = False
        self._unread = b""
        self._descriptors: Final[deque[int]] = deque()

    def send(self, *words: Any, sockets: Sequence[socket.socket] = ()) -> None:
        """Sends one line, and copies of `sockets` with it; one that cannot be taken is lost."""
        passed = [sock.fileno() for sock in sockets[:_MAX_DESCRIPTORS]]
        line = json.dumps([len(passed), *words]).encode() + b"\n"
        try:
            if passed:
                socket.send_fds(self.sock, [line], passed)
            else:
                self.sock.send(line)
        except OSError:
            # Whoever takes nothing has other troubles: it has ended, or is ended soon.
            return

    def receive(self) -> list[Line]:
        """What has arrived, with its sockets; `ended` tells whether more may come."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self.sock,
                MAX_LINE_BYTES,
                _MAX_DESCRIPTORS,
                getattr(socket, "MSG_CMSG_CLOEXEC", 0),
            )
        except BlockingIOError:
            return []
        except OSError:
            data, descriptors = b"", []
        self._descriptors.extend(descriptors)
        *lines, self._unread = (self._unread + data).split(b"\n")
        self.ended = self.ended or not data or len(self._unread) > MAX_LINE_BYTES
        return [said for line in lines if (said := self._parse(line))]

    def _parse(self, line: bytes) -> Line | None:
        try:
            match json.loads(line):
                case [int() as passed, str() as first, *others]:
                    return [first, *others], self._take_sockets(passed)
        except ValueError:
            pass
        self.ended = True
        return None

    def _take_sockets(self, count: int) -> list[socket.socket]:
        taken = []
        for _ in range(min(count, len(self._descriptors))):
            sock = socket.socket(fileno=self._descriptors.popleft())
            sock.set_inheritable(False)
            sock.setblocking(False)
            taken.append(sock)
        return taken

    def close(self) -> None:
        """Says no more."""
        self.ended = True
        self.sock.close()
        for sock in self._take_sockets(len(self._descriptors)):
            sock.close()


def make_pair() -> tuple[Control, Control]:
    """The parent's end, which never waits, and the worker's, which does until it has a loop."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return Control(ours), Control(theirs)
