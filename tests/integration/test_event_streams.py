"""Event streams with real clients: a browser, aiohttp, curl, and nginx in between."""

import asyncio
import contextlib
import json
import shutil

import aiohttp
import pytest

import iodine_aio
from tests.clients import read_head
from tests.handlers import Recorder
from tests.integration.nginx import PROGRAM as NGINX
from tests.integration.nginx import Nginx

pytestmark = pytest.mark.slow

PAGE = '<!doctype html><link rel="icon" href="data:,"><title>a page</title>'

# Notes every event until it has so many.
LISTEN = """
new Promise((yes, no) => {
  const source = new EventSource("/events"), heard = [];
  const note = (e) => {
    heard.push([e.type, e.data, e.lastEventId]);
    if (heard.length == %d) { source.close(); yes(JSON.stringify(heard)); }
  };
  source.onmessage = note;
  source.addEventListener("named", note);
  source.onerror = () => { if (source.readyState == 2) no(Error("refused")); };
})
"""


class Numbers(Recorder):
    """Two events a connection, numbered on from the last that the client has heard."""

    def __init__(self, env):
        super().__init__()
        self.last = int(env.get("HTTP_LAST_EVENT_ID", 0))

    def on_open(self):
        super().on_open()
        self.write(iodine_aio.Event("one\n two", id=self.last + 1, retry_seconds=0.01))
        self.write(iodine_aio.Event("ünï", event="named", id=self.last + 2))
        if self.last < 2:
            self.close()


class Site:
    """A page, and events; notes the requests for them."""

    def __init__(self):
        self.handlers = []
        self.cookies = []
        self.arrivals = asyncio.Queue()

    def __call__(self, env):
        if env["PATH_INFO"] == "/":
            return 200, {"Content-Type": "text/html", "Set-Cookie": "seen=1"}, PAGE
        if not env["upgrade.sse?"]:
            return 404, {}, ""
        self.cookies.append(env.get("HTTP_COOKIE"))
        self.handlers.append(Numbers(env))
        self.arrivals.put_nowait(self.handlers[-1])
        env["upgrade.sse"] = self.handlers[-1]
        return 200, {}, ""


@pytest.mark.browser
async def test_browser_hears_events_and_comes_back_with_the_last_id(browser):
    """Names, lines and ids arrive; after the end it asks on from where it was."""
    site = Site()
    async with iodine_aio.serve(site, port=0) as server:
        page = await browser.open(server.url)
        heard = json.loads(await page.evaluate(LISTEN % 4))
        await site.handlers[1].closed  # by the page

        assert heard == [
            ["message", "one\n two", "1"],
            ["named", "ünï", "2"],
            ["message", "one\n two", "3"],
            ["named", "ünï", "4"],
        ]
        assert site.cookies == ["seen=1", "seen=1"]
        assert [handler.last for handler in site.handlers] == [0, 2]


@pytest.mark.browser
async def test_browser_that_leaves_is_noticed(browser):
    """A closed tab closes its stream, though nothing is written to it."""
    site = Site()
    async with iodine_aio.serve(site, port=0, ping_interval=0) as server:
        page = await browser.open(server.url)
        await page.evaluate("void new EventSource('/events')")
        await site.arrivals.get()
        handler = await site.arrivals.get()  # the one that stays open
        await handler.opened
        await page.close()
        await handler.closed

        assert handler.events == ["open", "close"]


@pytest.mark.browser
async def test_browser_that_is_answered_204_stays_away(browser):
    """The way to end a stream for good."""
    requests = []

    def app(env):
        if env["PATH_INFO"] == "/":
            return 200, {"Content-Type": "text/html"}, PAGE
        requests.append(env["PATH_INFO"])
        return 204, {}, ""

    async with iodine_aio.serve(app, port=0) as server:
        page = await browser.open(server.url)
        with pytest.raises(RuntimeError, match="refused"):
            await page.evaluate(LISTEN % 1)

        assert requests == ["/events"]


async def test_aiohttp_reads_each_event_as_it_comes():
    """Before the next is written; the end is a clean one."""
    handler = Recorder()

    def app(env):
        env["upgrade.sse"] = handler
        return 200, {"Set-Cookie": "a=1"}, ""

    async with (
        iodine_aio.serve(app, port=0) as server,
        aiohttp.ClientSession() as session,
        session.get(server.url, headers={"Accept": "text/event-stream"}) as response,
    ):
        heard = []
        for number in range(3):
            handler.write(str(number))
            heard.append([await response.content.readline(), await response.content.readline()])
        handler.close()

        assert heard == [[b"data: %d\n" % number, b"\n"] for number in range(3)]
        assert await response.content.read() == b""
        assert response.content_type == "text/event-stream"
        assert response.cookies["a"].value == "1"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl_prints_each_event_as_it_comes(version):
    """It asks for nothing in particular, and hears all the same."""
    handler = Recorder()

    def app(env):
        env["upgrade.sse"] = handler
        return 200, {}, ""

    async with iodine_aio.serve(app, port=0) as server:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sN", version, "--noproxy", "*", server.url),
            stdout=asyncio.subprocess.PIPE,
        )
        assert curl.stdout is not None
        await handler.opened
        heard = []
        for data in ("first", "second"):
            handler.write(data)
            heard.append(await curl.stdout.readuntil(b"\n\n"))
        handler.close()

        assert heard == [b"data: first\n\n", b"data: second\n\n"]
        assert await curl.communicate() == (b"", None)
        assert curl.returncode == 0


@pytest.mark.proxy
@pytest.mark.skipif(NGINX is None, reason="nginx is missing")
@pytest.mark.parametrize(
    "locations",
    [
        "location / { proxy_pass http://app; }",
        "location / { proxy_pass http://app; proxy_http_version 1.1;"
        ' proxy_set_header Connection ""; }',
    ],
    ids=["1.0", "1.1"],
)
async def test_nginx_passes_each_event_on_as_it_comes(tmp_path, locations):
    """With its buffering on, for X-Accel-Buffering says no; who leaves there leaves here."""
    handler = Recorder()

    def app(env):
        env["upgrade.sse"] = handler
        return 200, {}, ""

    async with iodine_aio.serve(app, port=0, ping_interval=0) as server:
        with Nginx(tmp_path, [server], locations) as nginx:
            reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
            status, fields = await read_head(reader)
            heard = []
            for data in ("first", "second"):
                handler.write(data)
                heard.append(await reader.readuntil(b"\n\n"))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await handler.closed

            assert status == 200
            assert ("content-type", "text/event-stream") in fields
            assert [event.split(b"\r\n")[-1] for event in heard] == [
                b"data: first\n\n",
                b"data: second\n\n",
            ]
            assert "x-accel-buffering" not in dict(fields)
