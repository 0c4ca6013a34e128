"""Publish and subscribe for all of the process, and the loops that it happens on."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

import iodine_aio
from iodine_aio import WebSocket, homes
from iodine_aio.errors import UsageError
from tests.clients import join, open_websocket
from tests.frames import TEXT, text_frame
from tests.handlers import Chat, hello
from tests.loops import LOOP_FACTORIES, elsewhere, until


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test ends what it began."""
    yield
    gc.collect()
    assert homes.broker._channels == {}
    assert homes.broker._patterns == {}


# Publishing.


async def test_program_and_its_connections_hear_each_other():
    """Both ways, by the same channel."""
    heard = []
    subscription = iodine_aio.subscribe("room", heard.append)
    async with open_websocket(Chat) as client:
        assert iodine_aio.publish("room", "program")
        assert await client.receive() == (TEXT, b"program")
        client.send(text_frame("client"))
        assert await client.receive() == (TEXT, b"client")
        await until(lambda: len(heard) == 2)

        assert [message.data for message in heard] == ["program", "client"]
        subscription.cancel()


async def test_other_threads_publish_in_their_order():
    """Without a connection; the thread waits for nothing."""
    async with open_websocket(Chat) as client:
        taken = []

        def speak():
            taken.extend([iodine_aio.publish("room", str(number)) for number in range(50)])

        thread = threading.Thread(target=speak)
        thread.start()
        for number in range(50):
            assert await client.receive() == (TEXT, b"%d" % number)
        thread.join()

        assert taken == [True] * 50


def test_without_a_loop_nobody_hears_and_the_publisher_is_told():
    """False: it is dropped; what is wrong with it is raised all the same."""
    heard = []
    subscription = iodine_aio.subscribe("room", heard.append)

    assert iodine_aio.publish("room", "hi") is False
    with pytest.raises(UsageError, match="must be str or bytes"):
        iodine_aio.publish("room", 7)  # type: ignore[arg-type]
    assert heard == []
    subscription.cancel()


async def test_thread_that_publishes_faster_than_the_loop_is_told():
    """What waits for the loop is bounded; the rest is dropped and counted."""
    limits = {"hard_limit_bytes": 10_000, "soft_limit_bytes": 10_000}
    async with iodine_aio.serve(hello, port=0, **limits):
        heard, taken = [], []
        subscription = iodine_aio.subscribe("room", heard.append)
        dropped = homes.broker.dropped
        thread = threading.Thread(
            target=lambda: taken.extend([iodine_aio.publish("room", "x" * 744) for _ in range(20)])
        )
        thread.start()
        thread.join()  # the loop does nothing meanwhile
        await until(lambda: len(heard) == 11)

        assert taken == [True] * 11 + [False] * 9
        assert homes.broker.dropped - dropped == 9
        assert iodine_aio.publish("room", "again")
        await until(lambda: len(heard) == 12)
        subscription.cancel()


async def test_empty_messages_of_a_thread_are_bounded_too():
    """A message takes memory, however short it is."""
    limits = {"hard_limit_bytes": 10_000, "soft_limit_bytes": 10_000}
    async with iodine_aio.serve(hello, port=0, **limits):
        taken = []
        thread = threading.Thread(
            target=lambda: taken.extend([iodine_aio.publish("room", "") for _ in range(100)])
        )
        thread.start()
        thread.join()  # the loop does nothing meanwhile

        assert taken[0] is True
        assert taken[-1] is False
        await until(lambda: iodine_aio.publish("room", ""))


async def test_empty_messages_of_a_connections_thread_are_bounded_too():
    """What a handler publishes from the pool waits for the same loop."""
    taken = []

    class Talker:
        def on_open(self):
            thread = threading.Thread(target=self.talk)
            thread.start()
            thread.join()  # the loop does nothing meanwhile
            self.write("done")

        def talk(self):
            taken.extend([self.publish("room", "") for _ in range(100)])

    limits = {"hard_limit_bytes": 10_000, "soft_limit_bytes": 10_000}
    async with open_websocket(Talker, **limits) as client:
        assert await client.receive() == (TEXT, b"done")

    assert taken[0] is True
    assert taken[-1] is False


