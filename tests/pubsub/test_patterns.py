"""Patterns of channel names: what they match, and what that costs."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.patterns import MAX_KNOWN, Pattern, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "channel"),
    [
        ("room", "room"),
        ("*", ""),
        ("*", "anything at all"),
        ("room.*", "room."),
        ("room.*", "room.7"),
        ("*.7", "room.7"),
        ("r*m", "rm"),
        ("r*m*7", "room 7"),
        ("a*a", "aa"),
        ("*a*b*", "xaybz"),
        ("**", "x"),
        ("r??m", "room"),
        ("?", "\U0001f600"),
        ("[a-c]x", "bx"),
        ("[abc]x", "cx"),
        ("[!a-c]x", "dx"),
        ("[^a-c]x", "dx"),
        ("[]]", "]"),
        ("[!]]", "x"),
        ("[a-]", "-"),
        ("[-a]", "-"),
        (r"[\]a]", "]"),
        (r"[a\-c]", "-"),
        (r"\*", "*"),
        (r"\?\[\\", "?[\\"),
        ("*[0-9]", "room9"),
        ("a\nb*", "a\nb\nc"),
    ],
)
def test_pattern_matches(pattern: str, channel: str):
    """All of the name, whatever characters it has."""
    assert Pattern(pattern).matches(channel)


@pytest.mark.parametrize(
    ("pattern", "channel"),
    [
        ("room", "rooms"),
        ("room", "Room"),
        ("room", "roo"),
        ("room.*", "room"),
        ("*.7", "room.77"),
        ("r?m", "rm"),
        ("?", ""),
        ("?", "ab"),
        ("a*a", "a"),
        ("[a-c]x", "dx"),
        ("[!a-c]x", "bx"),
        ("[!]]", "]"),
        (r"\*", "x"),
        (r"[a\-c]", "b"),
        ("*[0-9]", "room"),
        ("*ab*ba*", "aba"),
    ],
)
def test_pattern_does_not_match(pattern: str, channel: str):
    """Part of a name is not enough, and upper case is not lower case."""
    assert not Pattern(pattern).matches(channel)


@pytest.mark.parametrize("text", ["[a", "[", "[]", "[!]", "x[a-", "\\", "a\\", "[\\"])
def test_pattern_without_an_end_is_refused(text: str):
    """It would match what nobody has thought of."""
    with pytest.raises(UsageError, match=r"has a \[ without its \]|ends in a backslash"):
        compile_pattern(text)


def test_range_that_runs_backwards_is_refused():
    """It says nothing."""
    with pytest.raises(UsageError, match="z-a is no range"):
        compile_pattern("[z-a]")


# fnmatch has no backslash, and a [ without its ] is one character to it.
PIECES = st.sampled_from(["a", "b", "-", ".", "*", "?", "[ab]", "[a-c]", "[!a]", "[!a-b]", "[]a]"])


@given(st.lists(PIECES, max_size=12).map("".join), st.text("abc-.]", max_size=12))
def test_patterns_match_what_those_of_fnmatch_match(pattern: str, channel: str):
    """Where both know a way to write it."""
    assert Pattern(pattern).matches(channel) is fnmatch.fnmatchcase(channel, pattern)


@given(st.text("ab*?[]!^-\\\n\xe4", max_size=20))
def test_escaped_name_matches_itself_alone(channel: str):
    """Whatever its characters mean in a pattern."""
    pattern = Pattern("".join(f"\\{character}" for character in channel))

    assert pattern.matches(channel)
    assert not pattern.matches(channel + "x")


class CountedMasks(dict):
    """A step of the machine is one look-up here."""

    steps = 0

    def get(self, key, default=None):
        self.steps += 1
        return super().get(key, default)


@pytest.mark.parametrize("pattern", ["*a" * 60 + "b", "*[ab]?" * 40 + "c", "*" * 100 + "c"])
def test_matching_takes_one_step_a_character(pattern: str):
    """Also where a regular expression would try for years."""
    compiled = Pattern(pattern)
    object.__setattr__(compiled, "_masks", CountedMasks())
    for size in (250, 500):
        compiled._masks.steps = 0  # type: ignore[attr-defined]

        assert not compiled.matches("a" * size)
        assert compiled._masks.steps <= size  # type: ignore[attr-defined]


def test_masks_of_many_characters_are_not_kept():
    """The names are chosen by others."""
    pattern = Pattern("*x")
    for code in range(0x4E00, 0x4E00 + 4 * MAX_KNOWN):
        pattern.matches(chr(code))

    assert len(pattern._masks) <= MAX_KNOWN


def test_compiled_patterns_that_are_kept_are_bounded():
    """Patterns of a million rooms are not kept for ever."""
    assert compile_pattern.cache_info().maxsize == 1024
