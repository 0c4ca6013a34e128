"""How often the garbage collector runs in a process that does nothing but serve."""

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

# New containers until the collector looks for cycles among them. Python's own number is for
# programs of any kind; a few hundred requests in hand reach it by what they will free without
# any help, and are looked over again and again.
_YOUNG_OBJECTS: Final = 10_000


@contextlib.contextmanager
def settled_collector() -> Iterator[None]:
    """Around the loading of an app: what it has made stays, and is not looked over again.

    An app that sets the collector's thresholds itself, or ends it, keeps what it has set.
    """
    found = gc.get_threshold()
    yield
    gc.collect()
    gc.freeze()
    if gc.get_threshold() == found:
        gc.set_threshold(max(found[0], _YOUNG_OBJECTS), *found[1:])
