"""Dates of HTTP fields, both ways."""

from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.wire.dates import encode_date, parse_date, year_of

FIRST = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
LAST = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
ANY_SECOND = st.integers(FIRST, LAST)


def test_date_is_written_as_the_rfc_writes_it():
    """The example of an IMF-fixdate (RFC 9110, 5.6.7)."""
    assert encode_date(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT"


@given(st.integers(0, LAST))
def test_date_is_written_as_the_standard_library_does(seconds):
    """Names, padding and calendar agree with email.utils."""
    assert encode_date(seconds) == formatdate(seconds, usegmt=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (FIRST, "Mon, 01 Jan 0001 00:00:00 GMT"),
        (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (951782400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (LAST, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ],
)
def test_date_of_any_year_of_four_digits_is_written(seconds, text):
    """Before 1970 as after it (RFC 9110, 5.6.7)."""
    assert encode_date(seconds) == text


@pytest.mark.parametrize("seconds", [FIRST - 1, LAST + 1, -(10**30), 10**30])
def test_year_that_has_not_four_digits_is_not_written(seconds):
    """year = 4DIGIT (RFC 9110, 5.6.7); a file may claim any time at all."""
    with pytest.raises(ValueError, match="no year of four digits"):
        encode_date(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_all_three_forms_are_read(value):
    """ "A recipient ... MUST accept all three HTTP-date formats" (RFC 9110, 5.6.7)."""
    assert parse_date(value, 2026) == 784111777


def test_two_digit_day_of_asctime_is_read():
    """date3 = month SP ( 2DIGIT / ( SP 1DIGIT )) (RFC 9110, 5.6.7)."""
    assert parse_date("Wed Nov 16 08:49:37 1994", 2026) == 784111777 + 10 * 86400


@given(ANY_SECOND)
def test_date_that_was_written_is_read_again(seconds):
    """parse_date(encode_date(x)) == x."""
    assert parse_date(encode_date(seconds), 2026) == seconds


@given(ANY_SECOND)
def test_asctime_of_any_second_is_read(seconds):
    """The C function's form means the same second."""
    name, day, month, year, time, _ = encode_date(seconds).replace(",", "").split()

    assert parse_date(f"{name} {month} {int(day):2} {time} {year}", 2026) == seconds


@given(this_year=st.integers(1950, 9900), ahead=st.integers(-49, 50))
def test_two_digit_year_is_at_most_50_ahead(this_year, ahead):
    """More than 50 years in the future is the past (RFC 9110, 5.6.7)."""
    year = this_year + ahead

    seconds = parse_date(f"Monday, 01-Jun-{year % 100:02} 00:00:00 GMT", this_year)

    assert seconds is not None
    assert year_of(seconds) == year


def test_weekday_of_a_two_digit_year_is_not_compared():
    """The century is our guess, and the weekday depends on it."""
    assert parse_date("Monday, 06-Nov-94 08:49:37 GMT", 2026) == 784111777


def test_leap_second_ends_a_day():
    """00:00:00 - 23:59:60 (RFC 9110, 5.6.7): it counts as the second after it."""
    after = parse_date("Sun, 01 Jan 2017 00:00:00 GMT", 2026)

    assert parse_date("Sat, 31 Dec 2016 23:59:60 GMT", 2026) == after


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "784111777",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, 06 Nov 1994 08:49:37 GMT; length=5",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun,06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06  Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 1994 +8:49:37 GMT",
        "Sun, 06 Nov 1_94 08:49:37 GMT",
        "Sun, 06 Nov \u0661994 08:49:37 GMT",
        "sun, 06 nov 1994 08:49:37 gmt",
        "SUN, 06 NOV 1994 08:49:37 GMT",
        "Sunday, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT ",
        "Someday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov 06 08:49:37 1994 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 94",
        "1994-11-06T08:49:37Z",
    ],
)
def test_what_is_in_no_form_is_no_date(value):
    """Strictly: no other zone, spacing, case or digits (RFC 9110, 5.6.7)."""
    assert parse_date(value, 2026) is None


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Thu, 31 Nov 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 08:49:37 GMT",
        "Sun Nov  0 08:49:37 1994",
        "Sunday, 32-Nov-94 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
    ],
)
def test_day_that_the_calendar_has_not_is_no_date(value):
    """A day is one of its month, a year one of ours."""
    assert parse_date(value, 2026) is None


@pytest.mark.parametrize("value", ["Mon, 06 Nov 1994 08:49:37 GMT", "Mon Nov  6 08:49:37 1994"])
def test_weekday_that_contradicts_its_date_makes_it_none(value):
    """The sixth of November 1994 was a Sunday: one of the two is wrong."""
    assert parse_date(value, 2026) is None


@pytest.mark.parametrize(
    "time", ["24:00:00", "99:00:00", "08:60:00", "08:49:60", "22:59:60", "23:58:60", "23:59:61"]
)
def test_time_that_the_clock_has_not_is_no_date(time):
    """00:00:00 - 23:59:60, and 60 only as a leap second (RFC 9110, 5.6.7)."""
    assert parse_date(f"Sun, 06 Nov 1994 {time} GMT", 2026) is None


@pytest.mark.parametrize(
    ("seconds", "year"), [(-1, 1969), (0, 1970), (1767225599, 2025), (1767225600, 2026)]
)
def test_year_begins_at_midnight_utc(seconds, year):
    """The year that two-digit years are read by."""
    assert year_of(seconds) == year
