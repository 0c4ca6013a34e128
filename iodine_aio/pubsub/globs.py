"""Patterns of Redis: ours in its words, and the copies of a message that they bring.

Redis compares bytes, and hands a message over once for each pattern that matches.
"""

from collections.abc import Iterable

from iodine_aio.pubsub.patterns import Pattern


def encode_glob(pattern: Pattern) -> bytes:
    """A pattern of Redis that matches all that `pattern` does.

    The language is the same but for two things. To Redis `?` and a class stand for one
    byte, so that its `?` does not match "é"; where a character may be longer, it is asked
    for more than is wanted, and the broker's own patterns decide. And to Redis only `^`
    negates a class, here `!` does so too.
    """
    parts: list[str] = []
    anything = False  # a star is due
    for star, (negated, ranges) in pattern.places():
        anything = anything or star
        single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
        if negated or not (single or all(high.isascii() for _, high in ranges)):
            # A byte and whatever follows; its star waits, so that there are no two.
            parts.append("?")
            anything = True
            continue
        parts.append("*" * anything)
        anything = False
        parts.append(_escape(ranges[0][0]) if single else _encode_class(ranges))
    parts.append("*" * (anything or pattern.open_end))
    return "".join(parts).encode()


def _encode_class(ranges: Iterable[tuple[str, str]]) -> str:
    text = ""
    for low, high in ranges:
        if low == high:
            text += _escape(low)
        elif low in "\\]^":  # no backslash works in front of a range
            return "?"
        else:
            text += f"{low}-{high}"
    return f"[{text}]"


def _escape(character: str) -> str:
    return f"\\{character}" if character in "*?[]^-\\" else character


class Copies:
    """Tells messages from their copies.

    A message that is published once comes once for its channel, where that is subscribed
    to, and once for each pattern that matches; all of them in a row, and no answer to a
    command between them.
    """

    __slots__ = ("_message", "_seen")

    def __init__(self) -> None:
        self._message: tuple[bytes, bytes] | None = None
        self._seen: set[bytes | None] = set()

    def is_copy(self, glob: bytes | None, channel: bytes, value: bytes) -> bool:
        """True if this one came before; `glob` is None of what came for its channel."""
        message = (channel, value)
        seen = self._seen
        # The channel's own comes first. And the same one twice is another message.
        if message != self._message or glob is None or glob in seen:
            self._message = message
            seen.clear()
            seen.add(glob)
            return False
        seen.add(glob)
        return True

    def end_row(self) -> None:
        """What comes now is no copy of what came before."""
        self._message = None
