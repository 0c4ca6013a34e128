"""WebSockets on the wire: messages in order, pings, the closing handshake both ways."""

import asyncio
import contextlib
import struct
import threading

import pytest

from tests.clients import open_websocket, reset
from tests.frames import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame, text_frame
from tests.handlers import Echo, WebSocketRecorder

# Messages.


async def test_text_is_str_and_binary_is_bytes():
    """Both ways."""

    class Echo(WebSocketRecorder):
        def on_message(self, data):
            super().on_message(data)
            self.write(data)

    handler = Echo()
    async with open_websocket(handler) as client:
        client.send(frame(TEXT, "zo\xeb".encode()), frame(BINARY, b"\x00\xff"))

        assert await client.receive() == (TEXT, "zo\xeb".encode())
        assert await client.receive() == (BINARY, b"\x00\xff")
        assert handler.events == ["open", "zo\xeb", b"\x00\xff"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 262144])
async def test_message_of_any_length_comes_back_whole(size):
    """Each form of the length, up to the limit."""

    payload = bytes(i % 251 for i in range(size))
    async with open_websocket(Echo()) as client:
        client.send(frame(BINARY, payload))

        assert await client.receive() == (BINARY, payload)


async def test_fragments_are_one_message_with_a_ping_between():
    """The ping is answered at once."""

    async with open_websocket(Echo()) as client:
        client.send(frame(TEXT, b"he", final=False), frame(PING, b"p"), frame(0, b"l", final=False))
        assert await client.receive() == (PONG, b"p")

        client.send(frame(0, b"lo"))
        assert await client.receive() == (TEXT, b"hello")


async def test_callbacks_come_in_order_and_close_once_and_last():
    """Open, every message, close; all that was sent before the end is delivered."""
    handler = WebSocketRecorder()
    messages = [str(i) for i in range(1000)]
    behind = b"".join(frame(TEXT, m.encode()) for m in messages)
    async with open_websocket(handler, behind + close_frame(1000)) as client:
        await client.rest()
        await handler.closed

    assert handler.events == ["open", *messages, ("close", 1000, "")]


async def test_messages_before_a_lost_connection_are_delivered():
    """No close frame: the code is 1006."""
    handler = WebSocketRecorder()
    async with open_websocket(handler) as client:
        client.send(frame(TEXT, b"last words"))
        client.writer.write_eof()
        await handler.closed

    assert handler.events == ["open", "last words", ("close", 1006, "")]


async def test_async_callbacks_never_overlap():
    """The second message waits for the first one's coroutine, the close for all."""
    log = []

    class Slow(WebSocketRecorder):
        async def on_open(self):
            log.append("open")
            await asyncio.sleep(0)
            log.append("opened")

        async def on_message(self, data):
            log.append(f"{data}+")
            for _ in range(3):
                await asyncio.sleep(0)
            log.append(f"{data}-")

        async def on_close(self, code, reason):
            log.append("close")
            self.closed.set_result(None)

    handler = Slow()
    behind = frame(TEXT, b"a") + frame(TEXT, b"b") + frame(TEXT, b"c") + close_frame(1000)
    async with open_websocket(handler, behind):
        await handler.closed

    assert log == ["open", "opened", "a+", "a-", "b+", "b-", "c+", "c-", "close"]


async def test_on_close_without_arguments_is_called_without():
    """The code is for those who take it."""
    ended = asyncio.Event()

    class Handler:
        def on_close(self):
            ended.set()

    async with open_websocket(Handler, close_frame(1000)):
        await ended.wait()

    assert ended.is_set()


async def test_handler_without_callbacks_reads_and_drops():
    """Everything is optional."""

    class Silent:
        pass

    async with open_websocket(Silent) as client:
        client.send(frame(TEXT, b"x"), frame(PING, b"p"))

        assert await client.receive() == (PONG, b"p")


