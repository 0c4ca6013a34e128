"""A body that is made of spans of a file, and of bytes between them.

Nothing is read here: the spans are half-open, `start <= i < stop`, in bytes.
"""

from collections.abc import Sequence
from typing import Any, Final

Segment = bytes | tuple[int, int]


class FileBody:
    """Parts of an open file, in the order in which they are sent.

    Args:
        file: has `fileno()`, and `close()`, which is called in every case.
        segments: bytes that are sent as they are, or spans of the file.

    Attributes:
        length: how many bytes that is together.
    """

    __slots__ = ("file", "length", "segments")

    def __init__(self, file: Any, segments: Sequence[Segment]) -> None:
        self.file: Final = file
        self.segments: Final = segments
        self.length: Final = sum(
            len(segment) if isinstance(segment, bytes) else segment[1] - segment[0]
            for segment in segments
        )

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
