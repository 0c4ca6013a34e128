"""Hello world in Flask and in FastAPI: requests a second, CPU a request.

    python benchmarks/load/frameworks.py

Each framework's own first example, unchanged, on several servers; WSGI servers
have one process with the same number of threads. `iodine_aio-t0` runs the
Flask app on the loop, without threads. The rest is as in hello.py.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from rounds import add_rounds_options, format_turns, measure, name_columns, take_rounds
from servers import (
    APPS,
    KEEP_ALIVE_SECONDS,
    Kind,
    add_servers_option,
    granian_command,
    iodine_flags,
    pin_client,
    running,
    uvicorn_command,
)
from table import format_table

# What iodine_aio gives a WSGI app unless told otherwise.
THREADS = 16


def iodine_command(module: str, *flags: str) -> Callable[[int, str, Path], list[str]]:
    def command(port: int, app: str, folder: Path) -> list[str]:
        target = f"{APPS / module}.py:{app}"
        return [sys.executable, "-m", "iodine_aio", *iodine_flags(port), *flags, target]

    return command


def gunicorn_command(port: int, app: str, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", f"flask_hello:{app}", "--chdir", str(APPS)]
    command += ["--workers", "1", "--worker-class", "gthread", "--threads", str(THREADS)]
    command += ["--bind", f"127.0.0.1:{port}", "--keep-alive", str(KEEP_ALIVE_SECONDS)]
    return [*command, "--no-control-socket", "--log-level", "critical"]


def waitress_command(port: int, app: str, folder: Path) -> list[str]:
    command = ["env", f"PYTHONPATH={APPS}", sys.executable, "-m", "waitress"]
    command += [f"--listen=127.0.0.1:{port}", f"--threads={THREADS}"]
    # 100 connections by default, and a warning for each request that waits.
    command += ["--connection-limit=1000", f"--channel-timeout={KEEP_ALIVE_SECONDS}"]
    return [*command, f"flask_hello:{app}"]


def hypercorn_command(port: int, app: str, folder: Path) -> list[str]:
    command = ["env", f"PYTHONPATH={APPS}", sys.executable, "-m", "hypercorn"]
    command += ["--worker-class", "uvloop", "--bind", f"127.0.0.1:{port}"]
    command += ["--keep-alive", str(KEEP_ALIVE_SECONDS), "--log-level", "CRITICAL"]
    return [*command, f"fastapi_hello:{app}"]


FLASK_SERVERS: dict[str, Kind] = {
    "iodine_aio": Kind(iodine_command("flask_hello", "-t", str(THREADS))),
    "iodine_aio-t0": Kind(iodine_command("flask_hello", "-t", "0")),
    "gunicorn": Kind(gunicorn_command),
    "waitress": Kind(waitress_command),
    "granian-wsgi": Kind(
        granian_command("wsgi", "flask_hello", "--blocking-threads", str(THREADS))
    ),
}
FASTAPI_SERVERS: dict[str, Kind] = {
    "iodine_aio": Kind(iodine_command("fastapi_hello")),
    "uvicorn": Kind(functools.partial(uvicorn_command, module="fastapi_hello")),
    "granian-asgi": Kind(granian_command("asgi", "fastapi_hello")),
    "hypercorn": Kind(hypercorn_command),
}
FRAMEWORKS = {"flask": FLASK_SERVERS, "fastapi": FASTAPI_SERVERS}


def take_turn(name: str, kinds: dict[str, Kind], options: argparse.Namespace) -> tuple[float, ...]:
    """Requests a second and CPU a request."""
    with running(name, "app", kinds) as server:
        return measure(server, options.connections, options.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS), metavar="NAME",
        help=f"which of {', '.join(FRAMEWORKS)} (default: both)",
    )  # fmt: skip
    every = FLASK_SERVERS | FASTAPI_SERVERS
    add_servers_option(parser, every, every)
    add_rounds_options(parser, seconds=3)
    options = parser.parse_args()
    pin_client()
    asked = options.servers
    for framework in options.frameworks:
        kinds = FRAMEWORKS[framework]
        options.servers = [name for name in asked if name in kinds]
        take = functools.partial(take_turn, kinds=kinds, options=options)
        rows = format_turns(take_rounds(options, take), "iodine_aio")
        print(f"{framework}:")
        print(format_table(name_columns("iodine_aio"), rows), end="\n\n")


if __name__ == "__main__":
    main()
