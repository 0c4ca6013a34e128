"""Apps and handlers that misbehave: nobody but their own connection pays for it."""

import asyncio
import contextlib
import gc
import logging
import re
import socket
import struct
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import iodine_aio
from iodine_aio.pool import Pool
from iodine_aio.protocols.http1 import HTTPProtocol
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MESSAGE = b"\x81\x82\x00\x00\x00\x00hi"  # a masked frame, text
INTERNAL_ERROR = b"\x88\x02\x03\xf3"  # the close frame of 1011

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Timeout(BaseException):
    """As those of gevent and of pytest are: no Exception."""


FATAL = [asyncio.CancelledError, GeneratorExit, SystemExit, Timeout]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on one kind of loop, which must not have to report anything."""
    make = iodine_aio.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        reports: list[dict[str, Any]] = []

        async def watched() -> Any:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: reports.append(context))
            return await asyncio.wait_for(main, 20)

        with asyncio.Runner(loop_factory=make) as runner:
            result = runner.run(watched())
        assert reports == []
        return result

    return run


async def ask(server: Any, request: bytes) -> bytes:
    """All that the server says to `request` until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await reader.read(65536):
            answer += data
    writer.close()
    return answer


def upgrading(handler: type) -> Callable[[dict[str, Any]], Any]:
    def app(env: dict[str, Any]) -> Any:
        env["upgrade.websocket"] = handler
        return 0, {}, None

    return app


@pytest.mark.parametrize("error", FATAL)
@pytest.mark.parametrize("name", ["on_open", "on_message", "on_drained", "deferred"])
def test_callback_that_raises_no_exception_closes_its_websocket(run, name, error):
    """Whatever a callback raises, its own peer is told 1011, and hears no more."""

    def fail(self: Any, *args: Any) -> None:
        raise error

    class Handler:
        def on_message(self, data: str) -> None:
            if name == "deferred":
                self.defer(fail, self)  # type: ignore[attr-defined]
            else:
                self.write(data)  # type: ignore[attr-defined]

    if name != "deferred":
        setattr(Handler, name, fail)

    async def main() -> bytes:
        async with iodine_aio.serve(upgrading(Handler), port=0, close_timeout=0.05) as server:
            answer = await ask(server, HANDSHAKE + MESSAGE)
        return answer.partition(b"\r\n\r\n")[2]

    frames = run(main())

    assert frames.endswith(INTERNAL_ERROR)


@pytest.mark.parametrize("error", FATAL)
def test_on_shutdown_that_raises_no_exception_does_not_hold_up_the_stop(run, error, caplog):
    """The connection is closed as if on_shutdown had returned; nothing has to be cut."""

    class Handler:
        def on_shutdown(self) -> None:
            raise error

    async def main() -> bytes:
        async with iodine_aio.serve(upgrading(Handler), port=0, close_timeout=0.05) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            await server.stop()
            frames = await reader.read()
            writer.close()
        return frames

    frames = run(main())

    assert frames == INTERNAL_ERROR
    assert "cut after" not in caplog.text


@pytest.mark.parametrize("error", FATAL)
def test_constructor_that_raises_no_exception_is_answered_500(run, error):
    """sys.exit() in a handler's constructor does not end the server."""

    class Handler:
        def __init__(self) -> None:
            raise error

    async def main() -> bytes:
        async with iodine_aio.serve(upgrading(Handler), port=0) as server:
            return await ask(server, HANDSHAKE + LAST)

    answer = run(main())

    assert answer.startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("error", FATAL)
def test_app_that_raises_no_exception_is_answered_500(run, error):
    """A plain function that lets a CancelledError through is an app that failed."""

    def app(env: dict[str, Any]) -> Any:
        raise error

    async def main() -> bytes:
        async with iodine_aio.serve(app, port=0) as server:
            return await ask(server, GET + LAST)

    answer = run(main())

    assert answer.count(b"HTTP/1.1 500 ") == 2


