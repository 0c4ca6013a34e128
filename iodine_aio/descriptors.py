"""How many descriptors, and so connections, this process may have open."""

import resource
import sys
from typing import Final

# Tried in turn where the hard limit is no number, or more than the kernel grants
# (macOS: "unlimited", but OPEN_MAX, 10240, is all that is granted).
DESCRIPTOR_LIMITS: Final = (1 << 20, 1 << 16, 10240, 4096)


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
