"""Media types by a file's name."""

import pytest

from iodine_aio.wire.media_types import guess_media_type


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("INDEX.HTML", "text/html; charset=utf-8"),
        ("app.min.js", "text/javascript; charset=utf-8"),
        ("data.json", "application/json"),
        ("logo.svg", "image/svg+xml"),
        ("font.woff2", "font/woff2"),
        ("program.wasm", "application/wasm"),
        ("site.tar.gz", "application/gzip"),
        ("README", "application/octet-stream"),
        ("html", "application/octet-stream"),
        ("page.html.exe", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_type_is_told_by_the_last_extension(name: str, media_type: str):
    """Text has a charset; what is unknown is run by no browser."""
    assert guess_media_type(name) == media_type
