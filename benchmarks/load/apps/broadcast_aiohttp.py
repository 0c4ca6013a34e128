"""Every message goes to every open WebSocket, with aiohttp on uvloop.

python broadcast_aiohttp.py PORT
"""

import sys

import uvloop
from aiohttp import web

sockets = set()


async def talk(request):
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    sockets.add(socket)
    try:
        async for message in socket:
            for other in tuple(sockets):
                await other.send_str(message.data)
    finally:
        sockets.discard(socket)
    return socket


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/", talk)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        access_log=None,
        backlog=4096,
        loop=uvloop.new_event_loop(),
    )
