"""A real browser: pages of ours that talk to the server they came from."""

import asyncio
import os
from pathlib import Path

import pytest

import iodine_aio
from tests.integration.browser import PROGRAM, Chromium

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGE = b'<!doctype html><link rel="icon" href="data:,"><title>a page</title>'

# Defined in a page: opens a WebSocket, and notes its messages and how it ended.
CONVERSE = """
function converse(url, protocols = []) {
  const ws = new WebSocket(url, protocols);
  ws.binaryType = "arraybuffer";
  const waiting = [], arrived = [];
  ws.onmessage = ({data}) => waiting.length ? waiting.shift()(data) : arrived.push(data);
  return {
    ws,
    opened: new Promise((yes, no) => { ws.onopen = yes; ws.onerror = () => no(Error("refused")); }),
    closed: new Promise(yes => {
      ws.onclose = e => yes({code: e.code, reason: e.reason, clean: e.wasClean});
    }),
    receive: () => new Promise(yes => arrived.length ? yes(arrived.shift()) : waiting.push(yes)),
  };
}
"""


class Chat:
    """Echoes; closes, breaks or tells all others when told so. Notes how it was closed."""

    ends: asyncio.Queue[tuple[int, str]]

    def __init__(self, env):
        self.cookie = env.get("HTTP_COOKIE")

    def on_message(self, data):
        if data == "close":
            self.close(4000, "as you s\xe4id")
        elif data == "break":
            raise RuntimeError("as you said")
        elif data == "cookie":
            self.write(str(self.cookie))
        elif isinstance(data, str) and data.startswith("all: "):
            self.each(lambda other: other.write(data))
        else:
            self.write(data)

    def on_close(self, code, reason):
        self.ends.put_nowait((code, reason))


class Site:
    """The page, a chat, and what `fetch` is tried on."""

    def __init__(self):
        self.ends = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.stream_closed = asyncio.Event()

    async def call(self, env):
        match env["PATH_INFO"]:
            case "/":
                return 200, {"Content-Type": "text/html", "Set-Cookie": "seen=1"}, PAGE
            case "/chat":
                chat = Chat(env)
                chat.ends = self.ends
                env["upgrade.websocket"] = chat
                headers = {}
                if "HTTP_SEC_WEBSOCKET_PROTOCOL" in env:
                    headers["Sec-WebSocket-Protocol"] = "chat"
                return 101, headers, None
            case "/port":
                return 200, {"Cache-Control": "no-store"}, str(env["REMOTE_PORT"])
            case "/echo":
                headers = {"Content-Type": env.get("CONTENT_TYPE", "")}
                return 200, headers, env["wsgi.input"].read()
            case "/stream":
                return 200, {"Content-Type": "text/plain"}, self.stream()
            case "/go-on":
                self.go_on.set()
                return 204, {}, None
        return 404, {}, "no such page"

    async def stream(self):
        try:
            yield "one"
            await self.go_on.wait()
            yield "two"
        finally:
            self.stream_closed.set()


async def open_chat(browser, server, *arguments):
    """A page of the server's with an open WebSocket, `chat`."""
    page = await browser.open(server.url)
    await page.evaluate(CONVERSE)
    words = ", ".join([repr(f"ws://127.0.0.1:{server.port}/chat"), *arguments])
    await page.evaluate(f"globalThis.chat = converse({words}); chat.opened.then(() => null)")
    return page


# ---- WebSocket ----


async def test_page_exchanges_text(browser):
    """Of every length of UTF-8, and none at all; no extension was agreed on."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await open_chat(browser, server)
        echoed = await page.evaluate("""(async () => {
            const texts = ["zo\\u00eb", "\\u20ac", "\\u{1f600}", ""];
            texts.forEach(text => chat.ws.send(text));
            const echoes = [];
            for (const text of texts) echoes.push(await chat.receive() === text);
            return [...echoes, chat.ws.extensions];
        })()""")

        assert echoed == [True, True, True, True, ""]


async def test_page_exchanges_binary(browser):
    """As an ArrayBuffer, a view of one and a Blob: every byte comes back, as binary."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await open_chat(browser, server)
        echoed = await page.evaluate("""(async () => {
            const all = Uint8Array.from({length: 256}, (_, i) => i);
            chat.ws.send(all.buffer);
            chat.ws.send(all.subarray(250));
            chat.ws.send(new Blob([all.subarray(0, 3)]));
            const echoes = [];
            for (let i = 0; i < 3; i++) {
              const echo = await chat.receive();
              echoes.push(echo instanceof ArrayBuffer && [...new Uint8Array(echo)]);
            }
            return echoes;
        })()""")

        assert echoed == [[*range(256)], [*range(250, 256)], [0, 1, 2]]