# Callbacks.


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_callback_that_raises_no_exception_ends_nothing(kind, error, caplog):
    """A client could end the server, and all other workers, by what it has published."""
    heard = []

    def hear(message):
        heard.append(message.data)
        raise error

    async def hear_later(message):
        hear(message)

    subscription = iodine_aio.subscribe("room", hear if kind == "plain" else hear_later)
    async with open_websocket(Chat) as client:
        for text in ("first", "second"):
            client.send(text_frame(text))
            assert await client.receive() == (TEXT, text.encode())
        await until(lambda: heard == ["first", "second"])
        subscription.cancel()

    assert (kind == "async" and error is asyncio.CancelledError) or caplog.text.count(
        " raised"
    ) == 2


async def test_callbacks_of_one_subscription_never_overlap(caplog):
    """Coroutines; one that raises is logged, and the next message comes."""
    busy, heard = [], []

    async def hear(message):
        assert not busy
        busy.append(message)
        await asyncio.sleep(0)
        busy.clear()
        heard.append(message.data)
        if message.data == "0":
            raise LookupError("of the callback")

    subscription = iodine_aio.subscribe("r*", hear, pattern=True)
    for number in range(5):
        iodine_aio.publish("room", str(number))
    await until(lambda: len(heard) == 5)

    assert heard == list("01234")
    assert "of the callback" in caplog.text
    iodine_aio.unsubscribe(subscription)


async def test_plain_callback_that_raises_affects_nobody_else(caplog):
    """Neither others nor its own next messages."""
    heard, failed = [], []

    def fail(message):
        failed.append(message)
        raise LookupError("of the callback")

    subscriptions = [iodine_aio.subscribe("room", f) for f in (fail, heard.append)]
    iodine_aio.publish("room", "one")
    iodine_aio.publish("room", "two")
    await until(lambda: len(heard) == len(failed) == 2)

    assert caplog.text.count("LookupError: of the callback") == 2
    for subscription in subscriptions:
        subscription.cancel()


async def test_cancelled_callback_hears_nothing_not_even_what_waits():
    """It was published before; cancelling twice does no harm."""
    heard = []
    subscription = iodine_aio.subscribe("room", heard.append)
    iodine_aio.publish("room", "one")
    subscription.cancel()
    subscription.cancel()
    for _ in range(3):
        await asyncio.sleep(0)

    assert heard == []


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_callback_subscribed_before_any_loop_runs_on_the_servers(factory):
    """As at the import of a program."""
    heard = []
    subscription = iodine_aio.subscribe(
        "room", lambda message: heard.append((message.data, threading.get_ident()))
    )

    async def main():
        async with iodine_aio.serve(hello, port=0):
            iodine_aio.publish("room", "hi")
            await until(lambda: heard)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())

    assert heard == [("hi", threading.get_ident())]
    subscription.cancel()


@pytest.mark.parametrize("subscription", [None, "room", 7])
def test_only_a_subscription_can_be_ended(subscription):
    """Others may listen to the same channel."""
    with pytest.raises(UsageError, match="must be what subscribe returned"):
        iodine_aio.unsubscribe(subscription)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((b"room",), "channel is bytes"),
        (("x" * 256, print), "max_channel_length"),
        (("room", "print"), "callback is str, must be a function"),
        (("[", print, True), "without its"),
    ],
)
def test_wrong_subscription_is_refused(arguments, text):
    """With what is wrong, and nothing left behind."""
    with pytest.raises(UsageError, match=text):
        iodine_aio.subscribe(*arguments)


# async for.


async def test_messages_come_to_an_async_for():
    """From the call of subscribe on; break ends it."""
    messages = iodine_aio.subscribe("room")
    for number in range(3):
        iodine_aio.publish("room", str(number))
    heard = []
    async for message in messages:
        heard.append((message.channel, message.data))
        if len(heard) == 3:
            break

    assert heard == [("room", "0"), ("room", "1"), ("room", "2")]
    del messages


async def test_break_ends_a_subscription_that_nobody_holds():
    """As in `async for message in iodine_aio.subscribe("room")`."""
    async for _ in publishing_soon(iodine_aio.subscribe("r*", pattern=True)):
        break

    assert homes.broker.channel_count == 0


def publishing_soon(messages):
    asyncio.get_running_loop().call_soon(iodine_aio.publish, "room", "hi")
    return messages


