"""A chat room in Flask: an ordinary view that lets the browser's WebSocket in.

Run `python -m iodine_aio examples/flask_chat.py`, open http://127.0.0.1:3000 in two browsers.
"""

import secrets

from flask import Flask, request, session

import iodine_aio

PAGE = """<!doctype html><title>Chat</title>
<form><input name="text" autofocus autocomplete="off"><button>Say</button></form><ul></ul>
<script>
const socket = new WebSocket(location.href.replace("http", "ws") + "chat");
const form = document.forms[0], list = document.querySelector("ul");
socket.onmessage = (event) => {
  list.prepend(Object.assign(document.createElement("li"), {textContent: event.data}));
};
form.onsubmit = (event) => {
  event.preventDefault();
  socket.send(form.text.value); form.reset();
};
</script>"""

app = Flask(__name__)
app.secret_key = "change me"


class Guest(iodine_aio.WebSocket):  # one object for each connection; callbacks may block
    def __init__(self, name: str) -> None:
        self.name = name

    def on_open(self) -> None:
        self.say("is here")

    def on_message(self, data: str | bytes) -> None:
        self.say(str(data))

    def on_close(self) -> None:
        self.say("has left")

    def say(self, text: str) -> None:
        line = f"{self.name}: {text}"
        self.write(line)
        self.each(lambda guest: guest.write(line))


@app.get("/")
def page() -> str:
    session.setdefault("name", f"Guest {secrets.randbelow(1000)}")
    return PAGE


@app.route("/chat", websocket=True)
def chat() -> str | tuple[str, int]:
    if "name" not in session:
        return "open the page first", 403
    request.environ["upgrade.websocket"] = Guest(session["name"])
    return ""
