"""Entity tags and conditional requests."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.wire.dates import encode_date
from iodine_aio.wire.freshness import (
    NOT_MODIFIED,
    PART,
    PRECONDITION_FAILED,
    WHOLE,
    evaluate_preconditions,
    match_strongly,
    match_weakly,
    parse_entity_tags,
)

MODIFIED = 784111777
NOW = 1767225600
SAME = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"


def evaluate(etag='"v"', modified=MODIFIED, now=NOW, method="GET", **fields):
    """What the named fields (if_match="...") lead to."""
    env = {f"HTTP_{name.upper()}": value for name, value in fields.items()}
    return evaluate_preconditions({"REQUEST_METHOD": method, **env}, etag, modified, now)


@pytest.mark.parametrize("tag", ['"xyzzy"', 'W/"xyzzy"', '""'])
def test_examples_of_the_rfc_are_entity_tags(tag):
    """Strong, weak, empty (RFC 9110, 8.8.3)."""
    assert parse_entity_tags(tag) == [tag]


@pytest.mark.parametrize(
    "value",
    ['"a", "b"', '"a","b"', '"a" \t,\t "b"', ',"a",, ,"b",', ' "a", "b" ', '"a",\t"b"\t,'],
)
def test_entity_tags_stand_between_commas(value):
    """White space and empty elements around a comma are skipped (RFC 9110, 5.6.1)."""
    assert parse_entity_tags(value) == ['"a"', '"b"']


@pytest.mark.parametrize("value", ["", " ", ",", ", ,\t"])
def test_list_of_no_tags_is_empty(value):
    """Nothing is well-formed, and matches nothing (RFC 9110, 5.6.1.2)."""
    assert parse_entity_tags(value) == []


def test_tag_may_hold_commas_and_backslashes():
    """There are neither escapes nor forbidden delimiters (RFC 9110, 8.8.3)."""
    assert parse_entity_tags('"a,b", "c\\", W/"W/,"') == ['"a,b"', '"c\\"', 'W/"W/,"']


@pytest.mark.parametrize("code", [0x21, *range(0x23, 0x7F), *range(0x80, 0x100)])
def test_tag_may_hold_every_etagc(code):
    """etagc = %x21 / %x23-7E / obs-text (RFC 9110, 8.8.3)."""
    assert parse_entity_tags(f'"{chr(code)}"') == [f'"{chr(code)}"']


@pytest.mark.parametrize("code", [*range(0x21), 0x7F, 0x100, 0x665])
def test_tag_holds_no_space_and_no_control(code):
    """Nor anything beyond the 8 bits of a field (RFC 9110, 8.8.3)."""
    assert parse_entity_tags(f'"{chr(code)}"') is None


@pytest.mark.parametrize(
    "value",
    [
        "a",
        '"a',
        'a"',
        "'a'",
        'w/"a"',
        'W"a"',
        'W/ "a"',
        "W/",
        "*",
        '*, "a"',
        '"a", *',
        '"a" "b"',
        '"a""b"',
        '"a"b',
        '"a";"b"',
        '"a", b',
        '"a"\n',
        '\x0b"a"',
        '"a",\xa0"b"',
    ],
)
def test_list_with_anything_else_is_malformed(value):
    """No guess is made at what the peer may have meant (RFC 9110, 8.8.3)."""
    assert parse_entity_tags(value) is None


TAGS = st.lists(
    st.builds(
        '{}"{}"'.format,
        st.sampled_from(["", "W/"]),
        st.text(st.characters(min_codepoint=0x23, max_codepoint=0x7E), max_size=8),
    ),
    max_size=6,
)


@given(TAGS, st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_joined_tags_come_back(tags, comma):
    """A list survives being joined, as lines of one field are."""
    assert parse_entity_tags(comma.join(tags)) == tags


@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', 'W/"1"', False, True),
        ('"1"', '"1"', True, True),
        ('"1"', '"2"', False, False),
    ],
)
def test_comparison_is_the_table_of_the_rfc(one, other, strong, weak):
    """Strong and weak comparison (RFC 9110, 8.8.3.2); in a list as alone."""
    for value in (one, f'"x", {one}', f'{one}, W/"x"'):
        assert match_strongly(value, other) is strong
        assert match_weakly(value, other) is weak


@pytest.mark.parametrize("etag", ['"v"', 'W/"v"', None])
def test_asterisk_is_any_representation(etag):
    """One with no tag at all, too (RFC 9110, 13.1.1 and 13.1.2)."""
    assert match_strongly("*", etag)
    assert match_weakly("*", etag)


@pytest.mark.parametrize("value", ["", '"v', "v", '"v", v', '"v", *'])
def test_malformed_list_names_nothing(value):
    """Not even the tags in it that are well-formed."""
    assert not match_strongly(value, '"v"')
    assert not match_weakly(value, '"v"')


@pytest.mark.parametrize("value", ["None", '"None"', '""'])
def test_nothing_but_asterisk_names_a_representation_without_tag(value):
    """It has none that could be equal."""
    assert not match_strongly(value, None)
    assert not match_weakly(value, None)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_request_without_conditions_gets_all(method):
    """Step 6 (RFC 9110, 13.2.2)."""
    assert evaluate(method=method) == WHOLE


def test_request_without_conditions_costs_five_look_ups():
    """And reads nothing: what is not there is not asked for again."""

    class Counting(dict):
        asked = 0

        def __contains__(self, key):
            self.asked += 1
            return super().__contains__(key)

        def __getitem__(self, key):
            raise AssertionError(key)

        get = __getitem__

    env = Counting(REQUEST_METHOD="GET")
    status = evaluate_preconditions(env, '"v"', MODIFIED, NOW)

    assert (status, env.asked) == (WHOLE, 5)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('"v"', WHOLE),
        ('"w", "v"', WHOLE),
        ("*", WHOLE),
        ('"w"', PRECONDITION_FAILED),
        ('W/"v"', PRECONDITION_FAILED),
        ("v", PRECONDITION_FAILED),
        ("", PRECONDITION_FAILED),
    ],
)
def test_if_match_fails_unless_it_names_the_representation(value, status):
    """Step 1: strong comparison (RFC 9110, 13.1.1)."""
    assert evaluate(if_match=value) == status


@pytest.mark.parametrize(
    ("value", "status"),
    [(SAME, WHOLE), (LATER, WHOLE), (EARLIER, PRECONDITION_FAILED)],
)
def test_if_unmodified_since_fails_after_a_change(value, status):
    """Step 2: a date that is earlier than the last change (RFC 9110, 13.1.4)."""
    assert evaluate(if_unmodified_since=value) == status


@pytest.mark.parametrize("value", ["", "0", "yesterday", f"{EARLIER}, {EARLIER}", EARLIER.lower()])
def test_if_unmodified_since_that_is_no_date_is_ignored(value):
    """ "Including when the field value appears to be a list of dates" (RFC 9110, 13.1.4)."""
    assert evaluate(if_unmodified_since=value) == WHOLE


def test_if_unmodified_since_without_a_modification_date_is_ignored():
    """There is nothing to compare it with (RFC 9110, 13.1.4)."""
    assert evaluate(modified=None, if_unmodified_since=EARLIER) == WHOLE


def test_if_unmodified_since_does_not_count_beside_if_match():
    """It stands in for If-Match where that is not understood (RFC 9110, 13.1.4)."""
    assert evaluate(if_match='"v"', if_unmodified_since=EARLIER) == WHOLE


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('"v"', NOT_MODIFIED),
        ('W/"v"', NOT_MODIFIED),
        ('"w", W/"v"', NOT_MODIFIED),
        ("*", NOT_MODIFIED),
        ('"w"', WHOLE),
        ("v", WHOLE),
        ("", WHOLE),
    ],
)
def test_if_none_match_that_names_the_representation_spares_it(method, value, status):
    """Step 3: weak comparison, 304 for GET and HEAD (RFC 9110, 13.1.2)."""
    assert evaluate(method=method, if_none_match=value) == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("value", "status"),
    [(SAME, NOT_MODIFIED), (LATER, NOT_MODIFIED), (EARLIER, WHOLE)],
)
def test_if_modified_since_the_last_change_spares_it(method, value, status):
    """Step 4: a date that is not earlier than the last change (RFC 9110, 13.1.3)."""
    assert evaluate(method=method, if_modified_since=value) == status


def test_if_modified_since_in_the_oldest_form_counts():
    """The year of two digits is read by today's year (RFC 9110, 5.6.7)."""
    assert evaluate(if_modified_since="Sunday, 06-Nov-94 08:49:37 GMT") == NOT_MODIFIED
    assert evaluate(if_modified_since="Sunday, 06-Nov-77 08:49:37 GMT") == WHOLE
    assert evaluate(if_modified_since="Sunday, 06-Nov-76 08:49:37 GMT") == NOT_MODIFIED


