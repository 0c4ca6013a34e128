"""Where a Redis is: ``redis://host:port``, ``rediss://host:port`` (TLS), ``unix:///path``."""

from typing import Final
from urllib.parse import urlsplit

from iodine_aio.errors import UsageError

_SCHEMES: Final = ("redis", "rediss", "unix")


def check_url(url: object) -> str:
    """The URL of a Redis, ``redis://host:port``, ``rediss://...`` or ``unix:///path``.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(url, str):
        raise UsageError(f"the URL of Redis is {type(url).__name__}, must be a str")
    # What is said of a URL goes without it: there may be a password in it.
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the URL of Redis is malformed: {error}") from None
    if parts.scheme not in _SCHEMES or port == 0:
        raise UsageError(
            f"the URL of Redis begins with {parts.scheme!r}, must be redis://host:port,"
            " rediss://host:port or unix:///path"
        )
    return url


def describe_url(url: str) -> str:
    """Where it is, without names and passwords."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"Redis at {parts.path}"
    return f"Redis at {parts.hostname or 'localhost'}:{parts.port or 6379}"
