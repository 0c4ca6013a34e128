"""Connections that listen to channels and publish, over real sockets."""

import asyncio
import contextlib
import os
import socket
import struct
import threading

import pytest
import uvloop

import iodine_aio
from iodine_aio.errors import UsageError
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.websocket import WebSocketProtocol
from iodine_aio.pubsub import message as message_module
from iodine_aio.settings import Settings
from tests.clients import (
    exchange,
    join,
    listening,
    open_websocket,
    reset,
)
from tests.frames import BINARY, CLOSE, TEXT, close_frame, frame, text_frame
from tests.handlers import Chat
from tests.loops import until
from tests.requests import GET, HANDSHAKE
from tests.transports import FakeLoop, FakeTransport


def broker_of(server):
    return server._service.broker


async def test_every_subscriber_hears_what_one_publishes():
    """The publisher too, text as text and bytes as binary."""
    async with open_websocket(Chat) as first, join(first.server) as second:
        first.send(text_frame("hä"))
        second.send(frame(BINARY, b"\0\xff"))

        for client in (first, second):
            heard = {await client.receive(), await client.receive()}
            assert heard == {(TEXT, "hä".encode()), (BINARY, b"\0\xff")}


async def test_raw_connections_hear_bytes_of_both():
    """Nothing around them; they meet WebSockets in the same rooms."""
    async with open_websocket(Chat) as browser, listening(Chat) as (reader, writer):
        writer.write("hä".encode())

        assert await browser.receive() == (BINARY, "hä".encode())
        assert await reader.readexactly(3) == "hä".encode()
        browser.send(text_frame("ho"))
        assert await reader.readexactly(2) == b"ho"


async def test_publisher_may_leave_itself_out():
    """All others hear it."""

    class Quiet(Chat):
        def on_message(self, data):
            self.publish("room", data, to_self=False)

    async with open_websocket(Quiet) as first, join(first.server) as second:
        first.send(text_frame("one"))
        assert await second.receive() == (TEXT, b"one")
        second.send(text_frame("two"))

        assert await first.receive() == (TEXT, b"two")


async def test_publisher_hears_all_in_the_order_of_its_callback():
    """What it writes itself, too."""

    class Orderly(Chat):
        def on_message(self, data):
            for number in range(3):
                self.write(f"write {number}")
                self.publish("room", f"publish {number}")

    async with open_websocket(Orderly) as client:
        client.send(text_frame("go"))

        for number in range(3):
            assert await client.receive() == (TEXT, b"write %d" % number)
            assert await client.receive() == (TEXT, b"publish %d" % number)


async def test_what_is_written_before_subscribing_goes_before_what_is_published():
    """Within one callback; and nothing of it is remembered behind its end."""

    class Hasty:
        def on_open(self):
            self.write("first")
            self.subscribe("room")
            self.publish("room", "second")
            self.write("third")

    async with open_websocket(Hasty) as client:
        for text in (b"first", b"second", b"third"):
            assert await client.receive() == (TEXT, text)

        assert not broker_of(client.server).holders


async def test_connection_that_ends_with_something_held_back_is_forgotten():
    """It will never write that."""

    class Abrupt(Chat):
        def on_message(self, data):
            self.write("never sent")
            self.force_close()

    async with open_websocket(Abrupt) as client:
        client.send(text_frame("go"))
        await until(lambda: not client.server.connections)

        assert not broker_of(client.server).holders


async def test_subscribing_twice_delivers_once():
    """To a name as to a pattern."""

    class Eager(Chat):
        def on_open(self):
            for _ in range(2):
                self.subscribe("room")
                self.subscribe("ro*", pattern=True)

    async with open_websocket(Eager) as client:
        client.send(text_frame("one"), text_frame("two"))
        heard = [(await client.receive())[1] for _ in range(4)]

        assert heard == [b"one", b"one", b"two", b"two"]


