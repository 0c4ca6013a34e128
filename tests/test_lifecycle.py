"""Timers, and hooks of a process's life."""

import asyncio
import threading

import pytest

import iodine_aio
from iodine_aio import defer, on_state, run_after, run_every
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.serving import serve
from tests.handlers import hello

# ---- timers ----


async def test_run_after_calls_once():
    """In the loop that is running."""
    called = asyncio.Event()
    run_after(0.001, called.set)
    async with asyncio.timeout(10):
        await called.wait()

    assert called.is_set()


async def test_coroutine_function_is_awaited():
    """A timer's function may be `async def`."""
    called = asyncio.Event()

    async def later() -> None:
        await asyncio.sleep(0)
        called.set()

    run_after(0, later)
    async with asyncio.timeout(10):
        await called.wait()


async def test_defer_hands_on_its_arguments():
    """As soon as the loop is free, not before."""
    result: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    defer(lambda *args: result.set_result(args), 1, 2)
    early = result.done()
    async with asyncio.timeout(10):
        args = await result

    assert not early
    assert args == (1, 2)


async def test_run_every_stops_after_its_repetitions():
    """So often, and not once more."""
    calls: list[int] = []
    run_every(0.001, lambda: calls.append(1), 3)
    after = asyncio.Event()
    run_after(0.05, after.set)
    async with asyncio.timeout(10):
        await after.wait()

    assert len(calls) == 3


async def test_run_every_goes_on_until_it_is_cancelled():
    """Its own function may cancel it."""
    calls: list[int] = []
    ended = asyncio.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) == 5:
            timer.cancel()
            run_after(0.01, ended.set)

    timer = run_every(0.001, call)
    async with asyncio.timeout(10):
        await ended.wait()

    assert len(calls) == 5
    assert timer.cancelled


async def test_cancelled_timer_is_not_called():
    """Nor is it an error to cancel twice."""
    calls: list[int] = []
    timer = run_after(0, lambda: calls.append(1))
    timer.cancel()
    timer.cancel()
    after = asyncio.Event()
    run_after(0.005, after.set)
    async with asyncio.timeout(10):
        await after.wait()

    assert calls == []


async def test_timer_that_raises_is_logged_and_repeated(caplog):
    """One failure does not end it."""
    done = asyncio.Event()
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        if len(calls) == 2:
            done.set()
        raise ValueError("broken")

    async def fail_later() -> None:
        raise ValueError("broken later")

    run_every(0.001, fail, 2)
    run_after(0, fail_later)
    async with asyncio.timeout(10):
        await done.wait()
    await asyncio.sleep(0)
    errors = sorted(str(r.exc_info[1]) for r in caplog.records if r.exc_info)

    assert errors == ["broken", "broken", "broken later"]


@pytest.mark.parametrize(("seconds", "repetitions"), [(0, 0), (-1, 0), (1, -1)])
def test_impossible_repetition_is_refused(seconds: float, repetitions: int):
    """Every 0 seconds would be all the time."""
    with pytest.raises(UsageError, match="cannot run every"):
        run_every(seconds, print, repetitions)


def test_negative_delay_is_refused():
    """Nothing can be called in the past."""
    with pytest.raises(UsageError, match="a timer of -1 seconds"):
        run_after(-1, print)


def test_timer_before_the_server_waits_for_it():
    """Its seconds count from the start; a cancelled one is forgotten."""
    calls: list[str] = []

    async def main() -> None:
        called = asyncio.Event()
        run_after(0, called.set)
        async with serve(hello, port=0), asyncio.timeout(10):
            await called.wait()
            while not calls:
                await asyncio.sleep(0)

    run_after(0, lambda: calls.append("wanted"))
    run_after(0, lambda: calls.append("cancelled")).cancel()
    with asyncio.Runner(loop_factory=iodine_aio.new_event_loop) as runner:
        runner.run(main())

    assert calls == ["wanted"]


async def test_timer_from_a_thread_runs_in_the_servers_loop():
    """Set and cancelled from outside of the loop."""
    loop_thread = threading.get_ident()
    called: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    wrong: list[int] = []

    def outside() -> None:
        run_after(0.005, lambda: wrong.append(1)).cancel()
        run_after(0.01, lambda: called.set_result(threading.get_ident()))

    async with serve(hello, port=0), asyncio.timeout(10):
        thread = threading.Thread(target=outside)
        thread.start()
        ran_in = await called
        thread.join()

    assert ran_in == loop_thread
    assert wrong == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("between", [True, False])
def test_timer_after_a_loop_that_left_its_server_waits_for_the_next(between: bool):
    """Nothing is asked of a closed loop."""
    calls: list[str] = []

    async def break_off() -> None:
        server = await serve(hello, port=0).started()
        server.close_sockets()

    async def go_on() -> None:
        if between:
            assert not calls
        async with serve(hello, port=0), asyncio.timeout(10):
            if not between:
                await asyncio.to_thread(run_after, 0, lambda: calls.append("called"))
            while not calls:
                await asyncio.sleep(0)

    with asyncio.Runner() as runner:
        runner.run(break_off())
    if between:
        run_after(0, lambda: calls.append("called"))
    with asyncio.Runner() as runner:
        runner.run(go_on())

    assert calls == ["called"]


# ---- hooks ----


async def test_hooks_are_called_in_the_order_of_a_life():
    """What starts first come first served, what ends the other way round."""
    calls: list[str] = []
    for state in ("on_finish", "start_shutdown", "on_start", "pre_start"):
        for number in (1, 2):
            on_state(state, lambda text=f"{state} {number}": calls.append(text))
    async with serve(hello, port=0):
        calls.append("serving")

    assert calls == [
        "pre_start 1",
        "pre_start 2",
        "on_start 1",
        "on_start 2",
        "serving",
        "start_shutdown 2",
        "start_shutdown 1",
        "on_finish 2",
        "on_finish 1",
    ]


async def test_hook_may_be_async():
    """The start waits for it."""
    calls: list[str] = []

    async def hook() -> None:
        await asyncio.sleep(0)
        calls.append("hook")

    on_state("pre_start", hook)
    async with serve(hello, port=0):
        calls.append("serving")

    assert calls == ["hook", "serving"]


def test_on_state_returns_its_function():
    """It may be used as a part of a decorator."""
    assert on_state("on_start", print) is print


def test_unknown_state_is_refused():
    """With those that there are."""
    with pytest.raises(UsageError, match=r"no state 'started', there are: pre_start, before_fork"):
        on_state("started", print)


@pytest.mark.parametrize("state", ["pre_start", "on_start"])
async def test_hook_that_raises_ends_the_start(state: str):
    """The server listens no more when it is told, and says which hook it was."""
    on_state(state, lambda: 1 / 0)
    server = serve(hello, port=0)
    with pytest.raises(StartupError, match=f"a hook of {state} raised ZeroDivisionError"):
        await server

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize("state", ["start_shutdown", "on_finish"])
async def test_hook_that_raises_does_not_prevent_the_end(state: str, caplog):
    """It is logged, and the others are called."""
    calls: list[int] = []
    on_state(state, lambda: calls.append(1))
    on_state(state, lambda: 1 / 0)
    async with serve(hello, port=0):
        pass

    assert calls == [1]
    assert [r.getMessage() for r in caplog.records if r.exc_info] == [f"a hook of {state} raised"]
