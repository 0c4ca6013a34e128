"""What a client would rather have: content codings and HTML (RFC 9110, section 12).

A weight is an integer from 0 to 1000. One that the grammar has not makes its member of
the list void, and no other.
"""

import re
from collections.abc import Sequence
from typing import Final

from iodine_aio.wire.fields import is_token

# qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] ) - RFC 9110, 12.4.2
_WEIGHT: Final = re.compile(r"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_FULL: Final = 1000

# "A recipient SHOULD consider 'x-gzip' to be equivalent to 'gzip'" - RFC 9110, 8.4.1.3
_ALIASES: Final = {"x-gzip": "gzip"}

_HTML: Final = ("text/html", "application/xhtml+xml")


def choose_coding(accept_encoding: str | None, available: Sequence[str]) -> str | None:
    """The coding that suits the client best, of those that a representation has.

    Args:
        accept_encoding: the field's value; None if there is none.
        available: names in lower case, as ``["br", "gzip"]``; of two that suit alike the
            first is taken. The bare representation, ``identity``, need not be named: it
            is there, and last.

    Returns:
        One of `available`, or ``"identity"``; None if the client refuses all. To send
        the bare representation even then is allowed (RFC 9110, 12.4.1).

    A request without the field leaves the choice to us; the bare representation is what
    no client fails to read. RFC 9110, 12.5.3.
    """
    if not accept_encoding:
        return "identity"
    weights: dict[str, int] = {}
    for member in accept_encoding.split(","):
        name, semicolon, parameter = member.partition(";")
        coding = name.strip(" \t").lower()
        coding = _ALIASES.get(coding, coding)
        # Others are not kept, however many a peer sends.
        if coding in available or coding == "identity" or coding == "*":
            weight = parse_weight(parameter.strip(" \t")) if semicolon else _FULL
            if weight is not None:
                weights[coding] = weight
    # "The asterisk '*' symbol matches any available content coding not explicitly listed"
    others = weights.get("*")
    best: str | None = None
    best_weight = 0
    for coding in available:
        weight = weights.get(coding, others)
        if weight is not None and weight > best_weight and coding != "identity":
            best, best_weight = coding, weight
    # "it is acceptable by default unless specifically excluded": unlisted, it is better
    # than nothing, and less than whatever is asked for.
    bare = weights.get("identity", others)
    if bare is None:
        return best or "identity"
    return "identity" if bare > best_weight else best


def parse_weight(text: str) -> int | None:
    """Thousandths of a weight such as ``"q=0.5"``; None if it is malformed.

    RFC 9110, 12.4.2.
    """
    match = _WEIGHT.fullmatch(text)
    if match is None:
        return None
    digits = match[1]
    return int(digits[0]) * _FULL + int(digits[2:].ljust(3, "0"))


def prefers_html(accept: str | None) -> bool:
    """True if an Accept field names HTML, and nothing that it would rather have.

    Args:
        accept: the field's value; None if there is none.

    So speak browsers that navigate. Their images and scripts, and programs, ask for
    other types or send ``*/*``, which names nothing. RFC 9110, 12.5.1.
    """
    if not accept:
        return False
    html = other = 0
    # Commas and semicolons in quoted strings are not looked for: the pieces are malformed,
    # or cheat nobody but who sent them.
    for member in accept.split(","):
        media_type, semicolon, parameters = member.partition(";")
        name = media_type.strip(" \t").lower()
        if not _is_media_range(name):
            continue
        weight = _find_weight(parameters) if semicolon else _FULL
        if weight is None:
            continue
        if name in _HTML:
            html = max(html, weight)
        else:
            other = max(other, weight)
    return html > 0 and html >= other


def weigh_media_type(accept: str, name: str) -> int | None:
    """Thousandths that an Accept field gives to a media range; None if it is not named.

    Args:
        name: in lower case, as ``"text/html"`` or ``"text/*"``: looked for as it stands.
    """
    best: int | None = None
    for member in accept.split(","):
        media_type, semicolon, parameters = member.partition(";")
        if media_type.strip(" \t").lower() == name:
            weight = _find_weight(parameters) if semicolon else _FULL
            best = max(best or 0, weight or 0)
    return best


def _find_weight(parameters: str) -> int | None:
    for parameter in parameters.split(";"):
        text = parameter.strip(" \t")
        if text[:2] in ("q=", "Q="):
            return parse_weight(text)
    return _FULL


def _is_media_range(name: str) -> bool:
    kind, _, subtype = name.partition("/")
    return is_token(kind) and is_token(subtype)
