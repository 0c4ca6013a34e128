import socket
import subprocess
import sys

import pytest

from iodine_aio import port_holders
from iodine_aio.port_holders import find_holder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_holder_is_named_by_its_command_line(monkeypatch: pytest.MonkeyPatch):
    """The words of another process are printed without its control characters."""
    monkeypatch.setattr(port_holders, "HOLDER_SECONDS", 30)  # on however busy a machine
    source = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as sock:\n"
        "    print(sock.getsockname()[1], flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", source, "\x1b[31mred"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        holder = find_holder(int(process.stdout.readline()))
        process.communicate("\n")

    assert holder is not None
    assert holder.startswith(f'pid {process.pid} "{sys.executable[:60]}')
    assert holder.isprintable()


def test_search_for_a_holder_ends_in_time(monkeypatch: pytest.MonkeyPatch):
    """Out of time, the error is told without the holder."""
    monkeypatch.setattr(port_holders, "HOLDER_SECONDS", -1)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert find_holder(sock.getsockname()[1]) is None


def test_free_port_has_no_holder():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    assert find_holder(port) is None
