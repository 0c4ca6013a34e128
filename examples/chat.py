"""Rooms for people with a browser and people with telnet, on as many processes as you like.

Run `python examples/chat.py [--workers 4] [--redis redis://127.0.0.1]`, open
http://127.0.0.1:3000/#tea/Ada in a tab, and join by `telnet 127.0.0.1 3001`.
"""

import argparse
from pathlib import Path
from urllib.parse import parse_qs

import iodine_aio

PAGE = Path(__file__).with_suffix(".html")


class Browser(iodine_aio.WebSocket):
    def on_open(self) -> None:
        query = parse_qs(self.env["QUERY_STRING"])
        self.name, self.room = query["name"][0], f"room.{query['room'][0]}"
        self.subscribe(self.room)  # what is published there goes straight to the client
        self.publish(self.room, f"* {self.name} joined")

    def on_message(self, data: str | bytes) -> None:
        self.publish(self.room, f"{self.name}: {data!s}")


class Telnet(iodine_aio.Protocol):
    typed, name, room = b"", "", ""

    def on_open(self) -> None:
        self.write("Your name, a space, your room: ")

    def on_message(self, data: bytes) -> None:
        *lines, self.typed = (self.typed + data)[-4096:].split(b"\n")
        for text in (line.decode(errors="replace").strip() for line in lines):
            if self.name:
                self.publish(self.room, f"{self.name}: {text}")
            else:
                self.name, _, room = text.partition(" ")
                self.room = f"room.{room}"
                self.subscribe(self.room, lambda said: self.write(f"{said.data!s}\r\n"))
                self.publish(self.room, f"* {self.name} joined")


def app(env: iodine_aio.Env) -> tuple[int, dict[str, str], Path]:
    if env["upgrade.websocket?"]:
        env["upgrade.websocket"] = Browser
    return 200, {"Content-Type": "text/html; charset=utf-8"}, PAGE


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=3000)
    parser.add_argument("--telnet", type=int, default=3001, metavar="PORT")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--redis", metavar="URL", help="where several machines share the rooms")
    options = parser.parse_args()
    iodine_aio.listen(options.telnet, Telnet)
    iodine_aio.run(app, port=options.port, workers=options.workers, redis_url=options.redis)
