"""Start-up and shutdown of an ASGI app."""

import asyncio
from typing import Any

import pytest

import iodine_aio
from iodine_aio.errors import StartupError
from tests.clients import connect, exchange, read_head
from tests.requests import GET, KEPT

COMPLETE = {"type": "lifespan.startup.complete"}
GOODBYE = {"type": "lifespan.shutdown.complete"}


async def answer(send: Any, body: bytes = b"hi") -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


class App:
    """Notes what happens to it; `startup` and `shutdown` are what it answers, or raises."""

    def __init__(self, startup: Any = COMPLETE, shutdown: Any = GOODBYE) -> None:
        self.answers = {"lifespan.startup": startup, "lifespan.shutdown": shutdown}
        self.events: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self.events.append(scope["state"])
            await answer(send)
            return
        scope["state"]["pool"] = self
        for _ in range(2):
            message = await receive()
            self.events.append(message["type"])
            reply = self.answers[message["type"]]
            if isinstance(reply, BaseException):
                raise reply
            await send(reply)


async def test_app_starts_before_the_first_request_and_ends_behind_the_last():
    """What it keeps in the state is there in each scope."""
    app = App()
    async with iodine_aio.serve(app, port=0) as server:
        await exchange(server, GET)

    assert app.events == ["lifespan.startup", {"pool": app}, "lifespan.shutdown"]


async def test_state_of_a_request_is_a_copy():
    """What one request puts there, the next does not see."""
    app = App()
    async with iodine_aio.serve(app, port=0) as server:
        await exchange(server, GET)
        app.events[1]["own"] = 1
        await exchange(server, GET)

    assert app.events[2] == {"pool": app}


async def test_shutdown_waits_for_requests_in_flight():
    """They may need what it closes."""
    events: list[str] = []
    begun = asyncio.get_running_loop().create_future()
    go_on = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send(COMPLETE)
            await receive()
            events.append("shutdown")
            await send(GOODBYE)
        else:
            begun.set_result(None)
            await go_on
            await answer(send)
            events.append("answered")

    server = iodine_aio.serve(app, port=0)
    await server.started()
    async with connect(server) as (reader, writer):
        writer.write(KEPT)
        await begun
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        go_on.set_result(None)
        status, _ = await read_head(reader)
        await stopping

    assert status == 200
    assert events == ["answered", "shutdown"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"type": "lifespan.startup.failed"}, "the app's startup failed: no reason given"),
        (
            {"type": "lifespan.startup.failed", "message": "Traceback\n  line\nKeyError: 'a'\n"},
            "the app's startup failed: KeyError: 'a'",
        ),
        (ZeroDivisionError("db"), "the app's startup raised ZeroDivisionError: db"),
        (SystemExit(3), "the app's startup raised SystemExit: 3"),
    ],
)
async def test_startup_that_fails_ends_the_server(
    reply: Any, message: str, caplog: pytest.LogCaptureFixture
):
    """In one line, whether the app says so or raises."""
    app = App(startup=reply)
    with pytest.raises(StartupError) as raised:
        async with iodine_aio.serve(app, port=0):
            pass

    assert str(raised.value) == message
    assert "lifespan.shutdown" not in app.events
    assert errors_in(caplog) == []


async def start_for_ever(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await asyncio.Event().wait()


@pytest.mark.slow
async def test_startup_that_does_not_end_is_cut_by_a_stop(caplog: pytest.LogCaptureFixture):
    """It has as much time as the requests of a stop have, or a second."""
    server = iodine_aio.serve(start_for_ever, port=0, stop_timeout=0)
    await server.stop()

    with pytest.raises(StartupError, match="stopped before it had started"):
        await server.started()
    assert "the start was cut" in caplog.text


async def test_startup_that_does_not_end_is_cut_by_an_abort():
    """As a second Ctrl-C asks for it: at once."""
    server = iodine_aio.serve(start_for_ever, port=0)
    stopping = asyncio.ensure_future(server.stop())
    await asyncio.sleep(0)
    server.abort()
    await stopping

    with pytest.raises(StartupError, match="stopped before it had started"):
        await server.started()


async def raise_on_the_scope(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await answer(send)


async def answer_whatever_comes(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


async def read_and_answer_whatever_comes(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await answer(send)


async def return_at_once(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await answer(send)


@pytest.mark.parametrize(
    "app",
    [
        raise_on_the_scope,
        answer_whatever_comes,
        read_and_answer_whatever_comes,
        return_at_once,
    ],
)
async def test_app_without_a_lifespan_is_served(app: Any, caplog: pytest.LogCaptureFixture):
    """However it shows that it knows none, nothing is logged."""
    async with iodine_aio.serve(app, port=0) as server:
        wire = await exchange(server, GET)

    assert wire.endswith(b"hi")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("reply", "entry"),
    [
        (
            {"type": "lifespan.shutdown.failed", "message": "no"},
            "the app's shutdown failed: no",
        ),
        (ZeroDivisionError("no"), "the app's lifespan raised"),
        (COMPLETE, "the app's lifespan raised"),
    ],
)
async def test_shutdown_that_fails_is_logged(
    reply: Any, entry: str, caplog: pytest.LogCaptureFixture
):
    """The server ends all the same."""
    async with iodine_aio.serve(App(shutdown=reply), port=0):
        pass

    assert errors_in(caplog) == [entry]


async def test_shutdown_that_does_not_end_is_cut(caplog: pytest.LogCaptureFixture):
    """After the time that a stop has."""
    cut = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut.append("cut")
            raise

    async with iodine_aio.serve(app, port=0, stop_timeout=0.01):
        pass

    assert cut == ["cut"]
    assert "the app's shutdown was cut after 0.01 seconds" in caplog.text


async def test_lifespan_that_waits_for_ever_holds_up_no_stop():
    """Its task is none of those that a stop waits for."""
    app = App()
    async with iodine_aio.serve(app, port=0) as server:
        assert not server._service.tasks

    assert app.events == ["lifespan.startup", "lifespan.shutdown"]
