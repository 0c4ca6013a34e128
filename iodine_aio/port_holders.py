"""Who holds a TCP port that cannot be listened on.

To name the holder is a courtesy of an error's text: what cannot be told is left out.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

HOLDER_SECONDS: Final = 0.2  # for the search, which must not make a failing start slow


def find_holder(port: int) -> str | None:
    """Who listens on a TCP port, as in `pid 4242 "python -m web"`; None if it cannot be told.

    Reads `/proc`, so on Linux only, for `HOLDER_SECONDS` at most; the processes
    of other users are seen by root only.
    """
    if not sys.platform.startswith("linux"):
        return None
    deadline = time.monotonic() + HOLDER_SECONDS
    with suppress(OSError):
        wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port, deadline)}
        if not wanted:
            return None
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
                for descriptor in descriptors:
                    if time.monotonic() > deadline:
                        return None
                    if os.readlink(descriptor.path) in wanted:
                        return f"pid {pid}{_command_line(pid)}"
    return None


def _listening_inodes(port: int, deadline: float) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table) as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                # The kernel lists those that listen (0A) before all connections.
                if fields[3] != "0A" or time.monotonic() > deadline:
                    break
                if int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _command_line(pid: str) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(200).replace(b"\0", b" ").decode("utf-8", "replace").split()
        # What another user's process calls itself must not rule our terminal.
        text = "".join(c for c in " ".join(words) if c.isprintable())
        return f' "{text[:60]}"' if text else ""
    return ""
