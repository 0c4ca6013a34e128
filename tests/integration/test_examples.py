"""Every example as a process of its own, with real clients, until Ctrl-C."""

import asyncio
import contextlib
import http.client
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import websockets

from tests.sockets import read_exactly, read_to_end

EXAMPLES = Path(__file__).parents[2] / "examples"
BANNER = re.compile(r"iodine_aio serves on (\S+) \(pid \d+.*\)\n")
SECONDS = 20

pytestmark = [pytest.mark.slow, pytest.mark.one_loop]


class Example:
    """A running example.

    Attributes:
        url: where it serves.
        port: the TCP port of it.
        printed: what it wrote to stdout, complete when it has ended.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.port = urlsplit(url).port
        self.printed = ""

    async def read_line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode()

    async def end(self) -> None:
        """Ctrl-C: exit code 0, and nothing behind the banner."""
        self.process.send_signal(signal.SIGINT)
        out, err = await self.process.communicate()
        self.printed = out.decode()

        assert (self.process.returncode, err.decode()) == (0, "")


@contextlib.asynccontextmanager
async def running(*words: str, banner: bool = True) -> AsyncIterator[Example]:
    """Runs Python with `words`; the block gets the example when it serves."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        cwd=EXAMPLES.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            source = process.stderr if banner else process.stdout
            assert source is not None
            line = (await source.readline()).decode()
            match = (BANNER if banner else re.compile(r"serves on (\S+)\n")).fullmatch(line)
            assert match is not None, line + (await source.read()).decode()
            example = Example(process, match[1])
            yield example
            if process.returncode is None:
                await example.end()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def example(name: str) -> tuple[str, str]:
    return f"examples/{name}", "0"


def fetch(port: int | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read()


async def refusal_of_a_stranger(url: str) -> int:
    """The status that a handshake without cookies is answered by."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(url)
    return refusal.value.status


@contextlib.asynccontextmanager
async def guest(url: str) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session that has seen a page, with its cookies, and the page."""
    cookies = aiohttp.CookieJar(unsafe=True)  # of an address, not of a name
    async with aiohttp.ClientSession(cookie_jar=cookies) as session:
        async with session.get(url) as page:
            text = await page.text()
        yield session, text


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_is_short_and_says_what_it_is(path: Path):
    """At most 60 lines, with a docstring that says how to run it."""
    text = path.read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 60
    assert text.startswith('"""')
    assert path.name in text


async def test_hello_is_served_by_the_command_line():
    """python -m iodine_aio examples/hello.py"""
    async with running("-m", "iodine_aio", "-p", "0", "examples/hello.py") as hello:
        page = await asyncio.to_thread(fetch, hello.port)

        assert page == (200, b"Hello, World!\n")


async def test_echo_websocket():
    """Text comes back as text, bytes as bytes; a browser is welcomed home."""
    async with running(*example("echo_websocket.py")) as echo:
        page = await asyncio.to_thread(fetch, echo.port)
        async with aiohttp.ClientSession() as session, session.ws_connect(echo.url) as ws:
            await ws.send_str("grüße")
            await ws.send_bytes(b"\x00\xff")
            answers = [(await ws.receive()).data, (await ws.receive()).data]

        assert page == (200, b"Welcome Home")
        assert answers == ["grüße", b"\x00\xff"]


async def test_echo_upgrade():
    """Status 1000: no HTTP response, and what stands behind the request is echoed too."""

    def talk(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: me\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst "
            )
            first = read_exactly(sock, 6)
            sock.sendall(b"second")
            return first + read_exactly(sock, 6)

    async with running(*example("echo_upgrade.py")) as echo:
        page = await asyncio.to_thread(fetch, echo.port)
        echoed = await asyncio.to_thread(talk, echo.port)

        assert page == (200, b"Welcome Home")
        assert echoed == b"first second"


async def test_broadcast():
    """What one says, all others get and it does not; `bye` ends its connection."""
    async with running(*example("broadcast.py")) as server:
        page = await asyncio.to_thread(fetch, server.port)
        url = server.url.replace("http", "ws")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url) as first,
            websockets.connect(url, proxy=None) as second,
            websockets.connect(url, proxy=None) as third,
        ):
            await first.send_str("hello")
            heard = [await second.recv(), await third.recv()]
            await second.send("bye")
            heard += [(await first.receive()).data, await third.recv()]
            await second.wait_closed()
            # Had it heard itself, "hello" would come first.
            await third.send("still here")
            heard.append((await first.receive()).data)

        assert page == (200, b"Hello World!")
        assert heard == ["hello", "hello", "bye", "bye", "still here"]
        assert second.close_code == 1000


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
async def test_telnet_echo(line_end: bytes):
    """Lines come back; after `bye` the connection ends, and what was echoed is printed."""

    def talk(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
            sock.sendall(b"hello" + line_end)
            hello = read_exactly(sock, 5 + len(line_end))
            sock.sendall(b"Bye" + line_end)
            return hello + read_to_end(sock)

    async with running(*example("telnet_echo.py")) as echo:
        echoed = await asyncio.to_thread(talk, echo.port)
        lines = [await echo.read_line(), await echo.read_line()]

        assert echoed == b"hello" + line_end + b"Bye" + line_end
        assert lines == [f"Echoed data: {t + line_end!r}\n" for t in (b"hello", b"Bye")]


async def test_inside_asyncio():
    """The client of the program and one from outside hear the time; Ctrl-C ends all three."""
    async with running(*example("inside_asyncio.py"), banner=False) as program:
        async with aiohttp.ClientSession() as session, session.ws_connect(program.url) as ws:
            greeting = (await ws.receive()).data
            now = (await ws.receive()).data
            page = await asyncio.to_thread(fetch, program.port)
            stop = asyncio.create_task(program.end())
            while (message := await ws.receive()).type == aiohttp.WSMsgType.TEXT:
                pass
            await stop

        assert re.fullmatch(r"hello, you are one of [12]", greeting)
        assert re.fullmatch(r"\d\d:\d\d:\d\d", now)
        assert page == (200, b"This page is a WebSocket.\n")
        assert re.search(r"received \d\d:\d\d:\d\d\n", program.printed)
        assert message.type == aiohttp.WSMsgType.CLOSE
        assert message.data == 1001


async def test_sse_clock():
    """Every client hears the time, numbered on from what it has heard; others get the page."""
    async with running(*example("sse_clock.py")) as clock:
        status, page = await asyncio.to_thread(fetch, clock.port)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": "0"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(clock.url + "/time") as one,
            session.get(clock.url + "/time") as two,
        ):
            streams = [[await stream.content.readline() for _ in range(6)] for stream in (one, two)]

        assert status == 200
        assert b"new EventSource" in page
        for lines in streams:
            welcome, end, event, number, time, last = lines
            assert re.fullmatch(rb"data: welcome( back, you heard \d+)?\n", welcome)
            assert event == b"event: tick\n"
            assert re.fullmatch(rb"id: \d+\n", number)
            assert re.fullmatch(rb"data: \d\d:\d\d:\d\d\n", time)
            assert end == last == b"\n"


