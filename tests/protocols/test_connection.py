"""What WebSocket and raw connections share: writing, limits, threads, raw TCP, listening."""

import asyncio
import contextlib
import os
import tempfile
import threading

import pytest

import iodine_aio
from iodine_aio.errors import UsageError
from tests.clients import connect, listening, shake_hands
from tests.handlers import Echo, EchoStreaming, Recorder

MIB = 1 << 20
LIMITS = {"soft_limit_bytes": 1 << 16, "hard_limit_bytes": MIB}


@contextlib.asynccontextmanager
async def websocket_server(handlers, **options):
    """A server that gives its WebSockets these handlers in turn, and a connect function."""
    left = list(handlers)
    writers = []

    def app(env):
        env["upgrade.websocket"] = left.pop(0)
        return 0, {}, None

    async with iodine_aio.serve(app, port=0, **options) as server:

        async def open_websocket():
            reader, writer, status = await shake_hands(server)
            writers.append(writer)
            assert status == 101
            return reader, writer

        try:
            yield open_websocket
        finally:
            for writer in writers:
                writer.transport.abort()


# Raw connections.


async def test_telnet_echo_says_bye_and_closes_after_the_flush():
    """The document's echo."""

    class EchoProtocol:
        def on_open(self):
            self.write("Hello!\n")

        def on_message(self, data):
            self.write(b">> " + data)
            if data.rstrip() == b"bye":
                self.write("See you\n")
                self.close()
                self.write("never sent")

    async with listening(EchoProtocol) as (reader, writer):
        assert await reader.readline() == b"Hello!\n"
        writer.write(b"bye\r\n")

        assert await reader.read() == b">> bye\r\nSee you\n"


async def test_raw_callbacks_come_in_order():
    """Open, bytes, close once and last; env is None and timeout 0."""
    handler = Recorder()
    async with listening(handler) as (_, writer):
        await handler.opened
        assert (handler.env, handler.timeout, handler.count) == (None, 0, 1)

        writer.write(b"bytes")
        writer.write_eof()
        await handler.closed
    assert handler.events == ["open", b"bytes", "close"]


async def test_client_that_shut_its_side_still_gets_its_answer():
    """A coroutine that runs is not cut by the end of the client's sending."""

    class Slow:
        async def on_message(self, data):
            for _ in range(5):
                await asyncio.sleep(0)
            self.write(data)

    async with listening(Slow) as (reader, writer):
        writer.write(b"question")
        writer.write_eof()

        assert await reader.read() == b"question"


async def test_raw_handler_that_raises_closes_its_connection(caplog):
    """One log entry."""

    class Broken(Recorder):
        def on_message(self, data):
            raise RuntimeError("broken")

    handler = Broken()
    async with listening(handler) as (reader, writer):
        writer.write(b"x")

        assert await reader.read() == b""
        await handler.closed
    assert len(caplog.records) == 1


async def test_silence_calls_ping():
    """After `timeout` seconds; the handler decides."""

    class Patient(Recorder):
        def ping(self):
            self.write("still there?")

    async with listening(Patient(), timeout=0.05, ping_interval=0.05) as (reader, _):
        assert await reader.readexactly(12) == b"still there?"


async def test_silence_closes_where_there_is_no_ping():
    """After `timeout` seconds."""
    handler = Recorder()
    async with listening(handler, timeout=0.05, ping_interval=0.05) as (reader, _):
        assert await reader.read() == b""
        await handler.closed


async def test_stop_tells_raw_connections_and_closes_them():
    """What on_shutdown writes is sent."""

    class Leaving(Recorder):
        def on_shutdown(self):
            self.write("goodbye")

    handler = Leaving()
    async with iodine_aio.listen(0, lambda: handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await handler.opened
    rest = await reader.read()
    writer.close()

    assert rest == b"goodbye"
    assert handler.events == ["open", "close"]


async def test_full_server_sends_the_busy_message_and_goes_on():
    """A connection that is served already is not touched."""

    async with iodine_aio.listen(0, Echo, busy_message="full\n") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"1")
        await reader.readexactly(1)
        ceiling, server._service.descriptor_ceiling = server._service.descriptor_ceiling, 0
        turned_away, refused = await asyncio.open_connection("127.0.0.1", server.port)

        assert await turned_away.read() == b"full\n"
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"

        server._service.descriptor_ceiling = ceiling
        later, late = await asyncio.open_connection("127.0.0.1", server.port)
        late.write(b"3")
        assert await later.readexactly(1) == b"3"
        for one in (writer, refused, late):
            one.close()


