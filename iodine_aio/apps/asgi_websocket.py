"""One ASGI WebSocket: the handler that the server adopts, and what its app sees of it."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from iodine_aio.apps.application import Host
from iodine_aio.apps.asgi_http import Response
from iodine_aio.apps.asgi_scope import (
    ASGIApp,
    Message,
    Scope,
    is_disconnect,
    misplaced,
    read_fields,
)
from iodine_aio.errors import ClientGoneError, UsageError
from iodine_aio.logs import error_log
from iodine_aio.wire.environ import Env
from iodine_aio.wire.frames import may_be_sent

MAX_WAITING: Final = 16  # messages that the app has not received, before reading is held up
MAX_WAITING_BYTES: Final = 64 * 1024
MAX_PENDING_BYTES: Final = 64 * 1024  # that the client has not taken, before `send` waits
MAX_TURN: Final = 64  # messages sent before others get their turn

_TYPES: Final = ("websocket.http.response.start", "websocket.http.response.body")

_OFFERED: Final = 0
_OPEN: Final = 1
_REFUSING: Final = 2  # by a response of the app's own
_CLOSED: Final = 3  # by the app
_LOST: Final = 4  # by the client, or by the server


class _Answer(Response):
    """What the handshake is answered by: the 101, or a response of the app's own.

    ASGI, "Websocket Denial Response".
    """

    __slots__ = ("_session",)

    def __init__(self, session: "WebSocketSession") -> None:
        super().__init__(_TYPES)
        self._session = session

    def cancel(self) -> None:
        """The client has left."""
        super().cancel()
        self._session.say_refused()


class WebSocketSession:
    """What the server calls as the handler, and what the app calls as `receive` and `send`."""

    if TYPE_CHECKING:
        # What an adopted object has.
        pending: int

        def write(self, data: str | bytes) -> bool: ...
        def close(self, code: int = 1000, reason: str = "") -> None: ...
        async def drain(self) -> bool: ...

    def __init__(self, env: Env, host: Host) -> None:
        self._env: Env | None = env
        self._host = host
        self._response = _Answer(self)
        self._state = _OFFERED
        self._told = False  # that it may connect
        self._waiting: deque[str | bytes] = deque()
        self._waiting_bytes = 0
        self._receivers: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None  # what the client waits for
        self._opened: asyncio.Future[None] | None = None  # what an accepting app waits for
        self._sent = 0
        self._code = 1006
        self._reason = ""

    # The app's task.

    def answer(self) -> Any:
        """`(status, headers, body)`, or a reply that will have it."""
        return self._response.answer()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Awaits the app to its end; raises nothing but what ends a task."""
        try:
            await app(scope, self.receive_message, self.send_message)
        except asyncio.CancelledError:
            self._end(ClientGoneError("the app was cancelled"))
            raise
        except KeyboardInterrupt:
            raise
        except SystemExit:
            self._end(UsageError("sys.exit() was called by an app"))
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        state = self._state
        if state == _OPEN:
            self._state = _CLOSED
            if error is not None and not is_disconnect(error):
                error_log.error("the app of a WebSocket raised", exc_info=error)
            self.close(1000 if error is None else 1011, "")
            self._make_room()
        elif state in (_OFFERED, _REFUSING) and not self._response.complete:
            if error is None:
                error = UsageError("the app returned before it had answered a WebSocket")
            self._response.fail(error)
        elif error is not None and not is_disconnect(error):
            error_log.error("the app of a WebSocket raised after its end", exc_info=error)

    # What the app receives.

    async def receive_message(self) -> Message:
        """The next message to the app; waits for the client."""
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        while not self._waiting:
            if self._state == _LOST:
                return {
                    "type": "websocket.disconnect",
                    "code": self._code,
                    "reason": self._reason,
                }
            receiver = asyncio.get_running_loop().create_future()
            # Without those that were cancelled: an app may look in now and then, for hours.
            self._receivers = [other for other in self._receivers if not other.done()]
            self._receivers.append(receiver)
            await receiver
        data = self._waiting.popleft()
        self._waiting_bytes -= len(data)
        if self._room is not None and not self._full:
            self._make_room()
        if type(data) is str:
            return {"type": "websocket.receive", "text": data}
        return {"type": "websocket.receive", "bytes": data}

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _wake(self) -> None:
        for receiver in self._receivers:
            if not receiver.done():
                receiver.set_result(None)
        self._receivers.clear()

    # What the app sends.

    async def send_message(self, message: Message) -> None:
        """Takes a message of the app.

        Raises:
            ClientGoneError: the client has left.
            UsageError: the message is out of order, or malformed.
        """
        kind = message["type"]
        state = self._state
        if state == _OPEN:
            if kind == "websocket.send":
                await self._send_data(message)
            elif kind == "websocket.close":
                code, reason = _read_close(message)
                self.close(code, reason)
                self._state = _CLOSED
                self._make_room()
            else:
                raise misplaced(message, "websocket.send or websocket.close")
        elif state == _OFFERED:
            if kind == "websocket.accept":
                await self._accept(message)
            elif kind == "websocket.close":
                self._lose(1006, "")
                self._response.settle((403, [], b""))
            elif kind == "websocket.http.response.start":
                await self._response.send(message)
                self._state = _REFUSING
            else:
                raise misplaced(message, "websocket.accept or websocket.close")
        elif state == _REFUSING:
            await self._response.send(message)
            if self._response.complete:
                self._lose(1006, "")
        elif state == _LOST and kind in ("websocket.send", "websocket.close", "websocket.accept"):
            raise ClientGoneError("the client went away")
        else:
            raise misplaced(message, "nothing")

    async def _accept(self, message: Message) -> None:
        fields = read_fields(message)
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if any(name.lower() == "sec-websocket-protocol" for name, _ in fields):
                raise UsageError("a subprotocol as argument, and one in headers")
            fields.append(("Sec-WebSocket-Protocol", subprotocol))
        env, self._env = self._env, None
        if env is None:
            raise misplaced(message, "nothing: it was accepted already")
        env["upgrade.websocket"] = self
        self._opened = asyncio.get_running_loop().create_future()
        self._response.settle((101, fields, _Verdict(self, self._host)))
        await self._opened

    async def _send_data(self, message: Message) -> None:
        data = message.get("bytes")
        if data is None:
            data = message.get("text")
        if not isinstance(data, (str, bytes, bytearray, memoryview)):
            raise UsageError("websocket.send needs bytes, or text")
        self._sent += 1
        taken = self.write(data if isinstance(data, (str, bytes)) else bytes(data))
        # A sender that never waits must not keep the loop to itself.
        if (
            not taken or self._sent % MAX_TURN == 0 or self.pending > MAX_PENDING_BYTES
        ) and not await self.drain():
            raise ClientGoneError("the client went away")

    # What the server calls.

    def on_open(self) -> None:
        if self._state == _OFFERED:
            self._state = _OPEN
        self._say_opened()

    def on_message(self, data: str | bytes) -> "asyncio.Future[None] | None":
        if self._state != _OPEN:
            return None
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._wake()
        if self._full:
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def on_close(self, code: int, reason: str) -> None:
        self._lose(code, reason)

    def say_refused(self) -> None:
        """The server does not let the app accept, or the client has left before."""
        if self._state in (_OFFERED, _REFUSING):
            self._lose(1006, "")

    def _lose(self, code: int, reason: str) -> None:
        if self._state != _LOST:
            self._state = _LOST
            self._code, self._reason = code, reason
        self._wake()
        self._make_room()
        self._say_opened()

    def _say_opened(self) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)


class _Verdict:
    """The body of a response that accepts: closed, whatever the server makes of it."""

    def __init__(self, session: WebSocketSession, host: Host) -> None:
        self._session = session
        self._host = host

    def close(self) -> None:
        """Where the server accepts, too, the handler is opened before the next turn."""
        self._host.post(self._session.say_refused)


def _read_close(message: Message) -> tuple[int, str]:
    code = message.get("code")
    if code is None:
        code = 1000
    if not may_be_sent(code):
        raise UsageError(f"close code {code} cannot be sent")
    reason = message.get("reason") or ""
    if not isinstance(reason, str):
        raise UsageError(f"close reason is {type(reason).__name__}, must be a str")
    return code, reason
