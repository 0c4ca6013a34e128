"""What is written down, and that nobody outside can write there."""

import io
import logging

import pytest

from iodine_aio import logs
from iodine_aio.logs import (
    MAX_ENTRIES,
    QUIET_SECONDS,
    AccessLog,
    Failures,
    log_to_stderr,
    printable,
)

DATE = "Mon, 23 Nov 2026 09:12:52 GMT"


def request(target: str) -> dict[str, str]:
    return {
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": target,
        "SERVER_PROTOCOL": "HTTP/1.1",
    }


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def log_to_stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error of a program that has not set up logging, and lets us do it."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    for logger in (logs.error_log, logs.access_log):
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", False)
        monkeypatch.setattr(logger, "level", logger.level)
    log_to_stderr(access=True)
    return stream


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/plain?&%1b", "/plain?&%1b"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb", r"a\r\nb"),
        ("\x9b31m", r"\x9b31m"),
        ("\x7f\x00\t", r"\x7f\x00\t"),
        ("caf\xe9\u2028\u202e", r"caf\xe9\u2028\u202e"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(text: str, shown: str):
    """ESC, CR, LF, C1, and what turns a line around."""
    assert printable(text) == shown


def test_access_line_says_who_what_and_how_long(caplog):
    """The line of Iodine, without the query."""
    caplog.set_level(logging.INFO)
    log = AccessLog()
    log.note(request("/a?secret=1"), DATE, 200, 145, 0.0012)
    log.note(request("/b") | {"REMOTE_ADDR": ""}, DATE, 200, None, 0)
    log.flush()

    assert messages(caplog) == [
        f'127.0.0.1 - - [{DATE}] "GET /a HTTP/1.1" 200 145b 1ms',
        f'- - - [{DATE}] "GET /b HTTP/1.1" 200 - 0ms',
    ]


def test_access_line_waits_for_the_tick(caplog):
    """A request writes nothing by itself; a line is written once."""
    caplog.set_level(logging.INFO)
    log = AccessLog()
    log.note(request("/"), DATE, 200, 1, 0)
    assert messages(caplog) == []

    log.flush()
    log.flush()

    assert len(messages(caplog)) == 1


def test_access_lines_beyond_the_bound_are_counted(caplog):
    """A storm between two ticks takes bounded memory, and says how long it was."""
    caplog.set_level(logging.INFO)
    log = AccessLog(max_lines=2)
    for _ in range(5):
        log.note(request("/"), DATE, 200, 1, 0)
    log.flush()
    log.note(request("/"), DATE, 200, 1, 0)
    log.flush()

    assert len(messages(caplog)) == 4
    assert messages(caplog)[2] == "3 more requests were not logged"


def test_percent_in_a_line_is_no_format(caplog):
    """A target of %s is that."""
    caplog.set_level(logging.INFO)
    log = AccessLog()
    log.note(request("/%s%d%(x)s"), DATE, 200, 1, 0)
    log.flush()

    assert '"GET /%s%d%(x)s HTTP/1.1"' in messages(caplog)[0]


def test_exception_cannot_write_an_entry_of_its_own(monkeypatch):
    """An app that quotes its client in an error lets nobody command the terminal."""
    stderr = log_to_stream(monkeypatch)
    try:
        raise ValueError("no page \x1b[2J\x9b\r\n127.0.0.1 - - forged\u202e")
    except ValueError as error:
        logs.error_log.error("GET '/' failed", exc_info=error)
    first, *others = stderr.getvalue().split("\n")[:-1]

    assert first == "GET '/' failed"
    assert others[0].strip() == "Traceback (most recent call last):"
    assert others[-1].strip() == r"127.0.0.1 - - forged\u202e"
    assert others[-2].strip() == r"ValueError: no page \x1b[2J\x9b\r"
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_message_cannot_write_an_entry_of_its_own(monkeypatch):
    """Whoever built it out of what."""
    stderr = log_to_stream(monkeypatch)
    logs.error_log.warning("%s; said once", "one\ntwo \x1b")

    assert stderr.getvalue() == "one\n    two \\x1b; said once\n"


def test_failures_are_counted_once_a_few_were_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A flood of them makes no flood of entries; none is left untold."""
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    failures = Failures("a subscriber of '100%' raised")
    for number in range(500):
        failures.add(LookupError(number))
    now += QUIET_SECONDS
    failures.add(ValueError("another"))
    failures.tell()
    texts = [record.getMessage() for record in caplog.records]
    told = [record.exc_info[1] for record in caplog.records if record.exc_info]

    assert texts == [
        *["a subscriber of '100%' raised"] * (MAX_ENTRIES - 1),
        "a subscriber of '100%' raised; for a while more of it is only counted",
        f"a subscriber of '100%' raised {500 - MAX_ENTRIES} times more",
        "a subscriber of '100%' raised",
    ]
    assert [str(error) for error in told] == ["0", "1", "2", "3", "4", "another"]


def test_failures_that_come_slowly_are_all_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """However many there are."""
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    failures = Failures("it failed")
    for _ in range(20):
        failures.add(LookupError())
        now += QUIET_SECONDS / MAX_ENTRIES
    failures.tell()

    assert [bool(record.exc_info) for record in caplog.records] == [True] * 20