async def test_page_exchanges_a_large_message(browser):
    """4 MiB of binary, and as much text."""
    async with iodine_aio.serve(Site(), port=0, max_message_bytes=4 << 20) as server:
        page = await open_chat(browser, server)
        echoed = await page.evaluate("""(async () => {
            const numbers = Uint32Array.from({length: 1 << 20}, (_, i) => i * 2654435761);
            chat.ws.send(numbers);
            const echo = new Uint32Array(await chat.receive());
            const text = "0123456789abcdef".repeat(1 << 18);
            chat.ws.send(text);
            return [echo.length, echo.every((n, i) => n === numbers[i]),
                    await chat.receive() === text];
        })()""")

        assert echoed == [1 << 20, True, True]


async def test_page_hears_1009_of_a_message_too_long(browser):
    """With our reason, as a clean close."""
    async with iodine_aio.serve(Site(), port=0, max_message_bytes=1000) as server:
        page = await open_chat(browser, server)
        await page.evaluate("chat.ws.send(new Uint8Array(1001))")

        assert await page.evaluate("chat.closed") == {
            "code": 1009,
            "reason": "message of 1001 bytes, at most 1000",
            "clean": True,
        }


async def test_page_closes_with_code_and_reason(browser):
    """The handler hears both, the page gets its code back."""
    site = Site()
    async with iodine_aio.serve(site, port=0) as server:
        page = await open_chat(browser, server)
        closed = await page.evaluate("chat.ws.close(4001, 'd\xf6ne'); chat.closed")

        assert closed == {"code": 4001, "reason": "", "clean": True}
        assert await site.ends.get() == (4001, "d\xf6ne")


async def test_page_closes_without_a_code(browser):
    """That is 1005 on both sides (RFC 6455, 7.1.5)."""
    site = Site()
    async with iodine_aio.serve(site, port=0) as server:
        page = await open_chat(browser, server)
        closed = await page.evaluate("chat.ws.close(); chat.closed")

        assert closed == {"code": 1005, "reason": "", "clean": True}
        assert (await site.ends.get())[0] == 1005


async def test_handler_hears_1001_of_a_tab_that_is_closed(browser):
    """The browser says so for the page."""
    site = Site()
    async with iodine_aio.serve(site, port=0) as server:
        page = await open_chat(browser, server)
        await page.close()

        assert (await site.ends.get())[0] == 1001


async def test_page_hears_our_code_and_reason(browser):
    """Of a close by the handler."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await open_chat(browser, server)
        closed = await page.evaluate("chat.ws.send('close'); chat.closed")

        assert closed == {"code": 4000, "reason": "as you s\xe4id", "clean": True}


async def test_page_hears_1011_of_a_handler_that_raised(browser, caplog):
    """And nothing of what it raised."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await open_chat(browser, server)
        closed = await page.evaluate("chat.ws.send('break'); chat.closed")

        assert (closed["code"], closed["clean"]) == (1011, True)
        assert "said" not in closed["reason"]
    assert [r.name for r in caplog.records if r.levelname == "ERROR"] == ["iodine_aio.error"]


async def test_page_hears_1001_at_the_stop(browser):
    """A server that stops says goodbye, and the page stays."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await open_chat(browser, server)
    closed = await page.evaluate("chat.closed")

    assert (closed["code"], closed["clean"]) == (1001, True)


async def test_handshake_of_a_page_has_cookies_and_gets_its_subprotocol(browser):
    """The cookie that the page was given, the subprotocol that the app chose."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await open_chat(browser, server, '["other", "chat"]')
        cookie = await page.evaluate("chat.ws.send('cookie'); chat.receive()")

        assert cookie == "seen=1"
        assert await page.evaluate("chat.ws.protocol") == "chat"