async def test_later_subscription_takes_the_place_of_the_earlier():
    """Cancelling the earlier one then changes nothing."""

    class Fickle(Chat):
        def on_open(self):
            self.heard = []
            earlier = self.subscribe("room", self.heard.append)
            self.subscribe("room")
            earlier.cancel()

        def on_message(self, data):
            self.publish("room", data)
            self.defer(lambda: self.write(f"called {len(self.heard)}"))

    async with open_websocket(Fickle) as client:
        client.send(text_frame("one"))

        assert await client.receive() == (TEXT, b"one")
        assert await client.receive() == (TEXT, b"called 0")


async def test_earlier_subscription_hears_nothing_once_its_place_is_taken():
    """Not even what was on its way to its callback."""

    class Fickle(Chat):
        def on_open(self):
            self.heard = []
            self.subscribe("room", self.heard.append)

        def on_message(self, data):
            self.publish("room", "before")
            self.subscribe("room")
            self.publish("room", "after")
            self.defer(lambda: self.write(f"called {len(self.heard)}"))

    async with open_websocket(Fickle) as client:
        client.send(text_frame("go"))

        assert await client.receive() == (TEXT, b"after")
        assert await client.receive() == (TEXT, b"called 0")


@pytest.mark.parametrize("how", ["channel", "subscription", "cancel"])
@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("pattern", [False, True])
async def test_unsubscribed_connection_hears_nothing(how, called, pattern):
    """Not even what was on its way to a callback; unsubscribing twice does no harm."""

    class Leaver(Chat):
        def on_open(self):
            callback = (lambda message: self.write(f"called {message.data}")) if called else None
            self.subscription = self.subscribe("room", callback, pattern=pattern)

        def on_message(self, data):
            for _ in range(2):
                if how == "channel":
                    self.unsubscribe("room", pattern=pattern)
                elif how == "subscription":
                    self.unsubscribe(self.subscription)
                else:
                    self.subscription.cancel()
            self.publish("room", data)
            self.defer(self.write, "last")

    async with open_websocket(Leaver) as client:
        client.send(text_frame("one"))

        assert await client.receive() == (TEXT, b"last")
        assert broker_of(client.server).channel_count == 0


async def test_callback_cancelled_with_messages_on_their_way_hears_none():
    """They were published before, and are for nobody."""

    class Leaver(Chat):
        def on_open(self):
            self.heard = []
            self.subscription = self.subscribe("room", self.heard.append)

        def on_message(self, data):
            self.publish("room", data)
            self.subscription.cancel()
            self.defer(lambda: self.write(f"heard {len(self.heard)}"))

    async with open_websocket(Leaver) as client:
        client.send(text_frame("one"))

        assert await client.receive() == (TEXT, b"heard 0")


# Callbacks.


async def test_callback_gets_one_message():
    """With the channel that it came by, also where a pattern was asked for."""

    class Listener(Chat):
        def on_open(self):
            self.subscribe("r*", self.hear, pattern=True)

        def hear(self, message):
            assert isinstance(message, iodine_aio.Message)
            self.write(f"{message.channel}: {message.data!r}")

        def on_message(self, data):
            self.publish("room", data)

    async with open_websocket(Listener) as client:
        client.send(text_frame("hi"), frame(BINARY, b"\0"))

        assert await client.receive() == (TEXT, b"room: 'hi'")
        assert await client.receive() == (TEXT, rb"room: b'\x00'")


class Watched:
    """Its callbacks say when they overlap."""

    def on_open(self):
        self.busy = False
        self.overlaps = 0
        self.subscribe("room", self.hear)

    def enter(self):
        self.overlaps += self.busy
        self.busy = True

    def leave(self):
        self.busy = False


