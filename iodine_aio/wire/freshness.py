"""Entity tags and conditional requests (RFC 9110, sections 8.8 and 13).

Everything here is a comparison of values: the caller knows the representation that it
would send, and is told whether to send all of it, a part, nothing, or a refusal.

A condition that cannot be read spares nothing and permits nothing: unreadable dates are
ignored, as the RFC has it, and a list of entity tags with anything else in it names no
tag at all. So If-None-Match then leads to a whole response, If-Match to a 412.
"""

import re
from typing import Final

from iodine_aio.wire.dates import parse_date, year_of
from iodine_aio.wire.environ import Env

# What `evaluate_preconditions` says: the status of the response.
WHOLE: Final = 200
PART: Final = 206  # the Range field counts; whether it can be satisfied is another matter
NOT_MODIFIED: Final = 304
PRECONDITION_FAILED: Final = 412

# entity-tag = [ %s"W/" ] DQUOTE *etagc DQUOTE; etagc = %x21 / %x23-7E / obs-text
# - RFC 9110, 8.8.3. No white space, no escapes; a comma is an ordinary character.
_ENTITY_TAG: Final = re.compile('(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_LIST_START: Final = re.compile(r"[ \t,]*")
_LIST_SEPARATOR: Final = re.compile(r"[ \t]*(?:,[ \t,]*)?")


def parse_entity_tags(value: str) -> list[str] | None:
    """The entity tags of a list, each as it was sent; None if anything else is in it.

    Args:
        value: of an If-Match or If-None-Match field, several lines joined by commas.

    A ``*`` is no entity tag: it stands alone, or makes a list malformed. RFC 9110,
    8.8.3 and 13.1.
    """
    tags = []
    at = _end(_LIST_START, value, 0)
    separated = True
    while at < len(value):
        match = _ENTITY_TAG.match(value, at)
        if match is None or not separated:
            return None
        tags.append(match[0])
        at = _end(_LIST_SEPARATOR, value, match.end())
        separated = "," in value[match.end() : at]
    return tags


def _end(pattern: re.Pattern[str], value: str, start: int) -> int:
    match = pattern.match(value, start)
    assert match is not None  # both patterns match the empty string
    return match.end()


def match_strongly(value: str, etag: str | None) -> bool:
    """True if an If-Match field's value names the representation (RFC 9110, 13.1.1).

    Args:
        value: a list of entity tags, or ``*``, which is any representation.
        etag: the representation's, weak or strong; None if it has none.

    "An origin server MUST use the strong comparison function": a weak tag equals no
    tag, not even itself.
    """
    if value == "*":
        return True
    if etag is None or etag.startswith("W/"):
        return False
    return value == etag or etag in (parse_entity_tags(value) or ())


def match_weakly(value: str, etag: str | None) -> bool:
    """True if an If-None-Match field's value names the representation (RFC 9110, 13.1.2).

    Args:
        value: a list of entity tags, or ``*``, which is any representation.
        etag: the representation's, weak or strong; None if it has none.

    "A recipient MUST use the weak comparison function": whether either is weak does
    not matter.
    """
    if value == "*" or value == etag:  # what a browser sends: the one tag it was given
        return True
    if etag is None:
        return False
    opaque = etag.removeprefix("W/")
    return any(tag.removeprefix("W/") == opaque for tag in parse_entity_tags(value) or ())


def evaluate_preconditions(env: Env, etag: str | None, modified: int | None, now: int) -> int:
    """The status that a GET or HEAD request's conditions lead to.

    It is given the env, not the values, because it asks for what is there in the one
    order that is right; five failing look-ups (60 ns) are all that a request without
    conditions costs. To be asked only where the answer would otherwise be a 200
    (RFC 9110, 13.2.1).

    Args:
        env: of the request.
        etag: the representation's entity tag as it would be sent, or None.
        modified: the Last-Modified that would be sent, in seconds since 1970, or None.
        now: seconds since 1970.

    Returns:
        WHOLE: send all of it, whatever the Range field says.
        PART: send what the Range field, which is there, asks for.
        NOT_MODIFIED: send the head alone.
        PRECONDITION_FAILED: send neither the representation nor its fields.

    RFC 9110, 13.2.2; the numbers are its steps.
    """
    if "HTTP_IF_MATCH" in env:  # 1
        if not match_strongly(env["HTTP_IF_MATCH"], etag):
            return PRECONDITION_FAILED
    elif "HTTP_IF_UNMODIFIED_SINCE" in env:  # 2
        # "MUST ignore ... if the received field value is not a valid HTTP-date", or "if
        # the resource does not have a modification date available" - RFC 9110, 13.1.4
        since = _parse_date(env["HTTP_IF_UNMODIFIED_SINCE"], now)
        if since is not None and modified is not None and modified > since:
            return PRECONDITION_FAILED
    if "HTTP_IF_NONE_MATCH" in env:  # 3
        if match_weakly(env["HTTP_IF_NONE_MATCH"], etag):
            return NOT_MODIFIED
    elif "HTTP_IF_MODIFIED_SINCE" in env:  # 4
        since = _parse_date(env["HTTP_IF_MODIFIED_SINCE"], now)
        if since is not None and modified is not None and modified <= since:
            return NOT_MODIFIED
    # "A server MUST ignore a Range header field received with a request method that is
    # unrecognized or for which range handling is not defined. For this specification,
    # GET is the only method for which range handling is defined." - RFC 9110, 14.2
    if "HTTP_RANGE" in env and env["REQUEST_METHOD"] == "GET":  # 5
        condition = env.get("HTTP_IF_RANGE")
        if condition is None or _is_unchanged(condition, etag, modified, now):
            return PART
    return WHOLE  # 6


def _is_unchanged(condition: str, etag: str | None, modified: int | None, now: int) -> bool:
    """True if a client's part and ours are of the same bytes (RFC 9110, 13.1.5)."""
    # "examining the first three characters for a DQUOTE"
    if '"' in condition[:3]:
        return condition == etag and not condition.startswith("W/")
    # "If the HTTP-date validator provided is not a strong validator in the sense defined
    # by Section 8.8.2.2, the condition is false": while its second lasts, it may change
    # again and keep its date. "exactly matches": an earlier date is as good as none.
    if modified is None or modified >= now:
        return False
    return _parse_date(condition, now) == modified


def _parse_date(value: str, now: int) -> int | None:
    return parse_date(value, year_of(now))