async def test_page_of_another_origin_is_refused(browser):
    """`allowed_origins` are compared with what a browser really sends."""
    async with (
        iodine_aio.serve(Site(), port=0) as home,
        iodine_aio.serve(Site(), port=0) as stranger,
        iodine_aio.serve(Site(), port=0, allowed_origins=(home.url,)) as server,
    ):
        outcomes = []
        for origin in (home, stranger):
            page = await browser.open(origin.url)
            await page.evaluate(CONVERSE)
            outcomes.append(
                await page.evaluate(
                    f"converse('ws://127.0.0.1:{server.port}/chat').opened"
                    ".then(() => 'opened', error => error.message)"
                )
            )

        assert outcomes == ["opened", "refused"]


async def test_two_pages_hear_each_other(browser):
    """What one says, `each` brings to the other."""
    async with iodine_aio.serve(Site(), port=0) as server:
        first, second = [await open_chat(browser, server) for _ in range(2)]
        await first.evaluate("chat.ws.send('all: hello')")

        assert await second.evaluate("chat.receive()") == "all: hello"


# ---- fetch ----


async def test_page_fetches_over_one_connection(browser):
    """Kept alive: ten requests, one after the other, come from one port."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await browser.open(server.url)
        ports = await page.evaluate("""(async () => {
            const ports = [];
            for (let i = 0; i < 10; i++) ports.push(await (await fetch("/port")).text());
            return ports;
        })()""")

        assert len(ports) == 10
        assert len(set(ports)) == 1


async def test_page_posts_a_body(browser):
    """Text, 1 MiB of binary (spooled) and an empty one come back as they were."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await browser.open(server.url)
        outcome = await page.evaluate("""(async () => {
            const post = async body => await fetch("/echo", {method: "POST", body});
            const text = await post("zo\\u00eb");
            const bytes = Uint8Array.from({length: 1 << 20}, (_, i) => i % 251);
            const echo = new Uint8Array(await (await post(bytes)).arrayBuffer());
            const empty = await post("");
            return [await text.text(), text.headers.get("content-type"),
                    echo.length, echo.every((byte, i) => byte === i % 251), await empty.text()];
        })()""")

        assert outcome == ["zo\xeb", "text/plain;charset=UTF-8", 1 << 20, True, ""]


async def test_page_posts_a_form(browser):
    """A FormData with a file is multipart, and decodes to what it was."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await browser.open(server.url)
        fields = await page.evaluate("""(async () => {
            const form = new FormData();
            form.append("name", "zo\\u00eb");
            form.append("file", new Blob(["content"]), "a.txt");
            const answer = await fetch("/echo", {method: "POST", body: form});
            const echo = await answer.formData();
            const file = echo.get("file");
            return [echo.get("name"), file.name, await file.text()];
        })()""")

        assert fields == ["zo\xeb", "a.txt", "content"]


async def test_page_reads_a_stream_while_it_is_written(browser):
    """The second piece is written when the page says that it has the first."""
    async with iodine_aio.serve(Site(), port=0) as server:
        page = await browser.open(server.url)
        pieces = await page.evaluate("""(async () => {
            const reader = (await fetch("/stream")).body.getReader();
            const text = new TextDecoder();
            const first = text.decode((await reader.read()).value);
            await fetch("/go-on");
            const second = text.decode((await reader.read()).value);
            return [first, second, (await reader.read()).done];
        })()""")

        assert pieces == ["one", "two", True]


async def test_stream_ends_when_the_page_gives_up(browser):
    """AbortController.abort() closes the app's generator, after the grace of a half-close."""
    site = Site()
    async with iodine_aio.serve(site, port=0, half_close_timeout=0.1) as server:
        page = await browser.open(server.url)
        await page.evaluate("""(async () => {
            const control = new AbortController();
            const answer = await fetch("/stream", {signal: control.signal});
            await answer.body.getReader().read();
            control.abort();
        })()""")
        await site.stream_closed.wait()

        assert not site.go_on.is_set()


# ---- the browser itself ----


def living_members(process_group: int) -> list[str]:
    """Processes of this group that have not ended, by what /proc says."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(group) == process_group and state not in "ZX":
            members.append(status.parent.name)
    return members


@pytest.mark.skipif(PROGRAM is None, reason="chromium is not on PATH")
@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="reads /proc")
def test_browser_leaves_nothing_behind():
    """No process and no profile, once it is stopped."""
    chromium = Chromium()
    before = living_members(chromium.process_group)
    stored = chromium.profile.exists()
    chromium.stop()

    assert len(before) > 1
    assert stored
    assert living_members(chromium.process_group) == []
    assert not chromium.profile.exists()
