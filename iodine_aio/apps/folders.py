"""Folders whose files are served, and no file outside of them.

A path is walked from descriptor to descriptor, and no link is followed on the way: who
can exchange a folder for a link meanwhile leads nobody out. Links that stay within the
folder are resolved first, and their target is walked in the same way.
"""

import errno
import io
import os
import stat
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

# Where O_PATH is not known, a folder has to be readable to be passed through.
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO has no writer, a device no answer; to open either must not wait.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# What says that a path is no file's. Everything else is trouble of ours, as a lack of
# descriptors is: to say then that there is no file would be remembered by caches.
_ABSENT: Final = frozenset(
    (
        *(errno.EACCES, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.EMLINK),
        *(errno.ENAMETOOLONG, errno.ENODEV, errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.EPERM),
    )
)

_WELL_KNOWN: Final = b".well-known"  # RFC 8615


class FoundFolder(Exception):
    """The path is a folder's, and that cannot be sent."""


def split_path(path: str) -> list[bytes] | None:
    """The names in a request's path; None if no file is ever served under it.

    Args:
        path: begins with a slash; percent-encoded.

    A path that ends with a slash has an empty last name. Dot-files are nobody's business,
    `/.well-known` excepted. A slash, backslash or NUL is part of no name, however it is
    written: what a proxy in front took for one name must not be two here.
    """
    if "%" in path:
        lower = path.lower()
        if "%2f" in lower or "%5c" in lower or "%00" in lower:
            return None
        names = unquote_to_bytes(path).split(b"/")
    else:
        names = path.encode("latin-1").split(b"/")
    del names[0]
    if b"" in names[:-1] or "\\" in path or "\0" in path:
        return None
    for name in names:
        if name[:1] == b"." and (name != _WELL_KNOWN or name is not names[0]):
            return None
    return names


class Folder:
    """A folder that is found again at each look, so that it may be replaced meanwhile.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = os.fsencode(os.path.abspath(path))

    def open(self, names: Sequence[bytes]) -> tuple[io.FileIO, os.stat_result]:
        """Opens a regular file.

        Args:
            names: of folders, then of the file, none of them empty or a dot or two.

        Raises:
            FoundFolder: it is a folder.
            FileNotFoundError: there is no such file, or nothing that is to be served; which
                of the two is not said.
            OSError: it cannot be opened now.
        """
        try:
            return _walk(self.path, names)
        except OSError as error:
            # A link; or a file where a folder should be, which resolving finds again.
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                raise _tell(error) from None
        return self.open_path(os.path.join(self.path, *names))

    def reopen(self, names: Sequence[bytes], status: os.stat_result) -> io.FileIO:
        """Opens a file that `open` has found, if it is still the same.

        Raises:
            FileNotFoundError: it is another, or was changed.
            OSError: it cannot be opened now.
        """
        # By its path at once: what has the same inode is what was walked to before.
        try:
            number = os.open(os.path.join(self.path, *names), _FILE & ~os.O_NOFOLLOW)
        except OSError as error:
            raise _tell(error) from None
        try:
            if sign(os.fstat(number)) != sign(status):
                raise FileNotFoundError(errno.ENOENT, "not the file that was found")
            return io.FileIO(number)
        except BaseException:
            os.close(number)
            raise

    def open_path(self, path: bytes) -> tuple[io.FileIO, os.stat_result]:
        """Opens a file by its absolute path, if that is within the folder; raises as `open`."""
        try:
            root, names = self._resolve(path)  # raises where a link is none any more
            return _walk(root, names)
        except OSError as error:
            raise _tell(error) from None

    def _resolve(self, path: bytes) -> tuple[bytes, list[bytes]]:
        # Dot-names are allowed here: it is the owner of the folder who made the link.
        root = os.path.realpath(self.path)
        real = os.path.realpath(path)
        prefix = os.path.join(root, b"")  # with its slash: /root is no prefix of /root_x
        if real == root:
            return root, []
        if not real.startswith(prefix):
            raise FileNotFoundError(errno.ENOENT, "outside of the folder")
        return root, real[len(prefix) :].split(b"/")


def _tell(error: OSError) -> OSError:
    if error.errno in _ABSENT:
        return FileNotFoundError(errno.ENOENT, "no file that is served")
    return error


def sign(status: os.stat_result) -> tuple[int, int, int, int]:
    """What differs between two files, and between two states of one."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _walk(root: bytes, names: Sequence[bytes]) -> tuple[io.FileIO, os.stat_result]:
    if not names:
        raise FoundFolder
    at = os.open(root, _FOLDER)
    try:
        for name in names[:-1]:
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # Looked at first: to open a device or a FIFO may already do something.
        _check_regular(os.stat(names[-1], dir_fd=at, follow_symlinks=False).st_mode)
        number = os.open(names[-1], _FILE, dir_fd=at)
    finally:
        os.close(at)
    try:
        status = os.fstat(number)
        _check_regular(status.st_mode)
        return io.FileIO(number), status
    except BaseException:
        os.close(number)
        raise


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise FoundFolder
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "a link")
    if not stat.S_ISREG(mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
