"""An echo without WebSockets: the connection leaves HTTP and becomes raw TCP.

Run `python examples/echo_upgrade.py [port]`, then this in another terminal, and type:

    request='GET / HTTP/1.1\\r\\nHost: me\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n'
    (printf "$request"; cat) | nc 127.0.0.1 3000
"""

import re
import sys

import iodine_aio


class MyProtocol(iodine_aio.Protocol):  # any class will do; the base is for type checkers
    def on_message(self, data: bytes) -> None:
        # regular socket echo - NOT websockets - notice the upgrade code
        self.write(data)


def app(env: iodine_aio.Env) -> tuple[int, dict[str, str], list[str]]:
    if env["upgrade.tcp?"] and re.search("echo", env["HTTP_UPGRADE"], re.I):
        env["upgrade.tcp"] = MyProtocol
        # no HTTP response will be sent when the status code is 0 (or less), or unknown.
        # to upgrade AFTER a response, set a valid response status code.
        return 1000, {}, []
    return 200, {"Content-Length": "12"}, ["Welcome Home"]


if __name__ == "__main__":
    iodine_aio.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
