"""Which server's engine carries what is published: one for the process, as there is one broker.

The first server that has an engine lends it to all, in whatever loop they run. When it stops,
the next that has one takes over: what others publish in between, until that is connected, is
not heard here.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

from iodine_aio.errors import StartupError
from iodine_aio.homes import broker, call_home
from iodine_aio.protocols.service import Service
from iodine_aio.pubsub.engine import CarryingEngine, Engine, ProcessEngine
from iodine_aio.pubsub.message import Message
from iodine_aio.pubsub.urls import check_url, describe_url

_lock: Final = threading.Lock()
_carriers: Final[list["Carrier"]] = []  # the first of them carries, the others wait


def deliver(message: Message) -> None:
    """Hands what comes from elsewhere to the broker, in its own thread."""
    call_home(broker.deliver, message)


class Carrier:
    """The engine of a server, for a broker that may belong to another thread.

    Args:
        engine: belongs to the thread of this call.
        url: of the Redis that it leads to, if there is one.
    """

    def __init__(self, engine: CarryingEngine, url: str | None, service: Service) -> None:
        self._engine: Final = engine
        self._name: Final = "no Redis" if url is None else describe_url(check_url(url))
        self._url: Final = url
        self._service: Final = service
        self._thread_id: Final = threading.get_ident()

    async def join(self) -> None:
        """The server starts: its engine carries, or waits for its turn.

        Raises:
            StartupError: another server's leads elsewhere.
        """
        with _lock:
            # A program may end a loop without stopping its server.
            _carriers[:] = [one for one in _carriers if not one._service.loop.is_closed()]
            if _carriers and _carriers[0]._url != self._url:
                raise StartupError(
                    f"a server of this process is connected to {_carriers[0]._name}, this one"
                    f" wants {self._name}: a process has one set of channels, so give both the"
                    " same redis_url, or a process of its own to each"
                )
            _carriers.append(self)
            first = len(_carriers) == 1
        if first:
            await self._engine.open()
            call_home(broker.use_engine, self)

    async def leave(self) -> None:
        """The server stops."""
        with _lock:
            if self not in _carriers:
                return
            first = _carriers[0] is self
            _carriers.remove(self)
            successor = _carriers[0] if first and _carriers else None
        if first:
            if successor is not None:
                successor._call(successor._take_over)
            call_home(_replace, self, ProcessEngine() if successor is None else successor)
        await self._engine.close()

    def _take_over(self) -> None:
        if self in _carriers:
            self._service.start_task(self._engine.open())

    # What the broker calls.

    def subscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are wanted in this process from now on."""
        self._call(self._engine.subscribe, channel, pattern)

    def unsubscribe(self, channel: str, pattern: bool) -> None:
        """Messages of `channel` are not wanted in this process any more."""
        self._call(self._engine.unsubscribe, channel, pattern)

    def publish(self, message: Message) -> None:
        """Carries `message` to other processes."""
        self._call(self._engine.publish, message)

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        if self._service.loop.is_closed():
            return
        if threading.get_ident() == self._thread_id:
            function(*args)
        else:
            self._service.post(function, *args)


def _replace(engine: Engine, successor: Engine) -> None:
    if broker.engine is engine:
        broker.use_engine(successor)
