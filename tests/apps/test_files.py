"""Files of a folder, as clients get them."""

import errno
import os
import socket
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

import iodine_aio
from iodine_aio.apps.files import StaticFiles
from iodine_aio.errors import UsageError
from iodine_aio.settings import Settings
from iodine_aio.wire.segments import FileBody
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


# ---- what is never served (CVE-2024-22050 and its kin) ----

HOSTILE = [
    "/../secret.txt",
    "/%2e%2e/secret.txt",
    "/%2E%2E/secret.txt",
    "/.%2e/secret.txt",
    "/..%2fsecret.txt",
    "/..%2Fsecret.txt",
    "/%2e%2e%2fsecret.txt",
    "/%252e%252e%252fsecret.txt",
    "/%252e%252e/secret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/%c0%ae%c0%ae/secret.txt",
    "/%c0%ae%c0%ae%c0%afsecret.txt",
    "/%e0%80%ae%e0%80%ae/secret.txt",
    "/%uff0e%uff0e/secret.txt",
    "/docs/../../secret.txt",
    "/docs/%2e%2e/%2e%2e/secret.txt",
    "/../root_x/secret.txt",
    "/%2e%2e/root_x/secret.txt",
    "/_x/secret.txt",
    "/./../secret.txt",
    "//secret.txt",
    "/..;/secret.txt",
    "/secret.txt%00.html",
    "/digits.txt%00",
    "/out/secret.txt",
    "/out.txt",
    "/.hidden.txt",
    "/.git/config",
    "/%2ehidden.txt",
    "/digits.txt/",
    "/digits.txt/x",
    "/" + "a" * 300,
    "/" + "a/" * 2000,
    "http://a/../secret.txt",
]


@pytest.mark.parametrize("target", HOSTILE)
async def test_hostile_target_gets_no_file(site: Path, target: str):
    """404, or 400; never what lies outside, or has a dot in front."""
    (site / "out").symlink_to("..")
    (site / "out.txt").symlink_to("../secret.txt")
    (site / ".hidden.txt").write_bytes(b"secret")
    (site / ".git").mkdir()
    (site / ".git" / "config").write_bytes(b"secret")
    answer = await ask_for(site, target)

    assert answer.status in (400, 404)
    assert b"secret" not in answer.body
    assert b"0123" not in answer.body


async def test_absolute_path_of_the_machine_is_within_the_site(site: Path):
    """/etc/passwd is public/etc/passwd."""
    assert (await ask_for(site, "/etc/passwd")).status == 404
    assert (await ask_for(site, f"/{site}/../secret.txt")).status == 404


async def test_outside_is_not_told_apart_from_nothing(site: Path):
    """Links to what exists and to what does not: the same answer (CVE-2025-69226)."""
    (site / "there").symlink_to("../secret.txt")
    (site / "missing").symlink_to("../nothing.txt")
    answers = [await ask_for(site, target) for target in ("/there", "/missing", "/nowhere")]

    assert len({answer.wire.partition(b"Date")[0] for answer in answers}) == 1
    assert len({answer.body for answer in answers}) == 1


@pytest.mark.parametrize("make", ["fifo", "socket", "device"])
async def test_what_is_no_regular_file_is_not_waited_for(
    site: Path, make: str, monkeypatch: pytest.MonkeyPatch
):
    """404 at once, and the next request is answered."""
    if make == "fifo":
        os.mkfifo(site / "it")
    elif make == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            monkeypatch.chdir(site)
            sock.bind("it")
    else:
        (site / "it").symlink_to("/dev/zero")
    async with iodine_aio.serve(None, port=0, public=site) as server:
        it = Answer(await exchange(server, get("/it")))
        digits = Answer(await exchange(server, get("/digits.txt")))

    assert (it.status, digits.status) == (404, 200)


async def test_well_known_files_are_served(site: Path):
    """RFC 8615: how certificates are got."""
    (site / ".well-known").mkdir()
    (site / ".well-known" / "token").write_bytes(b"token")

    assert (await ask_for(site, "/.well-known/token")).body == b"token"


@pytest.mark.parametrize(
    "target", ["//evil.example/..", "//evil.example", "/%2f/evil.example", "/\\evil.example/"]
)
async def test_redirect_leads_to_no_other_host(site: Path, target: str):
    """CVE-2021-21330: there is none."""
    (site / "evil.example").mkdir()
    (site / "evil.example" / "index.html").write_bytes(b"")

    assert "location" not in (await ask_for(site, target)).fields


# ---- folders, mounts, pages ----


