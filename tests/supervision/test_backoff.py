"""When the next worker is started after those that died."""

from iodine_aio.supervision.backoff import LONGEST_PAUSE, STABLE_SECONDS, Backoff


def test_first_replacement_is_immediate_and_the_next_are_ever_later():
    """Twice as long each time, 10 seconds at most."""
    backoff = Backoff()
    pauses = [backoff.next_pause() for _ in range(8)]

    assert pauses == [0, 0.5, 1, 2, 4, 8, 10, 10]
    assert LONGEST_PAUSE == 10


def test_worker_that_served_for_long_died_of_something_new():
    """The next one comes at once; short lives change nothing."""
    backoff = Backoff()
    pauses = []
    for seconds in (0, STABLE_SECONDS - 0.1, 0, STABLE_SECONDS, 0):
        backoff.note_end(seconds)
        pauses.append(backoff.next_pause())

    assert pauses == [0, 0.5, 1, 0, 0.5]


def test_new_code_begins_anew():
    """A restart makes up for what failed before."""
    backoff = Backoff()
    before = [backoff.next_pause() for _ in range(3)]
    backoff.forget()

    assert before == [0, 0.5, 1]
    assert backoff.next_pause() == 0
