"""An nginx of a test's own, in front of a server of ours.

`Nginx` is the process; what it writes stays in the folder it is given:

    async def test_page_comes_through(tmp_path):
        async with iodine_aio.serve(app, port=0) as server:
            with Nginx(tmp_path, [server], "location / { proxy_pass http://app; }") as nginx:
                ... what connects to 127.0.0.1:{nginx.port} ...

Directives: https://nginx.org/en/docs/http/ngx_http_proxy_module.html
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import iodine_aio
from tests.clients import Answer, exchange

PROGRAM: Final = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

_STATUS: Final = b"GET /nginx-status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_STOP_SECONDS: Final = 10
_TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
# One worker, and a master: with `master_process off` it crashes on an inherited socket.
_CONFIGURATION: Final = """
daemon off;
worker_processes 1;
%(user)s
pid nginx.pid;
error_log error.log warn;
events { worker_connections 256; }
http {
    %(folders)s
    log_format requests escape=json '{"id": "$request_id", "status": "$status",'
        ' "upstream": "$upstream_status", "answered": "$upstream_http_x_answers",'
        ' "protocol": "$server_protocol"}';
    access_log access.log requests;
    upstream app { %(upstream)s keepalive %(keepalive)d; }
    map $http_upgrade $connection_upgrade { default upgrade; "" ""; }
    server {
        listen 127.0.0.1:%(port)d;
        location = /nginx-status { stub_status; access_log off; }
        %(locations)s
    }
}
"""


class Nginx:
    """The process, from `__enter__` to `__exit__`, which asserts that it had no trouble.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(
        self,
        folder: Path,
        servers: Sequence[iodine_aio.Server],
        locations: str,
        keepalive: int = 1,
    ) -> None:
        """
        Args:
            folder: of this process alone.
            servers: ours, which `http://app` is.
            locations: directives of the `server` block.
            keepalive: how many idle connections to them it keeps.
        """
        # Bound here, inherited there: the port is known and takes connections from now on.
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._folder = folder / "nginx"
        self._folder.mkdir()
        addresses = [re.sub("^(http|tcp)://", "", server.url) for server in servers]
        configuration = _CONFIGURATION % {
            # Not nobody, who may not enter the folder.
            "user": "user root;" if os.getuid() == 0 else "",
            "folders": " ".join(f"{name}_temp_path {name};" for name in _TEMPORARY),
            "upstream": " ".join(f"server {address};" for address in addresses),
            "keepalive": keepalive,
            "port": self.port,
            "locations": locations,
        }
        (self._folder / "nginx.conf").write_text(configuration)

    def __enter__(self) -> Self:
        assert PROGRAM is not None
        descriptor = self._socket.fileno()
        with self._socket:
            self._process = subprocess.Popen(
                [PROGRAM, "-p", f"{self._folder}/", "-c", "nginx.conf", "-e", "error.log"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "NGINX": f"{descriptor};"},
                pass_fds=[descriptor],
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
        if error is None:
            assert (code, self.complaints) == (0, [])
        else:
            error.add_note("\n".join(self.complaints))

    @property
    def pid(self) -> int:
        """Of the master, and of its process group."""
        return self._process.pid

    @property
    def complaints(self) -> list[str]:
        """What it took for a mistake of its own or of its configuration."""
        lines = (self._folder / "error.log").read_text().splitlines()
        words = ("[emerg]", "[alert]", "[crit]")
        return [line for line in lines if any(word in line for word in words)]

    @property
    def errors(self) -> list[str]:
        """What it found wrong with clients and servers."""
        lines = (self._folder / "error.log").read_text().splitlines()
        return [line for line in lines if "[error]" in line]

    @property
    def stored(self) -> list[Path]:
        """Files that it keeps bodies in."""
        return [path for name in _TEMPORARY for path in (self._folder / name).glob("**/*")]

    async def requests(self) -> list[dict[str, Any]]:
        """What it logged of each request, once no client is connected any more."""
        while True:
            status = Answer(await exchange(self, _STATUS)).body
            if status.startswith(b"Active connections: 1 "):
                break
        lines = (self._folder / "access.log").read_text().splitlines()
        return [json.loads(line) for line in lines]