@pytest.mark.parametrize("error", FATAL)
@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_body_that_raises_no_exception_ends_without_its_last_chunk(run, kind, error):
    """Half a response does not look whole, and its connection does not stay open."""

    def pieces() -> Any:
        yield "a"
        raise error

    async def async_pieces() -> Any:
        yield "a"
        raise error

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, pieces() if kind == "generator" else async_pieces()

    async def main() -> bytes:
        async with iodine_aio.serve(app, port=0) as server:
            return await ask(server, GET)

    answer = run(main())

    assert answer.endswith(b"\r\n\r\n1\r\na\r\n")


@pytest.mark.parametrize("waits_first", [False, True])
def test_async_app_goes_on_after_it_hijacked(run, waits_first):
    """The socket is the app's: our side of the connection ends, the app does not."""

    async def app(env: dict[str, Any]) -> Any:
        if waits_first:
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        with env["rack.hijack"]() as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, b"one ")
            for _ in range(3):  # the loss of our side arrives meanwhile
                await asyncio.sleep(0)
            await loop.sock_sendall(sock, b"two")
        return 200, {}, "nobody reads this"

    async def main() -> bytes:
        async with iodine_aio.serve(app, port=0) as server:
            return await ask(server, GET)

    answer = run(main())

    assert answer == b"one two"


def test_error_of_an_async_app_behind_its_hijack_is_logged(run, caplog):
    """Nobody can be answered any more, but the error is not lost."""

    async def app(env: dict[str, Any]) -> Any:
        env["rack.hijack"]().close()
        await asyncio.sleep(0)
        raise ValueError("behind the hijack")

    async def main() -> None:
        async with iodine_aio.serve(app, port=0) as server:
            await ask(server, GET)

    run(main())

    assert "behind the hijack" in caplog.text


def test_hijack_field_that_is_not_callable_is_answered_500(run):
    """A head that promises a stream is not sent before it is known that there is one."""

    async def main() -> bytes:
        async with iodine_aio.serve(
            lambda env: (200, {"rack.hijack": "x"}, None), port=0
        ) as server:
            return await ask(server, LAST)

    answer = run(main())

    assert answer.startswith(b"HTTP/1.1 500 ")


