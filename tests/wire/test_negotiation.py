"""What a client would rather have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iodine_aio.wire.negotiation import choose_coding, parse_weight, prefers_html

AVAILABLE = ["br", "zstd", "gzip"]


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("q=0", 0),
        ("q=0.", 0),
        ("q=0.0", 0),
        ("q=0.001", 1),
        ("q=0.5", 500),
        ("Q=0.25", 250),
        ("q=0.999", 999),
        ("q=1", 1000),
        ("q=1.", 1000),
        ("q=1.000", 1000),
    ],
)
def test_weight_has_up_to_three_decimals(text, weight):
    """qvalue, in thousandths (RFC 9110, 12.4.2)."""
    assert parse_weight(text) == weight


@given(st.integers(0, 1000))
def test_every_weight_is_read_again(weight):
    """A thousandth is the smallest step (RFC 9110, 12.4.2)."""
    assert parse_weight(f"q={weight / 1000:.3f}") == weight


@pytest.mark.parametrize(
    "text",
    [
        "",
        "q",
        "q=",
        "q=.5",
        "q=2",
        "q=00",
        "q=01",
        "q=1.1",
        "q=1.001",
        "q=0.0000",
        "q=0,5",
        "q=-1",
        "q=+1",
        "q=0.+1",
        "q=1e0",
        "q=nan",
        'q="1"',
        "q = 1",
        "q=1 ",
        "q=1;x=1",
        "q=\u0661",
        "q=0.\u0665",
        "q=1\n",
        "x=1",
    ],
)
def test_anything_else_is_no_weight(text):
    """qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] ) (RFC 9110, 12.4.2)."""
    assert parse_weight(text) is None


@pytest.mark.parametrize("field", [None, ""])
def test_who_names_no_coding_gets_none(field):
    """Empty: "does not want any content coding"; absent: our choice (RFC 9110, 12.5.3)."""
    assert choose_coding(field, AVAILABLE) == "identity"


@pytest.mark.parametrize(
    ("field", "coding"),
    [
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br", "br"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("gzip ; q=0.4\t,\tbr;Q=0.5", "br"),
        ("gzip;q=0.001", "gzip"),
        ("compress, deflate", "identity"),
    ],
)
def test_best_of_what_is_there_is_chosen(field, coding):
    """The highest non-zero weight is preferred (RFC 9110, 12.5.3)."""
    assert choose_coding(field, AVAILABLE) == coding


@pytest.mark.parametrize("field", ["gzip, zstd, br", "br, zstd, gzip", "*"])
def test_of_equal_weights_our_first_is_chosen(field):
    """The order of the field does not matter, that of `available` does."""
    assert choose_coding(field, ["br", "gzip"]) == "br"
    assert choose_coding(field, ["gzip", "br"]) == "gzip"


@pytest.mark.parametrize(
    ("field", "coding"),
    [
        ("*", "br"),
        ("*;q=0.1", "br"),
        ("br;q=0, *", "zstd"),
        ("br;q=0.5, *;q=0.4", "br"),
        ("br;q=0.4, *;q=0.5", "zstd"),
        ("gzip, *;q=0", "gzip"),
    ],
)
def test_asterisk_is_whatever_is_not_listed(field, coding):
    """It "matches any available content coding not explicitly listed" (RFC 9110, 12.5.3)."""
    assert choose_coding(field, AVAILABLE) == coding


@pytest.mark.parametrize(
    ("field", "coding"),
    [
        ("gzip;q=0", "identity"),
        ("gzip;q=0, br;q=0.0, zstd;q=0.000", "identity"),
        ("identity", "identity"),
        ("identity, gzip;q=0.5", "identity"),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity, gzip", "gzip"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=0.5, *", "br"),
        ("*;q=0, identity;q=0.1", "identity"),
    ],
)
def test_bare_representation_is_one_of_the_codings(field, coding):
    """Acceptable by default, and listed like any other (RFC 9110, 12.5.3)."""
    assert choose_coding(field, AVAILABLE) == coding


@pytest.mark.parametrize("field", ["identity;q=0", "*;q=0", "deflate, *;q=0", "*;q=0, gzip;q=0"])
def test_who_refuses_all_that_is_there_gets_no_choice(field):
    """Also the bare representation can be excluded (RFC 9110, 12.5.3)."""
    assert choose_coding(field, AVAILABLE) is None


def test_asterisk_weighs_the_bare_representation_too():
    """With one coding that is wanted less, it is the one not listed."""
    assert choose_coding("gzip;q=0.5, *", ["gzip"]) == "identity"


def test_bare_representation_may_be_named_as_available():
    """It is last all the same."""
    assert choose_coding("identity, gzip", ["identity", "gzip"]) == "gzip"
    assert choose_coding("identity;q=0", ["identity"]) is None


@pytest.mark.parametrize(
    "member",
    [
        "br;q=2",
        "br;q=",
        "br;q=0.0001",
        "br;",
        "br;x=1",
        "br;q=1;x=1",
        "br;q=1;q=1",
        "br br",
        "br=1",
        '"br"',
        "br\x0b",
        "\xa0br",
        "brotli",
        "br/1",
    ],
)
def test_malformed_member_is_ignored_and_no_other(member):
    """codings [ weight ], and nothing else (RFC 9110, 12.5.3)."""
    assert choose_coding(f"{member}, gzip;q=0.1", AVAILABLE) == "gzip"
    assert choose_coding(f",, gzip;q=0.1 ,{member}", AVAILABLE) == "gzip"


@given(st.text(st.sampled_from('gzip*br=;q,. 01\t"\xff'), max_size=100))
def test_any_field_leads_to_something_available(field):
    """Nothing is raised, whatever a peer sends."""
    assert choose_coding(field, AVAILABLE) in [*AVAILABLE, "identity", None]
    assert prefers_html(field) is False


WEIGHTS = st.dictionaries(st.sampled_from([*AVAILABLE, "identity", "*"]), st.integers(0, 1000))


@given(WEIGHTS)
def test_nothing_available_weighs_more_than_the_choice(weights):
    """Nor is what is chosen ever refused."""
    field = ", ".join(f"{name};q={weight / 1000:.3f}" for name, weight in weights.items())
    coding = choose_coding(field, AVAILABLE)
    others = weights.get("*", 0)

    def weigh(name):
        unlisted = 0.5 if name == "identity" and "*" not in weights else others
        return weights.get(name, unlisted)

    best = max(weigh(name) for name in [*AVAILABLE, "identity"])
    assert (0 if coding is None else weigh(coding)) == best


CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
    "*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    "field",
    [
        CHROME,
        FIREFOX,
        "text/html",
        "TEXT/HTML",
        " text/html ;charset=utf-8 ; q=0.9 , text/plain;q=0.5",
        "application/xhtml+xml",
        "text/html, */*; q=0.01",
        "text/html;q=0.5, application/json;q=0.5",
        "text/html;q=0.001",
        "text/html;level=1, text/plain;format=flowed",
    ],
)
def test_who_navigates_prefers_html(field):
    """It is named, and nothing weighs more (RFC 9110, 12.5.1)."""
    assert prefers_html(field)


@pytest.mark.parametrize(
    "field",
    [
        None,
        "",
        "*/*",
        "text/*",
        "*",
        "application/json, text/plain, */*",
        "application/json, text/html;q=0.9",
        "text/html;q=0.5, */*",
        "text/html;Q=0.5, */*",
        "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
        "text/css,*/*;q=0.1",
        "text/event-stream",
        "text/html;q=0",
        "text/html;q=0, */*;q=0",
        "text/htmlx",
        "text/html/5",
        "text / html",
        "texthtml",
        "text/html\x0b",
    ],
)
def test_who_names_no_html_or_something_better_does_not(field):
    """Scripts, images and programs want to be told that a file is not there."""
    assert not prefers_html(field)


@pytest.mark.parametrize("member", ["application/json;q=2", "json", "/", "a/", "/b", "a b/c", ""])
def test_malformed_media_range_is_ignored_and_no_other(member):
    """It can neither outweigh HTML nor be it."""
    assert prefers_html(f"{member},text/html;q=0.1")
    assert not prefers_html(f"{member},text/html;q=2")
