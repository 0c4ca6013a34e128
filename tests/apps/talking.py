"""A handler that mixes plain and async callbacks, and notes where each has run."""

import threading
from typing import Any

import iodine_aio


class Talking(iodine_aio.WebSocket):
    """Greets, repeats every word; `threads` are those of the callbacks, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.threads: list[tuple[str, bool]] = []

    def note(self, callback: str) -> None:
        self.threads.append((callback, threading.current_thread() is threading.main_thread()))

    async def on_open(self) -> None:
        self.note("on_open")
        self.write(f"hello {self.name}")

    def on_message(self, data: Any) -> None:
        self.note("on_message")
        self.write(repr(self.threads) if data == "threads" else data)
