"""Every message goes to every open WebSocket, by `websockets.broadcast` on uvloop.

python broadcast_websockets.py PORT
"""

import sys

import uvloop
from websockets.asyncio.server import broadcast, serve

connections = set()


async def talk(connection):
    connections.add(connection)
    try:
        async for message in connection:
            broadcast(connections, message)
    finally:
        connections.discard(connection)


async def main(port):
    options = {"compression": None, "ping_interval": None, "backlog": 4096}
    async with serve(talk, "127.0.0.1", port, **options) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
