"""ASGI apps: `await app(scope, receive, send)` becomes `app(env)` (ASGI 3.0).

Each request is one task, which goes on when its client has left: the app is told by
`http.disconnect`, and what it does behind its response is waited for at a stop.

https://asgi.readthedocs.io/en/latest/specs/main.html
"""

import inspect
from typing import Any

from iodine_aio.apps.application import Application, Host
from iodine_aio.apps.asgi_http import Exchange
from iodine_aio.apps.asgi_lifespan import ASGILifespan
from iodine_aio.apps.asgi_scope import ASGIApp, State, make_http_scope, make_websocket_scope
from iodine_aio.apps.asgi_websocket import WebSocketSession
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import Env


def make_application(app: ASGIApp, settings: Settings, host: Host) -> Application:
    """An ASGI app as the server calls it."""
    state: State = {}
    lifespan = ASGILifespan(app, state, settings.stop_timeout)
    return Application(_Caller(app, host, state), streams_requests=True, lifespan=lifespan)


def is_double_callable(app: object) -> bool:
    """True if `app` looks like one of ASGI 2: a class of a scope, whose objects are awaited.

    A function that returns a coroutine function looks like any other.
    """
    if not isinstance(app, type) or not inspect.iscoroutinefunction(app.__call__):
        return False
    parameters = list(inspect.signature(app.__call__).parameters)
    return parameters[1:] == ["receive", "send"]


class _Caller:
    """Calls the app, for a request or for a WebSocket."""

    def __init__(self, app: ASGIApp, host: Host, state: State) -> None:
        self._app = app
        self._host = host
        self._state = state

    def __call__(self, env: Env) -> Any:
        task: Exchange | WebSocketSession
        if env["upgrade.websocket?"]:
            task = WebSocketSession(env, self._host)
            scope = make_websocket_scope(env, self._state)
        else:
            task = Exchange(env)
            scope = make_http_scope(env, self._state)
        self._host.start_guarded(task.run(self._app, scope))
        return task.answer()
