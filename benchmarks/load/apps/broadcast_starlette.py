"""Every message goes to every open WebSocket, with Starlette."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

sockets = set()


async def talk(socket):
    await socket.accept()
    sockets.add(socket)
    try:
        while True:
            text = await socket.receive_text()
            for other in tuple(sockets):
                await other.send_text(text)
    except WebSocketDisconnect:
        pass
    finally:
        sockets.discard(socket)


app = Starlette(routes=[WebSocketRoute("/", talk)])
