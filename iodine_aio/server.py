"""A server: its listening sockets, its connections, and the end of both."""

import asyncio
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from iodine_aio.addresses import Addresses
from iodine_aio.apps.build import build_app
from iodine_aio.apps.file_bodies import FileBodies
from iodine_aio.apps.files import read_busy_page
from iodine_aio.binds import Bind, Opener, open_sockets
from iodine_aio.descriptors import descriptor_limit, make_levels
from iodine_aio.draining import ABORT_SECONDS, Draining, say_what_was_cut
from iodine_aio.errors import StartupError, UsageError
from iodine_aio.listeners import Listeners
from iodine_aio.logs import error_log
from iodine_aio.protocols.http1 import HTTPProtocol
from iodine_aio.protocols.listening import RawAcceptor, check_raw_handler
from iodine_aio.protocols.service import Served, Service
from iodine_aio.pubsub.engine import CarryingEngine
from iodine_aio.settings import Settings
from iodine_aio.surroundings import Surroundings
from iodine_aio.wire.environ import Env, make_template


class Server:
    """Serves on one loop, from `start` to `stop`.

    Await it to wait until it has stopped; `async with` it to stop it at the block's end.

    Attributes:
        settings: how it behaves.
    """

    def __init__(self, app: Any, binds: Sequence[Bind], settings: Settings) -> None:
        self.settings: Final = settings
        self._service: Final = Service(None, settings)
        self._addresses: Final = Addresses(binds)
        self._make_protocol: Callable[[Env], asyncio.BaseProtocol] = self._make_http
        self._owns_pool = True
        self._opener: Opener = open_sockets
        self._listeners = Listeners(settings.backlog, self._service)
        self._companions: list[Server] = []
        self._surroundings: Final = Surroundings(settings)
        self._draining: Final = Draining(self._service)
        self._tell_of_stop: Callable[[], object] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        if app is not None:
            self.set_app(app)

    # Looking at it.

    @property
    def url(self) -> str:
        """Where it listens, as in ``http://127.0.0.1:3000``; of several binds the first."""
        urls = self.urls
        if not urls:
            raise UsageError("this server has not been bound yet: it has no url")
        return urls[0]

    @property
    def urls(self) -> list[str]:
        """Where it listens, one for each bind and each `listen()`."""
        return self._addresses.urls + [url for server in self._companions for url in server.urls]

    @property
    def port(self) -> int:
        """The TCP port of the first bind; 0 for a unix socket."""
        ports = self._addresses.ports + [server.port for server in self._companions]
        if not ports:
            raise UsageError("this server has not been bound yet: it has no port")
        return ports[0]

    @property
    def connections(self) -> set[Served]:
        """The open connections, of every protocol."""
        return self._service.connections.union(*(c.connections for c in self._companions))

    @property
    def running(self) -> bool:
        """True from its start until a stop begins."""
        return self._starting is not None and not self._service.stopping

    # Beginning.

    def set_app(self, app: Any) -> None:
        """Says what answers requests, before the start.

        Raises:
            UsageError: `app` is no app.
        """
        service = self._service
        application = build_app(app, self.settings, service)
        service.app = application.entry
        service.streams_requests = application.streams_requests
        service.callbacks_in_pool = application.callbacks_in_pool
        service.app_env = application.env
        service.represent_file = FileBodies(self.settings)
        service.busy_page = read_busy_page(self.settings)
        self._surroundings.lifespan = application.lifespan

    def set_raw_handler(self, handler: Any, timeout: float, busy_message: bytes) -> None:
        """Serves raw connections instead of HTTP."""
        check_raw_handler(handler)
        self._addresses.scheme = "tcp"
        self._surroundings.calls_hooks = False
        self._make_protocol = lambda _: RawAcceptor(self._service, handler, timeout, busy_message)

    def set_engine(self, engine: CarryingEngine) -> None:
        """Lets `engine` carry what is published, from start to stop; before the start."""
        self._surroundings.engine = engine

    def join(self, companion: "Server") -> None:
        """Lets `companion` open, start and stop with this server, and share its pool.

        Raises:
            OSError: this server is open, and the companion's address cannot be.
        """
        companion._service.pool = self._service.pool
        companion._owns_pool = False
        if self._addresses.sockets:
            companion.open(self._opener)
        self._companions.append(companion)

    def open(self, opener: Opener = open_sockets) -> None:
        """Opens the listening sockets: from now on clients may connect, and wait.

        In a worker once more: what its parent opened by this is not the worker's.

        Args:
            opener: opens those of each bind.

        Raises:
            OSError: an address cannot be listened on; nothing stays open.
        """
        self._opener = opener
        try:
            self._addresses.open(opener, self.settings.backlog)
            for server in self._companions:
                server.open(opener)
        except BaseException:
            self.close_sockets()
            raise

    def close_sockets(self) -> None:
        """Listens no more."""
        self._listeners.close()
        self._addresses.close()
        for server in self._companions:
            server.close_sockets()

    def start(self) -> None:
        """Begins to accept connections on the running loop."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        self._starting = loop.create_task(self._start(loop))

    async def started(self) -> Self:
        """Waits until connections are accepted.

        Raises:
            StartupError: a hook raised, or a stop did not wait for the start. Nothing is
                open any more then.
        """
        if self._starting is None:
            raise UsageError("this server was not started")
        try:
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if self._starting.cancelled():
                raise StartupError("the server was stopped before it had started") from None
            raise
        except Exception:
            await self.stop()  # it has begun by itself, and a caller may end the loop now
            raise
        return self

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        service = self._service
        self._listeners.levels = levels = make_levels(descriptor_limit())
        service.descriptor_ceiling, service.descriptor_brim, _ = levels
        service.rest = self._listeners.rest
        service.start(loop)
        try:
            await self._surroundings.enter(service)
            for sock in self._addresses.sockets:
                await self._listen(sock)
            for server in self._companions:
                server.start()
                await server.started()
            await self._surroundings.say_started()
        except BaseException:
            self._begin_stop(0)
            raise

    async def _listen(self, sock: socket.socket) -> None:
        template = make_template(sock.getsockname(), sys.stderr) | self._service.app_env
        if self.settings.worker_count > 1:
            template["wsgi.multiprocess"] = template["rack.multiprocess"] = True
        make_protocol = self._make_protocol
        await self._listeners.add(sock, lambda: make_protocol(template))

    def _make_http(self, template: Env) -> asyncio.BaseProtocol:
        return HTTPProtocol(self._service, template)

    async def accept_also(self, sock: socket.socket) -> bool:
        """Accepts from `sock` too, which listens where another of this server does.

        False if there is none, or the server stops; `sock` is the server's then, all the same.
        While the server starts, nothing is accepted from `sock` either.
        """
        assert self._starting is not None
        await asyncio.wait([self._starting])
        if self._ending is not None or sock.fileno() < 0:  # it was given back meanwhile
            sock.close()
            return False
        for server in (self, *self._companions):
            if server._addresses.adopt(sock):
                await server._listen(sock)
                return True
        sock.close()
        return False

    def accept_no_more(self, sock: socket.socket) -> None:
        """Accepts no more from `sock`, a copy of one that goes on listening."""
        for server in (self, *self._companions):
            if server._addresses.release(sock):
                server._listeners.remove(sock)
        sock.close()

    # Ending.

    async def stop(self, timeout: float | None = None, *, drain: float = 0) -> None:
        """Stops gracefully, and returns when everything has ended.

        Nothing is accepted any more; idle connections are closed, requests in flight
        answered; upgraded connections are told `on_shutdown` and closed (WebSockets
        with 1001).

        Args:
            timeout: seconds until what has not ended is cut; None: `stop_timeout`.
            drain: seconds before that for which idle connections stay open: their next
                request is answered with `Connection: close`, so that none is lost.
        """
        if self._stopped is None:
            self.close_sockets()
            return
        self._begin_stop(timeout, drain)
        try:
            await asyncio.shield(self._stopped)
        except asyncio.CancelledError:
            self.abort()
            raise

    def stop_soon(self, timeout: float | None = None, *, drain: float = 0) -> None:
        """Begins to stop; may be called from any thread and from a signal handler."""
        if self._stopped is None:
            raise UsageError("this server was not started")
        loop = self._stopped.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._begin_stop, timeout, drain)

    def watch_stop(self, function: Callable[[], object]) -> None:
        """Calls `function()` when a stop begins; at once, if one has."""
        self._tell_of_stop = function
        if self._ending is not None:
            function()

    def seconds_left(self) -> float:
        """How long a stop that has begun may still wait for anything."""
        return self._draining.seconds_left()

    def abort(self) -> None:
        """Cuts every connection, and every app and handler that is running."""
        self._draining.hurried = True
        self._draining.cut()
        if self._starting is not None:
            self._starting.cancel()
        for server in self._companions:
            server.abort()

    def _begin_stop(self, timeout: float | None, drain: float = 0) -> None:
        if self._stopped is None:
            return
        loop = self._stopped.get_loop()
        seconds = self.settings.stop_timeout if timeout is None else timeout
        if self._ending is None:
            self._draining.set_deadline(loop.time() + drain + seconds, drain)
            self._ending = loop.create_task(self._stop(seconds))
            if self._tell_of_stop is not None:
                self._tell_of_stop()
        elif self._service.drain_seconds and not drain:
            self._end_drain(loop.time() + seconds)

    def _end_drain(self, deadline: float) -> None:
        self._draining.hasten(deadline)
        for server in self._companions:
            server._end_drain(deadline)

    async def _stop(self, seconds: float) -> None:
        if self._starting is not None:  # its sockets must not be closed under it
            await asyncio.wait([self._starting], timeout=max(seconds, ABORT_SECONDS))
            if not self._starting.done():
                error_log.warning("the start was cut: a stop had waited for it in vain")
                self._starting.cancel()
                await asyncio.wait([self._starting], timeout=ABORT_SECONDS)
        service, draining = self._service, self._draining
        try:
            await self._surroundings.say_stopping(draining.limit)
            self.close_sockets()
            draining.ask()
            drain = service.drain_seconds
            await asyncio.gather(
                draining.wait(),
                *(server.stop(seconds, drain=drain) for server in self._companions),
            )
            if self._owns_pool:  # else the server that it has joined says it
                say_what_was_cut(seconds, draining, *(c._draining for c in self._companions))
            await draining.end_threads(with_pool=self._owns_pool)
        finally:
            service.clock.stop()
            if service.access_log is not None:
                service.access_log.flush()
            await self._surroundings.end_lifespan()
            await self._surroundings.say_stopped(draining.limit)
            await self._surroundings.leave(service)
            assert self._stopped is not None
            if not self._stopped.done():
                self._stopped.set_result(None)

    # Awaiting.

    async def _serve(self) -> None:
        try:
            await self.started()
            assert self._stopped is not None
            await asyncio.shield(self._stopped)
        except asyncio.CancelledError:
            await self.stop()
            raise

    def __await__(self) -> Generator[Any, None, None]:
        return self._serve().__await__()

    async def __aenter__(self) -> Self:
        return await self.started()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def __repr__(self) -> str:
        where = ", ".join(self._addresses.urls) or "unbound"
        return f"<Server {where}, {len(self._service.connections)} connections>"