class FullTransport(asyncio.Transport):
    """A transport whose peer has not taken the last five bytes."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return 5

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: Any) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def test_hijack_behind_an_answer_that_was_not_taken_is_refused(run):
    """The end of our side would cut that answer off: the app is told."""
    errors = []

    def app(env: dict[str, Any]) -> Any:
        try:
            env["rack.hijack"]()
        except iodine_aio.UsageError as error:
            errors.append(str(error))
        return 200, {}, ""

    async def main() -> None:
        service = Service(app, Settings())
        service.start(asyncio.get_running_loop())
        ours, theirs = socket.socketpair()
        with ours, theirs:
            protocol = HTTPProtocol(service, {})
            protocol.connection_made(FullTransport(ours))
            protocol.data_received(GET)
            protocol.connection_lost(None)
        service.clock.stop()

    run(main())

    assert errors == ["rack.hijack: the client does not take the answers before this one"]


@pytest.mark.parametrize("length", [70_000, 200_000])
def test_head_of_any_allowed_length_is_read(run, length):
    """A head is bounded by its limit alone, not by what is buffered of other requests."""

    async def main() -> bytes:
        def app(env: dict[str, Any]) -> Any:
            return 200, {}, str(len(env["HTTP_X"]))

        async with iodine_aio.serve(app, port=0, max_head_bytes=256 * 1024) as server:
            return await ask(server, LAST[:-2] + b"X: " + b"x" * length + b"\r\n\r\n")

    answer = run(main())

    assert answer.endswith(b"\r\n\r\n%d" % length)


def reset(sock: socket.socket) -> None:
    """Ends a connection by RST, which the other side has got when this returns."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def connect(server: Any, request: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(sock, request)
    return sock


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, but for how long something took: the machine may be busy.

    asyncio says that, too, of every call of 0.1 seconds where `-X dev` has it debug.
    """
    messages = [record.getMessage() for record in caplog.records]
    return [text for text in messages if not re.search(" took | held the loop ", text)]


async def ended(server: Any) -> None:
    while server.connections:
        await asyncio.sleep(0)


def test_handler_that_writes_on_after_a_reset_leaves_no_warning(run, caplog):
    """asyncio warns of each write between a failed one and connection_lost."""
    clients = []

    class Handler:
        def on_message(self, data: str) -> None:
            reset(clients.pop())
            for _ in range(20):
                self.write("x" * 70_000)  # type: ignore[attr-defined]

    async def main() -> None:
        async with iodine_aio.serve(upgrading(Handler), port=0) as server:
            clients.append(await connect(server, HANDSHAKE + MESSAGE))
            await asyncio.sleep(0)
            while clients:
                await asyncio.sleep(0)
            await ended(server)

    with caplog.at_level(logging.WARNING):
        run(main())

    assert complaints(caplog) == []


def test_body_that_goes_on_after_a_reset_leaves_no_warning(run, caplog):
    """The same for a response in pieces."""
    clients = []

    def write(stream: Any) -> None:
        reset(clients.pop())
        for _ in range(20):
            stream.write("x" * 70_000)

    async def main() -> None:
        async with iodine_aio.serve(lambda env: (200, {}, write), port=0) as server:
            clients.append(await connect(server, GET))
            while clients:
                await asyncio.sleep(0)
            await ended(server)

    with caplog.at_level(logging.WARNING):
        run(main())

    assert complaints(caplog) == []


def test_job_that_cannot_be_started_does_not_lose_what_other_threads_wrote(run, caplog):
    """`run` with too few arguments, from a thread, is the caller's fault and his alone."""

    async def job(argument: object) -> None:
        raise AssertionError("is never called")

    class Handler:
        def on_message(self, data: str) -> None:
            thread = threading.Thread(target=self.work)
            thread.start()
            thread.join()

        def work(self) -> None:
            self.run(job)  # type: ignore[attr-defined]
            self.write("after")  # type: ignore[attr-defined]
            self.close()  # type: ignore[attr-defined]

    async def main() -> bytes:
        async with iodine_aio.serve(upgrading(Handler), port=0, close_timeout=0.05) as server:
            return await ask(server, HANDSHAKE + MESSAGE)

    answer = run(main())

    assert answer.endswith(b"\x81\x05after\x88\x02\x03\xe8")
    assert "missing 1 required positional argument" in caplog.text


def test_coroutine_that_is_cancelled_before_it_began_leaves_no_warning(run):
    """A stop may cancel what has not had its first turn; Python would warn of it."""

    async def job() -> None:
        await asyncio.sleep(0)

    async def main() -> bool:
        service = Service(None, Settings())
        service.start(asyncio.get_running_loop())
        task = service.start_task(job())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        service.clock.stop()
        return task.cancelled()

    # What else is collected here is of other tests.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cancelled = run(main())
        gc.collect()

    assert cancelled
    assert [one for one in caught if "never awaited" in str(one.message)] == []


@pytest.mark.parametrize("kind", ["joined", "awaited"])
def test_stream_takes_what_another_thread_writes(run, kind, monkeypatch):
    """In order, whole, ahead of what is written after it; the transport is the loop's."""
    threads = set()
    put = HTTPProtocol.put

    def watched(self: HTTPProtocol, data: bytes) -> None:
        threads.add(threading.get_ident())
        put(self, data)

    monkeypatch.setattr(HTTPProtocol, "put", watched)

    def work(stream: Any) -> None:
        for number in range(100):
            stream.write(f"{number} ")

    def join(stream: Any) -> None:
        thread = threading.Thread(target=work, args=(stream,))
        thread.start()
        thread.join()
        stream.write("end")

    async def wait(stream: Any) -> None:
        await asyncio.to_thread(work, stream)
        stream.write("end")

    async def main() -> bytes:
        body = join if kind == "joined" else wait
        async with iodine_aio.serve(lambda env: (200, {}, body), port=0) as server:
            answer = await ask(server, LAST.replace(b"HTTP/1.1", b"HTTP/1.0"))
        return answer.partition(b"\r\n\r\n")[2]

    body = run(main())

    assert body == b" ".join(b"%d" % number for number in range(100)) + b" end"
    assert threads == {threading.get_ident()}


