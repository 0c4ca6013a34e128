"""URLs of a Redis."""

import pytest

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.urls import check_url, describe_url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://", "Redis at localhost:6379"),
        ("redis://example.org", "Redis at example.org:6379"),
        ("rediss://[::1]:7000/0", "Redis at ::1:7000"),
        ("unix:///run/redis.sock", "Redis at /run/redis.sock"),
        ("redis://me:secret@example.org:1?password=secret", "Redis at example.org:1"),
    ],
)
def test_place_is_named_without_its_password(url: str, place: str):
    """It stands in the log."""
    assert describe_url(check_url(url)) == place


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://localhost", "redis://h:secret", "redis://h:0", 6379, None]
)
def test_what_is_no_url_of_a_redis_is_refused(url: object):
    """Before anything connects."""
    with pytest.raises(UsageError, match="the URL of Redis"):
        check_url(url)


def test_refusal_does_not_quote_the_url():
    """There may be a password in it."""
    with pytest.raises(UsageError) as caught:
        check_url("http://me:secret@example.org")

    assert "secret" not in str(caught.value)