async def test_callbacks_never_overlap_with_others_of_the_connection():
    """Coroutines, and those that publish to themselves."""

    class Coroutines(Watched):
        async def hear(self, message):
            self.enter()
            await asyncio.sleep(0)
            self.leave()
            if message.data == "9":
                self.write(f"overlaps {self.overlaps}")

        async def on_message(self, data):
            self.enter()
            self.publish("room", data)
            await asyncio.sleep(0)
            self.leave()

    async with open_websocket(Coroutines) as client:
        client.send(*(text_frame(str(number)) for number in range(10)))

        assert await client.receive() == (TEXT, b"overlaps 0")


async def test_callbacks_run_in_the_pool_where_the_others_do():
    """One at a time, too, and the methods work from there."""

    class Pooled(Watched):
        def hear(self, message):
            self.enter()
            self.leave()
            if message.data == "9":
                here = threading.current_thread() is threading.main_thread()
                self.write(f"overlaps {self.overlaps}, on the loop: {here}")

        def on_message(self, data):
            self.enter()
            self.publish("room", data)
            self.leave()

    async with open_websocket(Pooled, threads=4) as client:
        client.send(*(text_frame(str(number)) for number in range(10)))

        assert await client.receive() == (TEXT, b"overlaps 0, on the loop: False")


async def test_callback_is_never_called_within_publish():
    """The publisher goes on first, whoever listens."""

    class Listener(Chat):
        def on_open(self):
            self.subscribe("room", lambda message: self.write("heard"))

        def on_message(self, data):
            self.publish("room", data)
            self.write("published")

    async with open_websocket(Listener) as client:
        client.send(text_frame("hi"))

        assert await client.receive() == (TEXT, b"published")
        assert await client.receive() == (TEXT, b"heard")


