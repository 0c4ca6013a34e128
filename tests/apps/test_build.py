"""What can be an app."""

from typing import Any

import pytest

from iodine_aio.apps.application import Application
from iodine_aio.apps.build import build_app
from iodine_aio.errors import UsageError
from iodine_aio.protocols.service import Service
from iodine_aio.settings import Settings

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


class Plain:
    pass


def wsgi(environ: Any, start_response: Any) -> Any: ...


async def asgi(scope: Any, receive: Any, send: Any) -> Any: ...


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (wsgi, "wsgi takes two arguments, as a WSGI app does"),
        (asgi, "asgi takes three arguments, as an ASGI app does"),
        (Plain, "class Plain has no call"),
        (Plain(), "Plain object is not callable"),
        ("module:app", "str object is not callable"),
        (7, "int object is not callable"),
        (None, "NoneType object is not callable"),
        (lambda: RESPONSE, "takes 0 arguments, an app takes one: env"),
        (lambda a, b, c, d: RESPONSE, "takes 4 arguments, an app takes one: env"),
        (lambda *args: RESPONSE, r"takes \*args"),
        (WithCall, "takes two arguments"),
    ],
)
def test_what_cannot_be_called_with_env_is_refused(app: Any, message: str):
    """At the start, with what it looks like; not at the first request."""
    with pytest.raises(UsageError, match=message):
        build(app)
