"""A parent, and one whose hub keeps little."""

from collections.abc import Iterator

import pytest

from tests.pubsub.parents import Parent


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.close()


@pytest.fixture
def small_parent() -> Iterator[Parent]:
    """Its hub keeps 64 KiB for each process."""
    parent = Parent(64 * 1024)
    yield parent
    parent.close()
