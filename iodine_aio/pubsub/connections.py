"""Connections to Redis, by redis-py, which is not imported until the first is wanted.

None of them tries a command again: it would publish twice.
"""

import importlib.util
from typing import Any, Final

from iodine_aio.errors import UsageError

CONNECT_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 5.0  # without an answer, until a connection is given up


def require_redis() -> None:
    """Looks whether redis-py is there, and does not import it.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("redis") is None:
        raise UsageError("redis-py is not installed: python -m pip install 'iodine_aio[redis]'")


def import_redis() -> Any:
    """The package redis-py, which is not needed until now."""
    require_redis()
    import redis.asyncio
    import redis.asyncio.connection
    import redis.asyncio.retry
    import redis.backoff
    import redis.exceptions
    import redis.retry

    return redis


def make_pool(url: str) -> Any:
    """A pool of redis-py for asyncio, whose connections never repeat a command by themselves.

    Raises:
        UsageError: the URL is malformed, or redis-py is not installed.
    """
    redis = import_redis()
    defaults = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": SILENT_SECONDS}
    imposed = {
        # It would publish twice, and connect again without a word.
        "retry": redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
        # Replies in the order of the commands, messages among them.
        "protocol": 2,
    }
    try:
        options = redis.asyncio.connection.parse_url(url)
        pool = redis.asyncio.ConnectionPool(**(defaults | options | imposed))
        pool.make_connection()  # knows all that the URL says?
    except (ValueError, TypeError, redis.exceptions.RedisError) as error:
        raise UsageError(f"the URL of Redis is malformed: {error}") from None
    return pool
