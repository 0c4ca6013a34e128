"""The garbage collector in a process that serves."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from iodine_aio.collector import settled_collector


class Knot:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The collector of the tests' own process is as it was."""
    found = gc.get_threshold()
    yield
    gc.set_threshold(*found)
    gc.unfreeze()


def test_what_an_app_has_made_is_not_looked_over_again():
    """It stays as long as the process does."""
    with settled_collector():
        kept = Knot()

    assert not any(found is kept for found in gc.get_objects())


def test_rubbish_of_the_start_is_freed_first():
    """Nobody would ever look for it later."""
    with settled_collector():
        rubbish = weakref.ref(Knot())

    assert rubbish() is None


def test_cycles_are_looked_for_less_often():
    """Hundreds of requests in hand must not look like rubbish."""
    gc.set_threshold(700, 10, 10)
    with settled_collector():
        pass

    assert gc.get_threshold() == (10_000, 10, 10)


@pytest.mark.parametrize("threshold", [50, 0, 100_000])
def test_thresholds_of_the_app_are_its_own(threshold: int):
    """Also 0, which ends the collector."""
    gc.set_threshold(700, 10, 10)
    with settled_collector():
        gc.set_threshold(threshold, 5, 5)

    assert gc.get_threshold() == (threshold, 5, 5)


def test_app_that_cannot_be_loaded_leaves_the_collector_alone():
    """The program may have another."""
    found = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(ZeroDivisionError), settled_collector():
        raise ZeroDivisionError

    assert (gc.get_threshold(), gc.get_freeze_count()) == found
