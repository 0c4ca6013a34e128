"""What can be an app."""

from typing import Any
from wsgiref.validate import validator

import aiohttp.web
import bottle
import django.core.asgi
import falcon
import falcon.asgi
import fastapi
import flask
import litestar
import pytest
import quart
from starlette.applications import Starlette
from werkzeug.middleware.proxy_fix import ProxyFix

from iodine_aio.apps.application import Application
from iodine_aio.apps.build import build_app, find_kind
from iodine_aio.apps.threads import ThreadedApp
from iodine_aio.apps.wsgi import WSGIApp
from iodine_aio.errors import UsageError
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings
from tests.apps import django_site

RESPONSE = (200, {}, "")


def build(app: Any, **options: Any) -> Application:
    settings = Settings(**options)
    return build_app(app, settings, Service(None, settings))


def function(env: dict[str, Any]) -> Any:
    return RESPONSE


def function_with_default(env: dict[str, Any], extra: int = 1) -> Any:
    return RESPONSE


def function_of_defaults(env: dict[str, Any] | None = None) -> Any:
    return RESPONSE


def function_with_keywords(env: dict[str, Any], **others: Any) -> Any:
    return RESPONSE


class Callable:
    def __call__(self, env: dict[str, Any]) -> Any:
        return RESPONSE


class WithCall:
    def call(self, env: dict[str, Any]) -> Any:
        return RESPONSE


class ClassWithCall:
    @classmethod
    def call(cls, env: dict[str, Any]) -> Any:
        return RESPONSE


class StaticCall:
    @staticmethod
    def call(env: dict[str, Any]) -> Any:
        return RESPONSE


@pytest.mark.parametrize(
    "app",
    [
        function,
        function_with_default,
        function_of_defaults,
        function_with_keywords,
        Callable(),
        Callable().__call__,
        WithCall(),
        WithCall().call,
        ClassWithCall,
        ClassWithCall(),
        StaticCall,
        lambda env: RESPONSE,
    ],
)
def test_what_takes_env_is_an_app(app: Any):
    """A function, an object or class with `call(env)`, or anything callable."""
    assert build(app).call({}) == RESPONSE


async def test_coroutine_function_is_an_app():
    """What it returns is awaited by whoever calls it."""

    async def app(env: dict[str, Any]) -> Any:
        return RESPONSE

    assert await build(app).call({}) == RESPONSE


def test_call_goes_before_being_callable():
    """An object with both is the Rack-style one."""

    class Both(WithCall):
        def __call__(self, env: dict[str, Any]) -> Any:
            raise AssertionError

    assert build(Both()).call({}) == RESPONSE


def test_builtin_without_a_signature_is_believed():
    """It has to show when it is called."""
    assert build({}.get) is not None


def wsgi(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b"wsgi"]


def wsgi_with_default(environ: Any, start_response: Any, extra: int = 1) -> Any: ...


class WSGIClass:
    """Its objects are the bodies (PEP 3333, "The Application/Framework Side")."""

    def __init__(self, environ: Any, start_response: Any) -> None: ...


class WSGIObject:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class CallOfTwo:
    def call(self, environ: Any, start_response: Any) -> Any: ...


async def asgi(scope: Any, receive: Any, send: Any) -> Any: ...