async def test_callback_that_raises_ends_its_own_connection_only(caplog):
    """With 1011 and an entry in the log; the others have the message."""

    class Listener(Chat):
        members = 0

        def on_open(self):
            Listener.members += 1
            if Listener.members == 1:
                self.subscribe("room", lambda message: 1 // 0)
            else:
                self.subscribe("room")

    async with open_websocket(Listener) as first, join(first.server) as second:
        second.send(text_frame("hi"))

        assert await first.receive() == (CLOSE, b"\x03\xf3")
        assert await second.receive() == (TEXT, b"hi")
        assert "a callback of Listener raised" in caplog.text


@pytest.mark.parametrize("limit", ["max_waiting_messages", "hard_limit_bytes"])
async def test_messages_for_a_slow_callback_are_bounded(limit):
    """The newest are dropped, and counted in two places."""

    class Slow(Chat):
        def on_open(self):
            self.subscription = self.subscribe("room", self.hear)
            self.heard = 0

        async def hear(self, message):
            self.heard += 1
            if self.heard == 1:
                for _ in range(10):
                    self.publish("room", "four")
                await asyncio.sleep(0)
                self.defer(self.tell)

        def tell(self):
            self.write(f"heard {self.heard}, dropped {self.subscription.dropped}")

    limits = {"max_waiting_messages": 4} if limit == "max_waiting_messages" else {}
    if limit == "hard_limit_bytes":
        limits = {"hard_limit_bytes": 15, "soft_limit_bytes": 15}
    async with open_websocket(Slow, **limits) as client:
        dropped = broker_of(client.server).dropped
        client.send(text_frame("go"))

        assert await client.receive() == (TEXT, b"heard 5, dropped 6")
        assert broker_of(client.server).dropped - dropped == 6


# The end of a connection.


@pytest.mark.parametrize("end", ["close", "force_close", "closed", "reset", "goodbye"])
async def test_subscriptions_end_with_their_connection(end):
    """However it ends; the channel has nobody then."""

    class Listener(Chat):
        def on_open(self):
            self.subscribe("room")
            self.subscribe("r*", print, pattern=True)

        def on_message(self, data):
            getattr(self, data)()

    async with open_websocket(Listener) as client:
        broker = broker_of(client.server)
        assert broker.channel_count == 2

        if end == "reset":
            reset(client.writer)
        elif end == "closed":
            client.writer.close()
        else:
            client.send(close_frame(1000) if end == "goodbye" else text_frame(end))
        await until(lambda: broker.channel_count == 0)

        assert broker._channels == {}
        assert broker._patterns == {}


async def test_connection_that_ends_can_say_so_in_its_rooms():
    """From on_close, when it hears nothing itself any more; to subscribe then is for nothing."""

    class Leaver(Chat):
        def on_close(self):
            self.subscribe("room")
            self.publish("room", "left")

    async with open_websocket(Leaver) as first:
        async with join(first.server) as second:
            second.send(close_frame(1000))

            assert await first.receive() == (TEXT, b"left")
        assert len(broker_of(first.server)._channels["room"]) == 1


async def test_ten_thousand_that_come_and_go_leave_nothing():
    """Subscriptions are counted in and out."""

    class Restless(Chat):
        def on_message(self, data):
            for number in range(10_000):
                self.subscribe(f"room.{number}")
                self.unsubscribe(f"room.{number}")
            self.write("done")

    async with open_websocket(Restless) as client:
        client.send(text_frame("go"))

        assert await client.receive() == (TEXT, b"done")
        assert list(broker_of(client.server)._channels) == ["room"]


# Threads.


async def test_messages_of_one_thread_arrive_in_their_order():
    """Between what it writes itself."""

    class Threaded(Chat):
        def on_message(self, data):
            self.run(self.speak)

        def speak(self):
            for number in range(50):
                assert self.publish("room", f"publish {number}")
                self.write(f"write {number}")

    async with open_websocket(Threaded) as client:
        client.send(text_frame("go"))

        for number in range(50):
            assert await client.receive() == (TEXT, b"publish %d" % number)
            assert await client.receive() == (TEXT, b"write %d" % number)


async def test_subscribing_and_unsubscribing_work_in_threads():
    """What is wrong is raised there; what follows in the thread finds it done."""

    class Threaded(Chat):
        def on_open(self):
            pass

        def on_message(self, data):
            self.run(self.work)

        def work(self):
            with pytest.raises(UsageError, match="must be a str"):
                self.subscribe(7)
            subscription = self.subscribe("room")
            self.publish("room", "one")
            subscription.cancel()
            self.publish("room", "two")
            self.subscribe("room", lambda message: self.write(f"called {message.data}"))
            self.publish("room", "three")

    async with open_websocket(Threaded) as client:
        client.send(text_frame("go"))

        assert await client.receive() == (TEXT, b"one")
        assert await client.receive() == (TEXT, b"called three")


async def test_thread_that_publishes_faster_than_the_loop_is_told():
    """What waits for the loop is bounded; the rest is dropped and counted."""
    taken = []

    class Flooder(Chat):
        def on_message(self, data):
            thread = threading.Thread(target=self.flood)
            thread.start()
            thread.join()  # the loop does nothing meanwhile
            self.defer(self.write, "last")

        def flood(self):
            taken.extend([self.publish("room", "x" * 744) for _ in range(20)])

    limits = {"hard_limit_bytes": 10_000, "soft_limit_bytes": 10_000}
    async with open_websocket(Flooder, **limits) as client:
        dropped = broker_of(client.server).dropped
        for _ in range(2):
            taken.clear()
            client.send(text_frame("go"))
            await until(lambda: len(taken) == 20)
            for _ in range(12):  # eleven, and "last"
                await client.receive()

            assert taken == [True] * 11 + [False] * 9
        assert broker_of(client.server).dropped - dropped == 18


# What it costs.


async def test_message_is_encoded_once_for_all(monkeypatch):
    """The same object is written to everybody."""
    encoded = []
    encode_frame = message_module.encode_frame
    monkeypatch.setattr(
        message_module,
        "encode_frame",
        lambda opcode, payload: encoded.append(payload) or encode_frame(opcode, payload),
    )
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_websocket(Chat))
        others = [await stack.enter_async_context(join(first.server)) for _ in range(9)]
        first.send(text_frame("hi"))
        for client in (first, *others):
            assert await client.receive() == (TEXT, b"hi")

        assert encoded == [b"hi"]


