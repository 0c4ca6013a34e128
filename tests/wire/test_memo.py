"""Heads are made once for responses that say the same, and never for others."""

import gc
import weakref
from enum import Enum
from http import HTTPStatus

import pytest

from iodine_aio.errors import ResponseError
from iodine_aio.wire.memo import MAX_BLOCK, MAX_KEPT, HeadMemo
from iodine_aio.wire.response import ResponseHead, make_head, make_raw_head


class Makes:
    """`make_head`, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, status: object, headers: object) -> ResponseHead:
        self.count += 1
        return make_head(status, headers)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [dict, list])
def test_the_same_status_and_fields_make_one_head(kind):
    makes = Makes()
    memo = HeadMemo(makes)
    said = [memo.find(200, kind([("Content-Type", "text/plain"), ("X", "1")])) for _ in range(3)]
    assert said[0] is said[1] is said[2]
    assert said[0].block == "Content-Type: text/plain\r\nX: 1\r\n"
    assert makes.count == 1


@pytest.mark.parametrize(
    "other",
    [
        (200, [("X", "2")]),
        (200, [("x", "1")]),
        (200, [("X", "1"), ("X", "1")]),
        (200, []),
        (201, [("X", "1")]),
        ("200 Fine", [("X", "1")]),
    ],
)
def test_what_differs_makes_another_head(other):
    memo = HeadMemo(make_head)
    memo.find(200, [("X", "1")])
    found, made = memo.find(*other), make_head(*other)
    assert (found.status_line, found.block) == (made.status_line, made.block)


def test_headers_that_the_app_changes_afterwards_change_no_head_before():
    memo = HeadMemo(make_head)
    pairs, mapping = [("X", "1")], {"X": "1"}
    before = [memo.find(200, pairs), memo.find(200, mapping)]
    pairs[0] = ("X", "2")
    mapping["X"] = "2"
    assert [head.block for head in before] == ["X: 1\r\n"] * 2
    assert memo.find(200, pairs).block == memo.find(200, mapping).block == "X: 2\r\n"


def test_lists_within_the_headers_are_read_every_time():
    memo = HeadMemo(make_head)
    cookies = ["a=1"]
    assert memo.find(200, {"Set-Cookie": cookies}).block == "Set-Cookie: a=1\r\n"
    cookies.append("b=2")
    assert memo.find(200, {"Set-Cookie": cookies}).block.endswith("Set-Cookie: b=2\r\n")
    pair = ["X", "1"]
    assert memo.find(200, [pair]).block == "X: 1\r\n"
    pair[1] = "2"
    assert memo.find(200, [pair]).block == "X: 2\r\n"


def test_iterators_are_read_once():
    memo = HeadMemo(make_head)
    assert [memo.find(200, iter([("X", "1")])).block for _ in range(2)] == ["X: 1\r\n"] * 2


@pytest.mark.parametrize("status", [200.0, True, "200", b"200 OK"])
def test_what_merely_equals_a_status_is_judged_by_itself(status):
    memo = HeadMemo(make_head)
    memo.find(200, [])
    memo.find(1, [])
    try:
        expected = make_head(status, []).status_line
    except ResponseError:
        with pytest.raises(ResponseError):
            memo.find(status, [])
    else:
        assert memo.find(status, []).status_line == expected


def test_a_status_may_be_of_an_enumeration():
    assert HeadMemo(make_head).find(HTTPStatus.NOT_FOUND, {}).status == 404


def test_what_cannot_be_sent_is_refused_every_time():
    memo = HeadMemo(make_head)
    for _ in range(2):
        with pytest.raises(ResponseError, match="CR, LF or NUL"):
            memo.find(200, {"X": "a\r\nb"})


def test_what_is_kept_is_bounded():
    makes = Makes()
    memo = HeadMemo(makes)
    for number in range(3 * MAX_KEPT):
        memo.find(200, {"X": str(number)})
        assert len(memo._kept) <= MAX_KEPT
    long = {"X": "x" * MAX_BLOCK}
    memo.find(200, long)
    assert memo.find(200, long).block == f"X: {long['X']}\r\n"
    assert makes.count == 3 * MAX_KEPT + 2


def test_a_callable_in_a_head_is_not_kept():
    def hijack(stream):
        pass

    memo = HeadMemo(make_head)
    assert memo.find(200, {"rack.hijack": hijack}).directives.hijack is hijack
    gone = weakref.ref(hijack)
    del hijack
    gc.collect()
    assert gone() is None


def test_fields_of_bytes_and_of_text_are_not_mixed_up():
    memo = HeadMemo(make_raw_head)
    assert memo.find(200, [(b"X", b"\xe9")]).block == "X: \xe9\r\n"
    with pytest.raises((AttributeError, TypeError, ValueError)):
        memo.find(200, {b"X": b"\xe9"})


@pytest.mark.parametrize("kind", [dict, list])
def test_headers_that_change_while_their_head_is_made_are_kept_as_they_were(kind):
    """A thread of the app may write to what it has returned."""
    headers = kind([("X", "1")])

    def make(status, given):
        headers.clear()
        return make_head(status, given)

    memo = HeadMemo(make)
    assert memo.find(200, headers).block == "X: 1\r\n"
    assert memo.find(200, kind([("X", "1")])).block == "X: 1\r\n"


class Word(str, Enum):  # noqa: UP042 - a StrEnum would call itself what it equals
    red = "red"
    x = "X"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "said",
    [
        [[("X", "red")], [("X", Word.red)]],
        [[("X", "red")], [(Word.x, "red")]],
        [{"X": "red"}, {"X": Word.red}],
        [{"X": ["red"]}, {"X": [Word.red]}],
    ],
)
def test_text_is_sent_as_what_it_equals(said, first):
    """An enumeration's member calls itself otherwise; both have one key."""
    memo = HeadMemo(make_head)
    for headers in (said[first], said[1 - first]):
        assert memo.find(200, headers).block == make_head(200, headers).block == "X: red\r\n"
