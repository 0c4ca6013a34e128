"""Dates of HTTP fields, both ways (RFC 9110, section 5.6.7).

A date is an integer: seconds since 1970 in UTC. One form is written, three are read,
and what is read is read strictly: a date that is ignored costs a whole response where
a part would have done, a date that is guessed can cost the client's data. There is no
clock in here: what depends on today's date is given it.
"""

import re
from datetime import date
from typing import Final

_EPOCH: Final = date(1970, 1, 1).toordinal()
_FIRST: Final = (date.min.toordinal() - _EPOCH) * 86400
_LAST: Final = (date.max.toordinal() - _EPOCH) * 86400 + 86399

# "HTTP-date is case sensitive."
_DAYS: Final = "Mon Tue Wed Thu Fri Sat Sun".split()
_LONG_DAYS: Final = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_MONTH_NUMBERS: Final = {name: number for number, name in enumerate(_MONTHS, 1)}

_LEAP: Final = ("23", "59", "60")

# [0-9], not \d: that also takes the digits of other scripts.
_TIME: Final = "([0-9]{2}):([0-9]{2}):([0-9]{2})"
_IMF_FIXDATE: Final = re.compile(
    f"({'|'.join(_DAYS)}), ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}}) {_TIME} GMT"
)
_RFC850_DATE: Final = re.compile(
    f"({'|'.join(_LONG_DAYS)}), ([0-9]{{2}})-({'|'.join(_MONTHS)})-([0-9]{{2}}) {_TIME} GMT"
)
_ASCTIME_DATE: Final = re.compile(
    f"({'|'.join(_DAYS)}) ({'|'.join(_MONTHS)}) ([0-9]{{2}}| [0-9]) {_TIME} ([0-9]{{4}})"
)


def encode_date(seconds: int) -> str:
    """An IMF-fixdate, as in ``"Sun, 06 Nov 1994 08:49:37 GMT"``.

    Args:
        seconds: since 1970, negative before it.

    Raises:
        ValueError: the year is not 1 to 9999, the form has four digits for it.
    """
    if not _FIRST <= seconds <= _LAST:
        raise ValueError(f"{seconds} s since 1970 is in no year of four digits")
    days, rest = divmod(seconds, 86400)
    day = date.fromordinal(_EPOCH + days)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return (
        f"{_DAYS[day.weekday()]}, {day.day:02} {_MONTHS[day.month - 1]} {day.year:04}"
        f" {hour:02}:{minute:02}:{second:02} GMT"
    )


def parse_date(value: str, this_year: int) -> int | None:
    """Seconds since 1970 of an HTTP-date in any of its three forms; None if it is none.

    Args:
        value: a field's value without white space around it.
        this_year: of now; the obsolete form with two digits is read by it.

    A day that the month does not have, a day of the week that contradicts the date, and
    a leap second anywhere but at the end of a day make it no date. RFC 9110, 5.6.7.
    """
    if match := _IMF_FIXDATE.fullmatch(value):
        name, day, month, year, hour, minute, second = match.groups()
        return _count_seconds(int(year), month, day, hour, minute, second, name)
    if match := _ASCTIME_DATE.fullmatch(value):
        name, month, day, hour, minute, second, year = match.groups()
        return _count_seconds(int(year), month, day, hour, minute, second, name)
    if match := _RFC850_DATE.fullmatch(value):
        _, day, month, year, hour, minute, second = match.groups()
        # "MUST interpret a timestamp that appears to be more than 50 years in the
        # future as representing the most recent year in the past that had the same
        # last two digits": the latest year that is at most 50 ahead. The day of the
        # week is not compared: the sender may have meant another century.
        latest = this_year + 50
        full_year = latest - (latest - int(year)) % 100
        return _count_seconds(full_year, month, day, hour, minute, second, None)
    return None


def year_of(seconds: int) -> int:
    """The year in which `seconds` since 1970 is, in UTC: of now, it is what `parse_date` asks."""
    return date.fromordinal(_EPOCH + seconds // 86400).year


def _count_seconds(
    year: int, month: str, day: str, hour: str, minute: str, second: str, name: str | None
) -> int | None:
    try:
        # int() takes the blank that asctime has in front of a single digit.
        on = date(year, _MONTH_NUMBERS[month], int(day))
    except ValueError:
        return None
    if name is not None and name != _DAYS[on.weekday()]:
        return None
    # "00:00:00 - 23:59:60 (leap second)"; a leap second counts as the next one.
    if hour > "23" or minute > "59" or (second > "59" and (hour, minute, second) != _LEAP):
        return None
    days = on.toordinal() - _EPOCH
    return days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)
