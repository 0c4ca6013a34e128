"""Node's `ws`, a client that shares no code with us. NODE_PATH says where the package is."""

import asyncio
import json
import shutil
import subprocess

import pytest

import iodine_aio

NODE = shutil.which("node")

PROGRAM = """
const WebSocket = require("ws");
const ws = new WebSocket(process.argv[1], ["chat"], {headers: {cookie: "a=b"}});
const seen = {protocol: null, messages: [], close: null};
ws.on("open", () => {
  seen.protocol = ws.protocol;
  ws.send("h\\u00e9llo");
  ws.send(Buffer.alloc(100000, 7));
  ws.send("split ", {fin: false});
  ws.send("in two", {fin: true});
  ws.ping("beat");
});
function note(what) {
  seen.messages.push(what);
  if (seen.messages.length === 4) ws.close(4001, "done");
}
ws.on("pong", data => note("pong " + data));
ws.on("message", (data, binary) => note(binary ? data.length : data.toString()));
ws.on("close", (code, reason) => {
  seen.close = [code, reason.toString()];
  console.log(JSON.stringify(seen));
});
"""


def find_ws() -> bool:
    if NODE is None:
        return False
    probe = subprocess.run([NODE, "-e", 'require("ws")'], capture_output=True, check=False)
    return probe.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not find_ws(), reason="node, or its package ws on NODE_PATH, is missing")
async def test_node_ws_talks_to_an_adopted_object():
    """Text, binary, fragments, ping and the closing handshake with another implementation."""
    closed: list[tuple[int, str]] = []

    class Echo:
        def on_message(self, data: str | bytes) -> None:
            self.write(data)  # type: ignore[attr-defined]

        def on_close(self, code: int, reason: str) -> None:
            closed.append((code, reason))

    def app(env: iodine_aio.Env) -> tuple[int, dict[str, str], None]:
        env["upgrade.websocket"] = Echo
        return 101, {"Sec-WebSocket-Protocol": "chat"}, None

    async with iodine_aio.serve(app, port=0) as server:
        assert NODE is not None
        process = await asyncio.create_subprocess_exec(
            NODE, "-e", PROGRAM, server.url.replace("http", "ws"),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()

    seen = json.loads(output)
    assert seen["protocol"] == "chat"
    assert sorted(map(str, seen["messages"])) == sorted(
        ["héllo", "100000", "split in two", "pong beat"]
    )
    assert seen["close"] == [4001, ""]
    assert closed == [(4001, "done")]