async def test_loop_that_waits_has_each_message_when_it_comes():
    """And ends when somebody closes it."""
    heard = []
    messages = iodine_aio.subscribe("room")

    async def listen():
        async for message in messages:
            heard.append(message.data)
        heard.append("end")

    task = asyncio.create_task(listen())
    for number in range(3):
        iodine_aio.publish("room", str(number))
        await until(lambda number=number: len(heard) == number + 1)
    await messages.aclose()
    await task

    assert heard == ["0", "1", "2", "end"]
    assert [message async for message in messages] == []


async def test_cancelled_loop_ends_its_subscription():
    """As when a program ends."""
    async with iodine_aio.subscribe("room") as messages:

        async def listen():
            async for _ in messages:
                pass

        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert homes.broker.has("room")

    assert not homes.broker.has("room")


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_subscription_ends_with_its_loop(factory):
    """A task that still waits then is cancelled, and holds nothing."""

    async def listen():
        async for _ in iodine_aio.subscribe("room"):
            pass

    async def main():
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        assert homes.broker.has("room")
        return listening

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    gc.collect()

    assert not homes.broker.has("room")


async def test_messages_that_nobody_takes_are_bounded():
    """The newest are dropped, and counted."""
    async with iodine_aio.serve(hello, port=0, max_waiting_messages=3):
        messages = iodine_aio.subscribe("room")
        for number in range(5):
            iodine_aio.publish("room", str(number))
        heard = [(await anext(messages)).data for _ in range(3)]
        iodine_aio.publish("room", "5")

        assert [*heard, (await anext(messages)).data] == ["0", "1", "2", "5"]
        assert messages.dropped == 2
        await messages.aclose()


async def test_two_loops_over_the_same_messages_are_refused():
    """Each would have half of them."""
    async with iodine_aio.subscribe("room") as messages:
        first = asyncio.create_task(anext(messages))  # type: ignore[arg-type]
        await asyncio.sleep(0)

        with pytest.raises(UsageError, match="subscribe twice"):
            await anext(messages)
        iodine_aio.publish("room", "hi")
        assert (await first).data == "hi"


# Several loops.


def chat_of(servers):
    """What `elsewhere` may run: serves the chat, and appends its server to `servers`."""

    def app(env):
        env["upgrade.websocket"] = Chat
        return 0, {}, None

    async def serve(started, stop):
        async with iodine_aio.serve(app, port=0) as server:
            servers.append(server)
            started.set()
            await stop.wait()

    return serve


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_servers_of_several_threads_are_one_process(factory):
    """A message reaches the connections of all, whichever it comes from."""
    servers = []
    serve = chat_of(servers)

    async def talk():
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for server in servers:
                clients.append(await stack.enter_async_context(join(server)))
            # A subscription of another thread is on its way for a moment.
            await until(lambda: len(homes.broker._channels.get("room", ())) == len(servers))
            for speaker in clients:
                speaker.send(text_frame("hi"))
                for client in clients:
                    assert await client.receive() == (TEXT, b"hi")
            assert iodine_aio.publish("room", "from the program")
            for client in clients:
                assert await client.receive() == (TEXT, b"from the program")

    with elsewhere(factory, serve):
        with elsewhere(factory, serve):
            assert servers[0]._service.broker is homes.broker
            assert servers[1]._service.broker is not homes.broker
            asyncio.run(asyncio.wait_for(talk(), 20))
        servers.pop()
        asyncio.run(asyncio.wait_for(talk(), 20))


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_next_loop_takes_over_when_the_first_has_ended(factory):
    """Its server's connections find each other."""
    servers = []
    serve = chat_of(servers)

    async def talk():
        async with join(servers[1]) as client:
            client.send(text_frame("hi"))
            assert await client.receive() == (TEXT, b"hi")

    first = elsewhere(factory, serve)
    first.__enter__()
    with elsewhere(factory, serve):
        first.__exit__(None, None, None)
        asyncio.run(asyncio.wait_for(talk(), 20))


# A loop that is closed with a server says so, and uvloop's waits for ever if that is an error.
leaves_behind = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class Listener:
    """Listens in every way that a connection can, and says what its program says to all."""

    def on_open(self):
        self.subscribe("room")
        self.subscribe("ro*", pattern=True)
        self.subscribe("hall", lambda message: self.write(message.data))


@contextlib.asynccontextmanager
async def left_behind():
    """A client of a server that nobody stops."""

    def app(env):
        env["upgrade.websocket"] = Listener
        return 0, {}, None

    server = await iodine_aio.serve(app, port=0).started()
    async with join(server) as client:
        await until(lambda: homes.broker.has("hall"))
        server.close_sockets()
        yield client


