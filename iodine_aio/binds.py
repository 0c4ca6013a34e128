"""Where to listen: what the user wrote becomes a listening socket, before anything else.

No loop is needed, so that a busy port is an error in the caller, at once.
"""

import errno
import ipaddress
import os
import re
import socket
import stat
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from iodine_aio.errors import UsageError
from iodine_aio.port_holders import find_holder

_PORT: Final = re.compile(r"[0-9]{1,5}")
_MODE: Final = re.compile(r"0?[0-7]{3}")
_CURES: Final = {
    errno.EADDRINUSE: "use port 0 for a free one",
    errno.EADDRNOTAVAIL: "this machine has no such address; 127.0.0.1 is always there",
    errno.EAFNOSUPPORT: "this machine speaks no such protocol; try 127.0.0.1",
    errno.EACCES: "ports below 1024 need privileges; use a higher one",
}
_UNIX_CURES: Final = {
    errno.EADDRINUSE: "a server answers there; stop it, or choose another path",
    errno.EEXIST: "it is no socket; move it away, or choose another path",
    errno.ENOENT: "its folder does not exist; make it",
    errno.EACCES: "its folder must be writable, and a socket there accessible",
    errno.ENAMETOOLONG: "about 100 bytes are the most; choose a shorter path",
}
_FD_CURES: Final = {
    errno.EBADF: "no such descriptor; was it passed on to this process?",
    errno.ENOTSOCK: "pass on a listening stream socket",
    errno.EINVAL: "pass on a listening stream socket",
}
# path, device and inode of the file of each unix socket that was bound here
_files: Final[weakref.WeakKeyDictionary[socket.socket, tuple[str, int, int]]] = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True, slots=True)
class Bind:
    """One place to listen: `host` and `port`, or `path` and `mode`, or `fd`.

    Attributes:
        host: address or name; None for the other two kinds.
        port: 0 for a free one.
        path: of a unix socket.
        mode: permissions of the unix socket's file; None leaves them to the umask.
        fd: number of an inherited descriptor.
    """

    host: str | None = None
    port: int = 0
    path: str | None = None
    mode: int | None = None
    fd: int | None = None

    def __post_init__(self) -> None:
        if [self.host, self.path, self.fd].count(None) != 2:
            raise UsageError("a bind has one of host, path and fd")

    def __str__(self) -> str:
        if self.fd is not None:
            return f"fd://{self.fd}"
        if self.path is not None:
            return f"unix:{self.path}"
        return (
            f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"
        )


def parse_bind(text: str, default_port: int) -> Bind:
    """The place that `text` names.

    Args:
        text: `host:port`, `host`, `:port` (every IPv4 interface), `[::1]:3000`,
            `unix:/path`, `unix:/path?mode=660` (octal), or `fd://3`.
        default_port: for a host without a port.

    Raises:
        UsageError: it is none of these.
    """
    if text.startswith("unix:"):
        return _parse_unix_bind(text)
    if text.startswith("fd://"):
        if not _PORT.fullmatch(text[5:]):
            raise UsageError(f"bind {text!r} has no descriptor; write fd://3")
        return Bind(fd=int(text[5:]))
    if _PORT.fullmatch(text):
        raise UsageError(f"bind {text!r} is a number; for a port write 127.0.0.1:{text}")
    if _ip_version(text) == 6:
        return Bind(text, default_port)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or _ip_version(host) != 6 or rest[:1] not in ("", ":"):
            raise UsageError(f"bind {text!r} is no IPv6 address; write [::1]:3000")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = text.partition(":")
        if re.search(r"[^\w.-]", host) or not (host or colon):
            raise UsageError(f"bind {text!r} is no host; write host:port, unix:/path or fd://3")
    if not colon:
        return Bind(host, default_port)
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise UsageError(f"bind {text!r} has port {port!r}, must be 0 to 65535")
    return Bind(host or "0.0.0.0", int(port))


def _parse_unix_bind(text: str) -> Bind:
    path, _, query = text.removeprefix("unix:").partition("?")
    if not path:
        raise UsageError(f"bind {text!r} has no path; write unix:/run/app.sock")
    mode = None
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "mode" or not _MODE.fullmatch(value):
            raise UsageError(
                f"bind {text!r} has {name}={value}, only mode=660 and the like is known"
            )
        mode = int(value, 8)
    return Bind(path=path, mode=mode)


Opener = Callable[[Bind, int], list[socket.socket]]
_opener: Opener | None = None


def delegate_opening(opener: Opener) -> None:
    """Lets `opener` open all sockets of this process from now on: in a worker, its parent does.

    What was open before is the parent's, too: no file of a unix socket is removed here.
    """
    global _opener
    _opener = opener
    _files.clear()


