"""A Redis of a test's own: a real redis-server, on a unix socket in the test's folder.

It listens to no port, so that nothing can be taken by another test.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PROGRAM: Final = shutil.which("redis-server")

_SECONDS: Final = 40  # the machine may be busy
_LOOK_SECONDS: Final = 0.005


class RedisServer:
    """The process, which may be killed and come back.

    Attributes:
        url: where it is, also while it is not running.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "redis.sock"
        self.url = f"unix://{self._path}"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    def start(self, *options: str) -> Self:
        """Begins to answer."""
        import redis

        assert PROGRAM is not None
        self._path.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(PROGRAM, "--port", "0", "--unixsocket", str(self._path), "--save", ""),
                *("--appendonly", "no", "--logfile", "redis.log", *options),
            ],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _SECONDS
        self._client = redis.Redis(unix_socket_path=str(self._path))
        while True:
            try:
                self._client.ping()
                return self
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                assert self._process.poll() is None, "redis-server has ended"
                assert time.monotonic() < deadline
                time.sleep(_LOOK_SECONDS)

    def kill(self) -> None:
        """Ends it as a power cut does."""
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It stays there, and answers nobody."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It answers again."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def command(self, *words: Any) -> Any:
        """What it answers to a command."""
        return self._client.execute_command(*words)

    def listeners(self, channel: str) -> int:
        """How many connections have subscribed to a channel."""
        return int(self.command("PUBSUB", "NUMSUB", channel)[1])

    @property
    def connections(self) -> int:
        """How many there are, this one's own too."""
        return len(self.command("CLIENT", "LIST").splitlines())

    @property
    def patterns(self) -> int:
        """How many different patterns are subscribed to."""
        return int(self.command("PUBSUB", "NUMPAT"))

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._end()  # nobody else would
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self.resume()
        self.kill()
