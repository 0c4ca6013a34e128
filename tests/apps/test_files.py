"""Files of a folder, as clients get them."""

from pathlib import Path
from typing import Any

import pytest

import iodine_aio
from tests.clients import Answer, exchange

DIGITS = b"0123456789" * 10


def get(target: str, *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", "Connection: close", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def ask_for(
    public: Path, target: str, *fields: str, method: str = "GET", **options: Any
) -> Answer:
    """The answer of a site to one request."""
    async with iodine_aio.serve(None, port=0, public=public, **options) as server:
        return Answer(await exchange(server, get(target, *fields, method=method)))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of files, beside one whose files are nobody's business."""
    folder = tmp_path / "root"
    folder.mkdir()
    (tmp_path / "root_x").mkdir()
    (tmp_path / "root_x" / "secret.txt").write_bytes(b"secret")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (folder / "digits.txt").write_bytes(DIGITS)
    (folder / "large.bin").write_bytes(bytes(range(256)) * 1024)
    (folder / "docs").mkdir()
    (folder / "docs" / "index.html").write_bytes(b"<p>docs")
    return folder


async def test_file_is_sent_with_its_validators(site: Path):
    """Type, entity tag, date and length of a small file."""
    answer = await ask_for(site, "/digits.txt")

    assert (answer.status, answer.body) == (200, DIGITS)
    assert answer.fields["content-type"] == "text/plain; charset=utf-8"
    assert answer.fields["content-length"] == "100"
    assert answer.fields["accept-ranges"] == "bytes"
    assert answer.fields["x-content-type-options"] == "nosniff"
    assert answer.fields["etag"].startswith('"')
    assert answer.fields["last-modified"].endswith(" GMT")


async def test_large_file_is_sent_whole(site: Path):
    """One that is not kept in memory."""
    answer = await ask_for(site, "/large.bin")

    assert (answer.status, answer.body) == (200, bytes(range(256)) * 1024)


@pytest.mark.parametrize("target", ["/digits.txt", "/large.bin"])
async def test_known_tag_is_not_sent_again(site: Path, target: str):
    """304, with the tag and without the file (RFC 9110, 15.4.5)."""
    tag = (await ask_for(site, target)).fields["etag"]
    answer = await ask_for(site, target, f"If-None-Match: {tag}")

    assert (answer.status, answer.body) == (304, b"")
    assert answer.fields["etag"] == tag
    assert "content-type" not in answer.fields


async def test_part_is_sent(site: Path):
    """206 with its Content-Range (RFC 9110, 15.3.7)."""
    answer = await ask_for(site, "/digits.txt", "Range: bytes=3-6")

    assert (answer.status, answer.body) == (206, b"3456")
    assert answer.fields["content-range"] == "bytes 3-6/100"


async def test_part_of_a_large_file_is_sent(site: Path):
    """Out of its middle."""
    answer = await ask_for(site, "/large.bin", "Range: bytes=260-262")

    assert (answer.status, answer.body) == (206, b"\x04\x05\x06")


async def test_what_is_no_file_is_the_apps(site: Path):
    """And every method but GET and HEAD."""

    def app(env: iodine_aio.Env) -> Any:
        return 200, {}, "app"

    async with iodine_aio.serve(app, port=0, public=site) as server:
        bodies = [
            Answer(await exchange(server, request)).body
            for request in (
                get("/"),
                get("/missing.txt"),
                get("/digits.txt", "Content-Length: 0", method="POST"),
                get("/digits.txt"),
            )
        ]

    assert bodies == [b"app", b"app", b"app", DIGITS]
