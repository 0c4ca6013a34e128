"""Every message goes to every open WebSocket, by socketify's publish.

python broadcast_socketify.py PORT
"""

import sys

from socketify import App, OpCode

app = App()
app.ws(
    "/*",
    {
        "max_backpressure": 64 * 1024 * 1024,
        "idle_timeout": 240,
        "open": lambda ws: ws.subscribe("all"),
        "message": lambda ws, data, opcode: ws.publish("all", data, OpCode.TEXT),
    },
)
app.listen(int(sys.argv[1]), lambda config: None)
app.run()
