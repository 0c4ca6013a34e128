"""A headless Chromium, driven over its DevTools protocol.

`Chromium` is the process: started once for all tests. `Browser` is what one test has of it, by
the fixture `browser`: cookies and storage of its own, and as many tabs as it opens. A page is
driven by `evaluate`, which waits for promises and raises what the page raised:

    async def test_page_fetches(browser):
        async with iodine_aio.serve(app, port=0) as server:
            page = await browser.open(server.url)

            assert await page.evaluate("fetch('/x').then(r => r.text())") == "x"

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import contextlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PROGRAM: Final = shutil.which("chromium") or shutil.which("chromium-browser")

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # it does not run as root, and the pages are ours
    "--remote-debugging-port=0",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-background-networking",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    # Nobody but the servers of the tests shall be asked for anything.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 10
_ANNOUNCEMENT: Final = "DevTools listening on "


class Chromium:
    """The process, from construction until `stop`; its profile is a new folder that goes with it.

    Attributes:
        address: the URL of its DevTools.
        process_group: of it and its children.
        profile: the folder of what it stores.
    """

    def __init__(self) -> None:
        assert PROGRAM is not None
        self.profile = Path(tempfile.mkdtemp(prefix="chromium-"))
        self._process = subprocess.Popen(
            [PROGRAM, *_FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "HOME": str(self.profile)},
            start_new_session=True,
        )
        self.process_group = self._process.pid
        announced: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, args=[announced], daemon=True)
        self._listener.start()
        try:
            self.address = announced.get(timeout=_START_SECONDS)
            if not self.address:
                raise RuntimeError(f"{PROGRAM} ended before it could be driven")
        except BaseException:
            self.stop()
            raise

    def _listen(self, announced: "queue.SimpleQueue[str]") -> None:
        # Read to the end: a full pipe would stop the browser.
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.startswith(_ANNOUNCEMENT):
                announced.put(line.removeprefix(_ANNOUNCEMENT).strip())
        announced.put("")

    def stop(self) -> None:
        """End it with all its children, and remove its profile."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process_group, signal.SIGKILL)
        self._process.wait()
        # The pipe ends when the last child that could still write into the profile has ended.
        self._listener.join(_STOP_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()
        shutil.rmtree(self.profile)


class Browser:
    """A context of its own in a Chromium: as good as a new one, and there at once.

    To be used by `async with`.
    """

    def __init__(self, chromium: Chromium) -> None:
        self._address = chromium.address
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sessions: dict[str, Page] = {}

    async def __aenter__(self) -> "Browser":
        self._connection: ClientConnection = await connect(
            self._address, proxy=None, compression=None, max_size=None, ping_interval=None
        )
        self._reader = asyncio.create_task(self._read())
        answer = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        self._context = answer["browserContextId"]
        return self

    async def __aexit__(self, *_: object) -> None:
        # The context goes with its last page, and with the connection that made it.
        try:
            await self.call("Target.disposeBrowserContext", browserContextId=self._context)
        finally:
            await self._connection.close()
            await self._reader

    async def open(self, url: str) -> "Page":
        """A new tab that has loaded this URL."""
        tab = await self.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )
        session = await self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        page = self._sessions[session["sessionId"]] = Page(
            self, tab["targetId"], session["sessionId"]
        )
        await page.call("Page.enable")
        await page.call("Page.setLifecycleEventsEnabled", enabled=True)
        await page.go(url)
        return page

    async def call(
        self, method: str, session: str | None = None, /, **arguments: Any
    ) -> dict[str, Any]:
        """The result of a DevTools method.

        Raises:
            RuntimeError: it failed, or the browser has gone.
        """
        if self._reader.done():
            raise RuntimeError(f"{method}: the browser has gone")
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": arguments}
        if session is not None:
            message["sessionId"] = session
        answered = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps(message))
        answer = await answered
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._connection:
                message = json.loads(text)
                if "id" in message:
                    answered = self._answers.pop(message["id"])
                    if not answered.done():
                        answered.set_result(message)
                elif page := self._sessions.get(message.get("sessionId", "")):
                    page.take_event(message["method"], message["params"])
        for answered in self._answers.values():
            if not answered.done():
                answered.set_result({"error": {"message": "the browser has gone"}})


class Page:
    """A tab.

    Attributes:
        events: every DevTools event so far, as (method, parameters).
    """

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._browser = browser
        self._target = target
        self._session = session
        self._happened = asyncio.Event()

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """The result of a DevTools method, asked of this tab."""
        return await self._browser.call(method, self._session, **arguments)

    async def go(self, url: str) -> None:
        """Load another page.

        Raises:
            RuntimeError: it could not be had.
        """
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise RuntimeError(f"{url}: {answer['errorText']}")
        await self.event("Page.lifecycleEvent", name="load", loaderId=answer["loaderId"])

    async def evaluate(self, expression: str) -> Any:
        """What this JavaScript comes to, a promise awaited, as JSON would carry it.

        Raises:
            RuntimeError: it raised, or the promise was rejected.
        """
        answer = await self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", answer))
        return answer["result"].get("value")

    async def event(self, method: str, **expected: Any) -> dict[str, Any]:
        """The first event of this name with these parameters, awaited if it is yet to come."""
        seen = 0
        while True:
            for name, parameters in self.events[seen:]:
                if name == method and expected.items() <= parameters.items():
                    return parameters
            seen = len(self.events)
            self._happened.clear()
            await self._happened.wait()

    async def close(self) -> None:
        """Close the tab."""
        await self._browser.call("Target.closeTarget", targetId=self._target)

    def take_event(self, method: str, parameters: dict[str, Any]) -> None:
        """Note what the tab tells."""
        self.events.append((method, parameters))
        self._happened.set()
