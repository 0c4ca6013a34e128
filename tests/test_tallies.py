"""What workers may have of a shared socket, by what all of them have."""

import os
import socket

import pytest

from iodine_aio.tallies import MAX_WORKERS, Tallies, Tally, find_tally, share_socket


@pytest.fixture
def tallies() -> Tallies:
    return Tallies()


def counting(tallies: Tallies, *numbers: int) -> list[Tally]:
    """Workers that have so many connections, and said so."""
    workers = []
    for number in numbers:
        tally = tallies.take()
        assert tally is not None
        tally.count(range(number))
        workers.append(tally)
    for tally in workers:
        tally.room()
    return workers


def test_worker_that_is_alone_has_room_for_all(tallies: Tallies):
    """Whatever it has."""
    (alone,) = counting(tallies, 1_000_000)

    assert alone.room() > 1_000_000


def test_room_is_measured_by_who_has_least(tallies: Tallies):
    """An eighth and four more."""
    rooms = [tally.room() for tally in counting(tallies, 80, 90, 94, 200)]

    assert rooms == [90 + 11 + 4 - 80, 80 + 10 + 4 - 90, 0, 80 + 10 + 4 - 200]


def test_few_connections_are_no_lead(tallies: Tallies):
    """Where nobody has any, four are not too many."""
    rooms = [tally.room() for tally in counting(tallies, 0, 3, 4)]

    assert rooms == [3 + 4, 1, 0]


def test_counts_change_with_what_is_counted(tallies: Tallies):
    """And what is counted twice is counted once."""
    one, two = counting(tallies, 0, 0)
    connections = {1, 2, 3, 4}
    one.count(connections)
    one.count(connections)
    before = one.room()
    connections.clear()

    assert (before, one.room(), two.room()) == (0, 4, 4)


def test_worker_that_has_not_begun_is_not_waited_for(tallies: Tallies):
    """It has a place from its fork on, and accepts much later."""
    (busy,) = counting(tallies, 100)
    newcomer = tallies.take()
    assert newcomer is not None
    before = busy.room()
    newcomer.room()

    assert before > 0
    assert busy.room() < 0


def test_worker_that_left_is_not_waited_for(tallies: Tallies):
    """Until it looks again."""
    busy, drained = counting(tallies, 100, 0)
    drained.leave()
    before = busy.room()
    drained.room()

    assert before > 0
    assert busy.room() < 0


def test_worker_that_died_is_not_waited_for(tallies: Tallies):
    """Its place is the next one's."""
    busy, dead, other = counting(tallies, 100, 0, 100)
    tallies.give_back(dead)
    successor = tallies.take()

    assert busy.room() > 0
    assert successor is not None
    assert successor.place == dead.place
    assert len({busy.place, successor.place, other.place}) == 3


def test_worker_that_stands_still_is_disregarded_until_it_looks(tallies: Tallies):
    """The others are waited for all the same."""
    busy, hung, idle = counting(tallies, 100, 0, 50)
    turns = busy.turns()
    idle.room()
    busy.disregard(turns)
    meanwhile = busy.room()
    hung.room()

    assert meanwhile == 50 + 6 + 4 - 100
    assert busy.room() == 4 - 100


def test_more_workers_than_places_go_without(tallies: Tallies):
    """They are as they would be without this."""
    given = [tallies.take() for _ in range(MAX_WORKERS)]
    without = tallies.take()
    tallies.give_back(without)
    tallies.give_back(given[7])
    again = tallies.take()

    assert None not in given
    assert without is None
    assert again is not None
    assert given[7] is not None
    assert again.place == given[7].place


def test_counts_are_seen_in_other_processes(tallies: Tallies):
    """The memory is that of all."""
    ours, theirs = counting(tallies, 100, 100)
    before = ours.room()
    pid = os.fork()
    if not pid:
        theirs.leave()
        os._exit(0)
    os.waitpid(pid, 0)

    assert before == 100 + 12 + 4 - 100
    assert ours.room() > 100


def test_socket_is_shared_if_somebody_said_so(tallies: Tallies):
    """Any other belongs to one process."""
    (tally,) = counting(tallies, 0)
    with socket.socket() as shared, socket.socket() as own:
        share_socket(shared, tally)

        assert find_tally(shared) is tally
        assert find_tally(own) is None
