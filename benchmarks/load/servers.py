"""The servers under test: how each is started, measured and stopped.

Every server answers the same 13 bytes from one process (nginx and granian
have a master beside it) that is pinned to one core; the client gets another.
It is ended by its pid. Linux only: the figures come from /proc.

    python servers.py           starts each one, asks it once, stops it
"""

import argparse
import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

APPS = Path(__file__).resolve().parent / "apps"
REPOSITORY = APPS.parents[2]
BODY = b"Hello, World!"
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
START_TIMEOUT_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 15.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Connections that idle for minutes must not be closed under the measurement,
# so every server that has a keep-alive timeout gets this one.
KEEP_ALIVE_SECONDS = 240

NGINX_CONFIG = """
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {descriptors}; }}
http {{
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000000;
    keepalive_timeout {keep_alive}s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ {location} }}
    }}
}}
"""
NGINX_HELLO = 'return 200 "Hello, World!";'


class ServerFailed(Exception):
    """The server could not be started, or did not answer."""


def bare_command(port: int, app: str, folder: Path) -> list[str]:
    return [sys.executable, str(APPS / "bare.py"), str(port), app]


def iodine_flags(port: int) -> list[str]:
    timeout = str(KEEP_ALIVE_SECONDS)
    return ["-q", "-p", str(port), "-tout", timeout, "-ping", timeout]


def iodine_command(port: int, app: str, folder: Path) -> list[str]:
    target = f"{APPS / 'iodine.py'}:{app}"
    return [sys.executable, "-m", "iodine_aio", *iodine_flags(port), target]


