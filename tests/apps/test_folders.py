"""No file outside of a folder is opened, whatever a path says."""

import os
import socket
from pathlib import Path

import pytest

from iodine_aio.apps import folders
from iodine_aio.apps.folders import Folder, FoundFolder, split_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder, with files around it that have their names from its own."""
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    (root / "inner" / "file").write_bytes(b"inner")
    (tmp_path / "root_x").mkdir()
    (tmp_path / "root_x" / "file").write_bytes(b"outside")
    (tmp_path / "file").write_bytes(b"outside")
    return root


def read(root: Path, *names: bytes) -> bytes:
    file, status = Folder(root).open(names)
    with file:
        content = file.read()
    assert len(content) == status.st_size
    return content


def finds(root: Path, *names: bytes) -> bool:
    """False if there is no such file for it."""
    try:
        Folder(root).open(names)[0].close()
    except FileNotFoundError:
        return False
    return True


# ---- what is a path of files ----


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/", [b""]),
        ("/a", [b"a"]),
        ("/a/b/", [b"a", b"b", b""]),
        ("/%61%20b", [b"a b"]),
        ("/%C3%A4", b"\xc3\xa4".split()),
        ("/.well-known/x", [b".well-known", b"x"]),
        ("/a..b", [b"a..b"]),
        ("/%252e%252e", [b"%2e%2e"]),
        ("/%zz", [b"%zz"]),
    ],
)
def test_path_is_split_into_names(path: str, names: list[bytes]):
    """Decoded once, and never twice."""
    assert split_path(path) == names


@pytest.mark.parametrize(
    "path",
    [
        "//a",
        "//",
        "/a//b",
        "/.",
        "/..",
        "/../file",
        "/a/../../file",
        "/a/./b",
        "/%2e%2e/file",
        "/%2E./file",
        "/.%2e/file",
        "/..%2ffile",
        "/..%2Ffile",
        "/%2fetc/passwd",
        "/a%5cb",
        "/..%5C..%5Cfile",
        "/..\\file",
        "/a%00.txt",
        "/%00",
        "/.git/config",
        "/.env",
        "/a/.hidden",
        "/...",
        "/%2egit/config",
        "/a/.well-known",
    ],
)
def test_path_of_no_file(path: str):
    """Dots, encoded slashes, backslashes, NUL and dot-files are never looked for."""
    assert split_path(path) is None


def test_overlong_utf8_is_a_name_and_no_dot(root: Path):
    """%c0%ae is no '.', and %c0%af no '/': there is no such file."""
    paths = ("/%c0%ae%c0%ae/file", "/%c0%ae%c0%ae%c0%affile", "/%e0%80%ae%e0%80%ae/file")

    assert not any(finds(root, *(split_path(path) or ())) for path in paths)


# ---- what is opened ----


def test_regular_file_is_opened(root: Path):
    """In the folder, and in folders of it."""
    assert read(root, b"file") == b"inside"
    assert read(root, b"inner", b"file") == b"inner"


@pytest.mark.parametrize("names", [[], [b"inner"]])
def test_folder_is_told_apart(root: Path, names: list[bytes]):
    """It may have an index.html."""
    with pytest.raises(FoundFolder):
        Folder(root).open(names)


@pytest.mark.parametrize(
    "target", ["../file", "../root_x/file", "/etc/passwd", "../missing", "/proc/self/environ"]
)
def test_link_that_leaves_the_folder_leads_nowhere(root: Path, target: str):
    """Whether there is something at its end is not told: the error is the same."""
    (root / "link").symlink_to(target)

    with pytest.raises(FileNotFoundError):
        Folder(root).open([b"link"])


@pytest.mark.parametrize("target", ["..", "../root_x", "/", "inner/../.."])
def test_linked_folder_outside_is_not_passed(root: Path, target: str):
    """On the way to a file, too."""
    (root / "link").symlink_to(target)

    assert not finds(root, b"link", b"file")


def test_link_within_the_folder_is_followed(root: Path):
    """Also where it leads over a dot-name, as volumes of Kubernetes do."""
    (root / "..2026").mkdir()
    (root / "..2026" / "page").write_bytes(b"page")
    (root / "..data").symlink_to("..2026")
    (root / "page").symlink_to("..data/page")
    (root / "other").symlink_to(root / "inner")

    assert read(root, b"page") == b"page"
    assert read(root, b"other", b"file") == b"inner"


def test_root_may_be_a_link_and_may_change(root: Path, tmp_path: Path):
    """As deployments exchange it."""
    (tmp_path / "current").symlink_to("root")
    folder = Folder(tmp_path / "current")
    with folder.open([b"file"])[0] as file:
        before = file.read()
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("root_x")
    with folder.open([b"file"])[0] as file:
        after = file.read()

    assert (before, after) == (b"inside", b"outside")


def test_link_that_appears_on_the_way_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the resolving of a path and the walk of it."""
    (root / "link").symlink_to("inner")
    resolve = Folder._resolve

    def exchange(self: Folder, path: bytes) -> tuple[bytes, list[bytes]]:
        resolved = resolve(self, path)
        (root / "inner").rename(root / "was_inner")
        (root / "inner").symlink_to("..")
        return resolved

    monkeypatch.setattr(Folder, "_resolve", exchange)

    assert not finds(root, b"link", b"file")