@pytest.mark.parametrize("value", ["", "0", f"{SAME}, {SAME}", f"{SAME}; length=5"])
def test_if_modified_since_that_is_no_date_is_ignored(value):
    """Nor may it be a list (RFC 9110, 13.1.3)."""
    assert evaluate(if_modified_since=value) == WHOLE


def test_if_modified_since_without_a_modification_date_is_ignored():
    """There is nothing to compare it with (RFC 9110, 13.1.3)."""
    assert evaluate(modified=None, if_modified_since=LATER) == WHOLE


@pytest.mark.parametrize("value", ['"w"', "malformed", ""])
def test_if_modified_since_does_not_count_beside_if_none_match(value):
    """ "MUST ignore ... if the request contains an If-None-Match" (RFC 9110, 13.1.3)."""
    assert evaluate(if_none_match=value, if_modified_since=SAME) == WHOLE


def test_range_counts_where_no_condition_forbids():
    """Step 5, without If-Range (RFC 9110, 14.2)."""
    assert evaluate(range="bytes=0-0") == PART


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_range_counts_for_get_alone(method):
    """ "GET is the only method for which range handling is defined" (RFC 9110, 14.2)."""
    assert evaluate(method=method, range="bytes=0-0") == WHOLE


def test_if_range_without_range_is_ignored():
    """There is nothing that it could be a condition of (RFC 9110, 13.1.5)."""
    assert evaluate(if_range='"v"') == WHOLE


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('"v"', PART),
        ('W/"v"', WHOLE),
        ('"w"', WHOLE),
        ('"v", "w"', WHOLE),
        ("v", WHOLE),
        ("*", WHOLE),
        ("", WHOLE),
    ],
)
def test_if_range_asks_for_the_very_tag(value, status):
    """Strong comparison with one tag, else all of it (RFC 9110, 13.1.5)."""
    assert evaluate(range="bytes=0-0", if_range=value) == status


