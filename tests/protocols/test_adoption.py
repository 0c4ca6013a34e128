"""Handlers: classes and objects that are given the methods of the network."""

import asyncio
import gc
import weakref
from dataclasses import dataclass

import pytest

import iodine_aio
from iodine_aio.errors import UsageError
from iodine_aio.protocols.handlers import adopt, make_handler
from iodine_aio.protocols.service import Service
from iodine_aio.protocols.tcp import TCPProtocol
from iodine_aio.protocols.websocket import WebSocketProtocol
from iodine_aio.settings import Settings
from tests.clients import shake_hands
from tests.handlers import Echo


def open_websocket(handler):
    """A connection that is not on any transport yet, its handler adopted."""
    connection = WebSocketProtocol(Service(None, Settings()), handler, {"PATH_INFO": "/"})
    adopt(handler, connection)
    return connection


class Plain:
    """A user's class, without any base of ours."""


class Slotted:
    """One that leaves no room."""

    __slots__ = ("name",)


class Based(iodine_aio.WebSocket):
    """One that inherits the methods."""


class BasedSlotted(iodine_aio.WebSocket):
    """One with slots of its own beside ours."""

    __slots__ = ("name",)


@dataclass(frozen=True)
class Frozen:
    """One whose attributes cannot be set."""

    name: str = "frozen"


@dataclass
class Equal:
    """One that compares by value, and so has no hash."""

    name: str = "equal"


# Making.


def test_class_with_a_required_argument_is_called_with_env():
    """Whatever the argument is named."""

    class Handler:
        def __init__(self, request):
            self.request = request

    env = {"PATH_INFO": "/"}

    assert make_handler(Handler, env).request is env


def test_class_with_an_argument_named_env_is_called_with_env():
    """Also where it has a default."""

    class Handler:
        def __init__(self, env=None):
            self.request = env

    env = {"PATH_INFO": "/"}

    assert make_handler(Handler, env).request is env


def test_class_with_only_optional_arguments_is_called_without():
    """A default of the user's stays."""

    class Handler:
        def __init__(self, room="lobby", *rest, **options):
            self.room = room

    assert make_handler(Handler, {}).room == "lobby"


def test_class_made_on_every_connection_is_inspected_once():
    """Two connections, two objects."""
    first, second = make_handler(Plain, {}), make_handler(Plain, {})

    assert first is not second


def test_instance_is_the_handler_itself():
    """It is not called, though it could be."""
    handler = Plain()

    assert make_handler(handler, {}) is handler


# Adopting.


@pytest.mark.parametrize("cls", [Plain, Based, BasedSlotted, Frozen, Equal])
def test_object_stays_what_it_was_and_gains_methods(cls):
    """isinstance and the name of its class do not change."""
    handler = cls()
    connection = open_websocket(handler)

    assert isinstance(handler, cls)
    assert type(handler).__name__ == cls.__name__
    assert handler.id == connection.id
    assert handler.env == {"PATH_INFO": "/"}


def test_class_of_the_user_is_left_alone():
    """Other objects of it have no network methods."""
    open_websocket(Plain())

    assert not hasattr(Plain, "write")
    assert not hasattr(Plain(), "write")


def test_slots_that_leave_no_room_name_the_base_class():
    """The error says the cure."""
    with pytest.raises(UsageError, match=r"inherit from iodine_aio\.WebSocket"):
        open_websocket(Slotted())


def test_object_without_room_names_the_raw_base_class_too():
    """For a raw connection the cure is Protocol."""
    handler = Slotted()
    connection = TCPProtocol(Service(None, Settings()), handler, None)

    with pytest.raises(UsageError, match=r"inherit from iodine_aio\.Protocol"):
        adopt(handler, connection)


@pytest.mark.parametrize("handler", [object(), 5, "text", [], {}, lambda: None])
def test_extension_types_cannot_be_adopted(handler):
    """They have no room for a connection."""
    with pytest.raises(UsageError, match="cannot be adopted"):
        open_websocket(handler)


@pytest.mark.parametrize("cls", [Plain, Based, BasedSlotted, Frozen])
def test_second_adoption_is_refused(cls):
    """One object serves one connection."""
    handler = cls()
    open_websocket(handler)

    with pytest.raises(UsageError, match="serves a connection already"):
        open_websocket(handler)


@pytest.mark.parametrize("name", ["write", "close", "each", "id", "env", "pending", "count"])
def test_attribute_of_the_users_class_wins(name):
    """We hide nothing of the user's."""
    cls = type("Handler", (), {name: "mine"})
    handler = cls()
    open_websocket(handler)

    assert getattr(handler, name) == "mine"


