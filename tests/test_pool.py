"""Threads for what blocks."""

import threading
from collections.abc import Iterator

import pytest

from iodine_aio.errors import UsageError
from iodine_aio.pool import MAX_LENT, Pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2, "test-pool")
    yield pool
    pool.close()


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-pool")]


def test_job_runs_in_a_thread_of_the_pool(pool: Pool):
    """With its arguments, and under the pool's name."""
    names: list[str] = []
    done = threading.Event()
    pool.submit(
        lambda word: (names.append(word + threading.current_thread().name), done.set()), "x"
    )

    assert done.wait(10)
    assert names == ["xtest-pool-0"]


def test_jobs_beyond_the_size_wait_in_order():
    """One thread does one job after the other, first come first served."""
    pool = Pool(1)
    order: list[int] = []
    done = threading.Event()
    for number in range(50):
        pool.submit(order.append, number)
    pool.submit(done.set)
    pool.close()

    assert done.wait(10)
    assert order == list(range(50))


def test_jobs_that_come_together_are_done_in_order():
    """One thread does all of them where there is but one."""
    pool = Pool(1)
    order: list[int] = []
    done = threading.Event()
    pool.submit_all(order.append, [(number,) for number in range(50)])
    pool.submit(done.set)

    assert done.wait(10)
    assert order == list(range(50))
    pool.close()


def test_pool_works_at_as_many_jobs_as_it_has_threads(pool: Pool):
    """Two jobs that wait for each other both end in a pool of two."""
    barrier = threading.Barrier(3, timeout=10)
    pool.submit(barrier.wait)
    pool.submit(barrier.wait)
    barrier.wait()

    assert not barrier.broken


def test_threads_are_made_when_they_are_needed():
    """A pool that was given nothing to do has none."""
    pool = Pool(8, "test-lazy")
    before = [t for t in threading.enumerate() if t.name.startswith("test-lazy")]
    done = threading.Event()
    pool.submit(done.set)
    done.wait(10)
    after = [t for t in threading.enumerate() if t.name.startswith("test-lazy")]
    pool.close()

    assert before == []
    assert [thread.daemon for thread in after] == [True]


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)])
def test_job_that_raises_is_logged_and_the_pool_goes_on(caplog, error: BaseException):
    """One job's fault is not the next one's."""
    pool = Pool(1)
    done = threading.Event()

    def fail() -> None:
        raise error

    pool.submit(fail)
    pool.submit(done.set)

    assert done.wait(10)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    pool.close()


def test_closed_pool_takes_no_jobs(pool: Pool):
    """They would never be done."""
    pool.close()

    with pytest.raises(UsageError, match="takes no more jobs"):
        pool.submit(print)


def test_closed_pool_does_what_it_took():
    """Closing refuses; it does not forget."""
    pool = Pool(1)
    release, done = threading.Event(), threading.Event()
    pool.submit(release.wait, 10)
    pool.submit(done.set)
    pool.close()
    finished_early = pool.finished
    release.set()

    assert not finished_early
    assert done.wait(10)


def test_pool_is_finished_when_its_threads_have_ended():
    """Closed and nothing left to do."""
    pool = Pool(2, "test-pool-end")
    pool.submit(int)
    assert not pool.finished

    pool.close()
    for thread in pool_threads():
        if thread.name.startswith("test-pool-end"):
            thread.join(10)

    assert pool.finished


def test_unused_pool_is_finished_once_closed():
    """No thread was ever made."""
    pool = Pool(1)
    pool.close()

    assert pool.finished


def test_lent_thread_is_replaced_while_it_waits():
    """A pool of one does another job meanwhile, and is one thread again afterwards."""
    pool = Pool(1, "test-lent")
    others_done, done = threading.Event(), threading.Event()

    def wait_for_another_job() -> None:
        assert pool.lend_thread()
        assert others_done.wait(10)
        pool.return_thread()

    pool.submit(wait_for_another_job)
    pool.submit(others_done.set)
    assert others_done.wait(10)
    pool.submit(done.set)
    assert done.wait(10)
    threads = [t for t in threading.enumerate() if t.name.startswith("test-lent")]
    pool.close()
    for thread in threads:
        thread.join(10)

    assert pool.finished
    assert not [t for t in threading.enumerate() if t.name.startswith("test-lent")]


def test_thread_that_is_not_needed_any_more_hands_its_call_on():
    """A job is not left lying while another thread is idle."""
    pool = Pool(2, "test-hand-on")
    both, lent, returned = threading.Barrier(3, timeout=10), threading.Event(), threading.Event()
    back, end, done = threading.Event(), threading.Event(), threading.Event()

    def lend_and_work_on() -> None:
        pool.lend_thread()
        lent.set()
        assert back.wait(10)
        pool.return_thread()
        returned.set()
        assert end.wait(10)

    pool.submit(lend_and_work_on)
    assert lent.wait(10)
    for _ in range(2):
        pool.submit(both.wait)
    both.wait()
    while len(pool._idle) < 2:
        pass
    back.set()
    assert returned.wait(10)
    pool.submit(done.set)

    assert done.wait(10)
    end.set()
    pool.close()


def test_no_more_threads_are_lent_than_allowed():
    """Those beyond count as working."""
    pool = Pool(1)
    lent = [pool.lend_thread() for _ in range(MAX_LENT + 2)]
    pool.return_thread()

    assert lent == [True] * MAX_LENT + [False] * 2
    assert pool.lend_thread()


def test_idle_threads_are_called_last_come_first_served():
    """The one that worked last does the next short job: its memory is warm."""
    pool = Pool(3)
    names: list[str] = []
    barrier = threading.Barrier(4, timeout=10)
    for _ in range(3):
        pool.submit(barrier.wait)
    barrier.wait()
    for _ in range(10):
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            names.append(threading.current_thread().name)
            done.set()

        while len(pool._idle) < 3:
            pass
        pool.submit(job)
        assert done.wait(10)
    pool.close()

    assert len(set(names)) == 1


def test_pool_that_gets_no_thread_says_so(monkeypatch: pytest.MonkeyPatch):
    """The job is not kept: nobody would ever do it."""
    pool = Pool(1)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            pool.submit_all(print, [(), ()])
    waiting = pool.waiting
    done = threading.Event()
    pool.submit(done.set)

    assert waiting == 0
    assert done.wait(10)
    pool.close()