class CountingTransport:
    """A transport's writes, as they are made."""

    def __init__(self, transport, written):
        self.transport = transport
        self.written = written

    def write(self, data):
        self.written.append(data)
        self.transport.write(data)

    def __getattr__(self, name):
        return getattr(self.transport, name)


async def test_delivery_is_one_write(monkeypatch):
    """Of the bytes that all get; a channel without subscribers costs none."""
    written = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda *args: written.append(args[1]) or write(*args))
    async with open_websocket(Chat) as first, join(first.server) as second:
        await until(lambda: len(first.server.connections) == 2)
        connections = list(first.server.connections)
        for connection in connections:
            connection.transport = CountingTransport(connection.transport, written)
        iodine_aio.publish("kitchen", "hi")
        iodine_aio.publish("room", "hi")
        for client in (first, second):
            assert await client.receive() == (TEXT, b"hi")

        assert written == [b"\x81\x02hi"] * 2
        assert written[0] is written[1]
        for connection in connections:
            connection.transport = connection.transport.transport


async def test_what_waits_for_a_slow_peer_goes_before_what_is_published():
    """Though its socket has room again: the way past the connection is shut until all is sent."""
    size = 16 << 20
    async with open_websocket(Chat, hard_limit_bytes=2 * size) as other:
        (others,) = other.server.connections
        loop, received = asyncio.get_running_loop(), bytearray()
        with socket.create_connection(("127.0.0.1", other.server.port)) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, HANDSHAKE)
            while not received.endswith(b"\r\n\r\n"):
                received += await loop.sock_recv(client, 65536)
            received.clear()
            (connection,) = other.server.connections - {others}
            connection.write(bytes(size))
            assert connection.pending
            for text in ("1", "2", "3"):
                with contextlib.suppress(BlockingIOError):
                    while data := client.recv(65536):
                        received += data
                iodine_aio.publish("room", text)
            expected = b"\x82\x7f" + struct.pack("!Q", size) + bytes(size)
            expected += b"\x81\x011" + b"\x81\x012" + b"\x81\x013"
            while len(received) < len(expected):
                received += await loop.sock_recv(client, 1 << 20)
            assert received == expected
            await until(lambda: not connection.pending)
            iodine_aio.publish("room", "4")
            assert await loop.sock_recv(client, 100) == b"\x81\x014"


async def test_messages_go_past_a_connection_while_nothing_is_in_the_way(monkeypatch):
    """On uvloop, whose transport takes them at once; a peer that lags has its limits looked at."""
    asked = []
    deliver = WebSocketProtocol.deliver
    monkeypatch.setattr(
        WebSocketProtocol,
        "deliver",
        lambda connection, message: asked.append(message.data) or deliver(connection, message),
    )
    async with open_websocket(Chat) as client:
        (connection,) = client.server.connections
        iodine_aio.publish("room", "1")
        connection.pause_writing()
        iodine_aio.publish("room", "2")
        connection.resume_writing()
        iodine_aio.publish("room", "3")
        for text in (b"1", b"2", b"3"):
            assert await client.receive() == (TEXT, text)

        uses_uvloop = isinstance(asyncio.get_running_loop(), uvloop.Loop)
        assert asked == (["2"] if uses_uvloop else ["1", "2", "3"])


async def test_what_is_published_reaches_nobody_through_a_closed_connections_descriptor():
    """Its number is another connection's at once."""

    def app(env):
        if env["rack.upgrade?"]:
            env["upgrade.websocket"] = Chat
        return 200, {}, "plain"

    answered, heard = 0, 0
    async with iodine_aio.serve(app, port=0) as server, join(server) as listener:
        for round_ in range(50):
            async with contextlib.AsyncExitStack() as stack:
                goes = [await stack.enter_async_context(join(server)) for _ in range(4)]
                iodine_aio.publish("room", "before")
                for client in goes:
                    reset(client.writer)
                plain = [asyncio.create_task(exchange(server, GET)) for _ in range(4)]
                while not all(task.done() for task in plain):
                    iodine_aio.publish("room", str(round_))
                    heard += 1
                    await asyncio.sleep(0)
                for task in plain:
                    assert (await task).endswith(b"\r\n\r\nplain")  # no frame
                    answered += 1
        heard += 50
        for _ in range(heard):
            opcode, _ = await listener.receive()
            assert opcode == TEXT
    assert answered == 200


