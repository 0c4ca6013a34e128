"""What kinds of body an app may return, and who sends each."""

import io
from collections.abc import Callable
from typing import Any

from iodine_aio.errors import ResponseError, UsageError
from iodine_aio.protocols.filing import FileSender
from iodine_aio.protocols.sending import BLOCK_BYTES, IteratorSender, Outlet, Sender, TaskSender
from iodine_aio.protocols.streaming import StreamSender
from iodine_aio.protocols.writing import bytes_of
from iodine_aio.replies import Reply
from iodine_aio.wire.framing import Framing
from iodine_aio.wire.segments import FileBody


def whole_body(body: object) -> bytes | None:
    """The bytes of a body that is all there, or None if it has to be streamed.

    Raises:
        ResponseError: a list with something else than str and bytes in it.
    """
    if type(body) is bytes:
        return body
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    if isinstance(body, (list, tuple)):
        try:
            return b"".join([piece if type(piece) is bytes else bytes_of(piece) for piece in body])
        except UsageError as error:
            raise ResponseError(f"response body: {error}") from None
    return None


def make_sender(
    outlet: Outlet, body: Any, length: int | None, frame: Callable[[int | None], Framing]
) -> Sender:
    """The sender of a body that is not whole.

    Args:
        length: the Content-Length that the app announced, or None.
        frame: makes the framing, given the length that holds.

    Raises:
        ResponseError: nothing that can be sent.
    """
    if isinstance(body, Reply):  # called, it says when it has ended
        return StreamSender(outlet, body, frame(length), lasting=False)
    if type(body) is FileBody:
        return FileSender(outlet, body, frame(body.length))
    if hasattr(body, "__aiter__"):
        return TaskSender(outlet, body, frame(length))
    if callable(getattr(body, "read", None)) and not isinstance(body, io.TextIOBase):
        # Not a file on the disk, those come as FileBody: it may wait, and has no known end.
        blocks = iter(lambda: body.read(BLOCK_BYTES), b"")
        return IteratorSender(outlet, body, frame(length), blocks)
    # A dict is iterable, but its keys are nobody's page: it was meant for json.dumps.
    if hasattr(body, "__iter__") and not isinstance(body, dict):
        return IteratorSender(outlet, body, frame(length), iter(body))
    if callable(body):
        return StreamSender(outlet, body, frame(length), lasting=False)
    raise ResponseError(
        f"response body is {type(body).__name__}, must be str (of data: json.dumps), bytes, an"
        " iterable or async iterable of them, a file, a path, or a callable that takes a stream"
    )
