"""Every message goes to every open WebSocket, with picows on uvloop.

python broadcast_picows.py PORT
"""

import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

transports = set()


class Talk(WSListener):
    def on_ws_connected(self, transport):
        transports.add(transport)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            for other in tuple(transports):
                other.send(WSMsgType.TEXT, payload)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport):
        transports.discard(transport)


async def serve(port):
    server = await ws_create_server(lambda request: Talk(), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