def nginx_command(port: int, app: str, folder: Path, location: str = NGINX_HELLO) -> list[str]:
    config = folder / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(
            folder=folder,
            port=port,
            descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            keep_alive=KEEP_ALIVE_SECONDS,
            location=location,
        )
    )
    return ["nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]


def uvicorn_command(port: int, app: str, folder: Path, module: str = "asgi") -> list[str]:
    command = [sys.executable, "-m", "uvicorn", f"{module}:{app}", "--app-dir", str(APPS)]
    command += ["--port", str(port), "--http", "httptools", "--loop", "uvloop"]
    command += ["--lifespan", "off", "--log-level", "critical", "--no-access-log"]
    command += ["--backlog", "4096", "--timeout-keep-alive", str(KEEP_ALIVE_SECONDS)]
    # Its pings would wake connections that are to be idle.
    return [*command, "--ws-ping-interval", str(KEEP_ALIVE_SECONDS)]


def granian_command(
    interface: str, module: str = "", *more: str
) -> Callable[[int, str, Path], list[str]]:
    def command(port: int, app: str, folder: Path) -> list[str]:
        target = ["--interface", interface, f"{module or interface}:{app}"]
        target += ["--working-dir", str(APPS), *more]
        process = ["--workers", "1", "--runtime-threads", "1", "--runtime-mode", "st"]
        # Without --backpressure it answers no more than a backlog of connections.
        limits = ["--backlog", "4096", "--backpressure", "20000"]
        limits += ["--http1-header-read-timeout", "60000"]
        choice = ["--http", "1", "--loop", "uvloop", "--no-log"]
        choice += ["--ws"] if app == "echo" else ["--no-ws"]
        flags = [*process, *limits, *choice, "--port", str(port)]
        return [sys.executable, "-m", "granian", *target, *flags]

    return command


@dataclass(frozen=True)
class Kind:
    """One row of the table of servers.

    Attributes:
        command: argv for a port, an app (`hello` or `echo`; `files.py` and
            `frameworks.py` have words of their own) and a scratch folder.
        websocket: whether the app `echo` exists for it.
    """

    command: Callable[[int, str, Path], list[str]]
    websocket: bool = True


SERVERS: dict[str, Kind] = {
    "bare": Kind(bare_command),
    "iodine_aio": Kind(iodine_command),
    "nginx": Kind(nginx_command, websocket=False),
    "uvicorn": Kind(uvicorn_command),
    "granian-asgi": Kind(granian_command("asgi")),
    "granian-rsgi": Kind(granian_command("rsgi")),
}


def split_cores() -> tuple[int, int]:
    """The server's core and the client's: the first two that we may use."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[min(1, len(cores) - 1)]


SERVER_CORE, CLIENT_CORE = split_cores()


def raise_descriptor_limit() -> int:
    """Lift the soft limit on descriptors to the hard one, and return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def pin_client() -> None:
    """Keep this process, and those it starts, off the server's core."""
    os.sched_setaffinity(0, {CLIENT_CORE})


def prepare_child() -> None:
    os.sched_setaffinity(0, {SERVER_CORE})
    raise_descriptor_limit()


def pick_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third, the state, on."""
    # The second is the program's name, in parentheses and with any character.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def list_tree(root: int) -> list[int]:
    """Pids of a process and of all that descends from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(read_stat(int(entry.name))[1]), []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


class Server:
    """A running server, and what it has used so far."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.name = name
        self.process = process
        self.port = port

    def list_pids(self) -> list[int]:
        """The process that we started and its descendants."""
        return list_tree(self.process.pid)

    def cpu_seconds(self) -> float:
        """User and system time of all threads of all its processes."""
        fields = [read_stat(pid) for pid in self.list_pids()]
        return sum(int(f[11]) + int(f[12]) for f in fields) / TICKS_PER_SECOND

    def user_seconds(self) -> float:
        """User time alone: what the kernel did for them is not in it."""
        return sum(int(read_stat(pid)[11]) for pid in self.list_pids()) / TICKS_PER_SECOND

    def count_sockets(self, pid: int) -> int:
        """Descriptors of one of its processes that are sockets."""
        links = Path(f"/proc/{pid}/fd").iterdir()
        return sum(os.readlink(link).startswith("socket:") for link in links)

    def resident_bytes(self) -> int:
        """Resident memory of all its processes; the sockets' kernel side is not in it."""
        return sum(read_resident_bytes(pid) for pid in self.list_pids())


def read_resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return 0


def wait_until_answering(
    process: subprocess.Popen[bytes], port: int, path: str, body: bytes
) -> None:
    request = REQUEST.replace(b" / ", f" {path} ".encode())
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"ended with exit code {process.returncode}")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection,
        ):
            connection.sendall(request)
            answer = b""
            while body not in answer and (data := connection.recv(65536)):
                answer += data
            if body in answer:
                return
            raise ServerFailed(f"unexpected answer {answer[:200]!r}")
        time.sleep(0.05)
    raise ServerFailed(f"no answer in {START_TIMEOUT_SECONDS:g} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    tree = list_tree(process.pid)
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        # Not the pids of before the wait alone: a master may have replaced a worker.
        for pid in {*tree, *list_tree(process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()


@contextlib.contextmanager
def running(
    name: str,
    app: str = "hello",
    kinds: Mapping[str, Kind] = SERVERS,
    path: str = "/",
    body: bytes = BODY,
) -> Iterator[Server]:
    """Start a server of the table on its core; stop it at the end.

    It has started once its answer to a GET of `path` has `body` in it.

    Raises:
        ServerFailed: it is not installed, ended, or does not answer.
    """
    kind = kinds[name]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        # A master that drops root leaves its worker another user's folder.
        Path(folder).chmod(0o755)
        port = pick_port()
        try:
            process = subprocess.Popen(
                kind.command(port, app, Path(folder)),
                # `python -m` finds this checkout's package before an installed one.
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=prepare_child,
            )
        except FileNotFoundError as error:
            raise ServerFailed(f"not installed: {error.filename}") from None
        try:
            try:
                wait_until_answering(process, port, path, body)
            except ServerFailed as error:
                log.seek(0)
                last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise ServerFailed(f"{error}: {last}") from None
            yield Server(name, process, port)
        finally:
            stop(process)


def add_servers_option(
    parser: argparse.ArgumentParser,
    default: Iterable[str],
    kinds: Mapping[str, Kind] = SERVERS,
) -> None:
    """The option that every benchmark has."""
    parser.add_argument(
        "--servers",
        nargs="+",
        choices=kinds,
        default=list(default),
        metavar="NAME",
        help=f"which of {', '.join(kinds)} (default: {' '.join(default)})",
    )


def add_settle_option(parser: argparse.ArgumentParser, default: float) -> None:
    """The option of those that read how much memory a server has."""
    parser.add_argument(
        "--settle",
        type=float,
        default=default,
        metavar="SECONDS",
        help=f"wait before each reading, for what a server releases later (default: {default:g})",
    )


def report_failure(name: str, error: Exception) -> None:
    """One line on stderr for a server whose row will be missing."""
    print(f"{name}: left out: {error}", file=sys.stderr, flush=True)


def main() -> None:
    pin_client()
    for name, kind in SERVERS.items():
        for app in ("hello", "echo") if kind.websocket else ("hello",):
            try:
                with running(name, app) as server:
                    size = server.resident_bytes() / 2**20
                    print(f"{name:14}{app:7}port {server.port:<7}{size:6.1f} MiB resident")
            except ServerFailed as error:
                report_failure(f"{name} {app}", error)


if __name__ == "__main__":
    main()
