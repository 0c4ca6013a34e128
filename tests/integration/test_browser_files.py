"""A real browser: a static page with all that belongs to it."""

import base64
import logging
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

import iodine_aio

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<img id="picture" src="picture.png">
<script src="script.mjs" type="module"></script>
<title>a site</title><p>text</p>
"""
STYLE = '@font-face { font-family: "Ours"; src: url("font.ttf"); } p { color: rgb(1, 2, 3); }'
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FONTS = sorted(Path("/usr/share/fonts").rglob("*.ttf"))
SECONDS = 600
BYTES_A_SECOND = 44100 * 2


def write_sound(path: Path) -> None:
    """Ten minutes of silence, 53 MB, none of which is stored."""
    size = SECONDS * BYTES_A_SECOND
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 44100, BYTES_A_SECOND, 2, 16),
        *(b"data", size),
    )
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "style.css").write_text(STYLE)
    (tmp_path / "script.mjs").write_text("window.scripted = import.meta.url")
    (tmp_path / "picture.png").write_bytes(PICTURE)
    (tmp_path / "film.html").write_text(
        '<!doctype html><link rel="icon" href="data:,"><video src="sound.wav" preload="metadata">'
    )
    write_sound(tmp_path / "sound.wav")
    return tmp_path


async def test_page_gets_all_that_belongs_to_it(browser: Any, site: Path):
    """Script, style and picture are taken for what they are, under nosniff."""
    async with iodine_aio.serve(None, port=0, public=str(site)) as server:
        page = await browser.open(f"{server.url}/")
        seen = await page.evaluate(
            """new Promise(yes => document.readyState == "complete" ? yes() : onload = yes)
            .then(() => [scripted, getComputedStyle(document.querySelector("p")).color,
                         picture.naturalWidth, document.title])"""
        )

    assert seen == [f"{server.url}/script.mjs", "rgb(1, 2, 3)", 1, "a site"]


async def test_page_gets_its_font(browser: Any, site: Path):
    """Any of this machine's will do."""
    if not FONTS:
        pytest.skip("this machine has no font to serve")
    shutil.copy(FONTS[0], site / "font.ttf")
    async with iodine_aio.serve(None, port=0, public=str(site)) as server:
        page = await browser.open(f"{server.url}/")
        families = await page.evaluate(
            'document.fonts.load("12px Ours").then(faces => faces.map(face => face.family))'
        )

    assert families == ["Ours"]


async def test_player_seeks_by_range(browser: Any, site: Path, caplog: pytest.LogCaptureFixture):
    """It jumps to the ninth minute without all that is before it."""
    caplog.set_level(logging.INFO, "iodine_aio.access")
    options = {"public": str(site), "access_log": True, "log_static": True}
    async with iodine_aio.serve(None, port=0, **options) as server:
        page = await browser.open(f"{server.url}/film.html")
        time, length = await page.evaluate(
            f"""(async () => {{
                const video = document.querySelector("video");
                if (video.readyState < 1)
                    await new Promise((yes, no) => {{
                        video.onloadedmetadata = yes; video.onerror = () => no(video.error.message);
                    }});
                video.currentTime = {SECONDS - 60};
                await new Promise(yes => video.onseeked = yes);
                return [video.currentTime, video.duration];
            }})()"""
        )

    assert (time, length) == (SECONDS - 60, SECONDS)
    assert '"GET /sound.wav HTTP/1.1" 206 ' in caplog.text


async def test_page_is_not_fetched_twice(browser: Any, site: Path):
    """Its validators are believed: the second time, the picture is 304."""
    async with iodine_aio.serve(None, port=0, public=str(site)) as server:
        page = await browser.open(f"{server.url}/")
        statuses = await page.evaluate(
            """(async () => {
                const first = await fetch("picture.png", {cache: "no-store"});
                const second = await fetch("picture.png", {
                    cache: "no-store",
                    headers: {"If-None-Match": first.headers.get("ETag")},
                });
                return [first.status, second.status];
            })()"""
        )

    assert statuses == [200, 304]