async def test_reading_pauses_while_the_handler_lags():
    """What is kept for a handler that does not come is bounded."""
    go_on = asyncio.Event()
    handled = []

    class Lagging(WebSocketRecorder):
        async def on_message(self, data):
            await go_on.wait()
            handled.append(len(data))

    count = 400
    payload = bytes(100_000)  # 40 MB: more than the kernel keeps
    async with open_websocket(Lagging()) as client:
        (connection,) = client.server.connections
        sent = asyncio.ensure_future(send_all(client, frame(BINARY, payload), count))
        while connection.transport.is_reading():
            await asyncio.sleep(0)
        kept = len(connection._queue or ())
        assert not sent.done()
        assert kept < 40

        go_on.set()
        await sent
        client.send(frame(PING, b"end"))
        assert await client.receive() == (PONG, b"end")
        client.send(close_frame(1000))
        await client.rest()
        await connection.handler.closed if connection.handler else None
    assert handled == [100_000] * count


async def send_all(client, message, count):
    """Writes as fast as the other end takes it."""
    for _ in range(count):
        client.writer.write(message)
        await client.writer.drain()


async def test_ping_is_answered_ahead_of_a_handler_that_waits():
    """A slow handler does not make the connection look dead."""
    go_on = asyncio.Event()

    class Waiting(WebSocketRecorder):
        async def on_message(self, data):
            await go_on.wait()
            self.write(data)

    async with open_websocket(Waiting()) as client:
        client.send(frame(TEXT, b"slow"), frame(PING, b"now"))
        assert await client.receive() == (PONG, b"now")

        go_on.set()
        assert await client.receive() == (TEXT, b"slow")


async def test_close_is_answered_ahead_of_a_handler_that_waits():
    """Its on_close still comes last."""
    go_on = asyncio.Event()

    class Waiting(WebSocketRecorder):
        async def on_message(self, data):
            await go_on.wait()
            self.events.append(data)

    handler = Waiting()
    async with open_websocket(handler) as client:
        client.send(frame(TEXT, b"slow"), close_frame(1000))
        assert await client.receive() == (CLOSE, b"\x03\xe8")
        assert handler.events == ["open"]

        go_on.set()
        await handler.closed
    assert handler.events == ["open", "slow", ("close", 1000, "")]


# Handlers that fail.


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["on_open", "on_message"])
async def test_callback_that_raises_closes_with_1011(name, asynchronous, caplog):
    """One log entry; another connection is not touched."""

    class Broken(WebSocketRecorder):
        pass

    def fail(self, *data):
        raise RuntimeError("broken")

    async def fail_later(self, *data):
        await asyncio.sleep(0)
        raise RuntimeError("broken")

    setattr(Broken, name, fail_later if asynchronous else fail)
    handler = Broken()
    async with open_websocket(handler) as client:
        client.send(frame(TEXT, b"x"))

        assert await client.receive() == (CLOSE, b"\x03\xf3")
        client.send(close_frame(1011))
        assert await client.rest() == b""
        assert (await handler.closed)[0] == 1011
    assert len(caplog.records) == 1
    assert "Broken" in caplog.text


async def test_on_close_that_raises_is_logged_once(caplog):
    """There is nobody left to tell."""
    ended = asyncio.Event()

    class Broken:
        def on_close(self):
            ended.set()
            raise RuntimeError("broken")

    async with open_websocket(Broken, close_frame(1000)):
        await ended.wait()
    assert len(caplog.records) == 1


async def test_messages_after_a_failure_are_not_delivered(caplog):
    """A handler that broke is done."""

    class Broken(WebSocketRecorder):
        def on_message(self, data):
            super().on_message(data)
            raise RuntimeError("broken")

    handler = Broken()
    async with open_websocket(handler, frame(TEXT, b"1") + frame(TEXT, b"2")) as client:
        await client.receive()
        client.send(frame(TEXT, b"3"), close_frame(1011))
        await handler.closed

    assert handler.events == ["open", "1", ("close", 1011, "")]


# Closing.


@pytest.mark.parametrize(
    ("sent", "answered", "told"),
    [
        (close_frame(1000, b"bye"), b"\x03\xe8", (1000, "bye")),
        (close_frame(1001), b"\x03\xe9", (1001, "")),
        (close_frame(4000, b"own"), b"\x0f\xa0", (4000, "own")),
        (close_frame(), b"", (1005, "")),
    ],
)
async def test_close_of_the_client_is_echoed_and_ends_the_connection(sent, answered, told):
    """The server closes the connection first (RFC 6455, 7.1.1)."""
    handler = WebSocketRecorder()
    async with open_websocket(handler) as client:
        client.send(sent)

        assert await client.receive() == (CLOSE, answered)
        assert await client.rest() == b""
        assert await handler.closed == told


