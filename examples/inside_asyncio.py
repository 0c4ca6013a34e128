"""One asyncio program: a server, a client of it, and a clock that tells all WebSockets the time.

Run `python examples/inside_asyncio.py [port]`; it needs aiohttp, for its client. Join in by
`python -m websockets ws://127.0.0.1:3000`. Ctrl-C ends it.
"""

import asyncio
import contextlib
import functools
import sys
import time

import aiohttp

import iodine_aio


class Listener(iodine_aio.WebSocket):
    def on_open(self) -> None:
        self.write(f"hello, you are one of {self.count}")


async def app(env: iodine_aio.Env) -> tuple[int, dict[str, str], str]:
    if env["upgrade.websocket?"]:
        env["upgrade.websocket"] = Listener
        return 101, {}, ""
    return 200, {"Content-Type": "text/plain"}, "This page is a WebSocket.\n"


async def tell_the_time() -> None:
    while True:
        now = time.strftime("%H:%M:%S")
        iodine_aio.WebSocket.each(functools.partial(iodine_aio.WebSocket.write, data=now))
        await asyncio.sleep(1)


async def print_messages(session: aiohttp.ClientSession, url: str) -> None:
    async with session.ws_connect(url) as ws:
        async for message in ws:
            print("received", message.data, flush=True)


async def main(port: int) -> None:
    async with (
        iodine_aio.serve(app, port=port) as server,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as tasks,
    ):
        print("serves on", server.url, flush=True)
        tasks.create_task(tell_the_time())
        tasks.create_task(print_messages(session, server.url))


if __name__ == "__main__":
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=iodine_aio.new_event_loop) as runner,
    ):
        runner.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
