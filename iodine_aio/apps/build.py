"""Any object that can be an app becomes one callable `app(env)`.

Which kind it is tells the object itself: one required argument is ours, two are
WSGI, three are ASGI.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal

from iodine_aio.apps.application import Application, Host
from iodine_aio.apps.asgi import is_double_callable, make_application
from iodine_aio.apps.files import StaticFiles
from iodine_aio.apps.threads import Delivery, PlainDelivery, ThreadedApp
from iodine_aio.apps.wsgi import WSGI_ENV, WSGIApp, WSGIDelivery
from iodine_aio.errors import UsageError
from iodine_aio.settings import DEFAULT_THREADS, Settings
from iodine_aio.wire.environ import Env

App = Callable[[Env], Any]
Kind = Literal["iodine", "wsgi", "asgi"]

_KINDS: Final[dict[int, Kind]] = {1: "iodine", 2: "wsgi", 3: "asgi"}
_SAY: Final = "say which by --interface wsgi, asgi or iodine, or by interface='wsgi' and so on"


def build_app(app: Any, settings: Settings, host: Host) -> Application:
    """The app as the server calls it.

    Args:
        app: an object or class with `call(env)`, or anything that can be called: with env,
            as a WSGI app, or as an ASGI app; or an Application; or None, where only files
            are served.
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
    kind = settings.interface
    call, name = _callable_of(app, kind)
    if kind == "auto":
        kind = find_kind(call, name)
    if kind == "wsgi":
        return _build_wsgi(call, settings, host)
    if kind == "asgi":
        return make_application(call, settings, host)
    return _build_iodine(call, settings, host)


def _build_iodine(app: App, settings: Settings, host: Host) -> Application:
    if settings.thread_count and not _is_async(app):
        return _run_in_threads(app, PlainDelivery, {}, settings, host)
    return Application(app)


def _build_wsgi(app: Callable[..., Any], settings: Settings, host: Host) -> Application:
    count = settings.thread_count
    if DEFAULT_THREADS if count is None else count:
        return _run_in_threads(app, WSGIDelivery, WSGI_ENV, settings, host)
    return Application(WSGIApp(app), env=WSGI_ENV)


def _run_in_threads(
    app: Callable[..., Any],
    make_delivery: type[Delivery],
    env: Env,
    settings: Settings,
    host: Host,
) -> Application:
    return Application(
        ThreadedApp(app, make_delivery, host, settings),
        callbacks_in_pool=True,
        env={**env, "wsgi.multithread": True, "rack.multithread": True},
    )


def find_kind(app: Callable[..., Any], name: str) -> Kind:
    """How `app` wants to be called.

    Raises:
        UsageError: in no way that is known, or its signature does not tell.
    """
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):  # written in C: it has to show when it is called
        return "iodine"
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(parameter.default is parameter.empty for parameter in positional)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        raise UsageError(
            f"{name} takes *args, so that nobody can tell what kind of app it is: {_SAY}"
        )
    if required == 0 and positional:
        required = 1
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise UsageError(f"{name} requires the keyword {parameter.name}, which nobody gives it")
    kind = _KINDS.get(required)
    if kind == "wsgi" and _is_async(app):
        raise UsageError(
            f"{name} is an async def of two arguments: a WSGI app is a plain function, an app of"
            " ours takes one argument, an ASGI app three"
        )
    if kind is None:
        hint = ": if it makes the app, add --factory" if not required else ""
        raise UsageError(f"{name} takes {required} arguments, an app takes one: env{hint}")
    return kind


def _callable_of(app: Any, kind: str) -> tuple[Callable[..., Any], str]:
    call = getattr(app, "call", None)
    # Where it was said that it is WSGI or ASGI, an object that can be called is what was meant:
    # a proxy has any attribute.
    said = kind in ("wsgi", "asgi") and callable(app) and not isinstance(app, type)
    if callable(call) and not said:
        return call, f"{_name(app)}.call"
    if _is_aiohttp(app):
        raise UsageError(
            "aiohttp.web.Application is served by aiohttp alone. Both run in one loop: start its"
            " web.AppRunner and web.TCPSite there, then `await iodine_aio.serve(your_own_app)`"
        )
    if is_double_callable(app):
        raise UsageError(
            f"{_name(app)} takes scope, then (receive, send), as ASGI 2 had it: make it"
            " app(scope, receive, send), for instance by"
            " asgiref.compatibility.double_to_single_callable"
        )
    # Objects of such a class are the response: iterable ones of WSGI, awaitable ones of ASGI.
    if isinstance(app, type) and _required_arguments(app) != 2 and not hasattr(app, "__await__"):
        raise UsageError(f"class {app.__name__} has no call(env): give it one, or give an instance")
    if not callable(app):
        raise UsageError(f"{_name(app)} is not callable: an app is called with env")
    return app, _name(app)


def _required_arguments(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return -1
    return sum(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )


def _is_aiohttp(app: object) -> bool:
    # By its name: it need not be installed, and a look must not import it.
    return any(
        cls.__name__ == "Application" and cls.__module__.startswith("aiohttp.web")
        for cls in type(app).__mro__
    )


def _is_async(app: object) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
        getattr(app, "__call__", None)  # noqa: B004 - the method itself is asked for
    )


def _name(app: object) -> str:
    return getattr(app, "__qualname__", None) or f"{type(app).__name__} object"
