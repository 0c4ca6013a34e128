"""A server inside an asyncio program: its beginning, its end, and what may be asked of it."""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

import iodine_aio
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.server import Server
from iodine_aio.serving import listen, make_server, make_settings, serve
from tests.clients import connect, read_head
from tests.handlers import Echo, hello
from tests.loops import Run
from tests.requests import KEPT


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


class Held:
    """An app whose answer waits until it is released."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False

    async def __call__(self, env: dict[str, Any]) -> Any:
        self.called.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return 200, {}, "held"


# ---- beginning ----


@pytest.mark.parametrize("start", [serve, iodine_aio.run])
def test_bind_error_is_raised_in_the_caller(run: Run, start: Any, busy_port: int):
    """Right at the call, not from a task that nobody looks at."""

    async def main() -> OSError:
        with pytest.raises(OSError, match="cannot listen on") as caught:
            start(hello, port=busy_port)
        return caught.value

    error = run(main())

    assert error.errno == errno.EADDRINUSE
    assert "\n" not in error.strerror
    assert f"127.0.0.1:{busy_port}" in error.strerror


def test_failed_bind_leaves_nothing_open(run: Run, busy_port: int):
    """The bind before the busy one is closed again."""

    async def main() -> list[str]:
        server = make_server(hello, bind=["127.0.0.1:0", f"127.0.0.1:{busy_port}"])
        with pytest.raises(OSError, match="cannot listen on"):
            server.open()
        return server.urls

    first = run(main())[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(first.rpartition(":")[2])))


@pytest.mark.parametrize("start", [serve, iodine_aio.run])
def test_awaiting_serves_until_stopped(run: Run, start: Any):
    """`await run(app)` ends when the server has."""

    async def main() -> bytes:
        server = start(hello, port=0)

        async def client() -> bytes:
            async with connect(server) as (reader, writer):
                writer.write(KEPT)
                answer = await reader.readuntil(b"hello")
            server.stop_soon()
            return answer

        task = asyncio.create_task(client())
        await server
        return await task

    assert run(main()).endswith(b"hello")


def test_block_stops_at_its_end(run: Run):
    """Within, the server tells where it is and who is there."""

    async def main() -> None:
        async with serve(hello, port=0) as server:
            assert server.running
            assert server.url == f"http://127.0.0.1:{server.port}"
            assert server.urls == [server.url]
            assert server.connections == set()

            async with connect(server) as (reader, writer):
                writer.write(KEPT)
                await reader.readuntil(b"hello")

                assert len(server.connections) == 1

        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)

    run(main())


def test_several_binds_are_several_urls(run: Run):
    """All of them are served; the first one is the url."""

    async def main() -> None:
        binds = ["127.0.0.1:0", "127.0.0.1:0"]
        async with serve(hello, bind=binds) as server, aiohttp.ClientSession() as client:
            assert len(set(server.urls)) == 2
            assert server.url == server.urls[0]
            for url in server.urls:
                async with client.get(url) as answer:
                    assert await answer.text() == "hello"

    run(main())


def test_two_servers_and_a_client_share_a_loop(run: Run):
    """Nothing of a server belongs to the process."""

    async def main() -> list[str]:
        first = lambda env: (200, {}, "first")  # noqa: E731
        second = lambda env: (200, {}, "second")  # noqa: E731
        async with (
            serve(first, port=0) as one,
            serve(second, port=0) as other,
            aiohttp.ClientSession() as client,
        ):
            texts = []
            for url in (one.url, other.url, one.url):
                async with client.get(url) as answer:
                    texts.append(await answer.text())
            return texts

    assert run(main()) == ["first", "second", "first"]


def test_serve_needs_a_loop():
    """Outside one there is `run`."""
    with pytest.raises(UsageError, match=r"use iodine_aio\.run"):
        serve(hello, port=0)


def test_unbound_server_has_no_address():
    """Instead of an invented one."""
    server = make_server(hello)

    with pytest.raises(UsageError, match="no url"):
        _ = server.url
    with pytest.raises(UsageError, match="no port"):
        _ = server.port
    assert not server.running


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"app": None}, "nothing to serve"),
        ({"app": None, "port": 0}, "but no app"),
        ({"app": hello, "port": 0, "bind": "127.0.0.1:0"}, "either bind, or host and port"),
        ({"app": hello, "bind": "3000"}, "for a port write"),
        (
            {"app": hello, "thread": 3},
            r"no option thread \(did you mean threads\?\), there are: host, port, bind, max_head",
        ),
        ({"app": hello, "prot": 3}, r"no option prot \(did you mean port\?\), there are"),
        ({"app": hello, "port": "3000"}, "port is '3000', must be an int"),
        ({"app": hello, "threads": "4"}, "threads is '4', must be a whole number"),
        ({"app": hello, "keep_alive_timeout": "5"}, "keep_alive_timeout is '5', must be a number"),
        ({"app": lambda: None}, "an app takes one: env"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    """Before anything is bound."""
    with pytest.raises(UsageError, match=message):
        make_server(**arguments)


def test_settings_are_the_options():
    """An unknown one is named."""
    assert make_settings(threads=3).threads == 3
    with pytest.raises(UsageError, match="no option bar, foo, there are"):
        make_settings(foo=1, bar=2)


def test_unstarted_server_stops_at_once(run: Run):
    """Its sockets are closed."""

    async def main() -> None:
        server = make_server(hello, port=0)
        server.open()
        with pytest.raises(UsageError, match="not started"):
            server.stop_soon()
        with pytest.raises(UsageError, match="not started"):
            await server.started()
        await server.stop()

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))

    run(main())


# ---- raw listeners ----


async def echoed(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"ping")
    data = await reader.readexactly(4)
    writer.close()
    await writer.wait_closed()
    return data


def test_raw_listener_in_a_loop_listens_at_once(run: Run):
    """It is a server like any other."""

    async def main() -> bytes:
        async with listen(0, Echo) as server:
            return await echoed(server.port)

    assert run(main()) == b"ping"


def test_prepared_listeners_are_served_by_the_next_server(run: Run):
    """`listen()` before `run()`; they stop with it."""
    listen(0, Echo)
    listen("127.0.0.1:0", Echo)

    async def main() -> tuple[list[bytes], int]:
        async with serve(hello, port=0) as server:
            ports = [int(url.rpartition(":")[2]) for url in server.urls]
            data = [await echoed(port) for port in ports[1:]]
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
        return data, len(ports)

    assert run(main()) == ([b"ping", b"ping"], 3)


def test_prepared_listeners_need_no_app(run: Run):
    """`run()` without an app serves what was prepared."""
    listen(0, Echo)

    async def main() -> bytes:
        async with iodine_aio.run() as server:
            return await echoed(server.port)

    assert run(main()) == b"ping"
    with pytest.raises(UsageError, match="nothing to serve"):
        make_server(None)


def test_asyncio_protocol_is_a_raw_handler(run: Run):
    """Written for `loop.create_server`, served as it is."""

    lost = threading.Event()

    class Shout(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)  # type: ignore[attr-defined]

    async def main() -> bytes:
        async with listen(0, Shout) as server:
            data = await echoed(server.port)
            while not lost.is_set():
                await asyncio.sleep(0)
            return data

    assert run(main()) == b"ping"


# ---- ending ----


def test_idle_connection_is_closed_at_once(run: Run):
    """Keep-alive holds no stop up."""

    async def main() -> bytes:
        async with serve(hello, port=0) as server, connect(server) as (reader, writer):
            writer.write(KEPT)
            await reader.readuntil(b"hello")
            await server.stop()
            return await reader.read()

    assert run(main()) == b""


def test_request_in_flight_is_answered(run: Run):
    """And told that the connection ends; nothing new is accepted meanwhile."""

    async def main() -> bytes:
        app = Held()
        async with serve(app, port=0) as server, connect(server) as (reader, writer):
            writer.write(KEPT)
            await app.called.wait()
            stopping = asyncio.create_task(server.stop())
            while server.running:
                await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)
            app.release.set()
            answer = await reader.read()
            await stopping
            return answer

    answer = run(main())

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"held")


def test_deadline_cuts_what_has_not_ended(run: Run, caplog):
    """The app is cancelled, and one entry says how much was cut."""

    async def main() -> tuple[bool, int]:
        app = Held()
        async with serve(app, port=0) as server, connect(server) as (reader, writer):
            writer.write(KEPT)
            await app.called.wait()
            await server.stop(0.02)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            return app.cancelled, len(server.connections)

    assert run(main()) == (True, 0)
    assert [r.getMessage() for r in caplog.records if "cut after" in r.getMessage()] == [
        "cut after 0.02 seconds: 1 HTTP connection, 1 task"
    ]


def test_cancelling_the_awaiting_task_stops_gracefully(run: Run):
    """The request in flight is answered before the task ends."""

    async def main() -> bytes:
        app = Held()
        server = serve(app, port=0)

        async def wait() -> None:
            await server

        waiting = asyncio.create_task(wait())
        async with connect(server) as (reader, writer):
            writer.write(KEPT)
            await app.called.wait()
            waiting.cancel()
            while server.running:
                await asyncio.sleep(0)
            app.release.set()
            answer = await reader.read()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return answer

    assert run(main()).endswith(b"held")


def test_cancelling_before_the_start_stops_too(run: Run):
    """A task that never ran leaves no server behind."""

    async def main() -> None:
        server = serve(hello, port=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await server
        await server.stop()

        assert not server.running

    run(main())


def test_cancelled_stop_cuts(run: Run):
    """Whoever does not wait for the end gets it at once."""

    async def main() -> bool:
        app = Held()
        async with serve(app, port=0) as server, connect(server) as (_, writer):
            writer.write(KEPT)
            await app.called.wait()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await server.stop(60)
            await server.stop()
            return app.cancelled

    assert run(main())


def test_stopping_twice_is_stopping(run: Run):
    """Both wait for the one end."""

    async def main() -> None:
        server = serve(hello, port=0)
        await server.started()
        await asyncio.gather(server.stop(), server.stop())
        await server.stop()
        server.stop_soon()
        await server

        assert not server.running

    run(main())


def test_stop_soon_from_a_thread(run: Run):
    """The loop need not be the caller's."""

    async def main() -> None:
        server = serve(hello, port=0)
        await server.started()
        thread = threading.Thread(target=server.stop_soon)
        thread.start()
        await server
        thread.join()

    run(main())