def test_link_that_is_none_any_more_is_no_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    """It was exchanged for a folder between the look and the reading of it."""
    (root / "link").symlink_to("file")
    read_link = os.readlink

    def exchange(path: bytes, **options: int) -> bytes:
        if os.path.basename(path) == b"link":
            (root / "link").unlink()
            (root / "link").mkdir()
        return read_link(path, **options)

    monkeypatch.setattr(os, "readlink", exchange)

    with pytest.raises((FileNotFoundError, FoundFolder)):  # the folder: from Python 3.13
        Folder(root).open([b"link"])


def test_loop_of_links_is_no_file(root: Path):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")

    assert not finds(root, b"a")


def test_fifo_is_no_file(root: Path):
    """Nobody writes to it, and nobody waits for that."""
    os.mkfifo(root / "fifo")

    with pytest.raises(FileNotFoundError):
        Folder(root).open([b"fifo"])


def test_socket_is_no_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")

        with pytest.raises(FileNotFoundError):
            Folder(root).open([b"socket"])


def test_device_is_no_file():
    """/dev/zero has no end."""
    with pytest.raises(FileNotFoundError):
        Folder("/dev").open([b"zero"])


def test_fifo_that_takes_a_files_place_does_not_hang(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the look and the opening."""
    check = folders._check_regular

    def exchange(mode: int) -> None:
        check(mode)
        (root / "file").unlink(missing_ok=True)
        if not (root / "file").exists():
            os.mkfifo(root / "file")

    monkeypatch.setattr(folders, "_check_regular", exchange)

    with pytest.raises(FileNotFoundError):
        Folder(root).open([b"file"])


@pytest.mark.parametrize("name", [b"x" * 256, b"x" * 5000, b"missing"])
def test_name_that_cannot_be_is_an_os_error(root: Path, name: bytes):
    assert not finds(root, name)


def test_file_with_a_slash_behind_is_no_folder(root: Path):
    """file/index.html: nothing is found in a file."""
    assert not finds(root, b"file", b"index.html")


def test_another_file_under_the_path_is_not_reopened(root: Path):
    """What was found once has been replaced."""
    folder = Folder(root)
    file, status = folder.open([b"file"])
    file.close()
    folder.reopen([b"file"], status).close()
    (root / "new").write_bytes(b"inside")
    (root / "new").replace(root / "file")

    with pytest.raises(FileNotFoundError):
        folder.reopen([b"file"], status)