async def test_handler_that_cannot_be_made_closes_the_connection(caplog):
    """The listener goes on."""

    def refuse():
        raise RuntimeError("no handler today")

    async with listening(refuse) as (reader, _):
        assert await reader.read() == b""
    assert len(caplog.records) == 1


async def test_listen_serves_a_unix_socket():
    """Its file is gone after the stop."""

    # Not tmp_path: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/echo.sock"
        async with iodine_aio.listen(f"unix:{path}", Echo) as server:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert server.port == 0
            writer.close()

        assert os.listdir(folder) == []


async def test_listen_serves_an_asyncio_protocol():
    """It gets the transport itself."""

    async with listening(EchoStreaming, ping_interval=0.1) as (reader, writer):
        writer.write(b"hello")

        assert await reader.readexactly(5) == b"hello"


async def test_busy_port_raises_where_listen_is_called():
    """An OSError, at once."""
    async with iodine_aio.listen(0, Recorder) as server:
        with pytest.raises(OSError, match="use"):
            iodine_aio.listen(server.port, Recorder)


# Writing.


async def test_write_refuses_what_is_no_data():
    """A UsageError in the caller's face, nothing on the wire."""
    handler = Recorder()
    async with listening(handler) as (reader, _):
        await handler.opened
        with pytest.raises(UsageError, match="cannot write int"):
            handler.write(5)
        handler.write(bytearray(b"a"))
        handler.write(memoryview(b"b"))
        handler.write("\xeb")

        assert await reader.readexactly(4) == b"ab\xc3\xab"