@leaves_behind
@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_connections_of_a_closed_loop_are_dropped(factory, caplog):
    """And what its program has subscribed there; the next server's are served, and none else."""
    heard = []

    async def break_off():
        iodine_aio.subscribe("room", heard.append)
        async with left_behind():
            raise SystemExit

    async def go_on():
        async with open_websocket(Listener) as client:
            await until(lambda: homes.broker.has("hall"))
            WebSocket.each(lambda handler: handler.write("all"))
            assert await client.receive() == (TEXT, b"all")
            for channel in ("room", "hall"):
                delivered = homes.broker.delivered
                iodine_aio.publish(channel, channel)
                counts.append(homes.broker.delivered - delivered)
            heard_here = [(await client.receive())[1] for _ in range(3)]
            assert heard_here == [b"room", b"room", b"hall"]

    counts = []
    with pytest.raises(SystemExit), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(break_off())
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(go_on(), 20))

    gc.collect()  # what was left behind warns
    assert counts == [2, 1]
    assert heard == caplog.records == []


@leaves_behind
@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
async def test_connections_of_another_threads_closed_loop_are_dropped(factory, caplog):
    """When the first message finds it closed."""
    heard = []

    async def break_off(started, stop):
        iodine_aio.subscribe("room", heard.append)
        async with left_behind():
            started.set()
            await stop.wait()

    async with open_websocket(Chat) as client:
        client.send(text_frame("1"))
        assert await client.receive() == (TEXT, b"1")
        ended = elsewhere(factory, break_off)
        await asyncio.to_thread(ended.__enter__)
        await asyncio.to_thread(ended.__exit__, None, None, None)
        client.send(text_frame("2"))
        assert await client.receive() == (TEXT, b"2")
        assert len(homes.broker._channels["room"]) == 1
        WebSocket.each(lambda handler: handler.write("all"))
        assert await client.receive() == (TEXT, b"all")

    gc.collect()  # what was left behind warns
    assert heard == caplog.records == []


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_messages_of_a_closed_loop_have_ended(factory):
    """Nothing will come: another loop that asks for the next one does not wait for it."""

    async def subscribe():
        return iodine_aio.subscribe("room")

    async def listen(messages):
        iodine_aio.publish("room", "hi")
        return [message async for message in messages]

    with asyncio.Runner(loop_factory=factory) as runner:
        messages = runner.run(subscribe())
    with asyncio.Runner(loop_factory=factory) as runner:
        heard = runner.run(asyncio.wait_for(listen(messages), 20))

    assert heard == []


async def test_server_that_stops_leaves_the_loop_its_channels():
    """Programs go on to talk by them, from threads too."""
    async with iodine_aio.serve(hello, port=0) as server:
        messages = iodine_aio.subscribe("room")
    reference = weakref.ref(server._service)
    del server
    await asyncio.to_thread(iodine_aio.publish, "room", "hi")
    gc.collect()

    assert (await anext(messages)).data == "hi"
    assert reference() is None
    await messages.aclose()


class InBetween(asyncio.SelectorEventLoop):
    """Lets something happen elsewhere while one of its coroutines is about to wait."""

    happen = None

    def create_future(self):
        happen, self.happen = self.happen, None
        if happen is not None:
            happen()
        return super().create_future()


@pytest.mark.parametrize("what", ["message", "end"])
async def test_message_that_comes_as_another_thread_begins_to_wait_wakes_it(what):
    """It is not left until the next one comes, and neither is the end."""
    home, heard = asyncio.get_running_loop(), []

    async def listen():
        loop = asyncio.get_running_loop()
        messages = iodine_aio.subscribe("room")

        def happen():
            if what == "message":
                iodine_aio.publish("room", "in between")
            else:
                thread = threading.Thread(target=messages.cancel)
                thread.start()
                thread.join()
            passed = threading.Event()
            home.call_soon_threadsafe(passed.set)
            assert passed.wait(10)

        loop.happen = happen
        async for message in messages:
            heard.append(message.data)
            messages.cancel()

    def work():
        with asyncio.Runner(loop_factory=InBetween) as runner:
            runner.run(asyncio.wait_for(listen(), 10))

    async with iodine_aio.serve(hello, port=0):
        await asyncio.to_thread(work)
        await until(lambda: not homes.broker.has("room"))

    assert heard == (["in between"] if what == "message" else [])
