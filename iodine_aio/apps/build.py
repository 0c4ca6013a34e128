"""Any object that can be an app becomes one callable `app(env)`."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from iodine_aio.apps.application import Application, Host
from iodine_aio.apps.files import StaticFiles
from iodine_aio.apps.threads import ThreadedApp
from iodine_aio.errors import UsageError
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import Env

App = Callable[[Env], Any]


def build_app(app: Any, settings: Settings, host: Host) -> Application:
    """The app as the server calls it.

    Args:
        app: an object or class with `call(env)`, or anything that can be called with one
            argument: a function, a coroutine function, an object; or an Application;
            or None, where only files are served.
        settings: `interface`, `threads` and what files are served.
        host: the server.

    Raises:
        UsageError: it cannot be called so; the message says what it looks like.
    """
    if app is None and settings.serves_files:
        return Application(StaticFiles(None, settings, host.clock))
    application = _build(app, settings, host)
    if settings.serves_files:
        files = StaticFiles(application.call, settings, host.clock)
        application = replace(application, call=files)
    return application


def _build(app: Any, settings: Settings, host: Host) -> Application:
    if isinstance(app, Application):
        return app
    return _build_iodine(_callable_of(app), settings, host)


def _build_iodine(app: App, settings: Settings, host: Host) -> Application:
    if settings.thread_count and not _is_async(app):
        threaded = ThreadedApp(app, host, settings.max_waiting)
        return Application(threaded, callbacks_in_pool=True)
    return Application(app)


def _is_async(app: object) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
        getattr(app, "__call__", None)  # noqa: B004 - the method itself is asked for
    )


def _callable_of(app: Any) -> App:
    call = getattr(app, "call", None)
    if callable(call):
        return _checked(call, f"{_name(app)}.call")
    if isinstance(app, type):
        raise UsageError(f"class {app.__name__} has no call(env): give it one, or give an instance")
    if not callable(app):
        raise UsageError(f"{_name(app)} is not callable: an app is called with env")
    return _checked(app, _name(app))


def _name(app: object) -> str:
    return getattr(app, "__qualname__", None) or f"{type(app).__name__} object"


def _checked(app: App, name: str) -> App:
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):  # written in C: it has to show when it is called
        return app
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(parameter.default is parameter.empty for parameter in positional)
    if required == 1 or (required == 0 and positional):
        return app
    if required == 2:
        raise UsageError(f"{name} takes two arguments, as a WSGI app does: not served yet")
    if required == 3:
        raise UsageError(f"{name} takes three arguments, as an ASGI app does: not served yet")
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        raise UsageError(f"{name} takes *args: wrap it in a function of env")
    raise UsageError(f"{name} takes {required} arguments, an app takes one: env")
