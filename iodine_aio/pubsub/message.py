"""What is published, and what becomes of it on the wire: encoded once, for all that get it."""

from typing import Final

from iodine_aio.wire.events import encode_event
from iodine_aio.wire.frames import BINARY, TEXT, encode_frame
from iodine_aio.wire.framing import encode_chunk

MESSAGE_BYTES: Final = 256  # what a message takes beside its data, about


class Message:
    """What was published.

    Attributes:
        channel: where, never a pattern.
        data: a str is text, bytes are binary.
    """

    __slots__ = ("_event", "_event_chunk", "_raw", "_websocket_frame", "channel", "data")

    def __init__(self, channel: str, data: str | bytes) -> None:
        self.channel: Final = channel
        self.data: Final = data
        # None until somebody needs it.
        self._raw: bytes | None = None
        self._websocket_frame: bytes | None = None
        self._event: bytes | None = None
        self._event_chunk: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits, about: many empty ones are not little."""
        return MESSAGE_BYTES + len(self.data)

    @property
    def raw(self) -> bytes:
        """`data` as a raw connection gets it."""
        if self._raw is None:
            data = self.data
            self._raw = data.encode() if isinstance(data, str) else data
        return self._raw

    @property
    def websocket_frame(self) -> bytes:
        """`data` as a WebSocket gets it: one frame."""
        if self._websocket_frame is None:
            opcode = TEXT if isinstance(self.data, str) else BINARY
            self._websocket_frame = encode_frame(opcode, self.raw)
        return self._websocket_frame

    @property
    def event(self) -> bytes:
        """`data` as an event stream gets it: its lines, and an empty one."""
        if self._event is None:
            data = self.data
            # An event is text: what is none is made one, since many wait for it.
            self._event = encode_event(
                data if isinstance(data, str) else data.decode("utf-8", "replace")
            )
        return self._event

    @property
    def event_chunk(self) -> bytes:
        """`event` in the chunked coding."""
        if self._event_chunk is None:
            self._event_chunk = encode_chunk(self.event)
        return self._event_chunk

    def __repr__(self) -> str:
        return f"Message({self.channel!r}, {self.data!r})"
