"""Patterns of Redis, and the copies of a message that they bring."""

import pytest

from iodine_aio.pubsub.globs import Copies, encode_glob
from iodine_aio.pubsub.patterns import compile_pattern


@pytest.mark.parametrize(
    ("pattern", "glob"),
    [
        ("room.*", b"room.*"),
        ("*", b"*"),
        ("**a**", b"*a*"),
        ("", b""),
        ("[a-z0-9_]", b"[a-z0-9_]"),
        ("[x]", b"x"),
        ("\\*\\?\\[\\\\", b"\\*\\?\\[\\\\"),
        ("[]^-]", b"[\\]\\^\\-]"),
        ("[]-a]", b"?"),
        ("é", "é".encode()),
        ("a?b", b"a?*b"),
        ("a???", b"a???*"),
        ("a?*?", b"a??*"),
        ("[^a]x", b"?*x"),
        ("[!a]x", b"?*x"),
        ("[a-é]x", b"?*x"),
    ],
)
def test_pattern_becomes_one_of_redis(pattern: str, glob: bytes):
    """Where a character may be longer than a byte, one that asks for more."""
    assert encode_glob(compile_pattern(pattern)) == glob


def test_copies_of_a_message_are_told_from_the_same_said_twice():
    """A channel's own comes first, then one for each pattern, in any order."""
    copies = Copies()
    rows = [
        (None, b"a", b"1", False),
        (b"p", b"a", b"1", True),
        (b"q", b"a", b"1", True),
        (None, b"a", b"1", False),
        (b"q", b"a", b"1", True),
        (b"p", b"a", b"1", True),
        (b"p", b"b", b"1", False),
        (b"q", b"b", b"1", True),
        (b"q", b"b", b"1", False),
        (b"p", b"b", b"1", True),
        (b"p", b"b", b"2", False),
    ]

    assert [copies.is_copy(*row[:3]) for row in rows] == [row[3] for row in rows]


def test_message_behind_an_answer_is_no_copy():
    """Between them something was subscribed to, or no more."""
    copies = Copies()
    first = copies.is_copy(b"p", b"a", b"1")
    copies.end_row()
    second = copies.is_copy(b"q", b"a", b"1")

    assert (first, second) == (False, False)
