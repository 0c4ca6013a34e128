"""What needs no Redis of the publisher; the rest is in integration/test_redis.py."""

import pytest

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.publisher import Publisher

NOWHERE = "unix:///nonexistent/redis.sock"


@pytest.mark.parametrize(
    ("channel", "data"),
    [("", "x"), (b"news", "x"), ("c" * 70_000, "x"), ("\ud800", "x"), ("news", 3), ("news", None)],
)
def test_publisher_refuses_what_is_no_message(channel: object, data: object):
    """As publish() of a server does."""
    with Publisher(NOWHERE) as publisher, pytest.raises(UsageError):
        publisher.publish(channel, data)  # type: ignore[arg-type]


def test_publisher_without_redis_raises_connection_error():
    """The caller decides whether to try again; the URL's place is named."""
    with (
        Publisher(NOWHERE) as publisher,
        pytest.raises(ConnectionError, match="Redis at /nonexistent"),
    ):
        publisher.publish("news", "x")


async def test_async_publisher_without_redis_raises_connection_error():
    """In a coroutine, too."""
    async with Publisher(NOWHERE) as publisher:
        with pytest.raises(ConnectionError, match="Redis at /nonexistent"):
            await publisher.publish_async("news", "x")
