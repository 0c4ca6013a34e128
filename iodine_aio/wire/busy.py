"""The one answer to whoever there is no room for: connections, and requests for a thread.

503, for now: "The server MAY send a Retry-After header field" - RFC 9110, 15.6.4.
"""

from typing import Final

_WORDS: Final = b"Server Busy."


def answer_busy(page: bytes | None) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, fields and body.

    Args:
        page: HTML, or None for the plain words.
    """
    kind = "plain" if page is None else "html"
    fields = [("Content-Type", f"text/{kind}; charset=utf-8"), ("Retry-After", "1")]
    return 503, fields, _WORDS if page is None else page