async def test_flask_chat():
    """Whoever has no session is refused; what one guest says, both read."""
    command = ("-m", "iodine_aio", "-p", "0", "examples/flask_chat.py")
    async with running(*command) as chat:
        refusal = await refusal_of_a_stranger(chat.url + "/chat")
        async with (
            guest(chat.url) as (session, text),
            session.ws_connect(chat.url + "/chat") as first,
            session.ws_connect(chat.url + "/chat") as second,
        ):
            heard = [await first.receive_str(), await second.receive_str()]
            await second.send_str("hello")
            heard += [await second.receive_str()]
            while (line := await first.receive_str()).endswith("is here"):
                pass

        assert refusal == 403
        assert "new WebSocket" in text
        assert [line.split(": ")[1] for line in heard] == ["is here", "is here", "hello"]
        assert line == heard[2]


async def test_django_votes():
    """Whoever has not seen the page is refused; the votes of all are counted."""
    command = ("-m", "iodine_aio", "-p", "0", "examples/django_votes.py")
    async with running(*command) as site:
        refusal = await refusal_of_a_stranger(site.url + "/news")
        async with (
            guest(site.url) as (session, text),
            session.ws_connect(site.url + "/news") as first,
            session.ws_connect(site.url + "/news") as second,
        ):
            news = [await first.receive_str(), await second.receive_str()]
            await first.send_str("tea")
            news += [await first.receive_str(), await second.receive_str()]
            await second.send_str("coffee")
            news += [await first.receive_str()]

        assert refusal == 403
        assert "new WebSocket" in text
        assert news == ["tea 0, coffee 0"] * 2 + ["tea 1, coffee 0"] * 2 + ["tea 1, coffee 1"]