@pytest.mark.parametrize(
    ("arguments", "payload"),
    [((), b"\x03\xe8"), ((1001,), b"\x03\xe9"), ((4001, "zo\xeb"), b"\x0f\xa1zo\xc3\xab")],
)
async def test_close_comes_after_all_that_was_written(arguments, payload):
    """And what the client sends meanwhile is not delivered."""

    class Closing(WebSocketRecorder):
        def on_open(self):
            self.write("first")
            self.close(*arguments)
            self.late = self.write("late")
            self.close(1002)

    handler = Closing()
    async with open_websocket(handler) as client:
        assert await client.receive() == (TEXT, b"first")
        assert await client.receive() == (CLOSE, payload)
        client.send(frame(TEXT, b"unheard"), frame(CLOSE, payload))

        assert await client.rest() == b""
        await handler.closed
    assert handler.late is False
    assert [event[0] for event in handler.events] == ["close"]
    assert handler.events[0][1] == (arguments or (1000,))[0]


async def test_close_without_answer_is_cut_after_close_timeout():
    """A client that never says goodbye does not stay."""

    class Closing(WebSocketRecorder):
        def on_open(self):
            self.close()

    handler = Closing()
    async with open_websocket(handler, close_timeout=0.1) as client:
        assert await client.receive() == (CLOSE, b"\x03\xe8")

        await client.reader.read()
        await handler.closed
        assert not client.server.connections


async def test_force_close_ends_at_once():
    """Without a close frame; on_close hears 1006."""

    class Forcing(WebSocketRecorder):
        def on_message(self, data):
            self.force_close()
            self.after = self.write("x")

    handler = Forcing()
    async with open_websocket(handler) as client:
        client.send(frame(TEXT, b"go"), frame(TEXT, b"unheard"))
        with contextlib.suppress(ConnectionError):
            assert await client.rest() == b""

        assert await handler.closed == (1006, "")
        assert handler.after is False
    assert handler.events == ["open", ("close", 1006, "")]


async def test_stop_tells_on_shutdown_and_closes_with_1001():
    """Writing still works in on_shutdown."""

    class Leaving(WebSocketRecorder):
        def on_shutdown(self):
            super().on_shutdown()
            self.write("goodbye")

    handler = Leaving()
    async with open_websocket(handler) as client:
        stopping = asyncio.ensure_future(client.server.stop())
        assert await client.receive() == (TEXT, b"goodbye")
        assert await client.receive() == (CLOSE, b"\x03\xe9")
        client.send(close_frame(1001))

        assert await client.rest() == b""
        await stopping
    assert handler.events == ["open", "shutdown", ("close", 1001, "")]


async def test_stop_waits_for_an_async_on_shutdown():
    """What it writes last is sent before the close frame."""

    class Leaving(WebSocketRecorder):
        async def on_shutdown(self):
            await asyncio.sleep(0)
            self.write("goodbye")

    async with open_websocket(Leaving()) as client:
        stopping = asyncio.ensure_future(client.server.stop())

        assert await client.receive() == (TEXT, b"goodbye")
        assert await client.receive() == (CLOSE, b"\x03\xe9")
        client.send(close_frame(1001))
        await stopping


async def test_stop_waits_for_a_busy_handler_whose_client_has_left(
    caplog: pytest.LogCaptureFixture,
):
    """It is in a thread of the pool, and hears of the end when it comes back."""
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    codes: list[int] = []

    class Busy:
        def on_message(self, data: str) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert go.wait(20)

        def on_close(self, code: int, reason: str) -> None:
            codes.append(code)

    async with open_websocket(Busy(), threads=2) as client:
        client.send(text_frame("work"))
        await begun.wait()
        reset(client.writer)
        while client.server.connections:
            await asyncio.sleep(0)
        stopping = asyncio.ensure_future(client.server.stop())
        for _ in range(100):  # more than it takes to end the pool
            await asyncio.sleep(0)
        go.set()
        await stopping

    assert codes == [1006]
    assert caplog.records == []


async def test_stop_cuts_a_client_that_never_answers():
    """After its time-out, with on_close told."""
    handler = WebSocketRecorder()
    async with open_websocket(handler) as client:
        await client.server.stop(timeout=0.05)

        assert handler.events[-1][0] == "close"
        assert handler.events.count("shutdown") == 1


