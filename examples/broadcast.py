"""A small HTTP and WebSocket broadcast server: what one says, all others read.

Run `python examples/broadcast.py [port]`, then `python -m websockets ws://127.0.0.1:3000` in
two terminals. A message `bye` ends its sender's connection.
"""

import re
import sys

import iodine_aio


# Our server controller and websockets handler
class My_Broadcast(iodine_aio.WebSocket):  # noqa: N801, the name it has always had
    # handle HTTP requests (a class callback, emulating a function)
    @classmethod
    def call(cls, env: iodine_aio.Env) -> tuple[int, dict[str, str], list[str]]:
        if re.search("websocket", env.get("HTTP_UPGRADE", ""), re.I):
            env["upgrade.websocket"] = cls(env)
            return 0, {}, []
        return 200, {"Content-Length": "12"}, ["Hello World!"]

    def __init__(self, env: iodine_aio.Env) -> None:
        self._env = env  # allows us to access the HTTP request data during the Websocket session

    # handles websocket data (an instance callback)
    def on_message(self, data: str | bytes) -> None:
        # data is immutable: it needs no copy to be kept.
        # We'll broadcast the data to all open websocket connections.
        self.each(lambda ws: ws.write(data))  # (limited to current process)
        # A message has no line end of its own, so one is not asked for.
        if isinstance(data, str) and re.search(r"^bye([\r\n]|$)", data, re.I | re.M):
            self.close()


# start the server while setting the app at the same time
if __name__ == "__main__":
    iodine_aio.run(My_Broadcast, port=int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
