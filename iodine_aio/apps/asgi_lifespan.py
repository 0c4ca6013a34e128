"""Start-up and shutdown of an ASGI app (ASGI, "Lifespan Protocol")."""

import asyncio

from iodine_aio.apps.asgi_scope import ASGIApp, Message, State, misplaced
from iodine_aio.errors import StartupError
from iodine_aio.logs import error_log


class ASGILifespan:
    """Runs the app's lifespan in a task of its own, which no stop waits for by accident.

    An app that raises before it has asked for the first message, or that answers as if
    this was a request, knows no lifespan, and is served without.

    Args:
        state: is filled by the app.
        timeout: seconds that a shutdown may take; 0: as many as it likes.
    """

    def __init__(self, app: ASGIApp, state: State, timeout: float) -> None:
        self._app = app
        self._state = state
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None]
        self._stopping: asyncio.Event
        self._asked = False  # the app has taken lifespan.startup
        self._supported = True

    async def start(self) -> None:
        """Waits until the app has started.

        Raises:
            StartupError: it says, or shows, that it cannot.
        """
        self._stopping = asyncio.Event()
        self._started = asyncio.get_running_loop().create_future()
        task = self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            await self._started
        except StartupError:
            await asyncio.wait([task], timeout=1)  # what else it does about its failure
            task.cancel()
            raise
        except asyncio.CancelledError:  # the server is stopped
            task.cancel()
            await asyncio.wait([task], timeout=1)
            raise

    async def stop(self) -> None:
        """Lets the app shut down."""
        task = self._task
        if task is None or not self._started.done() or self._failed:
            return
        self._stopping.set()
        await asyncio.wait([task], timeout=self._timeout or None)
        if not task.done():
            error_log.warning("the app's shutdown was cut after %g seconds", self._timeout)
            task.cancel()
            await asyncio.wait([task], timeout=1)

    @property
    def _failed(self) -> bool:
        started = self._started
        return started.done() and (started.cancelled() or started.exception() is not None)

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit(), too
            if not self._started.done():
                if self._asked and self._supported:
                    self._fail(f"the app's startup raised {type(error).__name__}: {error}", error)
            elif not self._failed:
                error_log.error("the app's lifespan raised", exc_info=error)
        if not self._started.done():
            self._started.set_result(None)

    def _fail(self, text: str, cause: BaseException | None) -> None:
        failure = StartupError(text)
        failure.__cause__ = cause
        self._started.set_exception(failure)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        if self._failed and self._task is not None:
            self._task.cancel()  # it would wait for ever: who did not start is not shut down
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not self._started.done():
            self._started.set_result(None)
        elif kind == "lifespan.startup.failed" and not self._started.done():
            # Frameworks send a whole traceback; its last line says what happened.
            lines = str(message.get("message", "")).strip().splitlines()
            error_log.debug("%s", "\n".join(lines))
            reason = lines[-1] if lines else "no reason given"
            self._fail(f"the app's startup failed: {reason}", None)
        elif kind == "lifespan.shutdown.complete" and self._stopping.is_set():
            pass
        elif kind == "lifespan.shutdown.failed" and self._stopping.is_set():
            error_log.error("the app's shutdown failed: %s", message.get("message", ""))
        else:
            self._supported = False
            raise misplaced(message, "a message of the lifespan that is due")