@contextlib.contextmanager
def opened():
    """A WebSocket and its transport, that fails a test that writes behind its end."""
    service = Service(None, Settings())
    service.start(FakeLoop())
    connection, transport = WebSocketProtocol(service, object(), None), FakeTransport()
    connection.connection_made(transport)
    yield connection, transport
    connection.connection_lost(None)


def test_connection_that_closes_is_sent_nothing_more():
    """Behind a Close frame nothing may stand, whoever still delivers."""
    with opened() as (connection, transport):
        connection.close()
        written = bytes(transport.written)
        connection.deliver(iodine_aio.Message("room", "hi"))

        assert transport.written == written


def test_transport_that_has_failed_is_written_nothing():
    """Before its protocol hears of it: asyncio would warn of each write."""
    with opened() as (connection, transport):
        connection.subscribe("room", None, False)
        transport.abort()
        connection.service.broker.publish("room", "hi")

        assert transport.written == b""


async def test_on_drained_is_called_behind_what_was_published():
    """As behind what was written."""
    drained = asyncio.get_running_loop().create_future()

    class Draining(Chat):
        def on_drained(self):
            drained.set_result(self.pending)

    async with open_websocket(Draining) as client:
        await until(lambda: broker_of(client.server).has("room"))
        iodine_aio.publish("room", "hi")

        assert await client.receive() == (TEXT, b"hi")
        assert await drained == 0


# What is refused.


async def refuse(action, **options):
    """What `action(handler)` raises when its WebSocket opens."""
    raised = []

    class Wrong:
        def on_open(self):
            with pytest.raises(UsageError) as caught:
                action(self)
            raised.append(str(caught.value))

    async with open_websocket(Wrong, **options):
        await until(lambda: raised)
    return raised[0]


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (lambda ws: ws.subscribe(b"room"), "channel is bytes, must be a str"),
        (lambda ws: ws.subscribe("x" * 256), "raise max_channel_length"),
        (lambda ws: ws.subscribe(""), "must be 1 to 255"),
        (lambda ws: ws.subscribe("[", pattern=True), "without its ]"),
        (lambda ws: ws.subscribe("room", "hear"), "callback is str, must be a function"),
        (lambda ws: ws.unsubscribe(7), "cannot unsubscribe from int"),
        (lambda ws: ws.publish("room", 7), "cannot publish int, must be str or bytes"),
        (lambda ws: ws.publish(None, "hi"), "channel is NoneType, must be a str"),
    ],
)
async def test_wrong_use_is_refused(action, text):
    """With what is wrong and what would be right."""
    assert text in await refuse(action)


async def test_connections_subscriptions_are_bounded():
    """The error names the cure; the same channel again is no other."""

    def take_too_many(ws):
        for _ in range(2):
            ws.subscribe("a")
            ws.subscribe("a", pattern=True)
        ws.subscribe("b")

    text = await refuse(take_too_many, max_subscriptions=2)

    assert "2 subscriptions of one connection" in text
    assert "raise max_subscriptions" in text


async def test_channels_of_the_process_are_bounded_by_settings():
    """In length and in number."""
    text = await refuse(lambda ws: ws.subscribe("xxxx"), max_channel_length=3)
    assert "max_channel_length" in text

    def take_too_many(ws):
        ws.subscribe("a")
        ws.subscribe("b")

    assert "raise max_channels" in await refuse(take_too_many, max_channels=1)
