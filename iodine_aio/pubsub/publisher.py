"""Publishing from any other process, which has no server: it only needs the same Redis.

What may have been published is never published again; the caller is told instead.
"""

import asyncio
import os
from typing import Any, Final, Self

from iodine_aio.errors import IodineError, UsageError
from iodine_aio.logs import printable
from iodine_aio.pubsub.connections import SILENT_SECONDS, import_redis
from iodine_aio.pubsub.packets import (
    MAX_CHANNEL_BYTES,
    MAX_DATA_BYTES,
    ORIGIN_BYTES,
    encode_envelope,
)
from iodine_aio.pubsub.urls import check_url, describe_url


class Publisher:
    """Publishes to the servers that share a Redis, from a process that is no server.

        publisher = iodine_aio.Publisher("redis://localhost")
        publisher.publish("news", "hello")  # in a coroutine: await publisher.publish_async(...)

    May be used by several threads. It connects when it first publishes.

    Args:
        url: what the servers have, ``redis://host:port``, ``rediss://...``, ``unix:///path``.

    Raises:
        UsageError: the URL is malformed, or redis-py is not installed.
    """

    def __init__(self, url: str) -> None:
        self._name: Final = describe_url(check_url(url))
        self._url: Final = url
        self._redis: Final = import_redis()
        self._origin: Final = os.urandom(ORIGIN_BYTES)
        self._client: Any = self._make_client(self._redis, self._redis)
        self._async_client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _make_client(self, package: Any, retry: Any) -> Any:
        try:
            client = package.Redis.from_url(
                self._url,
                socket_connect_timeout=SILENT_SECONDS,
                socket_timeout=SILENT_SECONDS,
                # It would publish twice.
                retry=retry.retry.Retry(self._redis.backoff.NoBackoff(), 0),
            )
            pool = client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # knows all that the URL says?
            return client
        except (ValueError, TypeError) as error:
            raise UsageError(f"the URL of Redis is malformed: {error}") from None

    def publish(self, channel: str, data: str | bytes) -> int:
        """Publishes `data`, and waits until Redis has it.

        Returns:
            How many servers it was handed to.

        Raises:
            UsageError: `channel` is no channel, or `data` neither str nor bytes.
            ConnectionError: Redis cannot be reached, or does not answer; it may have the
                message all the same.
            IodineError: Redis refuses.
        """
        value = self._encode(channel, data)
        try:
            return int(self._client.publish(channel.encode(), value))
        except (self._redis.exceptions.RedisError, OSError) as error:
            raise self._translate(error) from error

    async def publish_async(self, channel: str, data: str | bytes) -> int:
        """Publishes `data`, as `publish` does, without holding the loop."""
        value = self._encode(channel, data)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._async_client = self._make_client(self._redis.asyncio, self._redis.asyncio)
            self._loop = loop
        try:
            return int(await self._async_client.publish(channel.encode(), value))
        except (self._redis.exceptions.RedisError, OSError) as error:
            raise self._translate(error) from error

    def _encode(self, channel: object, data: object) -> bytes:
        if not isinstance(channel, str) or not channel or len(channel) > MAX_CHANNEL_BYTES:
            raise UsageError(f"channel is {channel!r:.80}, must be a str of a character or more")
        if isinstance(data, (bytearray, memoryview)):
            data = bytes(data)
        elif not isinstance(data, (str, bytes)):
            raise UsageError(f"cannot publish {type(data).__name__}, must be str or bytes")
        try:
            channel.encode()
            value = encode_envelope(self._origin, data)
        except UnicodeEncodeError as error:
            raise UsageError(f"channel is no text: {error}") from None
        if len(value) > MAX_DATA_BYTES:
            raise UsageError(f"message of {len(value)} bytes, at most {MAX_DATA_BYTES}")
        return value

    def _translate(self, error: Exception) -> Exception:
        redis = self._redis.exceptions
        text = f"{self._name}: {printable(str(error))}"
        if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
            return ConnectionError(text)
        return IodineError(text)

    def close(self) -> None:
        """Closes the connections of `publish`."""
        self._client.close()

    async def aclose(self) -> None:
        """Closes all connections."""
        self.close()
        if self._async_client is not None:
            await self._async_client.aclose()
            self._async_client = self._loop = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
