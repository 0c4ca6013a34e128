"""How many descriptors, and so connections, this process may have open.

Below the ceiling, connections are served. From there to the brim, they are told that there
is no room, and keep their descriptor until they have read that. From the brim to the limit
is what files need, and what is accepted before anybody can look.
"""

import fcntl
import os
import resource
import sys
from typing import Final, NamedTuple

RESERVED_DESCRIPTORS: Final = 64

# Tried in turn where the hard limit is no number, or more than the kernel grants
# (macOS: "unlimited", but OPEN_MAX, 10240, is all that is granted).
DESCRIPTOR_LIMITS: Final = (1 << 20, 1 << 16, 10240, 4096)


class Levels(NamedTuple):
    """How full of descriptors a process may be.

    Attributes:
        ceiling: a connection whose descriptor is not below it is turned away.
        brim: after one that is not below this, none is accepted for a while.
        limit: there is no such descriptor.
    """

    ceiling: int
    brim: int
    limit: int


def make_levels(limit: int) -> Levels:
    """The levels of a process that may have `limit` descriptors."""
    reserve = min(RESERVED_DESCRIPTORS, limit // 4)
    return Levels(limit - reserve, limit - reserve // 2, limit)


def below_brim(levels: Levels, fd: int) -> bool:
    """True if a good part of what lies between the ceiling and the brim is free again.

    Args:
        fd: any descriptor that is open; copies of it find out which ones are free.
    """
    wanted = max(1, (levels.brim - levels.ceiling) // 2)
    # Those that a burst took above the brim must not add up from burst to burst.
    beyond = (levels.brim + levels.limit) // 2
    copies: list[int] = []
    try:
        # The kernel gives out the lowest that is free, from the number on that it is told.
        while len(copies) < wanted:
            copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0))
            if copies[-1] >= levels.brim:
                return False
        copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond))
        return copies[-1] == beyond
    except OSError:  # not even one
        return False
    finally:
        for copy in copies:
            os.close(copy)


def descriptor_limit() -> int:
    """How many descriptors this process may have open; `sys.maxsize` where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors as far as it goes, and return what is in force.

    Best effort: where the kernel grants nothing more, the limit stays as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (hard, resource.RLIM_INFINITY):
        return descriptor_limit()
    wanted = DESCRIPTOR_LIMITS if hard == resource.RLIM_INFINITY else (hard, *DESCRIPTOR_LIMITS)
    for limit in wanted:
        if limit <= soft:
            break
        if hard != resource.RLIM_INFINITY and limit > hard:
            continue
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            continue
        break
    return descriptor_limit()
