"""curl gets files: whole, in parts, again, and from where it was cut off."""

import asyncio
import gzip
import os
import shutil
from pathlib import Path

import pytest

import iodine_aio

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH"),
    pytest.mark.slow,
]

CONTENT = os.urandom(300_000)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "file.bin").write_bytes(CONTENT)
    os.utime(tmp_path / "public" / "file.bin", (1_000_000_000, 1_000_000_000))
    return tmp_path / "public"


async def curl(site: Path, *words: str, path: str = "/file.bin") -> tuple[str, bytes]:
    """The status, and what curl wrote to its output."""
    async with iodine_aio.serve(None, port=0, public=site) as server:
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "15"),
            *("--write-out", "%{stderr}%{http_code}", *words, f"{server.url}{path}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=site.parent,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err
    return err.decode(), out


async def test_whole_file(site: Path):
    assert await curl(site) == ("200", CONTENT)


async def test_part(site: Path):
    """-r: one span of it."""
    assert await curl(site, "-r", "1000-1999") == ("206", CONTENT[1000:2000])


async def test_parts(site: Path):
    """-r with two spans: multipart, as curl passes it on."""
    status, body = await curl(site, "-r", "0-99,200000-200099")

    assert status == "206"
    assert b"\r\n\r\n" + CONTENT[:100] + b"\r\n--" in body
    assert b"\r\n\r\n" + CONTENT[200_000:200_100] + b"\r\n--" in body


async def test_download_is_resumed(site: Path):
    """-C -: from where the file on the disk ends."""
    (site.parent / "half").write_bytes(CONTENT[:123_456])
    status, _ = await curl(site, "-C", "-", "-o", "half")

    assert status == "206"
    assert (site.parent / "half").read_bytes() == CONTENT


async def test_complete_download_is_not_resumed(site: Path):
    """416: nothing is behind its end, and nothing is added."""
    (site.parent / "whole").write_bytes(CONTENT)
    status, _ = await curl(site, "-C", "-", "-o", "whole")

    assert status == "416"
    assert (site.parent / "whole").read_bytes() == CONTENT


async def test_head(site: Path):
    """-I: the fields, and no waiting for a body."""
    status, head = await curl(site, "-I")

    assert status == "200"
    assert b"Content-Length: 300000\r\n" in head
    assert b"Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\n" in head


async def test_time_condition(site: Path):
    """-z: only if newer."""
    newer = await curl(site, "-z", "Mon, 10 Sep 2001 00:00:00 GMT")
    older = await curl(site, "-z", "Sat, 08 Sep 2001 00:00:00 GMT")

    assert newer == ("304", b"")
    assert older == ("200", CONTENT)


async def test_entity_tag_is_kept_and_compared(site: Path):
    """--etag-save, then --etag-compare."""
    first, _ = await curl(site, "--etag-save", "tag", "-o", "kept")
    again, _ = await curl(site, "--etag-compare", "tag", "-o", "kept")

    assert (first, again) == ("200", "304")


async def test_compressed_file_is_unpacked(site: Path):
    """--compressed: curl asks for gzip, and unpacks app.js.gz."""
    (site / "app.js").write_bytes(b"plain")
    (site / "app.js.gz").write_bytes(gzip.compress(b"packed"))

    assert await curl(site, "--compressed", path="/app.js") == ("200", b"packed")


async def test_path_that_is_sent_as_it_is_finds_nothing_outside(site: Path):
    """--path-as-is: the dots reach the server."""
    (site.parent / "secret").write_bytes(b"secret")
    status, body = await curl(site, "--path-as-is", path="/../secret")

    assert status == "404"
    assert b"secret" not in body