def open_sockets(bind: Bind, backlog: int) -> list[socket.socket]:
    """The sockets to accept from for `bind`, one unless opening was delegated.

    Raises:
        OSError: see `open_socket`.
    """
    return [open_socket(bind, backlog)] if _opener is None else _opener(bind, backlog)


def open_socket(bind: Bind, backlog: int, share_port: bool = False) -> socket.socket:
    """A socket that listens there: non-blocking, and closed on exec.

    Args:
        bind: where.
        backlog: how many connections may wait to be accepted; an inherited
            descriptor keeps its own.
        share_port: further sockets with SO_REUSEPORT may join this one, of this user's only;
            an address that is in use is an error all the same.

    Raises:
        OSError: it cannot listen; `errno` is the kernel's, and `strerror` is one
            line with cause and cure. `socket.gaierror` is one: the name is unknown.
    """
    try:
        if bind.fd is not None:
            return _adopt_socket(bind.fd)
        if bind.path is not None:
            return _open_unix_socket(bind.path, bind.mode, backlog)
        return _open_tcp_socket(bind.host or "", bind.port, backlog, share_port)
    except (socket.gaierror, UnicodeError) as error:
        code = getattr(error, "errno", socket.EAI_NONAME)
        message = f"cannot listen on {bind}: no such host is known (use an address: 127.0.0.1)"
        raise socket.gaierror(code, message) from error
    except OSError as error:
        raise _explain(error, bind) from error


def _explain(error: OSError, bind: Bind) -> OSError:
    code = error.errno or errno.EINVAL
    cures = _CURES if bind.host is not None else _UNIX_CURES if bind.path else _FD_CURES
    reason = os.strerror(code)
    message = f"cannot listen on {bind}: {reason[:1].lower()}{reason[1:]}"
    if bind.host is not None and code == errno.EADDRINUSE and (holder := find_holder(bind.port)):
        message += f" (held by {holder})"
    if code in cures and not (code == errno.EACCES and bind.port >= 1024):
        message += f" ({cures[code]})"
    return OSError(code, message)


def _open_tcp_socket(host: str, port: int, backlog: int, share_port: bool) -> socket.socket:
    address: Any
    match _ip_version(host):
        case 4:
            family, address = socket.AF_INET, (host, port)
        case 6 if "%" not in host:
            family, address = socket.AF_INET6, (host, port)
        case _:
            # Only the first: with port 0 two families would get two ports.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # Not SO_REUSEPORT: a second server would bind without an error.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        if share_port:
            # Only now: bound with it, a second server would take half of the connections.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix_socket(path: str, mode: int | None, backlog: int) -> socket.socket:
    path = os.path.abspath(path)
    _remove_stale_file(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno:
                raise
            # "AF_UNIX path too long" is Python's own, and has no errno.
            raise OSError(errno.ENAMETOOLONG, path) from error
        status = os.lstat(path)
        _files[sock] = path, status.st_dev, status.st_ino
        if mode is not None:
            # Before listen(): until then nobody gets in, whatever the umask was.
            os.chmod(path, mode)
        sock.listen(backlog)
    except BaseException:
        remove_unix_socket(sock)
        sock.close()
        raise
    return sock


def _remove_stale_file(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            # Nobody listens: the file outlived its server.
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except PermissionError:
            raise
        except OSError as error:
            # A full backlog, or a socket of another type: someone is there.
            raise OSError(errno.EADDRINUSE, path) from error
    raise OSError(errno.EADDRINUSE, path)


def _adopt_socket(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EINVAL, "not a stream socket")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.EINVAL, "not listening")
        sock.setblocking(False)
        sock.set_inheritable(False)
    except BaseException:
        # It is the caller's as long as we do not want it.
        sock.detach()
        raise
    return sock


def _ip_version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def remove_unix_socket(sock: socket.socket) -> None:
    """Remove the file of a unix socket, if `open_socket` made it and it is still that file.

    The socket may be closed already. Other sockets are left alone.
    """
    made = _files.pop(sock, None)
    if made is None:
        return
    path, device, inode = made
    with suppress(OSError):
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == (device, inode):
            os.unlink(path)


def socket_url(sock: socket.socket, scheme: str = "http") -> str:
    """Where a socket listens: `http://127.0.0.1:3000`, `http://[::1]:3000` or `unix:/path`."""
    address = sock.getsockname()
    if sock.family == socket.AF_INET:
        return f"{scheme}://{address[0]}:{address[1]}"
    if sock.family == socket.AF_INET6:
        return f"{scheme}://[{address[0]}]:{address[1]}"
    return f"unix:{os.fsdecode(address)}"
