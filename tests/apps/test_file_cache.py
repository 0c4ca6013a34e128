"""The cache of small files: bounded, and the used ones stay."""

from typing import Any

from iodine_aio.apps import file_cache
from iodine_aio.apps.file_cache import ENTRY_BYTES, Entry, FileCache
from iodine_aio.apps.representation import Representation


def make_entry(size: int) -> Entry:
    def never() -> Any:
        raise AssertionError

    entry = Entry({"identity": Representation(size, [], never, b"x" * size)})
    entry.used = False
    return entry


def test_bytes_are_bounded():
    """Entries, their content and their paths count."""
    cache = FileCache(10 * ENTRY_BYTES)
    for number in range(100):
        cache.put(f"/{number}", make_entry(ENTRY_BYTES))

    assert len(cache) == 4
    assert cache.bytes == 8 * ENTRY_BYTES + 12
    assert cache.get("/99") is not None


def test_number_is_bounded(monkeypatch: Any):
    """Paths without a file are kept, too, and a client can ask for as many as it likes."""
    monkeypatch.setattr(file_cache, "MAX_ENTRIES", 10)
    cache = FileCache(1 << 30)
    for number in range(100):
        cache.put(f"/{number}", Entry())

    assert len(cache) == 10


def test_used_entry_outlives_others():
    """Those that were asked for since the last look get a second chance."""
    cache = FileCache(4 * ENTRY_BYTES)
    for number in range(20):
        cache.put(f"/{number}", make_entry(0))
        if (first := cache.get("/0")) is not None:
            first.used = True

    assert cache.get("/0") is not None


def test_entry_that_is_too_large_is_not_kept():
    """The sum goes back to what it was."""
    cache = FileCache(2 * ENTRY_BYTES)
    cache.put("/large", make_entry(10 * ENTRY_BYTES))

    assert (len(cache), cache.bytes) == (0, 0)


def test_entry_takes_the_place_of_the_former():
    """It is not counted twice."""
    cache = FileCache(1 << 20)
    cache.put("/a", make_entry(1000))
    cache.put("/a", make_entry(10))

    assert (len(cache), cache.bytes) == (1, ENTRY_BYTES + 12)
