"""Field names, values and lists (RFC 9110, section 5)."""

import re
from typing import Final

# token = 1*tchar - RFC 9110, 5.6.2
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def is_token(text: str) -> bool:
    """True if `text` can stand as a field name or a method (RFC 9110, 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def list_members(value: str) -> list[str]:
    """The members of a comma-separated list, in lower case, empty ones left out.

    For lists of tokens only (Connection, Upgrade, Transfer-Encoding): commas in
    quoted strings are not looked for. RFC 9110, 5.6.1.
    """
    return [member for part in value.lower().split(",") if (member := part.strip(" \t"))]
