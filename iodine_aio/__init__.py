"""HTTP, WebSocket and raw TCP behind one callable, inside your asyncio program or alone."""

from typing import TYPE_CHECKING

from iodine_aio.channels import publish, subscribe, unsubscribe
from iodine_aio.errors import (
    IodineError,
    LoadError,
    ProtocolError,
    ResponseError,
    StartupError,
    UsageError,
)
from iodine_aio.lifecycle import Timer, defer, on_state, run_after, run_every
from iodine_aio.loop import Loop, new_event_loop
from iodine_aio.protocols.methods import Client, EventStream, Protocol, WebSocket
from iodine_aio.pubsub.broker import Subscription
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.publisher import Publisher
from iodine_aio.server import Server
from iodine_aio.serving import listen, serve
from iodine_aio.settings import Settings
from iodine_aio.subscriptions import Messages
from iodine_aio.supervisor import run
from iodine_aio.wire.environ import Env
from iodine_aio.wire.events import Event

__version__ = "0.1.0"

# Settable, as Iodine's: what run() takes where its arguments say nothing.
threads: int | None = None
workers: int | None = None
processes: int | None = None  # the other name of `workers`

__all__ = [
    "Client",
    "Env",
    "Event",
    "EventLoopPolicy",
    "EventStream",
    "IodineError",
    "LoadError",
    "Loop",
    "Message",
    "Messages",
    "Protocol",
    "ProtocolError",
    "Publisher",
    "ResponseError",
    "Server",
    "Settings",
    "StartupError",
    "Subscription",
    "Timer",
    "UsageError",
    "WebSocket",
    "__version__",
    "defer",
    "install",
    "listen",
    "new_event_loop",
    "on_state",
    "processes",
    "publish",
    "run",
    "run_after",
    "run_every",
    "serve",
    "subscribe",
    "threads",
    "unsubscribe",
    "workers",
]


if TYPE_CHECKING:
    # A type checker that sees __getattr__ takes any misspelt name for one that there is.
    from iodine_aio.loop import EventLoopPolicy, install
else:

    def __getattr__(name: str) -> object:
        # Event-loop policies are deprecated: nothing touches them until somebody asks.
        if name in ("EventLoopPolicy", "install"):
            from iodine_aio import loop

            return getattr(loop, name)
        raise AttributeError(f"module 'iodine_aio' has no attribute {name!r}")
