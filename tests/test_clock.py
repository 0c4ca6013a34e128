"""One tick for everybody."""

import asyncio
from email.utils import parsedate_to_datetime

from iodine_aio.clock import NEVER, Clock


class Watched:
    """Remembers when it expired."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.expired: list[float] = []

    def expire(self, now: float) -> None:
        self.expired.append(now)


def test_deadline_that_passed_expires():
    """At its very moment already."""
    early, due, late = Watched(9), Watched(10), Watched(10.5)
    Clock([early, due, late]).advance(10)

    assert (early.expired, due.expired, late.expired) == ([10], [10], [])


def test_deadline_never_passes_early():
    """It is made from the end of the tick, so the rest of the tick is given away."""
    clock = Clock([], interval=1)
    clock.advance(100)

    assert clock.deadline(5) == 106


def test_deadline_of_nothing_never_passes():
    """A timeout of 0 is turned off."""
    watched = Watched(0)
    clock = Clock([watched])
    watched.deadline = clock.deadline(0)
    clock.advance(1e12)

    assert watched.deadline == NEVER
    assert watched.expired == []


def test_what_is_watched_may_change_while_it_is_looked_at():
    """A connection that expires leaves the set."""
    watched: set[Watched] = set()

    class Leaving(Watched):
        def expire(self, now: float) -> None:
            super().expire(now)
            watched.discard(self)

    leaving = [Leaving(1) for _ in range(3)]
    watched.update(leaving)
    Clock(watched).advance(1)

    assert [one.expired for one in leaving] == [[1], [1], [1]]
    assert watched == set()


def test_date_line_is_a_field_of_http():
    """In GMT, and with its CRLF (RFC 9110, 6.6.1)."""
    line = Clock([]).date_line

    assert line.startswith("Date: ")
    assert line.endswith(" GMT\r\n")
    assert parsedate_to_datetime(line[6:-2]).tzinfo is not None


async def test_running_clock_ticks_until_it_is_stopped():
    """The first tick is at once, the next one an interval later."""
    loop = asyncio.get_running_loop()
    ticked = loop.create_future()

    class Waiting(Watched):
        def expire(self, now: float) -> None:
            super().expire(now)
            if len(self.expired) == 3:
                ticked.set_result(None)

    waiting = Waiting(0)
    clock = Clock([waiting], interval=0.001)
    started = loop.time()
    clock.start(loop)
    at_once = len(waiting.expired)
    async with asyncio.timeout(10):
        await ticked
    clock.stop()
    clock.stop()

    assert at_once == 1
    assert clock.now >= started + clock.interval
