import errno
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from iodine_aio import port_holders
from iodine_aio.binds import (
    Bind,
    open_socket,
    parse_bind,
    remove_unix_socket,
    socket_url,
)
from iodine_aio.errors import UsageError


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: the path of a unix socket may have about 100 bytes.
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def accept_one(sock: socket.socket) -> None:
    """Fails unless `sock` listens."""
    with socket.socket(sock.family) as client:
        client.settimeout(10)
        client.connect(sock.getsockname())
        connection, _ = sock.accept()
        connection.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all the time it needs to name a holder, on however busy a machine."""
    monkeypatch.setattr(port_holders, "HOLDER_SECONDS", 30)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


# parse_bind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", Bind("127.0.0.1", 8080)),
        ("127.0.0.1", Bind("127.0.0.1", 3000)),
        ("example.com:0", Bind("example.com", 0)),
        ("localhost", Bind("localhost", 3000)),
        (":65535", Bind("0.0.0.0", 65535)),
        ("[::1]:80", Bind("::1", 80)),
        ("[::1]", Bind("::1", 3000)),
        ("::1", Bind("::1", 3000)),
        ("[fe80::1%eth0]:80", Bind("fe80::1%eth0", 80)),
        ("unix:/run/app.sock", Bind(path="/run/app.sock")),
        ("unix:app.sock?mode=660", Bind(path="app.sock", mode=0o660)),
        ("unix:/a:b?mode=0600", Bind(path="/a:b", mode=0o600)),
        ("fd://3", Bind(fd=3)),
    ],
)
def test_every_form_is_understood(text: str, expected: Bind):
    assert parse_bind(text, 3000) == expected


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "write host:port"),
        ("3000", "write 127.0.0.1:3000"),
        (":", "0 to 65535"),
        ("127.0.0.1:", "0 to 65535"),
        ("127.0.0.1:65536", "0 to 65535"),
        ("127.0.0.1:-1", "0 to 65535"),
        ("127.0.0.1:80x", "0 to 65535"),
        ("127.0.0.1:\u0663", "0 to 65535"),
        ("http://127.0.0.1:80", "0 to 65535"),
        ("/run/app.sock", "unix:/path"),
        ("a b:80", "write host:port"),
        ("[::1", "write [::1]:3000"),
        ("[::1]80", "write [::1]:3000"),
        ("[127.0.0.1]:80", "write [::1]:3000"),
        ("::1:x", "0 to 65535"),
        ("unix:", "write unix:/run/app.sock"),
        ("unix:/a?mode=999", "only mode=660"),
        ("unix:/a?mode=", "only mode=660"),
        ("unix:/a?owner=me", "only mode=660"),
        ("fd://", "write fd://3"),
        ("fd://-1", "write fd://3"),
    ],
)
def test_anything_else_is_refused_with_a_cure(text: str, cure: str):
    with pytest.raises(UsageError) as caught:
        parse_bind(text, 3000)

    assert cure in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bind_of_two_kinds_is_refused():
    with pytest.raises(UsageError, match="one of"):
        Bind("127.0.0.1", 80, path="/run/app.sock")


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:80", "unix:/run/app.sock", "fd://3"])
def test_bind_prints_as_it_was_written(text: str):
    assert str(parse_bind(text, 3000)) == text


# open_socket: TCP


def test_socket_listens_and_does_not_block():
    """Non-blocking, closed on exec, and ready to accept."""
    with open_socket(Bind("127.0.0.1", 0), 10) as sock:
        accept_one(sock)

        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()
        with pytest.raises(BlockingIOError):
            sock.accept()


@pytest.mark.usefixtures("patient")
def test_busy_port_is_an_error_with_the_holder_named():
    """No SO_REUSEPORT: the second server must not steal half of the connections."""
    with open_socket(Bind("127.0.0.1", 0), 10) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(OSError, match="cannot listen") as caught:
            open_socket(Bind("127.0.0.1", port), 10)

    message = caught.value.strerror
    assert caught.value.errno == errno.EADDRINUSE
    assert message.startswith(f"cannot listen on 127.0.0.1:{port}: address already in use")
    assert message.endswith("(use port 0 for a free one)")
    if sys.platform == "linux":
        assert f'(held by pid {os.getpid()} "' in message


def test_port_is_free_again_at_once():
    """SO_REUSEADDR: connections in TIME_WAIT do not hold up a restart."""
    with open_socket(Bind("127.0.0.1", 0), 10) as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            sock.setblocking(True)
            # The side that closes first is the one in TIME_WAIT.
            sock.accept()[0].close()

    with open_socket(Bind("127.0.0.1", port), 10) as sock:
        assert sock.getsockname()[1] == port


def test_numeric_address_does_not_ask_the_resolver(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("resolver asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with open_socket(Bind("127.0.0.1", 0), 10) as sock:
        assert sock.family == socket.AF_INET


def test_name_is_resolved():
    with open_socket(Bind("localhost", 0), 10) as sock:
        assert sock.getsockname()[0] in ("127.0.0.1", "::1")


@needs_ipv6
def test_ipv6_leaves_ipv4_alone():
    """IPV6_V6ONLY: the same port may be served on IPv4 by another socket."""
    with open_socket(Bind("::", 0), 10) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with open_socket(Bind("0.0.0.0", sock.getsockname()[1]), 10):
            pass


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70])
def test_unknown_name_is_a_gaierror_with_a_cure(host: str, monkeypatch: pytest.MonkeyPatch):
    def getaddrinfo(host: str, *_: object, **__: object) -> None:
        host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror) as caught:
        open_socket(Bind(host, 80), 10)

    assert caught.value.errno == socket.EAI_NONAME
    assert caught.value.strerror.startswith(f"cannot listen on {host}:80: no such host is known (")


def test_address_of_another_machine_is_an_error_with_a_cure():
    """192.0.2.0/24 is nobody's (RFC 5737)."""
    with pytest.raises(OSError, match="no such address") as caught:
        open_socket(Bind("192.0.2.1", 0), 10)

    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_privileged_port_is_an_error_with_a_cure(monkeypatch: pytest.MonkeyPatch):
    class Socket(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(PermissionError) as caught:
        open_socket(Bind("127.0.0.1", 80), 10)

    assert caught.value.strerror == (
        "cannot listen on 127.0.0.1:80: permission denied"
        " (ports below 1024 need privileges; use a higher one)"
    )


# open_socket: unix


def test_unix_socket_listens_with_its_mode(folder: Path):
    """The mode holds whatever the umask is."""
    path = folder / "app.sock"
    old = os.umask(0o077)
    try:
        sock = open_socket(Bind(path=str(path), mode=0o662), 10)
    finally:
        os.umask(old)
    with sock:
        accept_one(sock)

        assert stat.S_IMODE(path.stat().st_mode) == 0o662
        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()


def test_mode_is_set_before_anyone_can_connect(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = str(folder / "app.sock")
    answers = []

    def chmod(*_: object) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            answers.append(client.connect_ex(path))

    monkeypatch.setattr(os, "chmod", chmod)
    open_socket(Bind(path=path, mode=0o600), 10).close()

    assert answers == [errno.ECONNREFUSED]


def test_file_of_a_dead_server_is_replaced(folder: Path):
    bind = Bind(path=str(folder / "app.sock"))
    open_socket(bind, 10).close()
    assert Path(folder, "app.sock").is_socket()

    with open_socket(bind, 10) as sock:
        accept_one(sock)


@pytest.mark.parametrize("backlog_full", [False, True])
def test_unix_socket_in_use_is_an_error(folder: Path, backlog_full: bool):
    """A server too busy to accept is there all the same."""
    bind = Bind(path=str(folder / "app.sock"))
    with open_socket(bind, 0) as sock:
        clients = []
        while backlog_full:
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            backlog_full = client.connect_ex(bind.path or "") == 0
        with pytest.raises(OSError, match="a server answers there") as caught:
            open_socket(bind, 10)
        for client in clients:
            client.close()

        assert caught.value.errno == errno.EADDRINUSE
        assert Path(bind.path or "").is_socket()
        assert sock.getsockname() == bind.path


def test_other_file_is_not_replaced(folder: Path):
    path = folder / "app.sock"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="it is no socket"):
        open_socket(Bind(path=str(path)), 10)

    assert path.read_text() == "precious"


def test_link_to_a_socket_is_not_replaced(folder: Path):
    """Who may make links in the folder must not choose what we remove."""
    open_socket(Bind(path=str(folder / "other.sock")), 10).close()
    (folder / "app.sock").symlink_to("other.sock")
    with pytest.raises(FileExistsError):
        open_socket(Bind(path=str(folder / "app.sock")), 10)

    assert (folder / "other.sock").is_socket()


def test_missing_folder_is_an_error_with_a_cure(folder: Path):
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        open_socket(Bind(path=str(folder / "missing" / "app.sock")), 10)


def test_long_path_is_an_error_with_a_cure(folder: Path):
    with pytest.raises(OSError, match="shorter path") as caught:
        open_socket(Bind(path=str(folder / ("x" * 150))), 10)

    assert caught.value.errno == errno.ENAMETOOLONG


def test_failure_after_bind_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def chmod(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(PermissionError, match="cannot listen on unix:"):
        open_socket(Bind(path=str(folder / "app.sock"), mode=0o600), 10)

    assert not os.listdir(folder)


def test_own_file_is_removed_even_after_close(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A change of folder meanwhile does not matter."""
    monkeypatch.chdir(folder)
    sock = open_socket(Bind(path="app.sock"), 10)
    monkeypatch.chdir("/")
    sock.close()
    remove_unix_socket(sock)
    remove_unix_socket(sock)

    assert not os.listdir(folder)


def test_file_of_a_successor_is_not_removed(folder: Path):
    bind = Bind(path=str(folder / "app.sock"))
    with open_socket(bind, 10) as first:
        # The first still holds its inode, so that the number is not given anew.
        os.rename(folder / "app.sock", folder / "old.sock")
        with open_socket(bind, 10) as second:
            remove_unix_socket(first)

            accept_one(second)


def test_removing_leaves_other_sockets_alone():
    with open_socket(Bind("127.0.0.1", 0), 10) as sock:
        remove_unix_socket(sock)

        accept_one(sock)


# open_socket: inherited descriptors


def test_inherited_socket_is_adopted():
    """It comes blocking and inheritable, and is neither afterwards."""
    given = socket.create_server(("127.0.0.1", 0))
    given.set_inheritable(True)
    name = given.getsockname()
    with open_socket(Bind(fd=given.detach()), 10) as sock:
        accept_one(sock)

        assert sock.getsockname() == name
        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_inherited_socket_that_does_not_listen_is_refused(kind: socket.SocketKind):
    """It stays open: it is the caller's."""
    with socket.socket(socket.AF_INET, kind) as given:
        given.bind(("127.0.0.1", 0))
        fd = given.fileno()
        with pytest.raises(OSError, match=f"cannot listen on fd://{fd}: .* listening stream") as e:
            open_socket(Bind(fd=fd), 10)

        assert e.value.errno == errno.EINVAL
        assert given.getsockname()


def test_descriptor_that_is_no_socket_is_refused(folder: Path):
    with open(folder / "file", "wb") as file:
        with pytest.raises(OSError, match="listening stream socket") as caught:
            open_socket(Bind(fd=file.fileno()), 10)

        assert caught.value.errno == errno.ENOTSOCK
        os.fstat(file.fileno())


def test_closed_descriptor_is_refused():
    with open(os.devnull) as file:
        fd = file.fileno()
    with pytest.raises(OSError, match="no such descriptor") as caught:
        open_socket(Bind(fd=fd), 10)

    assert caught.value.errno == errno.EBADF


# socket_url


def test_url_of_a_tcp_socket():
    with open_socket(Bind("127.0.0.1", 0), 10) as sock:
        port = sock.getsockname()[1]

        assert socket_url(sock) == f"http://127.0.0.1:{port}"
        assert socket_url(sock, "ws") == f"ws://127.0.0.1:{port}"


def test_url_of_every_interface_says_so():
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))

        assert socket_url(sock) == f"http://0.0.0.0:{sock.getsockname()[1]}"


@needs_ipv6
def test_url_of_an_ipv6_socket_has_brackets():
    with open_socket(Bind("::1", 0), 10) as sock:
        assert socket_url(sock) == f"http://[::1]:{sock.getsockname()[1]}"


def test_url_of_a_unix_socket_is_its_path(folder: Path):
    path = str(folder / "app.sock")
    with closing(open_socket(Bind(path=path), 10)) as sock:
        assert socket_url(sock) == f"unix:{path}"
