"""A blocking app on the pool, served over a real socket."""

import asyncio
import inspect
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import iodine_aio
from iodine_aio.apps.threads import ThreadedBody
from iodine_aio.errors import ClientGoneError
from iodine_aio.protocols.listening import encode_busy
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings
from tests.clients import Answer, connect, exchange, read_response, reset
from tests.requests import GET, KEPT

name: ContextVar[str] = ContextVar("name", default="nobody")


async def fetch(app: Any, path: str = "/", **options: Any) -> tuple[int, bytes]:
    options.setdefault("threads", 2)
    async with (
        iodine_aio.serve(app, port=0, **options) as server,
        aiohttp.ClientSession() as session,
        session.get(server.url + path) as response,
    ):
        return response.status, await response.read()


async def test_app_runs_in_a_thread_of_the_pool():
    """The loop is free meanwhile."""

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, threading.current_thread().name

    status, body = await fetch(app)

    assert status == 200
    assert body.startswith(b"iodine-")


async def test_env_tells_of_the_threads():
    """An app that is called by several at once may want to know."""

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, repr((env["wsgi.multithread"], env["rack.multithread"]))

    assert await fetch(app) == (200, b"(True, True)")
    assert await fetch(app, threads=0) == (200, b"(False, False)")


async def test_context_of_the_program_reaches_the_thread():
    """As it would without threads."""
    name.set("Ada")

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, name.get()

    assert await fetch(app) == (200, b"Ada")


async def test_app_that_raises_in_a_thread_answers_500(caplog: pytest.LogCaptureFixture):
    """One log entry, with the traceback."""

    def app(env: dict[str, Any]) -> Any:
        raise ZeroDivisionError("in a thread")

    status, _ = await fetch(app)

    assert status == 500
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_generator_is_pulled_by_the_thread_that_made_it():
    """What it holds may belong to its thread."""
    threads: list[str] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            threads.append(threading.current_thread().name)
            yield b"x" * 100_000
        threads.append(threading.current_thread().name)

    def app(env: dict[str, Any]) -> Any:
        threads.append(threading.current_thread().name)
        return 200, {}, pieces()

    status, body = await fetch(app)

    assert (status, len(body)) == (200, 300_000)
    assert len(threads) == 5
    assert len(set(threads)) == 1
    assert threads[0].startswith("iodine-")


async def test_slow_client_holds_up_the_thread_of_its_generator():
    """Nothing is pulled that nobody takes, whatever its size."""
    pulled = 0
    closed = threading.Event()

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            nonlocal pulled
            pulled += 1
            return b"x" * 65536

        def close(self) -> None:
            closed.set()

    async with iodine_aio.serve(lambda env: (200, {}, Endless()), port=0, threads=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**16)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readexactly(10_000)
        # The kernel's buffers differ; ours do not.
        seen = -1
        while seen != pulled:
            seen = pulled
            await asyncio.sleep(0.2)
        writer.transport.abort()
        await asyncio.to_thread(closed.wait, 10)

    assert closed.is_set()
    assert pulled < 500


async def test_body_that_nobody_wants_is_closed_in_its_thread():
    """HEAD: the generator is never pulled, and closed in every case."""
    pulled: list[bool] = []
    closed: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            pulled.append(True)
            return iter([])

        def close(self) -> None:
            closed.append(threading.current_thread().name)

    async with (
        iodine_aio.serve(lambda env: (200, {}, Body()), port=0, threads=1) as server,
        aiohttp.ClientSession() as session,
        session.head(server.url) as response,
    ):
        assert response.status == 200

    assert not pulled
    assert len(closed) == 1
    assert closed[0].startswith("iodine-")


async def test_body_that_raises_in_its_thread_is_broken_off(caplog: pytest.LogCaptureFixture):
    """No last chunk: half a response must not look whole."""

    def app(env: dict[str, Any]) -> Any:
        def pieces() -> Iterator[bytes]:
            yield b"first"
            raise ZeroDivisionError

        return 200, {}, pieces()

    with pytest.raises(aiohttp.ClientPayloadError):
        await fetch(app)

    assert "the response body raised" in caplog.text


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("wrong", [5, None, [1, 2]])
async def test_body_with_something_else_in_it_is_broken_off(
    wrong: Any, threads: int, caplog: pytest.LogCaptureFixture
):
    """On the loop and in a thread: it is neither taken for bytes nor for the end."""

    def app(env: dict[str, Any]) -> Any:
        return 200, {}, iter(["one", wrong, "two"])

    with pytest.raises(aiohttp.ClientPayloadError):
        await fetch(app, threads=threads)

    assert f"{type(wrong).__name__}" in caplog.text
    assert "must be str or bytes" in caplog.text


