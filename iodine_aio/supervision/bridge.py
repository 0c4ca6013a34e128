"""The process between the hub of a server with workers and Redis, as the parent sees it."""

import os
import socket
import subprocess
import sys
import time
from typing import Final

from iodine_aio.errors import EXIT_STARTUP, StartupError
from iodine_aio.logs import error_log
from iodine_aio.pubsub.hub import Hub

_NEVER: Final = float("inf")
_PAUSE: Final = 1.0  # seconds before a bridge that has ended is replaced
_LAST_SECONDS: Final = 3.0

# The URL is not said on the command line: everybody can read that, and its password.
_PROGRAM: Final = """
import os, socket, sys
from iodine_aio.errors import EXIT_STARTUP, UsageError
from iodine_aio.logs import log_to_stderr
from iodine_aio.pubsub.bridge import run_bridge
log_to_stderr(False)
try:
    run_bridge(socket.socket(fileno=int(sys.argv[1])), os.environ.pop("_IODINE_BRIDGE_URL"))
except UsageError as error:
    print(f"iodine_aio: {error}", file=sys.stderr)
    sys.exit(EXIT_STARTUP)
"""


class Bridge:
    """Starts that process, and another one when it has ended.

    Not forked but a program of its own: it needs nothing of the server, and a loop.

    Attributes:
        due: when `look` has something to do, unless a signal comes first.
    """

    def __init__(self, url: str, hub: Hub) -> None:
        self.due = 0.0
        self._url: Final = url
        self._hub: Final = hub
        self._process: subprocess.Popen[bytes] | None = None
        self._replaced = False
        self._sock: socket.socket

    def look(self, now: float) -> None:
        """Starts it where it is due, and sees whether it has ended.

        Raises:
            StartupError: not even the first could begin; it has said why.
        """
        code = None if self._process is None else self._process.poll()
        if code == EXIT_STARTUP and not self._replaced:
            raise StartupError("the bridge to Redis cannot begin")
        if code is not None:
            self._replaced = True
            error_log.error("the bridge to Redis has ended; another takes its place")
            self._hub.remove(self._sock)
            self._process = None
            self.due = now + _PAUSE
        if self.due <= now:
            self.due = _NEVER
            self._start()

    def close(self) -> None:
        """Ends it, when it has carried what it was given."""
        self.due = _NEVER
        if self._process is None:
            return
        self._hub.remove(self._sock)
        try:
            self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, "_IODINE_BRIDGE_URL": self._url},
                    process_group=0,  # signals of a terminal are the parent's business
                )
            except OSError as error:
                self._sock.close()
                error_log.error("the bridge to Redis cannot be started: %s", error)
                self.due = time.monotonic() + _PAUSE
                return
        self._hub.add(self._sock, "the bridge to Redis", bridge=True)
