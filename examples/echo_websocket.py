"""A WebSocket echo; everybody else is welcomed home.

Run `python examples/echo_websocket.py [port]`, then `python -m websockets ws://127.0.0.1:3000`
and type, or `curl http://127.0.0.1:3000`.
"""

import re
import sys

import iodine_aio


class EchoHandler(iodine_aio.WebSocket):  # any class will do; the base is for type checkers
    def on_message(self, data: str | bytes) -> None:
        self.write(data)


def app(env: iodine_aio.Env) -> tuple[int, dict[str, str], list[str]]:
    if env["upgrade.websocket?"] and re.search("websocket", env["HTTP_UPGRADE"], re.I):
        env["iodine.websocket"] = EchoHandler  # or: env["upgrade.websocket"] = EchoHandler()
        return 100, {}, []  # It's possible to set cookies for the response.
    return 200, {"Content-Length": "12"}, ["Welcome Home"]


if __name__ == "__main__":
    iodine_aio.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