@pytest.mark.parametrize("etag", ['W/"v"', None])
def test_if_range_never_equals_a_weak_tag_or_none(etag):
    """Parts of two representations would be joined into one file (RFC 9110, 13.1.5)."""
    assert evaluate(etag=etag, range="bytes=0-0", if_range='W/"v"') == WHOLE


@pytest.mark.parametrize(
    ("value", "status"),
    [(SAME, PART), (EARLIER, WHOLE), (LATER, WHOLE), ("yesterday", WHOLE)],
)
def test_if_range_asks_for_the_very_date(value, status):
    """It "exactly matches", a later date does not do (RFC 9110, 13.1.5)."""
    assert evaluate(range="bytes=0-0", if_range=value) == status


@pytest.mark.parametrize("now", [MODIFIED, MODIFIED - 1])
def test_if_range_with_a_date_is_weak_while_its_second_lasts(now):
    """It may change once more and keep its date (RFC 9110, 8.8.2.2)."""
    assert evaluate(now=now, range="bytes=0-0", if_range=SAME) == WHOLE
    assert evaluate(now=MODIFIED + 1, range="bytes=0-0", if_range=SAME) == PART


@pytest.mark.parametrize("value", [SAME, "yesterday"])
def test_if_range_with_a_date_needs_a_modification_date(value):
    """None is not equal to what cannot be read."""
    assert evaluate(modified=None, range="bytes=0-0", if_range=value) == WHOLE


def walk_the_steps(if_match, unmodified, none_match, modified, if_range, method):
    """13.2.2 in its own words; True and False are conditions, None is not there."""
    if if_match is False or (if_match is None and unmodified is False):
        return PRECONDITION_FAILED
    if none_match is False or (none_match is None and modified is False):
        return NOT_MODIFIED
    return PART if method == "GET" and if_range is not False else WHOLE


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_combination_follows_the_order_of_the_steps(method):
    """Each condition true, false or absent, with a Range (RFC 9110, 13.2.2)."""
    conditions = {
        "if_match": {True: '"v"', False: '"w"'},
        "if_unmodified_since": {True: SAME, False: EARLIER},
        "if_none_match": {True: '"w"', False: '"v"'},
        "if_modified_since": {True: EARLIER, False: SAME},
        "if_range": {True: '"v"', False: '"w"'},
    }
    for truths in product([True, False, None], repeat=5):
        fields = {
            name: conditions[name][truth]
            for name, truth in zip(conditions, truths, strict=True)
            if truth is not None
        }
        status = evaluate(method=method, range="bytes=0-0", **fields)

        assert status == walk_the_steps(*truths, method), fields


@given(st.integers(0, 2**33), st.integers(0, 2**33))
def test_dates_of_any_seconds_are_compared_as_numbers(modified, since):
    """Not as text."""
    date = encode_date(since)

    unchanged = modified <= since
    assert (evaluate(modified=modified, if_modified_since=date) == NOT_MODIFIED) is unchanged
    assert (evaluate(modified=modified, if_unmodified_since=date) == WHOLE) is unchanged
