"""The chat of the examples: on several processes, with browsers and telnet in one room."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets

from tests.integration.redis_server import PROGRAM, RedisServer

ROOT = Path(__file__).parents[2]
PEOPLE = 8  # enough for both workers to have some of them, but for once in many runs

pytestmark = [pytest.mark.slow, pytest.mark.one_loop]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


class Chat:
    """A running chat.

    Attributes:
        web, telnet: the ports.
    """

    def __init__(self, banner: str) -> None:
        self.web, self.telnet = (
            urlsplit(url).port for url in re.findall(r"(?:http|tcp)://[0-9.:]+", banner)
        )

    def url(self, name: str) -> str:
        return f"ws://127.0.0.1:{self.web}/?room=tea&name={name}"


@contextlib.asynccontextmanager
async def chatting(*words: str) -> AsyncIterator[Chat]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "examples/chat.py", "0", "--telnet", "0", *words),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        yield Chat((await process.stderr.readline()).decode())
        process.send_signal(signal.SIGINT)
        rest = await process.stderr.read()

        # On a busy machine a turn of the loop may take long without anybody's fault.
        lines = [line for line in rest.splitlines() if b"held the loop" not in line]
        assert (await process.wait(), lines) == (0, [])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_until(person: Any, last: str) -> list[str]:
    """What somebody got, up to this message."""
    seen = []
    while not seen or seen[-1] != last:
        seen.append(await person.recv())
    return seen


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_everybody_in_the_room_reads_each_message_once(workers: str):
    """Whatever process they are connected to."""
    async with chatting("--workers", workers) as chat, contextlib.AsyncExitStack() as stack:
        people = []
        for number in range(PEOPLE):
            person = await stack.enter_async_context(websockets.connect(chat.url(f"p{number}")))
            await read_until(person, f"* p{number} joined")
            for other in people:
                await read_until(other, f"* p{number} joined")
            people.append(person)
        for number, person in enumerate(people):
            await person.send(f"hello of {number}")
        expected = {f"p{number}: hello of {number}" for number in range(PEOPLE)}
        seen = [sorted([await person.recv() for _ in range(PEOPLE)]) for person in people]

    assert seen == [sorted(expected)] * PEOPLE


async def test_telnet_and_websocket_share_a_room():
    """A line is a message, and a message a line."""
    async with (
        chatting("--workers", "2") as chat,
        websockets.connect(chat.url("Ada")) as ada,
    ):
        await read_until(ada, "* Ada joined")
        reader, writer = await asyncio.open_connection("127.0.0.1", chat.telnet)
        writer.write(b"Bob tea\r\n")
        await read_until(ada, "* Bob joined")
        await ada.send("hello")
        line = await reader.readuntil(b"Ada: hello\r\n")
        writer.write(b"hi\r\n")
        answer = await read_until(ada, "Bob: hi")
        writer.close()
        await writer.wait_closed()

    assert line == b"Your name, a space, your room: * Bob joined\r\nAda: hello\r\n"
    assert answer == ["Ada: hello", "Bob: hi"]


@pytest.mark.browser
async def test_tabs_see_each_other(browser: Any):
    """Through the page, on two workers."""
    wait_for = (
        "new Promise(yes => {{ const look = () => log.textContent.includes({0!r})"
        " ? yes(log.textContent) : setTimeout(look, 10); look(); }})"
    )
    async with chatting("--workers", "2") as chat:
        tabs = []
        for number in range(6):
            tab = await browser.open(f"http://127.0.0.1:{chat.web}/#tea/tab{number}")
            await tab.evaluate(wait_for.format(f"* tab{number} joined"))
            tabs.append(tab)
        await tabs[0].evaluate('line.value = "good morning"; document.forms[0].requestSubmit()')
        texts = [await tab.evaluate(wait_for.format("tab0: good morning")) for tab in tabs]

    assert [text.count("tab0: good morning") for text in texts] == [1] * len(tabs)


@pytest.mark.skipif(PROGRAM is None, reason="redis-server is not on PATH")
async def test_two_machines_share_a_room(redis: RedisServer):
    """Two chats that know nothing of each other but Redis."""
    words = ("--redis", redis.url)
    async with (
        chatting("--workers", "2", *words) as first,
        chatting(*words) as second,
        websockets.connect(first.url("Ada"), open_timeout=None) as ada,
        websockets.connect(second.url("Bob"), open_timeout=None) as bob,
    ):
        # Subscribing elsewhere takes a moment, which nobody announces.
        while True:
            await ada.send("are you there?")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await read_until(bob, "Ada: are you there?")
                    break
        await bob.send("yes")
        await bob.send("that is all")
        seen = await read_until(ada, "Bob: that is all")

    assert seen.count("Bob: yes") == 1
