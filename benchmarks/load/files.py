"""Static files over keep-alive connections: requests a second, CPU a request.

    python benchmarks/load/files.py

Two files of random bytes, 4 KB and 1 MB, in a folder that every server serves
from the page cache. Before it is measured each server is asked for both, and
left out unless it sends the same bytes. A turn measures both sizes on the same
process; the rest is as in hello.py.
"""

import argparse
import http.client
import random
import sys
import tempfile
from pathlib import Path

from connections import Unanswered
from rounds import add_rounds_options, format_turns, measure, name_columns, take_rounds
from servers import (
    APPS,
    Kind,
    add_servers_option,
    granian_command,
    iodine_flags,
    nginx_command,
    pin_client,
    running,
    uvicorn_command,
)
from table import format_table

KIB = 1024
FILES = {"static/4k.bin": 4 * KIB, "static/1m.bin": KIB * KIB}

NGINX_FILES = "root {folder}; sendfile on; tcp_nopush on;"
# What it opened stays open, and is looked at again once in a minute.
NGINX_CACHE = "open_file_cache max=1000; open_file_cache_valid 60s;"


def folder_command(port: int, app: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "iodine_aio", *iodine_flags(port), app]


def public_command(port: int, app: str, folder: Path) -> list[str]:
    target = f"{APPS / 'iodine.py'}:hello"
    return [sys.executable, "-m", "iodine_aio", *iodine_flags(port), "-www", app, target]


def nginx_files_command(port: int, app: str, folder: Path) -> list[str]:
    return nginx_command(port, app, folder, NGINX_FILES.format(folder=app))


def nginx_cache_command(port: int, app: str, folder: Path) -> list[str]:
    return nginx_command(port, app, folder, NGINX_FILES.format(folder=app) + NGINX_CACHE)


def granian_files_command(port: int, app: str, folder: Path) -> list[str]:
    command = granian_command("rsgi")(port, "hello", folder)
    # A route of "/" hides the files from it.
    return [*command, "--static-path-route", "/static", "--static-path-mount", f"{app}/static"]


def aiohttp_command(port: int, app: str, folder: Path) -> list[str]:
    return [sys.executable, str(APPS / "files_aiohttp.py"), str(port), app]


def starlette_command(port: int, app: str, folder: Path) -> list[str]:
    command = uvicorn_command(port, "app", folder, "files_starlette")
    return ["env", f"PUBLIC_FOLDER={app}", *command]


FILE_SERVERS: dict[str, Kind] = {
    "nginx": Kind(nginx_files_command),
    "nginx-cache": Kind(nginx_cache_command),
    "iodine_aio": Kind(folder_command),
    "iodine_aio-www": Kind(public_command),
    "granian": Kind(granian_files_command),
    "aiohttp": Kind(aiohttp_command),
    "starlette": Kind(starlette_command),
}


def write_files(folder: Path) -> None:
    """Write the files, readable by a server that drops its rights."""
    folder.chmod(0o755)
    (folder / "static").mkdir(mode=0o755)
    generator = random.Random(0)
    for name, size in FILES.items():
        (folder / name).write_bytes(generator.randbytes(size))


def check_bytes(port: int, folder: Path) -> None:
    """Ask for each file once.

    Raises:
        Unanswered: the answer is not the file.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for name in FILES:
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        if response.status != 200 or response.read() != (folder / name).read_bytes():
            raise Unanswered(f"/{name}: {response.status} {response.reason}, or other bytes")
    connection.close()


def take_turn(name: str, options: argparse.Namespace, folder: Path) -> tuple[float, ...]:
    """Requests a second and CPU a request, for each file."""
    first = next(iter(FILES))
    start = (folder / first).read_bytes()
    with running(name, str(folder), FILE_SERVERS, f"/{first}", start) as server:
        check_bytes(server.port, folder)
        figures: tuple[float, ...] = ()
        for file in FILES:
            figures += measure(server, options.connections, options.seconds, f"/{file}")
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_servers_option(parser, FILE_SERVERS, FILE_SERVERS)
    add_rounds_options(parser, seconds=2)
    options = parser.parse_args()
    pin_client()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder)
        turns = take_rounds(options, lambda name: take_turn(name, options, folder))
    for index, (file, size) in enumerate(FILES.items()):
        columns = slice(2 * index, 2 * index + 2)
        of_file = {name: [turn[columns] for turn in figures] for name, figures in turns.items()}
        print(f"/{file}, {size} bytes:")
        print(format_table(name_columns("nginx"), format_turns(of_file, "nginx")), end="\n\n")


if __name__ == "__main__":
    main()
