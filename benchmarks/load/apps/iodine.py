"""Hello and echo for iodine_aio."""


class Echo:
    """Sends each message back; adopted by the connection that it serves."""

    def on_message(self, data):
        self.write(data)


def hello(env):
    """Answer any request with the 13 bytes all servers here answer with."""
    return 200, [("Content-Type", "text/plain")], b"Hello, World!"


def echo(env):
    """Adopt an `Echo` on a WebSocket; answer a plain request as `hello` does."""
    if not env["upgrade.websocket?"]:
        return hello(env)
    env["upgrade.websocket"] = Echo
    return 101, [], []
