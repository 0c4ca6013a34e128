"""Hello and echo in RSGI, granian's own interface."""

HEADERS = [("content-type", "text/plain")]


async def hello(scope, protocol):
    """Answer any request with the 13 bytes all servers here answer with."""
    protocol.response_bytes(200, HEADERS, b"Hello, World!")


async def echo(scope, protocol):
    """Echo text over a WebSocket; answer a plain request as `hello` does."""
    if scope.proto != "ws":
        await hello(scope, protocol)
        return
    websocket = await protocol.accept()
    # Kind 0 is the close, 1 bytes, 2 text.
    while (message := await websocket.receive()).kind:
        await websocket.send_str(message.data)
