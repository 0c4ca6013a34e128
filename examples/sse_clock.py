"""A clock of server-sent events: one way, over plain HTTP, and the browser comes back by itself.

Run `python examples/sse_clock.py`, open http://127.0.0.1:3000 in two browsers, or
`curl -N http://127.0.0.1:3000/time`.
"""

import sys
import time
from typing import Any

import iodine_aio

PAGE = """<!doctype html><title>Clock</title><h1></h1><p></p>
<script>
const source = new EventSource("time");
source.addEventListener("tick", (event) => {
  document.querySelector("h1").textContent = event.data;
});
source.onmessage = (event) => { document.querySelector("p").textContent = event.data; };
</script>"""


class Clock(iodine_aio.EventStream):  # one object for each browser
    ticks = 0

    def __init__(self, env: iodine_aio.Env) -> None:
        self.heard = env.get("HTTP_LAST_EVENT_ID")  # of a browser that was here before

    def on_open(self) -> None:
        self.write(f"welcome back, you heard {self.heard}" if self.heard else "welcome")

    def on_shutdown(self) -> None:
        self.write(iodine_aio.Event("closing, back in a moment", retry_seconds=1))


def tick() -> None:
    Clock.ticks += 1
    event = iodine_aio.Event(time.strftime("%H:%M:%S"), event="tick", id=Clock.ticks)
    Clock.each(lambda clock: clock.write(event))


def app(env: iodine_aio.Env) -> Any:
    if env["PATH_INFO"] == "/time":
        env["upgrade.sse"] = Clock
        return 200, {}, ""
    return 200, {"Content-Type": "text/html"}, PAGE


iodine_aio.run_every(1, tick)

if __name__ == "__main__":
    iodine_aio.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