async def test_write_from_threads_keeps_the_order_of_each():
    """Three threads at once, none loses a line."""
    handler = Recorder()
    count = 300

    def write_lines(name):
        for i in range(count):
            handler.write(f"{name} {i}\n")

    async with listening(handler) as (reader, _):
        await handler.opened
        threads = [threading.Thread(target=write_lines, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        lines = [(await reader.readline()).decode().split() for _ in range(3 * count)]
        for thread in threads:
            thread.join()

    for name in "abc":
        assert [int(i) for who, i in lines if who == name] == list(range(count))


async def test_write_and_close_from_a_thread_send_all_before_the_end():
    """In the order of the calls."""
    handler = Recorder()

    def write_and_close():
        handler.write("last words")
        handler.close()

    async with listening(handler) as (reader, _):
        await handler.opened
        await asyncio.to_thread(write_and_close)

        assert await reader.read() == b"last words"


async def test_write_after_the_end_returns_false():
    """On the loop and in a thread; nothing raises."""
    handler = Recorder()
    async with listening(handler) as (_, writer):
        await handler.opened
        writer.close()
        await handler.closed

        assert handler.write("x") is False
        assert await asyncio.to_thread(handler.write, "x") is False
        assert handler.pending == 0
        assert await handler.send("x") is False
        handler.close()
        handler.force_close()
        handler.defer(handler.events.append, "never")
    assert handler.events == ["open", "close"]


async def test_slow_reader_makes_write_return_false_and_drain_wait():
    """Above the soft limit; all that was queued arrives."""
    handler = Recorder()
    limits = {"soft_limit_bytes": 1 << 16, "hard_limit_bytes": 64 * MIB}
    async with listening(handler, **limits) as (reader, writer):
        await handler.opened
        writer.transport.pause_reading()
        assert handler.write(bytes(16 * MIB)) is True
        assert handler.pending > MIB
        assert handler.write(b"queued") is False
        draining = asyncio.ensure_future(handler.drain())
        await asyncio.sleep(0)
        assert not draining.done()

        writer.transport.resume_reading()
        received = await reader.readexactly(16 * MIB + 6)
        assert received[-6:] == b"queued"
        assert await draining is True
        assert handler.write(b"more") is True


async def test_drain_of_a_connection_that_goes_returns_false():
    """Nobody waits for ever."""
    handler = Recorder()
    async with listening(handler) as (_, writer):
        await handler.opened
        writer.transport.pause_reading()
        handler.write(bytes(16 * MIB))
        draining = asyncio.ensure_future(handler.drain())
        await asyncio.sleep(0)
        writer.transport.abort()

        assert await draining is False


async def test_hard_limit_closes_a_websocket_with_1008():
    """What was written before is sent first."""
    handler = Recorder()
    async with websocket_server([handler], **LIMITS) as connect:
        reader, writer = await connect()
        writer.transport.pause_reading()
        handler.write(bytes(16 * MIB))
        assert handler.write("refused") is False
        assert handler.write("too") is False

        writer.transport.resume_reading()
        await reader.readexactly(10 + 16 * MIB)
        head = await reader.readexactly(4)
        assert head[0] == 0x88
        assert head[2:] == b"\x03\xf0"


@pytest.mark.parametrize("threaded", [False, True])
async def test_hard_limit_drops_by_policy(threaded):
    """The connection goes on without that message."""
    handler = Recorder()
    async with listening(handler, hard_limit_policy="drop", **LIMITS) as (reader, writer):
        await handler.opened
        writer.transport.pause_reading()
        handler.write(bytes(16 * MIB))
        refused = await asyncio.to_thread(handler.write, "no") if threaded else handler.write("no")
        assert refused is False

        writer.transport.resume_reading()
        await reader.readexactly(16 * MIB)
        await handler.drain()
        assert handler.write("yes") is True
        assert await reader.readexactly(3) == b"yes"


async def test_hard_limit_counts_what_threads_have_posted():
    """While the loop has not come to it."""
    handler = Recorder()
    async with listening(handler, **LIMITS) as (_, _writer):
        await handler.opened
        results = []
        thread = threading.Thread(
            target=lambda: results.extend(handler.write(bytes(MIB)) for _ in range(3))
        )
        thread.start()
        thread.join()  # the loop stands still meanwhile

        assert results == [True, False, False]


@pytest.mark.parametrize("name", ["on_drained", "on_ready"])
async def test_drained_is_told_when_all_is_sent(name):
    """Also under the name of 0.2, and after a small write."""
    drained = asyncio.Queue()

    class Handler(Recorder):
        pass

    setattr(Handler, name, lambda self: drained.put_nowait(self.pending))
    handler = Handler()
    async with listening(handler) as (reader, _):
        await handler.opened
        handler.write("small")
        assert await drained.get() == 0

        handler.write(bytes(16 * MIB))
        assert drained.empty()
        await reader.readexactly(5 + 16 * MIB)
        assert await drained.get() == 0


async def test_nothing_is_handled_while_the_peer_takes_nothing():
    """An echo to a client that does not read stops reading."""

    async with iodine_aio.listen(0, Echo) as server, connect(server) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        (connection,) = server.connections
        writer.transport.pause_reading()
        while connection.transport.is_reading():
            writer.write(bytes(MIB))
            await asyncio.sleep(0)

        assert connection.pending < 4 * MIB


async def test_client_that_takes_nothing_is_dropped_after_send_timeout():
    """Its memory is freed."""
    handler = Recorder()
    async with listening(handler, send_timeout=0.1) as (_, writer):
        await handler.opened
        writer.transport.pause_reading()
        handler.write(bytes(32 * MIB))

        await handler.closed
        assert handler.pending == 0


# Each other.


async def test_each_leaves_the_caller_out_and_counts_all():
    """Of the same kind only; ids differ."""
    handlers = [Recorder() for _ in range(3)]
    raw = Recorder()
    async with (
        websocket_server(handlers) as connect,
        listening(raw),
    ):
        clients = [await connect() for _ in handlers]
        await raw.opened
        seen = []
        handlers[0].each(seen.append)

        assert len(clients) == 3
        assert {id(one) for one in seen} == {id(one) for one in handlers[1:]}
        assert [one.count for one in (*handlers, raw)] == [3, 3, 3, 1]
        assert len({one.id for one in (*handlers, raw)}) == 4
        everyone = []
        iodine_aio.WebSocket.each(everyone.append)
        iodine_aio.Protocol.each(everyone.append)
        assert {id(one) for one in everyone} == {id(one) for one in (*handlers, raw)}


async def test_each_survives_connections_that_go_meanwhile():
    """On a snapshot; one that was closed by then is left out."""
    handlers = [Recorder() for _ in range(3)]
    async with websocket_server(handlers) as connect:
        for _ in handlers:
            await connect()
        seen = []

        def close_all(one):
            seen.append(one)
            for other in handlers:
                other.force_close()

        iodine_aio.WebSocket.each(close_all)

        assert len(seen) == 1


async def test_broadcast_reaches_every_other():
    """The document's broadcast."""

    class Broadcast:
        def on_message(self, data):
            self.each(lambda other: other.write(data))
            self.write("sent")

    async with websocket_server([Broadcast] * 3) as connect:
        clients = [await connect() for _ in range(3)]
        clients[0][1].write(b"\x81\x82\x00\x00\x00\x00hi")

        assert await clients[0][0].readexactly(6) == b"\x81\x04sent"
        for reader, _ in clients[1:]:
            assert await reader.readexactly(4) == b"\x81\x02hi"


async def test_env_of_the_request_is_kept_without_its_input():
    """What would keep the request's protocol alive is gone."""
    handler = Recorder()
    async with websocket_server([handler]) as connect:
        await connect()

        assert handler.env["PATH_INFO"] == "/chat"
        assert not {"wsgi.input", "rack.hijack", "upgrade.accept"} & set(handler.env)


# Later.


@pytest.mark.parametrize("threaded", [False, True])
async def test_deferred_function_never_overlaps_a_callback(threaded):
    """It gets its arguments, on the loop, when the callback has returned."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    done = asyncio.get_running_loop().create_future()

    class Slow(Recorder):
        async def on_message(self, data):
            self.events.append("begun")
            begun.set()
            await go_on.wait()
            self.events.append("ended")

    handler = Slow()

    def deferred(first, second):
        handler.events.append((first, second, threading.current_thread().name))
        done.set_result(None)

    async with listening(handler) as (_, writer):
        await handler.opened
        writer.write(b"x")
        await begun.wait()
        if threaded:
            await asyncio.to_thread(handler.defer, deferred, 1, 2)
        else:
            handler.defer(deferred, 1, 2)
        await asyncio.sleep(0)
        go_on.set()
        await done

    assert handler.events[:4] == ["open", "begun", "ended", (1, 2, "MainThread")]


async def test_deferred_coroutine_holds_up_the_next_message():
    """As a callback's does."""
    begun, go_on, received = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Handler(Recorder):
        def on_message(self, data):
            super().on_message(data)
            received.set()

    handler = Handler()

    async def deferred():
        handler.events.append("deferred")
        begun.set()
        await go_on.wait()
        handler.events.append("done")

    async with listening(handler) as (_, writer):
        await handler.opened
        handler.defer(deferred)
        await begun.wait()
        writer.write(b"x")
        await asyncio.sleep(0)
        go_on.set()
        await received.wait()

    assert handler.events[:4] == ["open", "deferred", "done", b"x"]


async def test_run_uses_the_pool_for_functions_and_a_task_for_coroutines():
    """Both get their arguments."""
    handler = Recorder()
    names = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def plain(value):
        name = threading.current_thread().name
        loop.call_soon_threadsafe(names.put_nowait, (value, name))

    async def coroutine(value):
        await asyncio.sleep(0)
        names.put_nowait((value, threading.current_thread().name))

    async with listening(handler):
        await handler.opened
        handler.run(plain, 1)
        value, name = await names.get()
        assert value == 1
        assert name != "MainThread"

        handler.run(coroutine, 2)
        assert await names.get() == (2, "MainThread")
        await asyncio.to_thread(handler.run, coroutine, 3)
        assert await names.get() == (3, "MainThread")


async def test_job_that_raises_is_logged_and_harms_nobody(caplog):
    """In the pool and as a task."""
    handler = Recorder()

    def plain():
        raise RuntimeError("plain")

    async def coroutine():
        raise RuntimeError("coroutine")

    async with listening(handler) as (reader, _):
        await handler.opened
        handler.run(plain)
        handler.run(coroutine)
        while len(caplog.records) < 2:
            await asyncio.sleep(0)
        handler.write("fine")

        assert await reader.readexactly(4) == b"fine"


async def test_callbacks_of_many_that_come_and_go_are_in_order():
    """Whoever ends it: on_open once, on_close once and last."""
    handlers = [Recorder() for _ in range(40)]
    async with websocket_server(handlers) as connect:
        for i, handler in enumerate(handlers):
            reader, writer = await connect()
            writer.write(b"\x81\x81\x00\x00\x00\x00x")
            if i % 4 == 0:
                writer.write(b"\x88\x80\x00\x00\x00\x00")
            elif i % 4 == 1:
                writer.transport.abort()
            elif i % 4 == 2:
                handler.force_close()
                handler.force_close()
            else:
                handler.close()
                handler.close()
                await reader.readexactly(4)
                writer.write(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
            await handler.closed

    for handler in handlers:
        assert handler.events.count("open") == handler.events.count("close") == 1
        assert (handler.events[0], handler.events[-1]) == ("open", "close")
