"""Hello, echo and two ways to broadcast, for iodine_aio."""


class Echo:
    """Sends each message back; adopted by the connection that it serves."""

    def on_message(self, data):
        self.write(data)


class Publisher:
    """Publishes each message to all that are connected."""

    def on_open(self):
        self.subscribe("all")

    def on_message(self, data):
        self.publish("all", data)


class Caller:
    """Writes each message to all that are connected."""

    def on_message(self, data):
        self.write(data)
        self.each(lambda other: other.write(data))


def hello(env):
    """Answer any request with the 13 bytes all servers here answer with."""
    return 200, [("Content-Type", "text/plain")], b"Hello, World!"


def echo(env):
    """Adopt an `Echo` on a WebSocket; answer a plain request as `hello` does."""
    if not env["upgrade.websocket?"]:
        return hello(env)
    env["upgrade.websocket"] = Echo
    return 101, [], []


def publish(env):
    """Adopt a `Publisher`."""
    env["upgrade.websocket"] = Publisher
    return 101, [], []


def each(env):
    """Adopt a `Caller`."""
    env["upgrade.websocket"] = Caller
    return 101, [], []
