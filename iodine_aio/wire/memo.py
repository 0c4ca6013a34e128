"""Heads that were made lately: what most apps say, they say again and again."""

from collections.abc import Callable
from typing import Any, Final

from iodine_aio.wire.response import NO_DIRECTIVES, ResponseHead

MAX_KEPT: Final = 128
MAX_BLOCK: Final = 1024  # characters of a head that is kept


class HeadMemo:
    """Makes heads, and keeps them for responses that say the same.

    Args:
        make: makes one of a status, and of headers as the app gave them.
    """

    __slots__ = ("_kept", "_make")

    def __init__(self, make: Callable[[Any, Any], ResponseHead]) -> None:
        self._make: Final = make
        self._kept: Final[dict[Any, ResponseHead]] = {}

    def find(self, status: Any, headers: Any) -> ResponseHead:
        """The head that says this, which others may have, too.

        Raises:
            Exception: as `make` does.
        """
        kind = type(headers)
        if kind is tuple:
            pairs = headers
        elif kind is list:
            pairs = tuple(headers)
        elif kind is dict:
            pairs = tuple(headers.items())
        else:  # perhaps an iterator, to be read once
            return self._make(status, headers)
        # The types, too: 200.0, which is no status, equals 200.
        key = (kind, type(status), status, pairs)
        try:
            head = self._kept.get(key)
        except TypeError:  # it has a list in it, which may change
            return self._make(status, headers)
        if head is None:
            head = self._make(status, kind(pairs))  # of what the key has, whoever changes it
            # A callable in it would be kept, too, with all that it refers to.
            if head.directives is NO_DIRECTIVES and len(head.block) <= MAX_BLOCK:
                if len(self._kept) >= MAX_KEPT:
                    self._kept.clear()
                self._kept[key] = head
        return head