def test_stream_of_a_partial_hijack_is_closed_from_another_thread(run):
    """What the thread wrote before is sent first."""

    def write(stream: Any) -> None:
        threading.Thread(target=lambda: (stream.write("all of it"), stream.close())).start()

    async def main() -> bytes:
        async with iodine_aio.serve(
            lambda env: (200, {"rack.hijack": write}, None), port=0
        ) as server:
            return await ask(server, GET)

    answer = run(main())

    assert answer.endswith(b"\r\n\r\nall of it")


@pytest.mark.parametrize("error", [*FATAL, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("kind", ["app", "body"])
def test_app_in_a_thread_that_raises_anything_has_its_client_answered(run, kind, error):
    """Even what no future can carry: the client is answered 500, or cut off in mid-body."""

    class Body:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            raise error if error is not StopIteration else ValueError

        def close(self) -> None:
            raise error

    def app(env: dict[str, Any]) -> Any:
        if kind == "app":
            raise error
        return 200, {}, Body()

    async def main() -> bytes:
        async with iodine_aio.serve(app, port=0, threads=1) as server:
            return await ask(server, LAST)

    answer = run(main())

    assert answer.startswith(b"HTTP/1.1 500 " if kind == "app" else b"HTTP/1.1 200 ")
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("error", [*FATAL, KeyboardInterrupt, StopIteration])
def test_handler_in_a_thread_that_raises_anything_ends_its_own_connection(run, error, caplog):
    """Even what no future can carry: it is closed by 1011, logged, and `on_close` is called."""
    closed = []

    class Handler:
        def on_message(self, data: str) -> None:
            raise error

        def on_close(self) -> None:
            closed.append(True)

    async def main() -> bytes:
        settings = {"threads": 1, "close_timeout": 0.1}
        async with iodine_aio.serve(upgrading(Handler), port=0, **settings) as server:
            return await ask(server, HANDSHAKE + MESSAGE)

    answer = run(main())

    assert answer.endswith(INTERNAL_ERROR)
    assert closed == [True]
    assert "a callback of Handler raised" in caplog.text


def test_app_in_a_thread_hijacks_in_the_loops_thread(run, monkeypatch):
    """No transport may be touched from another thread; the app waits for its socket."""
    threads = []
    detach = HTTPProtocol._detach

    def watched(self: HTTPProtocol) -> asyncio.Transport:
        threads.append(threading.get_ident())
        return detach(self)

    monkeypatch.setattr(HTTPProtocol, "_detach", watched)

    def app(env: dict[str, Any]) -> Any:
        with env["rack.hijack"]() as sock:
            sock.setblocking(True)
            sock.sendall(b"from a thread")
        return 200, {}, None

    async def main() -> bytes:
        async with iodine_aio.serve(app, port=0, threads=1) as server:
            return await ask(server, GET)

    answer = run(main())

    assert answer == b"from a thread"
    assert threads == [threading.get_ident()]


@pytest.mark.parametrize("error", [*FATAL, KeyboardInterrupt])
def test_job_that_raises_anything_leaves_its_thread_to_the_next(error):
    """A pool of one thread still has it."""

    def fail() -> None:
        raise error

    pool = Pool(1)
    done = threading.Event()
    pool.submit(fail)
    pool.submit(done.set)

    assert done.wait(5)
    pool.close()
