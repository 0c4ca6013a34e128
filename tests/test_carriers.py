"""One engine for all servers of a process, in whatever loops they run."""

import asyncio
import contextlib
import threading

import pytest

import iodine_aio
from iodine_aio import homes
from iodine_aio.carriers import deliver
from iodine_aio.errors import StartupError
from iodine_aio.pubsub.engine import ProcessEngine
from iodine_aio.pubsub.message import Message
from iodine_aio.serving import make_server
from tests.handlers import hello
from tests.loops import LOOP_FACTORIES, elsewhere, until


class NotedEngine:
    """Carries nothing; notes what it is told, and fails a test whose thread is not its own."""

    def __init__(self):
        self.notes = []
        self.thread_id = 0
        self.told = threading.Condition()

    def note(self, *note):
        self.thread_id = self.thread_id or threading.get_ident()
        assert threading.get_ident() == self.thread_id, note
        with self.told:
            self.notes.append(note)
            self.told.notify_all()

    async def open(self):
        self.note("open")

    async def close(self):
        if self.thread_id:
            self.note("close")

    def subscribe(self, channel, pattern):
        self.note("subscribe", channel, pattern)

    def unsubscribe(self, channel, pattern):
        self.note("unsubscribe", channel, pattern)

    def publish(self, message):
        self.note("publish", message.data)

    def wait_for(self, note):
        with self.told:
            assert self.told.wait_for(lambda: note in self.notes, 20), (note, self.notes)


@contextlib.asynccontextmanager
async def serve_with(engine=None, **options):
    """A server that has this engine, or none."""
    server = make_server(hello, port=0, **options)
    if engine is not None:
        server.set_engine(engine)
    server.open()
    server.start()
    async with server:
        yield server


async def test_server_that_stops_hands_over_to_the_next_that_has_an_engine():
    """It is told of what is listened to, and the third is not asked for anything."""
    first, second, third = NotedEngine(), NotedEngine(), NotedEngine()
    async with serve_with(first) as one, serve_with(second), serve_with(third):
        subscription = iodine_aio.subscribe("room", print)
        iodine_aio.publish("news", "1")
        await one.stop()
        iodine_aio.publish("news", "2")
        await until(lambda: ("open",) in second.notes)
        assert third.notes == []
        subscription.cancel()

    assert first.notes == [("open",), ("subscribe", "room", False), ("publish", "1"), ("close",)]
    assert sorted(second.notes[:3]) == sorted(
        [("open",), ("subscribe", "room", False), ("publish", "2")]
    )
    assert isinstance(homes.broker.engine, ProcessEngine)


async def test_server_that_waited_in_vain_leaves_the_other_alone():
    """And is not opened afterwards."""
    first, second = NotedEngine(), NotedEngine()
    async with serve_with(first):
        async with serve_with(second):
            pass
        iodine_aio.publish("news", "1")

    assert first.notes == [("open",), ("publish", "1"), ("close",)]
    assert second.notes == []


async def test_second_redis_of_a_process_is_refused():
    """Its channels are those of the first; said without passwords."""
    other = NotedEngine()
    async with serve_with(NotedEngine(), redis_url="redis://user:secret@one:1"):
        with pytest.raises(StartupError) as caught:
            async with serve_with(other, redis_url="redis://user:secret@two:2"):
                pass

    assert other.notes == []

    assert str(caught.value) == (
        "a server of this process is connected to Redis at one:1, this one wants Redis at two:2:"
        " a process has one set of channels, so give both the same redis_url, or a process of its"
        " own to each"
    )


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_engine_is_called_in_its_own_thread(factory):
    """By a broker that belongs to another, which gets in its own what comes from elsewhere."""
    engine = NotedEngine()
    heard = []

    async def serve_plain(started, stop):
        async with serve_with():
            started.set()
            await stop.wait()

    async def serve_engine(started, stop):
        async with serve_with(engine):
            deliver(Message("room", "from elsewhere"))
            started.set()
            await stop.wait()

    class Ear:
        def deliver(self, message):
            heard.append((threading.get_ident(), message.data))

    ear = Ear()
    with elsewhere(factory, serve_plain):
        home = homes.find_home()
        homes.call_home(homes.broker.subscribe, "room", ear)
        with elsewhere(factory, serve_engine):
            assert homes.find_home() is home
            engine.wait_for(("subscribe", "room", False))
            assert iodine_aio.publish("room", "hi")
            engine.wait_for(("publish", "hi"))
            homes.call_home(homes.broker.unsubscribe, "room", ear)
            engine.wait_for(("unsubscribe", "room", False))
        engine.wait_for(("close",))

    assert heard == [(home.thread_id, "from elsewhere"), (home.thread_id, "hi")]


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_server_of_another_thread_takes_over(factory):
    """Its engine is opened there."""
    first, second = NotedEngine(), NotedEngine()

    def serving(engine, leaves):
        async def serve(started, stop):
            async with serve_with(engine) as server:
                started.set()
                await (asyncio.to_thread(leaves.wait, 20) if leaves else stop.wait())
                if leaves:
                    await server.stop()
                    await stop.wait()

        return serve

    leaves = threading.Event()
    with (
        elsewhere(factory, serving(first, leaves)),
        elsewhere(factory, serving(second, None)),
    ):
        leaves.set()
        second.wait_for(("open",))
        first.wait_for(("close",))
        assert iodine_aio.publish("room", "hi")
        second.wait_for(("publish", "hi"))

    assert first.notes == [("open",), ("close",)]
    assert second.notes == [("open",), ("publish", "hi"), ("close",)]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_engine_of_a_closed_loop_is_replaced(factory):
    """By the next server's; the one that nobody stopped is asked for nothing more."""
    first, second = NotedEngine(), NotedEngine()

    async def break_off():
        server = make_server(hello, port=0)
        server.set_engine(first)
        server.open()
        server.start()
        await server.started()
        server.close_sockets()
        iodine_aio.subscribe("room", print)

    async def go_on():
        async with serve_with(second):
            iodine_aio.publish("news", "1")

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(break_off())
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(go_on(), 20))

    assert first.notes == [("open",), ("subscribe", "room", False)]
    assert second.notes == [("open",), ("publish", "1"), ("close",)]