@pytest.mark.parametrize(
    "name", ["write", "close", "each", "id", "env", "pending", "count", "timeout"]
)
def test_attribute_of_the_users_object_wins(name):
    """Instance attributes too, set before the adoption."""
    handler = Plain()
    setattr(handler, name, "mine")
    open_websocket(handler)

    assert getattr(handler, name) == "mine"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), None, "3"])
def test_timeout_that_is_no_time_is_refused(seconds):
    """At once, where the mistake is; not when the clock meets it."""
    handler = Plain()
    open_websocket(handler)

    with pytest.raises(UsageError, match=r"timeout is .*, must be seconds, or 0"):
        handler.timeout = seconds  # type: ignore[attr-defined]


def test_timeout_is_settable():
    """The one attribute that is."""
    handler = Plain()
    connection = open_websocket(handler)
    handler.timeout = 7

    assert handler.timeout == 7
    assert connection.timeout == 7


def test_base_class_without_a_connection_says_so():
    """Before on_open there is nobody to write to."""
    with pytest.raises(UsageError, match="serves no connection yet"):
        Based().write("x")


def test_class_that_was_adopted_can_be_collected():
    """A class made in a function does not live for ever."""

    class Short:
        pass

    open_websocket(Short())
    reference = weakref.ref(Short)
    del Short
    gc.collect()

    assert reference() is None


# Through a server.


@pytest.mark.parametrize("cls", [Plain, Based, BasedSlotted, Frozen, Equal])
@pytest.mark.parametrize("as_instance", [False, True])
async def test_classes_and_instances_are_served(cls, as_instance):
    """A subclass of each that greets, by a WebSocket."""

    class Greeter(cls):
        __slots__ = ()

        def on_open(self):
            self.write("hi")

    def app(env):
        env["upgrade.websocket"] = Greeter() if as_instance else Greeter
        return 0, {}, None

    async with iodine_aio.serve(app, port=0) as server:
        reader, writer, status = await shake_hands(server)

        assert status == 101
        assert await reader.readexactly(4) == b"\x81\x02hi"
        writer.close()


@pytest.mark.parametrize("handler", [Slotted, Slotted()])
async def test_handler_without_room_answers_500(handler, caplog):
    """The client is told, the log says the cure."""

    def app(env):
        env["upgrade.websocket"] = handler
        return 0, {}, None

    async with iodine_aio.serve(app, port=0) as server:
        _, writer, status = await shake_hands(server)
        writer.close()

        assert status == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_object_given_to_two_connections_answers_500_to_the_second(caplog):
    """The first one's connection is not touched."""

    shared = Echo()

    def app(env):
        env["upgrade.websocket"] = shared
        return 0, {}, None

    async with iodine_aio.serve(app, port=0) as server:
        reader, writer, first = await shake_hands(server)
        _, other, second = await shake_hands(server)
        writer.write(b"\x81\x81\x00\x00\x00\x00x")

        assert (first, second) == (101, 500)
        assert await reader.readexactly(3) == b"\x81\x01x"
        writer.close()
        other.close()
    assert len(caplog.records) == 1


async def test_listen_takes_a_class_that_inherits_protocol():
    """And gives it the methods of a raw connection."""

    class Echo(iodine_aio.Protocol):
        __slots__ = ()

        def on_message(self, data):
            self.write(data)

    async with iodine_aio.listen(0, Echo) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"hello")

        assert await reader.readexactly(5) == b"hello"
        writer.close()


@pytest.mark.parametrize("handler", [5, "text", Plain()])
async def test_listen_refuses_what_makes_no_handlers(handler):
    """One object cannot serve every connection."""
    with pytest.raises(UsageError, match="cannot serve every connection"):
        iodine_aio.listen(0, handler)


@pytest.mark.slow
async def test_nothing_of_200_connections_remains():
    """Connections come and go; neither protocols nor handlers are kept."""
    ended = asyncio.Event()
    closed = 0

    class Kept(iodine_aio.WebSocket):
        def on_open(self):
            self.request = self.env
            self.write("hi")

        def on_close(self):
            nonlocal closed
            closed += 1
            if closed == 200:
                ended.set()

    def app(env):
        env["upgrade.websocket"] = Kept
        return 0, {}, None

    def left():
        kinds = ("HTTPProtocol", "WebSocketProtocol", "Kept")
        gc.collect()
        return [type(one).__name__ for one in gc.get_objects() if type(one).__name__ in kinds]

    async with iodine_aio.serve(app, port=0) as server:
        before = len(left())
        for batch in range(10):
            clients = [await shake_hands(server) for _ in range(20)]
            for reader, writer, status in clients:
                assert status == 101
                await reader.readexactly(4)
                if batch % 2:
                    writer.write(b"\x88\x80\x00\x00\x00\x00")
                    await reader.read()
                writer.close()
                await writer.wait_closed()
        await ended.wait()
        del clients, reader, writer

        assert len(left()) == before
        assert not server.connections
