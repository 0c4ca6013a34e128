"""Field names and lists of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.wire.fields import is_token, list_members

TCHARS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_token_takes_every_tchar():
    """A token is made of tchars, whichever (RFC 9110, 5.6.2)."""
    assert is_token(TCHARS)


@pytest.mark.parametrize("code", [code for code in range(256) if chr(code) not in TCHARS])
def test_token_takes_nothing_but_tchars(code):
    """No delimiter, control or high character is part of a token (RFC 9110, 5.6.2)."""
    assert not is_token(f"a{chr(code)}")
    assert not is_token(f"{chr(code)}a")


def test_token_is_not_empty():
    """token = 1*tchar (RFC 9110, 5.6.2)."""
    assert not is_token("")


@pytest.mark.parametrize(
    "text", ["\u0665", "é", "\u212a", "X\n"]
)  # a digit, a letter, the Kelvin sign
def test_token_is_ascii(text):
    """What Unicode calls a digit or a letter is no tchar (RFC 9110, 5.6.2)."""
    assert not is_token(text)


def test_list_members_are_in_lower_case():
    """Connection options are compared without case (RFC 9110, 7.6.1)."""
    assert list_members("Keep-Alive, UPGRADE") == ["keep-alive", "upgrade"]


def test_white_space_around_members_is_dropped():
    """Space and TAB may stand around a comma (RFC 9110, 5.6.1)."""
    assert list_members(" \ta\t ,\t b ") == ["a", "b"]


def test_empty_members_are_left_out():
    """A recipient must parse and ignore empty list elements (RFC 9110, 5.6.1.2)."""
    assert list_members(",a,, ,b,") == ["a", "b"]


@pytest.mark.parametrize("value", ["", " ", ",", ", ,\t,"])
def test_list_of_nothing_is_empty(value):
    """Nothing but commas and white space holds no member (RFC 9110, 5.6.1.2)."""
    assert list_members(value) == []


@pytest.mark.parametrize("space", ["\x0b", "\x0c", "\x85", "\xa0"])
def test_other_white_space_stays_in_a_member(space):
    """Only space and TAB are OWS: "\\x0bclose" is not "close" (RFC 9110, 5.6.3)."""
    assert list_members(f"{space}close") == [f"{space}close"]


@given(st.lists(st.text(TCHARS, min_size=1)))
def test_joined_tokens_come_back(tokens):
    """A list of tokens survives being joined (RFC 9110, 5.6.1)."""
    assert list_members(", ".join(tokens)) == [token.lower() for token in tokens]