async def test_slow_request_does_not_stall_others():
    """As long as a thread is free."""
    go = threading.Event()

    def app(env: dict[str, Any]) -> Any:
        if env["PATH_INFO"] == "/slow":
            assert go.wait(10)
        else:
            go.set()
        return 200, {}, env["PATH_INFO"]

    async with (
        iodine_aio.serve(app, port=0, threads=2) as server,
        aiohttp.ClientSession() as session,
    ):
        slow = asyncio.create_task(session.get(server.url + "/slow"))
        while server._service.pool.waiting or not server.connections:
            await asyncio.sleep(0)
        fast = await session.get(server.url + "/fast")
        answers = [await (await slow).text(), await fast.text()]

    assert answers == ["/slow", "/fast"]


@pytest.mark.parametrize("page", [None, "<p>full"])
async def test_saturated_pool_answers_as_where_there_is_no_room(tmp_path: Path, page: str | None):
    """By 503.html of the public folder where it is there, and says when to come again."""
    go = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    if page is not None:
        (tmp_path / "503.html").write_text(page)

    def app(env: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(10)
        return 200, {}, ""

    options: Any = {"threads": 1, "max_waiting": 1, "public": tmp_path}
    async with (
        iodine_aio.serve(app, port=0, **options) as server,
        connect(server) as (_, first),
        connect(server) as (_, second),
    ):
        first.write(KEPT)
        await begun.wait()
        second.write(KEPT)
        while not server._service.pool.waiting:
            await asyncio.sleep(0)
        refused = Answer(await exchange(server, GET))
        go.set()
    overflow = Answer(encode_busy(None if page is None else page.encode()))

    assert refused.status == overflow.status == 503
    assert refused.body == overflow.body == (page or "Server Busy.").encode()
    for name in ("content-type", "retry-after"):
        assert refused.fields[name] == overflow.fields[name]


async def test_saturated_pool_answers_503():
    """Queues up to a bound, and then says so at once."""
    go = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def app(env: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(10)
        return 200, {}, ""

    async with (
        iodine_aio.serve(app, port=0, threads=1, max_waiting=1) as server,
        aiohttp.ClientSession() as session,
    ):
        requests = [asyncio.create_task(session.get(server.url))]
        await begun.wait()
        requests += [asyncio.create_task(session.get(server.url)) for _ in range(5)]
        # All that are refused, not the first: the others may not have been read yet.
        finished = iter(asyncio.as_completed(requests))
        statuses = {(await next(finished)).status for _ in range(4)}
        go.set()
        answers = sorted([(await task).status for task in requests])

    assert statuses == {503}
    assert answers == [200, 200, 503, 503, 503, 503]


async def test_callbacks_run_in_the_pool_in_order():
    """They may block; those of one connection never overlap."""
    seen: list[Any] = []
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Echo:
        def on_open(self) -> None:
            seen.append(("open", threading.current_thread().name.startswith("iodine-")))

        def on_message(self, data: str) -> None:
            seen.append((data, threading.current_thread().name.startswith("iodine-")))
            self.write(data.upper())  # type: ignore[attr-defined]

        async def on_shutdown(self) -> None:
            seen.append(("shutdown", threading.current_thread().name.startswith("iodine-")))

        def on_close(self, code: int, reason: str) -> None:
            seen.append((code, threading.current_thread().name.startswith("iodine-")))
            loop.call_soon_threadsafe(closed.set)

    def app(env: dict[str, Any]) -> Any:
        env["upgrade.websocket"] = Echo()
        return 101, {}, ""

    async with (
        iodine_aio.serve(app, port=0, threads=4) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url) as socket,
    ):
        for number in range(20):
            await socket.send_str(f"m{number}")
        answers = [await socket.receive_str() for _ in range(20)]
        await socket.close()
        await closed.wait()

    assert answers == [f"M{number}" for number in range(20)]
    assert seen == [
        ("open", True),
        *[(f"m{number}", True) for number in range(20)],
        (1000, True),
    ]


async def test_stop_waits_for_the_request_in_its_thread():
    """Nothing accepted is lost."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    go = threading.Event()

    def app(env: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(10)
        return 200, {}, "whole"

    async with aiohttp.ClientSession() as session:
        server = iodine_aio.serve(app, port=0, threads=1)
        request = asyncio.create_task(session.get(server.url))
        await begun.wait()
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        go.set()
        text = await (await request).text()
        await stop

    assert text == "whole"


async def test_response_that_is_whole_comes_back_by_one_hop(monkeypatch: pytest.MonkeyPatch):
    """Nothing of it is handed over twice."""
    posted: list[str] = []
    post = Service.post

    def count(self: Service, function: Any, *args: Any) -> bool:
        posted.append(function.__name__)
        return post(self, function, *args)

    monkeypatch.setattr(Service, "post", count)
    answer = await fetch(lambda env: (200, {}, ["one ", "hop"]))

    assert answer == (200, b"one hop")
    assert posted == ["_settle"]


def test_results_of_many_threads_wake_the_loop_once():
    """It reads all of them when it comes to it."""
    woken: list[Any] = []
    seen: list[int] = []

    class Loop:
        def call_soon_threadsafe(self, function: Any) -> None:
            woken.append(function)

    service = Service(None, Settings())
    service.loop = Loop()  # type: ignore[assignment]
    for number in range(100):
        service.post(seen.append, number)
    for function in woken:
        function()

    assert len(woken) == 1
    assert seen == list(range(100))


@pytest.mark.slow
async def test_thread_that_never_ends_does_not_hang_the_stop(caplog: pytest.LogCaptureFixture):
    """It is left behind when its time is up; its client is cut off."""
    begun = asyncio.Event()
    go = threading.Event()
    loop = asyncio.get_running_loop()

    def app(env: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(begun.set)
        go.wait(30)
        return 200, {}, ""

    async with aiohttp.ClientSession() as session:
        server = iodine_aio.serve(app, port=0, threads=1)
        request = asyncio.create_task(session.get(server.url))
        await begun.wait()
        await server.stop(timeout=0.05)
        with pytest.raises(aiohttp.ClientError):
            await request
    finished = server._service.pool.finished
    go.set()

    assert not finished
    assert "1 HTTP connection" in caplog.text


async def test_request_whose_client_has_gone_is_not_begun():
    """While it waited for a thread."""
    go = threading.Event()
    seen: list[str] = []

    def app(env: dict[str, Any]) -> Any:
        seen.append(env["PATH_INFO"])
        assert go.wait(10)
        return 200, {}, ""

    async with (
        iodine_aio.serve(app, port=0, threads=1) as server,
        connect(server) as (first, writer),
    ):
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        async with connect(server) as (_, gone):
            gone.write(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
            while not (seen and server._service.pool.waiting):
                await asyncio.sleep(0)
            reset(gone)
            while len(server.connections) > 1:
                await asyncio.sleep(0)
        go.set()
        status, _, _ = await read_response(first)

    assert (status, seen) == (200, ["/first"])


async def test_coroutine_that_comes_when_its_client_has_gone_is_closed():
    """Python would say of it that it was never awaited."""
    go = threading.Event()
    called: list[None] = []
    made: list[Any] = []

    async def later() -> Any:
        return 200, {}, ""

    def app(env: dict[str, Any]) -> Any:
        called.append(None)
        assert go.wait(10)
        made.append(later())
        return made[0]

    async with iodine_aio.serve(app, port=0, threads=1) as server:
        async with connect(server) as (_, gone):
            gone.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            while not called:
                await asyncio.sleep(0)
            reset(gone)
            while server.connections:
                await asyncio.sleep(0)
        go.set()
        while not made or inspect.getcoroutinestate(made[0]) != inspect.CORO_CLOSED:
            await asyncio.sleep(0)


class Waiting:
    """A pool whose threads are all lent, and that has `waiting` jobs."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self.asked = threading.Event()

    @property
    def waiting(self) -> int:
        self.asked.set()
        return self._waiting

    def lend_thread(self) -> bool:
        return False


class Desk:
    """A host that does nothing with its mail."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def post(self, function: Any, *args: Any) -> bool:
        return True


def test_client_that_reads_too_slowly_is_dropped_where_others_wait():
    """A thread that makes no progress in `send_timeout` is wanted elsewhere."""
    settings = Settings(send_timeout=0.01, soft_limit_bytes=10, hard_limit_bytes=10)
    body = ThreadedBody(Desk(Waiting(1)), settings)  # type: ignore[arg-type]
    body.write(b"x" * 11)

    with pytest.raises(ClientGoneError, match="slow client was dropped"):
        body.write(b"y")


def test_client_may_read_slowly_where_nobody_waits():
    """Its thread waits until it has read, or gone."""
    settings = Settings(send_timeout=0.01, soft_limit_bytes=10, hard_limit_bytes=10)
    pool = Waiting(0)
    body = ThreadedBody(Desk(pool), settings)  # type: ignore[arg-type]
    body.write(b"x" * 11)
    raised: list[BaseException] = []

    def write() -> None:
        try:
            body.write(b"y")
        except ClientGoneError as error:
            raised.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert pool.asked.wait(10)  # a period has passed
    body.close()
    thread.join(10)

    assert [str(error) for error in raised] == [
        "the client went away in the middle of its response"
    ]
