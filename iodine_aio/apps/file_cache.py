"""What was found under a path, kept for a while, within bounds."""

from collections import OrderedDict
from typing import Final

from iodine_aio.apps.representation import Representation

MAX_ENTRIES: Final = 4096
ENTRY_BYTES: Final = 2048  # what an entry is taken to need beside its path and content


class Entry:
    """What a path leads to; where it has neither form nor redirect, to no file.

    Args:
        forms: the file's representations by their coding; "identity" is among them.
        redirect: the path to go to where it is a folder without its slash.

    Attributes:
        plain: the bare representation, None if there is no file.
        codings: the others, the best liked first.
        check_at: in the clock's time, when it has to be looked at again.
        used: since the cache went over it.
    """

    __slots__ = ("check_at", "codings", "forms", "plain", "redirect", "used")

    def __init__(
        self, forms: dict[str, Representation] | None = None, redirect: str | None = None
    ) -> None:
        self.forms: Final = forms or {}
        self.plain: Final = self.forms.get("identity")
        self.codings: Final = tuple(name for name in self.forms if name != "identity")
        self.redirect: Final = redirect
        self.check_at = 0.0
        self.used = True

    @property
    def weight(self) -> int:
        """Bytes that it keeps in memory."""
        return sum(len(form.content) for form in self.forms.values() if form.content is not None)


class FileCache:
    """Entries by path, bounded in number and in bytes.

    What goes first is what came first, unless it was used since it was last looked over:
    a hit then costs an attribute, not a move in a list.

    Args:
        max_bytes: of all entries together.
    """

    __slots__ = ("_bytes", "_entries", "_max_bytes", "get")

    def __init__(self, max_bytes: int) -> None:
        self._entries: Final[OrderedDict[str, Entry]] = OrderedDict()
        self._max_bytes: Final = max_bytes
        self._bytes = 0
        self.get: Final = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """What the entries weigh."""
        return self._bytes

    def put(self, path: str, entry: Entry) -> None:
        """Keeps `entry`, in the place of what was there, and drops what is too much."""
        entries = self._entries
        old = entries.pop(path, None)
        if old is not None:
            self._bytes -= _weigh(path, old)
        entries[path] = entry
        self._bytes += _weigh(path, entry)
        while self._bytes > self._max_bytes or len(entries) > MAX_ENTRIES:
            first, oldest = entries.popitem(last=False)
            if oldest.used:
                oldest.used = False
                entries[first] = oldest
            else:
                self._bytes -= _weigh(first, oldest)


def _weigh(path: str, entry: Entry) -> int:
    return ENTRY_BYTES + len(path) + entry.weight
