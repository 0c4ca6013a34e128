"""Patterns of channel names: `*`, `?`, `[a-z]`, `[!a-z]`, and a backslash before any of these.

A pattern is a machine whose states are the bits of one integer, and that takes one step a
character: no text makes it go back, as it would a regular expression.
"""

import functools
from collections.abc import Iterator
from typing import Final

from iodine_aio.errors import UsageError

MAX_KNOWN: Final = 256  # characters whose mask a pattern remembers

# What one place of a pattern takes: ranges of code points, and whether all but these.
_Place = tuple[bool, tuple[tuple[str, str], ...]]
_ANY: Final[_Place] = (True, ())


class Pattern:
    """A compiled pattern.

    Attributes:
        text: as it was written.
    """

    __slots__ = ("_loops", "_masks", "_places", "_prefix", "_start", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self._places: Final[list[_Place]] = []
        self._loops = 0  # bit i: a star stands before place i
        self._parse(text)
        self._masks: Final[dict[str, int]] = {}
        prefix = ""
        for place, (negated, ranges) in enumerate(self._places):
            if negated or self._loops & 1 << place or not _is_one(ranges):
                break
            prefix += ranges[0][0]
        self._prefix: Final = prefix
        self._start: Final = 1 << len(prefix)

    def matches(self, channel: str) -> bool:
        """True if all of `channel` is as the pattern says; upper case is not lower case."""
        if not channel.startswith(self._prefix):
            return False
        end = 1 << len(self._places)
        loops, masks = self._loops, self._masks
        state = self._start  # bit i: the text so far may have filled i places
        for character in channel[len(self._prefix) :]:
            if state & loops & end:
                return True  # a star at the end takes whatever is left
            mask = masks.get(character)
            if mask is None:
                mask = self._find_mask(character)
            state = (state & mask) << 1 | state & loops
            if not state:
                return False
        return bool(state & end)

    def places(self) -> Iterator[tuple[bool, _Place]]:
        """For each place whether a star stands before it, and what it takes."""
        for number, place in enumerate(self._places):
            yield bool(self._loops & 1 << number), place

    @property
    def open_end(self) -> bool:
        """True if a star stands behind the last place."""
        return bool(self._loops & 1 << len(self._places))

    def _find_mask(self, character: str) -> int:
        """Bit i: place i takes `character`."""
        mask = 0
        for place, (negated, ranges) in enumerate(self._places):
            if any(low <= character <= high for low, high in ranges) is not negated:
                mask |= 1 << place
        if len(self._masks) >= MAX_KNOWN:
            self._masks.clear()
        self._masks[character] = mask
        return mask

    def _parse(self, text: str) -> None:
        position = 0
        while position < len(text):
            character = text[position]
            position += 1
            if character == "*":
                self._loops |= 1 << len(self._places)
            elif character == "?":
                self._places.append(_ANY)
            elif character == "[":
                place, position = _parse_class(text, position)
                self._places.append(place)
            else:
                if character == "\\":
                    character, position = _take(text, position - 1)
                self._places.append((False, ((character, character),)))


def _is_one(ranges: tuple[tuple[str, str], ...]) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _take(text: str, position: int) -> tuple[str, int]:
    """The character at `position`, or that behind a backslash; and where it ends."""
    escaped = text[position : position + 1] == "\\"
    end = position + 1 + escaped
    if end > len(text):
        what = "ends in a backslash" if escaped else "has a [ without its ]"
        raise UsageError(f"pattern {text!r} {what}")
    return text[end - 1], end


def _parse_class(text: str, position: int) -> tuple[_Place, int]:
    """What stands between [ and ]; `position` is behind the [."""
    negated = text[position : position + 1] in ("!", "^")
    position += negated
    ranges: list[tuple[str, str]] = []
    while text[position : position + 1] != "]" or not ranges:  # a ] in front is one of them
        low, position = _take(text, position)
        high = low
        if text[position : position + 1] == "-" and text[position + 1 : position + 2] != "]":
            high, position = _take(text, position + 1)
        if high < low:
            raise UsageError(f"pattern {text!r}: {low}-{high} is no range")
        ranges.append((low, high))
    return (negated, tuple(ranges)), position + 1


@functools.lru_cache(maxsize=1024)
def compile_pattern(text: str) -> Pattern:
    """The pattern that `text` says; the same object for the same text, as a rule.

    Raises:
        UsageError: a [ has no ], a range runs backwards, or nothing follows a backslash.
    """
    return Pattern(text)