def test_stopped_server_may_be_told_to_stop_when_its_loop_has_ended(run: Run):
    """A late call is no fault."""

    async def main() -> Server:
        server = serve(hello, port=0)
        await server.started()
        await server.stop()
        return server

    server = run(main())
    server.stop_soon()

    assert not server.running


def test_stop_waits_for_jobs_of_the_pool(run: Run):
    """Its threads are idle afterwards."""
    done = threading.Event()

    async def main() -> bool:
        server = serve(hello, port=0)
        await server.started()
        server._service.run(lambda: done.wait(0.05) or done.set(), ())
        await server.stop()
        return done.is_set()

    assert run(main())


def test_stop_right_after_listen_is_clean():
    """Nothing of the start may find its sockets closed."""

    async def main() -> str:
        server = iodine_aio.listen(0, iodine_aio.Protocol)
        url = server.url
        await server.stop()
        return url

    with asyncio.Runner(loop_factory=iodine_aio.new_event_loop) as runner:
        url = runner.run(main())

    assert url.startswith("tcp://127.0.0.1:")


def test_cut_stop_starts_no_waiting_message(run: Run):
    """A handler that was cancelled is not given the messages behind."""
    begun = []

    async def main() -> set[Any]:
        reached = asyncio.Event()

        class Stuck:
            async def on_message(self, data: bytes) -> None:
                begun.append(data)
                reached.set()
                await asyncio.Event().wait()

        server = iodine_aio.listen(0, Stuck)
        await server.started()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"first")
        await reached.wait()
        (connection,) = server.connections
        connection.data_received(b"second")
        await server.stop(0.05)
        writer.close()
        return set(server._service.tasks)

    left = run(main())

    assert begun == [b"first"]
    assert left == set()


