"""Programs that integration tests share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.browser import PROGRAM, Browser, Chromium


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """One process for all tests."""
    if PROGRAM is None:
        pytest.skip("chromium is not on PATH")
    process = Chromium()
    yield process
    process.stop()


@pytest.fixture
async def browser(chromium: Chromium) -> AsyncIterator[Browser]:
    """A browser as good as new. Tests that ask for it are marked `browser`."""
    async with Browser(chromium) as browser:
        yield browser