# Protocol errors.


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x01x", 1002),  # not masked
        (frame(0x40 | TEXT, b"x"), 1002),  # a reserved bit
        (frame(3, b"x"), 1002),  # a reserved opcode
        (frame(11), 1002),
        (frame(0, b"x"), 1002),  # continuation of nothing
        (frame(PING, b"", final=False), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(TEXT, b"a", final=False) + frame(TEXT, b"b"), 1002),
        (b"\x81\xfe\x00\x05" + bytes(9), 1002),  # a length that is not minimal
        (frame(CLOSE, b"\x03"), 1002),
        (close_frame(1006), 1002),
        (close_frame(999), 1002),
        (close_frame(1000, b"\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"\xc3", final=False) + frame(0, b"("), 1007),
        (frame(BINARY, bytes(1001)), 1009),
        (b"\x82\xff" + struct.pack("!Q", 1 << 30) + bytes(4), 1009),
        (frame(BINARY, bytes(600), final=False) + frame(0, bytes(600)), 1009),
        (frame(BINARY, final=False) + frame(0, final=False) * 100, 1009),
    ],
)
async def test_violation_is_answered_by_its_close_code_and_the_end(sent, code):
    """What came before it is delivered, what comes behind it is not."""
    handler = WebSocketRecorder()
    behind = frame(TEXT, b"before") + sent + frame(TEXT, b"behind")
    options = {"max_message_bytes": 1000, "max_message_fragments": 50}
    async with open_websocket(handler, behind, **options) as client:
        opcode, payload = await client.receive()

        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))
        assert await client.rest() == b""
        client.writer.close()
        assert (await handler.closed)[0] == code
    assert handler.events[:2] == ["open", "before"]
    assert len(handler.events) == 3


async def test_violator_that_never_hangs_up_is_cut():
    """After close_timeout."""
    handler = WebSocketRecorder()
    async with open_websocket(handler, frame(3), close_timeout=0.1) as client:
        await client.rest()

        assert (await handler.closed)[0] == 1002


# Pings.


async def test_ping_is_answered_with_its_payload():
    """A pong of the same bytes (RFC 6455, 5.5.3)."""
    async with open_websocket(WebSocketRecorder()) as client:
        client.send(frame(PING), frame(PONG, b"unasked"), frame(PING, bytes(125)))

        assert await client.receive() == (PONG, b"")
        assert await client.receive() == (PONG, bytes(125))


@pytest.mark.slow
async def test_silent_client_is_pinged_and_dropped_after_two():
    """on_close hears 1006."""
    handler = WebSocketRecorder()
    async with open_websocket(handler, ping_interval=0.1) as client:
        assert await client.receive() == (PING, b"")
        assert await client.receive() == (PING, b"")
        with contextlib.suppress(ConnectionError):
            assert await client.rest() == b""

        assert await handler.closed == (1006, "")


@pytest.mark.slow
async def test_client_that_answers_pings_stays():
    """However long it is silent otherwise."""
    handler = WebSocketRecorder()
    async with open_websocket(handler, ping_interval=0.1) as client:
        for _ in range(4):
            assert await client.receive() == (PING, b"")
            client.send(frame(PONG))

        assert handler.events == ["open"]


async def test_timeout_of_one_connection_changes_its_pings_only():
    """Set by the handler, in seconds."""

    class Impatient(WebSocketRecorder):
        def on_open(self):
            self.before = self.timeout
            self.timeout = 0.05

    handler = Impatient()
    async with open_websocket(handler, close_timeout=0.1) as client:
        assert await client.receive() == (PING, b"")
        assert (handler.before, handler.timeout) == (40.0, 0.05)


async def test_pongs_to_a_client_that_does_not_read_are_bounded():
    """A flood of pings grows nothing here."""
    async with open_websocket(WebSocketRecorder()) as client:
        (connection,) = client.server.connections
        client.writer.transport.pause_reading()
        sending = asyncio.ensure_future(send_all(client, frame(PING, bytes(125)) * 500, 400))
        most = 0
        while not sending.done():
            most = max(most, connection.pending)
            if not connection.transport.is_reading():
                break
            await asyncio.sleep(0)
        sending.cancel()

        assert most < 512 * 1024