class ASGIClass:
    """Its objects are awaited, as those of Starlette's HTTPEndpoint."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any: ...


class ASGIObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any: ...


def plain_asgi(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (function, "iodine"),
        (wsgi, "wsgi"),
        (wsgi_with_default, "wsgi"),
        (WSGIClass, "wsgi"),
        (WSGIObject(), "wsgi"),
        (CallOfTwo().call, "wsgi"),
        (asgi, "asgi"),
        (plain_asgi, "asgi"),
        (ASGIObject(), "asgi"),
        (flask.Flask("flask_app"), "wsgi"),
        (ProxyFix(flask.Flask("flask_app")), "wsgi"),
        (django_site.application, "wsgi"),
        (django.core.asgi.get_asgi_application(), "asgi"),
        (falcon.App(), "wsgi"),
        (falcon.asgi.App(), "asgi"),
        (bottle.Bottle(), "wsgi"),
        (bottle.default_app(), "wsgi"),
    ],
)
def test_kind_of_app_is_told_by_how_it_wants_to_be_called(app: Any, kind: str):
    """One required argument: ours; two: WSGI; three: ASGI."""
    assert find_kind(app, "app") == kind


@pytest.mark.parametrize(
    "make",
    [
        fastapi.FastAPI,
        lambda: quart.Quart("quart"),
        Starlette,
        lambda: litestar.Litestar(logging_config=None),
    ],
    ids=["fastapi", "quart", "starlette", "litestar"],
)
def test_objects_of_async_frameworks_are_asgi_apps(make: Any):
    """By their signature alone."""
    assert find_kind(make(), "app") == "asgi"


@pytest.mark.parametrize(("threads", "size"), [(None, 16), (3, 3), (0, None)])
def test_wsgi_apps_run_on_sixteen_threads_unless_said(threads: int | None, size: int | None):
    """`-t 0` leaves them on the loop, and their handlers' callbacks with them."""
    settings = Settings(threads=threads)
    application = build(wsgi, threads=threads)

    assert isinstance(application.call, WSGIApp if size is None else ThreadedApp)
    assert application.callbacks_in_pool is (size is not None)
    assert size is None or settings.pool_size == size


def test_apps_of_ours_run_on_the_loop_unless_said():
    """A thread for each would cost more than most of them do."""
    assert build(function).call is function
    assert isinstance(build(function, threads=2).call, ThreadedApp)


def test_entry_is_the_method_of_an_app_that_is_an_object():
    """Python calls it for less; what is no object of a class of Python's is called itself."""

    class App:
        def __call__(self, env: dict[str, Any]) -> Any:
            return RESPONSE

    made = App()
    assert build(made).entry == made.__call__
    assert build(made).entry({}) == RESPONSE
    assert build(function).entry is function
    bound = build(function, threads=2)
    assert bound.entry == bound.call.__call__


def test_interface_says_what_the_object_does_not():
    """As with the *args of wsgiref.validate."""
    application = build(validator(wsgi), interface="wsgi", threads=0)

    assert isinstance(application.call, WSGIApp)


class Proxy:
    """An app behind something that has any attribute."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"proxied"]

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def test_interface_goes_before_an_attribute_call():
    """Who says WSGI or ASGI means the object, if that can be called."""
    application = build(Proxy(), interface="wsgi", threads=0)

    assert application.call({})[2] == b"proxied"
    assert build(CallOfTwo(), interface="wsgi") is not None


def test_interface_overrides_what_the_object_looks_like():
    """Two required arguments, one of them bound by whoever calls it."""

    def app(env: dict[str, Any], other: int) -> Any:
        return RESPONSE

    assert build(app, interface="iodine").call is app


class Plain:
    pass


class Wrong:
    def call(self, a: Any, b: Any, c: Any, d: Any) -> Any: ...


def function_requiring_keyword(env: dict[str, Any], *, debug: bool) -> Any: ...


async def async_wsgi(environ: Any, start_response: Any) -> Any: ...


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (async_wsgi, "async_wsgi is an async def of two arguments"),
        (function_requiring_keyword, "requires the keyword debug"),
        (Plain, "class Plain has no call"),
        (Plain(), "Plain object is not callable"),
        ("module:app", "str object is not callable"),
        (7, "int object is not callable"),
        (None, "NoneType object is not callable"),
        (lambda: RESPONSE, "takes 0 arguments, an app takes one: env: .* add --factory"),
        (lambda a, b, c, d: RESPONSE, "takes 4 arguments, an app takes one: env"),
        (lambda *args: RESPONSE, r"takes \*args, .* say which by --interface wsgi"),
        (validator(wsgi), r"takes \*args, .* say which by --interface wsgi"),
        (aiohttp.web.Application(), "AppRunner and web.TCPSite there, then `await iodine_aio"),
        (Wrong(), "Wrong object.call takes 4 arguments"),
    ],
)
def test_what_cannot_be_called_with_env_is_refused(app: Any, message: str):
    """At the start, with what it looks like; not at the first request."""
    with pytest.raises(UsageError, match=message):
        build(app)


@pytest.mark.parametrize("app", [asgi, ASGIClass])
def test_what_takes_three_arguments_is_an_asgi_app(app: Any):
    """Its requests are streamed, and it has a lifespan."""
    application = build(app)

    assert application.streams_requests
    assert application.lifespan is not None