# Sockets that are lent.


async def test_lent_socket_is_accepted_from_once_the_start_is_over():
    """A worker that takes them while it starts lets clients wait for what its app prepares."""
    starting, ready = asyncio.Event(), asyncio.Event()
    prepared = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            starting.set()
            await prepared.wait()
            ready.set()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200 if ready.is_set() else 500})
        await send({"type": "http.response.body", "body": b""})

    server = make_server(app, port=0)
    server.open()
    lent = server._addresses.sockets[0].dup()
    server.start()
    await starting.wait()
    taken = asyncio.create_task(server.accept_also(lent))
    async with connect(server) as (reader, writer):
        writer.write(KEPT)
        # Another connection goes there and back meanwhile, by the same loop.
        async with serve(hello, port=0) as other, connect(other) as (its_reader, its_writer):
            for _ in range(10):
                its_writer.write(KEPT)
                await read_head(its_reader)
                await its_reader.readexactly(5)
        assert not taken.done()
        assert server.connections == set()
        prepared.set()
        async with server:
            assert await taken
            assert (await read_head(reader))[0] == 200


async def test_lent_socket_is_closed_where_the_start_fails():
    """It is the server's, and nobody else would close it."""
    starting, broken = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        starting.set()
        await broken.wait()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    server = make_server(app, port=0)
    server.open()
    lent = server._addresses.sockets[0].dup()
    server.start()
    await starting.wait()
    taken = asyncio.create_task(server.accept_also(lent))
    broken.set()
    with pytest.raises(StartupError, match="no database"):
        await server.started()

    assert await taken is False
    assert lent.fileno() == -1
