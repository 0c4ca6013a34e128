"""Responses on the wire: what is kept back within a turn, heads, answers of our own.

A connection ends here, too: closed, lingering, or cut.
"""

import asyncio
import contextlib
import socket
import struct
import time
from typing import Final, cast

from iodine_aio.clock import NEVER
from iodine_aio.errors import ProtocolError, ResponseError
from iodine_aio.protocols.heads import TELLING
from iodine_aio.protocols.receiving import RequestStream, WholeBody
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.writing import FLUSH_BYTES, half_close
from iodine_aio.wire.environ import Env
from iodine_aio.wire.response import ResponseHead, make_head, parse_status

READING: Final = 0  # states: the next bytes belong to a request
ANSWERING: Final = 1  # a response takes its time; what is read waits
LEAVING: Final = 2  # another protocol takes over
LINGERING: Final = 3  # the last response is sent; what still comes is thrown away
CLOSING: Final = 4  # what was written goes out, and nothing else happens
GONE: Final = 5

_LINGER_SECONDS: Final = 2.0


class Responding(asyncio.Protocol):
    """The writing half of an HTTP connection.

    Attributes:
        paused: the client does not take what was written.
        deadline: when `expire` is to be called.
    """

    __slots__ = (
        "_body",
        "_env",
        "_in_turn",
        "_keep_alive",
        "_kept",
        "_output",
        "_started",
        "_state",
        "_unsent",
        "deadline",
        "paused",
        "service",
        "transport",
    )

    def __init__(self, service: Service) -> None:
        self.service = service
        self.transport = cast(asyncio.Transport, None)
        self.deadline = NEVER
        self.paused = False
        self._state = READING
        self._in_turn = False
        self._output: list[bytes] = []
        self._kept = 0
        self._unsent = 0
        self._keep_alive = True
        self._body: WholeBody | RequestStream | None = None  # until its request is answered
        self._env: Env | None = None  # of the request that is being answered
        self._started = 0.0

    def response_ended(self) -> None:
        """The response is whole: on to the next request, another protocol, or the end."""
        raise NotImplementedError

    def read_ahead(self) -> bool:
        """Takes what was read of the request's body; True if that was the rest of it."""
        raise NotImplementedError

    # Writing.

    def put(self, data: bytes) -> None:
        """Keeps `data` back, so that one write sends all answers of a read."""
        self._output.append(data)
        self._kept += len(data)
        if self._kept >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was kept back."""
        output = self._output
        if output and self._state != GONE:
            data = output[0] if len(output) == 1 else b"".join(output)
            output.clear()
            self._kept = 0
            if self.paused:  # more to send is not less taken
                self._unsent += len(data)
            # asyncio warns of what is written between a failed write and connection_lost.
            if not self.transport.is_closing():
                self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Writes `data` when this turn of the loop is over, with what else is sent until then."""
        self._output.append(data)
        self._kept += len(data)
        if self._kept >= FLUSH_BYTES:
            self.flush()
        else:
            self.service.turn_end.add(self)

    def find_empty_socket(self) -> int:
        """The descriptor to which bytes may be sent past the transport; -1: there is none.

        What was kept back is sent, and leaves in one packet with what is sent next.
        """
        transport = self.transport
        # A transport that closes may have closed its descriptor, whose number is somebody
        # else's then.
        if transport.is_closing() or transport.get_write_buffer_size():
            return -1
        if transport.get_extra_info("sslcontext") is not None:
            return -1
        sock = transport.get_extra_info("socket")
        if sock is None:
            return -1
        descriptor = int(sock.fileno())
        if self._output:
            data = b"".join(self._output)
            sent = _send_first(descriptor, data)
            self._output.clear()
            self._kept = 0
            if sent < len(data):
                transport.write(data[sent:])
                return -1
        return descriptor

    def pause_early(self, early: bool) -> None:
        """Whether writing pauses as soon as anything waits in the transport."""
        self.transport.set_write_buffer_limits(high=0 if early else None)

    def pending(self) -> int:
        """Bytes that the client has not taken."""
        return 0 if self._state == GONE else self.transport.get_write_buffer_size() + self._kept

    # Answers.

    def _send_head(self, head: ResponseHead, size_field: str, payload: bytes | None) -> None:
        """Sends the head, and the whole body with it unless that is None."""
        # "The server SHOULD send a close connection option in its final response on that
        # connection" - RFC 9112, 9.6. What is streamed may still read its request while it
        # goes out, so that its head cannot know; but for a refusal or a redirect, which
        # the client may take as its sign to send no more (9.5).
        if (
            self._body is not None
            and (payload is not None or head.status >= 300)
            and not self.read_ahead()
        ):
            self._keep_alive = False
        keep_alive = self._keep_alive = self._keep_alive and not self.service.stopping
        assert self._env is not None or not keep_alive
        date = "" if head.directives.dated else self.service.clock.date_line
        if not keep_alive:
            connection = "Connection: close\r\n"
        elif self._env["SERVER_PROTOCOL"] == "HTTP/1.0":  # type: ignore[index]
            connection = "Connection: keep-alive\r\n"
        else:
            connection = ""
        text = f"{head.status_line}{head.block}{date}{size_field}{connection}\r\n"
        try:
            data = text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise ResponseError(f"a header cannot be sent as latin-1: {error}") from None
        self.put(data + payload if payload else data)
        if self._started:
            self._note(head.status, None if payload is None else len(data) + len(payload))

    def _note(self, status: int, size: int | None) -> None:
        env = self._env
        if self.service.access_log is None or env is None or "iodine_aio.unlogged" in env:
            return
        self.service.access_log.note(
            env,
            self.service.clock.date_line[6:-2],
            status,
            size,
            time.monotonic() - self._started,
        )
        self._started = 0.0

    def say(
        self,
        status: int,
        fields: list[tuple[str, str]],
        text: str = "",
        head_only: bool = False,
    ) -> None:
        """Answers the request in hand without the app."""
        fields.append(("Content-Type", "text/plain; charset=utf-8"))
        head = make_head(status, fields)
        payload = (text or head.status_line[13:-2]).encode()
        length = len(payload)
        if head_only or (self._env is not None and self._env["REQUEST_METHOD"] == "HEAD"):
            payload = b""
        self._send_head(head, f"Content-Length: {length}\r\n", payload)
        self.response_ended()

    def refuse(self, error: ProtocolError, head_only: bool = False) -> None:
        """Answers a client that broke the protocol, and ends the connection.

        "A server that receives an invalid request ought to respond with a 400" - RFC 9112;
        nothing behind it is looked at.
        """
        self._keep_alive = False
        self._state = READING
        self._in_turn = True  # the end of the answer is not the end of the connection yet
        _, line = parse_status(error.status)
        self.say(error.status or 400, [], f"{line[13:-2]}: {error}", head_only)
        self._in_turn = False
        self.linger()
        if str(error) in TELLING:
            self.service.log_once(str(error))

    # Ending.

    def close(self) -> None:
        """Ends the connection when all that was written is sent."""
        self.flush()
        self._state = CLOSING
        self._unsent = self.pending()
        self.deadline = self.service.clock.deadline(self.service.settings.send_timeout)
        self.transport.close()

    def linger(self) -> None:
        """Ends our side, and reads on for a while.

        "the server ... closes the write side of the read/write connection first" - RFC
        9112, 9.6: bytes that nobody read would reset the connection, and with it the
        response that the client has not seen yet.
        """
        self.flush()
        self._state = LINGERING
        self.deadline = self.service.clock.deadline(_LINGER_SECONDS)
        half_close(self.transport)

    def abort(self) -> None:
        """Ends at once."""
        self.deadline = NEVER
        self.transport.abort()

    def reset(self) -> None:
        """Ends at once, and tells the client so, for whom the response would look whole."""
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()


def _send_first(descriptor: int, data: bytes) -> int:
    """How many bytes the socket takes, to wait there for those that follow."""
    # A transport's socket has no send(). The family is of no account to it.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        if sock.gettimeout() is not None:  # the program has set one for all sockets
            sock.setblocking(False)
        return sock.send(data, socket.MSG_MORE)
    except OSError:  # the transport finds out
        return 0
    finally:
        sock.detach()