async def test_page_of_a_folder(site: Path):
    """index.html; without its slash the folder is redirected, with its query."""
    page = await ask_for(site, "/docs/")
    moved = await ask_for(site, "/docs?a=1&b")
    nothing = await ask_for(site, "/")

    assert (page.status, page.body) == (200, b"<p>docs")
    assert page.fields["content-type"] == "text/html; charset=utf-8"
    assert (moved.status, moved.fields["location"]) == (301, "/docs/?a=1&b")
    assert nothing.status == 404


async def test_redirect_spells_names_anew(site: Path):
    """What a browser could misread is encoded."""
    (site / 'a b"<').mkdir()
    (site / 'a b"<' / "index.html").write_bytes(b"")
    moved = await ask_for(site, "/a%20b%22%3C")

    assert moved.fields["location"] == "/a%20b%22%3C/"


async def test_folder_without_a_page_is_the_apps(site: Path):
    """The app may have a route under its name."""
    (site / "images").mkdir()

    async with iodine_aio.serve(lambda env: (200, {}, "app"), port=0, public=site) as server:
        bodies = [
            Answer(await exchange(server, get(target))).body for target in ("/images", "/images/")
        ]

    assert bodies == [b"app", b"app"]


async def test_mounts_are_told_apart_by_whole_names(site: Path, tmp_path: Path):
    """The longest prefix first, then the others; /media is no prefix of /media_x."""
    for name in ("media", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_bytes(name.encode())
    (tmp_path / "media" / "index.html").write_bytes(b"index")
    (site / "media_x").mkdir()
    (site / "media_x" / "a.txt").write_bytes(b"public")
    static = {"/media": tmp_path / "media", "/media/in ner": tmp_path / "inner"}

    async with iodine_aio.serve(None, port=0, public=site, static=static) as server:
        answers = [
            Answer(await exchange(server, get(target)))
            for target in (
                *("/media/a.txt", "/%6dedia/a.txt", "/media_x/a.txt", "/media/"),
                *("/media/in%20ner/a.txt", "/digits.txt", "/media/digits.txt", "/media"),
            )
        ]

    assert [answer.body for answer in answers[:6]] == [
        *(b"media", b"media", b"public", b"index"),
        *(b"inner", DIGITS),
    ]
    assert answers[6].status == 404
    assert answers[7].fields["location"] == "/media/"


async def test_absolute_target_is_the_same_file(site: Path):
    """As proxies send it (RFC 9112, 3.2.2)."""
    assert (await ask_for(site, "http://a/digits.txt?x")).body == DIGITS


async def test_name_of_other_letters(site: Path):
    """UTF-8, percent-encoded."""
    (site / "h\u00fctte \u96ea.txt").write_bytes(b"snow")

    assert (await ask_for(site, "/h%C3%BCtte%20%E9%9B%AA.txt")).body == b"snow"


async def test_site_alone_refuses_other_methods(site: Path):
    """405 with Allow (RFC 9110, 15.5.6)."""
    answer = await ask_for(site, "/digits.txt", "Content-Length: 0", method="POST")

    assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")


async def test_own_page_for_what_is_missing(site: Path):
    """404.html, where there is no app to give one."""
    (site / "404.html").write_bytes(b"<p>not here")
    answer = await ask_for(site, "/missing", "Range: bytes=0-1", "If-None-Match: *")

    assert (answer.status, answer.body) == (404, b"<p>not here")
    assert answer.fields["content-type"] == "text/html; charset=utf-8"
    assert "etag" not in answer.fields


# ---- precompressed siblings ----


@pytest.fixture
def packed(site: Path) -> Path:
    """A script with all siblings, each with content that tells it."""
    for extension in ("", ".br", ".gz", ".zst"):
        (site / f"app.js{extension}").write_bytes(f"app{extension}".encode())
        os.utime(site / f"app.js{extension}", (1_000_000_000, 1_000_000_000))
    return site


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, ""),
        ("identity", ""),
        ("gzip", ".gz"),
        ("x-gzip", ".gz"),
        ("gzip, deflate, br, zstd", ".br"),
        ("gzip;q=1.0, br;q=0.5", ".gz"),
        ("br;q=0, gzip;q=0.1", ".gz"),
        ("zstd", ".zst"),
        ("*", ".br"),
        ("br;q=0, *;q=0", ""),
        ("gzip;q=0.001, identity;q=1", ""),
        ("nonsense", ""),
    ],
)
async def test_coding_that_the_client_likes_best(packed: Path, accepted: str | None, coding: str):
    """By its weights; of two that it likes alike, the smaller as a rule (RFC 9110, 12.5.3)."""
    fields = [] if accepted is None else [f"Accept-Encoding: {accepted}"]
    answer = await ask_for(packed, "/app.js", *fields)
    names = {"": None, ".br": "br", ".gz": "gzip", ".zst": "zstd"}

    assert answer.body == f"app{coding}".encode()
    assert answer.fields.get("content-encoding") == names[coding]
    assert answer.fields["vary"] == "Accept-Encoding"
    assert answer.fields["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize(("accepted", "coding"), [("gzip, br", "br"), ("gzip", "gzip"), ("", None)])
async def test_page_for_what_is_missing_is_packed_too(
    site: Path, accepted: str, coding: str | None
):
    """In the coding that the client likes best; and it stays a 404."""
    for name, extension in (("plain", ""), ("br", ".br"), ("gzip", ".gz")):
        (site / f"404.html{extension}").write_bytes(name.encode())
    answer = await ask_for(site, "/nothing", f"Accept-Encoding: {accepted}")

    assert (answer.status, answer.body) == (404, (coding or "plain").encode())
    assert answer.fields.get("content-encoding") == coding
    assert answer.fields["content-type"] == "text/html; charset=utf-8"
    assert answer.fields["vary"] == "Accept-Encoding"
    assert "etag" not in answer.fields


async def test_large_page_for_what_is_missing_is_found_at_once_where_it_was_replaced(site: Path):
    """As every file is."""
    (site / "404.html").write_bytes(b"x" * 100_000)
    async with iodine_aio.serve(None, port=0, public=site) as server:
        old = Answer(await exchange(server, get("/nothing")))
        (site / "new").write_bytes(b"y" * 200_000)
        (site / "new").replace(site / "404.html")
        new = Answer(await exchange(server, get("/nothing")))

    assert [old.body, new.body] == [b"x" * 100_000, b"y" * 200_000]


async def test_every_coding_has_its_own_tag(packed: Path):
    """They are different bytes (RFC 9110, 8.8.3.3); a 304 says Vary, too."""
    tags = [
        (await ask_for(packed, "/app.js", f"Accept-Encoding: {coding}")).fields["etag"]
        for coding in ("identity", "br", "gzip", "zstd")
    ]
    known = await ask_for(packed, "/app.js", "Accept-Encoding: br", f"If-None-Match: {tags[1]}")
    other = await ask_for(packed, "/app.js", "Accept-Encoding: gzip", f"If-None-Match: {tags[1]}")

    assert len(set(tags)) == 4
    assert (known.status, known.fields["vary"]) == (304, "Accept-Encoding")
    assert other.status == 200


async def test_file_without_siblings_does_not_vary(site: Path):
    """Caches keep it once."""
    answer = await ask_for(site, "/digits.txt", "Accept-Encoding: br")

    assert "vary" not in answer.fields
    assert "content-encoding" not in answer.fields


# ---- conditions and ranges, on both kinds of file ----

FILES = ["/digits.txt", "/large.bin"]


@pytest.mark.parametrize("target", FILES)
async def test_head_has_the_fields_of_get(site: Path, target: str):
    """And no content (RFC 9110, 9.3.2); a range is none of its business."""
    got = await ask_for(site, target)
    head = await ask_for(site, target, "Range: bytes=0-1", method="HEAD")

    assert head.body == b""
    assert head.status == 200
    assert {**head.fields, "date": ""} == {**got.fields, "date": ""}


@pytest.mark.parametrize("target", FILES)
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["If-None-Match: *"], 304),
        (['If-None-Match: "a", {etag}'], 304),
        (["If-None-Match: W/{etag}"], 304),
        (['If-None-Match: "a"'], 200),
        (["If-Modified-Since: {modified}"], 304),
        (["If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], 200),
        (['If-None-Match: "a"', "If-Modified-Since: {modified}"], 200),
        (["If-Match: {etag}"], 200),
        (["If-Match: *"], 200),
        (["If-Match: W/{etag}"], 412),
        (['If-Match: "a"'], 412),
        (["If-Unmodified-Since: {modified}"], 200),
        (["If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], 412),
        (["Range: bytes=0-1"], 206),
        (["Range: bytes=0-1", "If-Range: {etag}"], 206),
        (["Range: bytes=0-1", 'If-Range: "a"'], 200),
        (["Range: bytes=0-1", "If-Range: W/{etag}"], 200),
        (["Range: bytes=0-1", "If-Range: {modified}"], 206),
        (["Range: bytes=0-1", "If-None-Match: {etag}"], 304),
        (["Range: bytes=999999999-"], 416),
        (["Range: bytes=-0"], 416),
        (["Range: bytes=5-1"], 200),
        (["Range: bytes=+5-6"], 200),
        (["Range: lines=1-2"], 200),
        (["Range: bytes=18446744073709551616-"], 416),
    ],
)
async def test_condition_leads_to_its_status(
    site: Path, target: str, fields: list[str], status: int
):
    """RFC 9110, 13.2.2 and 14.2, through the whole server."""
    for name in ("digits.txt", "large.bin"):
        os.utime(site / name, (1_000_000_000, 1_000_000_000))
    async with iodine_aio.serve(None, port=0, public=site) as server:
        plain = Answer(await exchange(server, get(target)))
        tag, modified = plain.fields["etag"], plain.fields["last-modified"]
        lines = [field.format(etag=tag, modified=modified) for field in fields]
        answer = Answer(await exchange(server, get(target, *lines)))

    assert modified == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert answer.status == status
    if status == 200:
        assert answer.body == plain.body
    if status in (200, 206, 304):
        assert answer.fields["etag"] == tag
    if status == 416:
        assert answer.fields["content-range"] == f"bytes */{len(plain.body)}"
        assert "etag" not in answer.fields


async def test_several_parts_of_a_small_file_are_not_worth_it(site: Path):
    """Where the parts with their heads would be longer, the whole is sent."""
    answer = await ask_for(site, "/digits.txt", "Range: bytes=0-1,90-91")

    assert (answer.status, answer.body) == (200, DIGITS)


async def test_several_parts(site: Path):
    """multipart/byteranges, in order and merged (RFC 9110, 14.6)."""
    answer = await ask_for(site, "/large.bin", "Range: bytes=1000-1001, 0-1, 1-2")
    kind, _, boundary = answer.fields["content-type"].partition("; boundary=")
    one = f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes "

    assert (answer.status, kind) == (206, "multipart/byteranges")
    assert "content-range" not in answer.fields
    assert answer.body == (
        (one + "0-2/262144\r\n\r\n").encode()[2:]
        + b"\0\1\2"
        + (one + "1000-1001/262144\r\n\r\n").encode()
        + b"\xe8\xe9"
        + f"\r\n--{boundary}--\r\n".encode()
    )


async def test_thousand_ranges_send_no_more_than_the_file(site: Path):
    """Neither overlapping nor tiny (CVE-2011-3192, CVE-2024-26141)."""
    overlapping = ",".join(f"{number}-" for number in range(1500))
    tiny = ",".join(f"{number}-{number}" for number in range(0, 60, 2))
    answers = [
        await ask_for(site, "/large.bin", f"Range: bytes={ranges}", max_head_bytes=1 << 16)
        for ranges in (overlapping, tiny)
    ]

    assert answers[0].status == 200
    assert all(len(answer.body) <= 256 * 1024 for answer in answers)


# ---- what else is said ----


async def test_cache_control_by_path(site: Path):
    """The first glob that matches; a folder's page has the path of its file."""
    rules = {"/docs/*": "immutable", "*.txt": "max-age=60", "*": "no-cache"}
    async with iodine_aio.serve(None, port=0, public=site, cache_control=rules) as server:
        said = [
            Answer(await exchange(server, get(target))).fields["cache-control"]
            for target in ("/docs/", "/digits.txt", "/large.bin")
        ]

    assert said == ["public, max-age=31536000, immutable", "max-age=60", "no-cache"]


@pytest.mark.parametrize("log_static", [False, True])
async def test_files_are_logged_where_asked(
    site: Path, caplog: pytest.LogCaptureFixture, log_static: bool
):
    """The app's requests are in any case."""
    caplog.set_level("INFO", "iodine_aio.access")
    options: Any = {"public": site, "access_log": True, "log_static": log_static}

    async with iodine_aio.serve(lambda env: (200, {}, "app"), port=0, **options) as server:
        for target in ("/digits.txt", "/large.bin", "/route"):
            await exchange(server, get(target))

    lines = [record.getMessage() for record in caplog.records if record.name.endswith("access")]
    assert len(lines) == (3 if log_static else 1)
    assert '"GET /route' in lines[-1]


async def test_pages_for_those_without_room(site: Path, monkeypatch: pytest.MonkeyPatch):
    """503.html of the public folder."""
    (site / "503.html").write_bytes(b"<p>full")
    server = iodine_aio.serve(None, port=0, public=site)
    await server.started()
    server._service.descriptor_ceiling = 0
    answer = Answer(await exchange(server, b""))
    await server.stop()

    assert (answer.status, answer.body) == (503, b"<p>full")
    assert answer.fields["content-type"] == "text/html; charset=utf-8"


# ---- what is kept ----


class Time:
    """A clock that stands still until it is told to go on."""

    now = 100.0


def counted(files: StaticFiles, target: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """The answer, and how many files were looked at for it."""
    looks = 0
    real = os.stat

    def stat(*arguments: Any, **options: Any) -> os.stat_result:
        nonlocal looks
        looks += 1
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stat)
        answer = files({"REQUEST_METHOD": "GET", "REQUEST_URI": target, "QUERY_STRING": ""})
    return answer, looks


def test_small_file_is_looked_at_once_a_second(site: Path, monkeypatch: pytest.MonkeyPatch):
    """Between that it comes out of memory, and so does that there is none."""
    clock = Time()
    files = StaticFiles(None, Settings(public=site), clock)
    first = [counted(files, target, monkeypatch) for target in ("/digits.txt", "/missing")]
    (site / "digits.txt").write_bytes(b"changed")
    (site / "missing").write_bytes(b"new")
    kept = [
        counted(files, target, monkeypatch)
        for target in ("/digits.txt", "/missing", "/digits.txt?v=1")
    ]
    clock.now += 1
    later = [counted(files, target, monkeypatch) for target in ("/digits.txt", "/missing")]

    assert [answer[0][2] for answer in first] == [DIGITS, b"Not Found"]
    assert [(answer[2], looks) for answer, looks in kept] == [
        (DIGITS, 0),
        (b"Not Found", 0),
        (DIGITS, 0),
    ]
    assert [answer[0][2] for answer in later] == [b"changed", b"new"]
    assert all(looks for _, looks in first + later)


def test_large_file_that_was_replaced_is_found_at_once(site: Path):
    """Its length is announced by what is opened, never by what was there before."""
    files = StaticFiles(None, Settings(public=site), Time())
    env = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/large.bin", "QUERY_STRING": ""}
    files(env)[2].close()
    (site / "new").write_bytes(b"x" * 100_000)
    (site / "new").replace(site / "large.bin")
    status, head, body = files(env)
    body.close()

    assert (status, head.content_length, body.length) == (200, 100_000, 100_000)


def test_large_file_that_is_gone_is_not_found(site: Path):
    """At once, too."""
    files = StaticFiles(None, Settings(public=site), Time())
    env = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/large.bin", "QUERY_STRING": ""}
    files(env)[2].close()
    (site / "large.bin").unlink()

    assert files(env)[0] == 404


def test_content_that_is_not_in_memory_is_not_waited_for(
    site: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is sent as a large file is, and kept as soon as the kernel has it."""
    clock = Time()
    files = StaticFiles(None, Settings(public=site), clock)
    env = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/digits.txt", "QUERY_STRING": ""}

    def preadv(*arguments: Any) -> int:
        raise BlockingIOError

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", preadv)
        cold = files(env)[2]
    cold.close()
    clock.now += 1

    assert type(cold) is FileBody
    assert files(env)[2] == DIGITS


def test_date_of_the_future_is_not_told(site: Path):
    """A Last-Modified is never later than the Date beside it (RFC 9110, 8.8.2.1)."""
    os.utime(site / "digits.txt", (1 << 40, 1 << 40))
    files = StaticFiles(None, Settings(public=site), Time())
    head = files({"REQUEST_METHOD": "GET", "REQUEST_URI": "/digits.txt", "QUERY_STRING": ""})[1]
    modified = dict(head.fields())["Last-Modified"]

    assert parsedate_to_datetime(modified).timestamp() <= time.time()


def test_folder_that_is_none_is_refused(tmp_path: Path):
    """At the start, with its name."""
    for options in ({"public": tmp_path / "no"}, {"static": {"/a": tmp_path / "no"}}):
        with pytest.raises(UsageError, match="there is no folder"):
            Settings(**options)
    with pytest.raises(UsageError, match="no public folder"):
        Settings(spa="index.html")
    with pytest.raises(UsageError, match=r"spa: there is no file 'index\.html' in"):
        Settings(public=tmp_path, spa="index.html")
    with pytest.raises(UsageError, match="must be the path of a file"):
        Settings(public=tmp_path, spa=tmp_path)  # type: ignore[arg-type]


def test_lack_of_descriptors_is_not_told_as_a_missing_file(
    site: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is a 500, and not remembered: not here, and not in caches."""
    files = StaticFiles(None, Settings(public=site), Time())
    env = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/digits.txt", "QUERY_STRING": ""}

    def refuse(*arguments: Any, **options: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(OSError, match="Too many"):
            files(env)

    assert files(env)[0] == 200
