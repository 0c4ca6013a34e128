"""The command line: flags become Settings (Iodine's names, and Python's long ones)."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from iodine_aio.binds import Bind, parse_bind
from iodine_aio.collector import settled_collector
from iodine_aio.descriptors import raise_descriptor_limit
from iodine_aio.errors import (
    EXIT_APP,
    EXIT_BIND,
    EXIT_USAGE,
    LoadError,
    StartupError,
    UsageError,
)
from iodine_aio.last_signals import end_by
from iodine_aio.loading import is_site, load_app
from iodine_aio.logs import error_log, log_to_stderr, wake_logs
from iodine_aio.server import Server
from iodine_aio.serving import importing, join_prepared
from iodine_aio.settings import KIB, MIB, Settings
from iodine_aio.supervision import systemd
from iodine_aio.supervisor import run_process, run_workers

_DEFAULTS: Final = Settings()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"iodine_aio: {message} (-? shows all flags)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of `python -m iodine_aio`."""
    parser = _Parser(
        prog="python -m iodine_aio",
        description="Serves TARGET: module:app, file.py, file.py:app, or a folder of files.",
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("target", metavar="TARGET", help="module:app, file.py, file.py:app, or a folder of files")
    add("-?", "-h", "--help", action="help", help="show this text")
    add("-p", "--port", type=int, metavar="N", help="0: a free one (default: $PORT or 3000)")
    add(
        "-b",
        "--bind",
        action="append",
        metavar="ADDRESS",
        help="host, host:port, unix:/path?mode=660 or fd://3; may be repeated"
        " (default: 127.0.0.1, with $PORT 0.0.0.0)",
    )
    add("-t", "--threads", type=int, metavar="N",
        help="apps and handlers that run at once in the pool, 0: on the loop, -N: as many as"
        " cores / N (default: 16 for WSGI, else 0)")  # fmt: skip
    add("-w", "--workers", type=int, metavar="N",
        help="processes that serve, -N: as many as cores / N"
        " (default: $WEB_CONCURRENCY or 1)")  # fmt: skip
    add("-warmup", "--preload", action="store_true",
        help="import TARGET once, before the workers are forked")  # fmt: skip
    add("--max-requests", type=int, metavar="N",
        help="a worker that has served so many, and up to a tenth more, is replaced"
        " (default: none is)")  # fmt: skip
    add("--max-rss", type=int, metavar="MIB",
        help="a worker that takes more memory is replaced, MiB (default: none is)")  # fmt: skip
    add("--worker-timeout", type=float, metavar="SECONDS",
        help=_default("a worker whose loop stands still is replaced, seconds, 0: never",
                      "worker_timeout"))  # fmt: skip
    add("--stop-timeout", type=float, metavar="SECONDS",
        help=_default("a stop cuts what is not finished, seconds", "stop_timeout"))  # fmt: skip
    add("--drain-timeout", type=float, metavar="SECONDS",
        help=_default("a rolling restart leaves idle connections open, seconds",
                      "drain_timeout"))  # fmt: skip
    add("-pid", "--pid-file", metavar="FILE",
        help="has the process id in it as long as the server runs")  # fmt: skip
    add("--redis", metavar="URL",
        help="channels reach every server that has the same: redis://host:port,"
        " rediss://host:port or unix:///path (default: $IODINE_REDIS_URL)")  # fmt: skip
    add("-v", "--access-log", action="store_true", help="one log line a request (default: none)")
    add("-q", "--quiet", action="store_true", help="no banner (default: one line)")
    add("-maxbd", "--max-body", type=int, metavar="MIB",
        help=f"request body, MiB (default: {_DEFAULTS.max_body_bytes // MIB})")  # fmt: skip
    add("-maxms", "--max-message", type=int, metavar="KB",
        help=f"WebSocket message, KB (default: {_DEFAULTS.max_message_bytes // KIB})")  # fmt: skip
    add("-maxhd", "--max-head", type=int, metavar="KB",
        help=f"head, KB (default: {_DEFAULTS.max_head_bytes // KIB})")  # fmt: skip
    add("-ping", "--ping", type=float, metavar="SECONDS",
        help=_default("silence before a ping, seconds, 0: never", "ping_interval"))  # fmt: skip
    add("-tout", "--timeout", type=float, metavar="SECONDS",
        help=_default("an idle HTTP connection is closed, seconds, 0: never",
                      "keep_alive_timeout"))  # fmt: skip
    add("-www", "--public", metavar="DIR", help="its files answer before the app (default: none)")
    add("--static", action="append", metavar="/PATH=DIR",
        help="a further folder, under a path; may be repeated")  # fmt: skip
    add("--spa", metavar="FILE", help="of the public folder: answers where HTML is not found")
    add("--sendfile", action="append", metavar="DIR",
        help="an app may name its files in X-Sendfile, too; may be repeated")  # fmt: skip
    add("--cache-control", action="append", metavar="GLOB=VALUE",
        help="Cache-Control of files whose path matches, `immutable`: for ever;"
        " may be repeated")  # fmt: skip
    add("--log-static", action="store_true", help="files are in the log of requests, too")
    add("--interface", choices=("auto", "iodine", "wsgi", "asgi"), metavar="KIND",
        help="how the app is called: iodine, wsgi or asgi"
        " (default: auto, as it looks)")  # fmt: skip
    add("--factory", action="store_true", help="TARGET is a function that makes the app")
    add("--debug", action="store_true", help="show the traceback of an app that does not import")
    return parser


def _default(text: str, option: str) -> str:
    return f"{text} (default: {getattr(_DEFAULTS, option):g})"


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Settings of the flags that were given.

    Raises:
        UsageError: a value is out of its range, or asks for what is not there yet.
    """
    options: dict[str, Any] = {
        "access_log": arguments.access_log,
        "interface": arguments.interface or _DEFAULTS.interface,
        "log_static": arguments.log_static,
        "pid_file": arguments.pid_file,
        "redis_url": arguments.redis or os.environ.get("IODINE_REDIS_URL") or None,
        "public": arguments.public,
        "static": _read_pairs("--static", arguments.static),
        "spa": arguments.spa,
        "sendfile": tuple(arguments.sendfile or ()),
        "cache_control": _read_pairs("--cache-control", arguments.cache_control),
    }
    if is_site(arguments.target):
        if arguments.public is not None:
            raise UsageError(f"-www beside the folder {arguments.target!r}: name one of them")
        options["public"] = arguments.target
        options["log_static"] = True  # there is nothing else to be logged
    for name, value, unit in (
        ("threads", arguments.threads, 1),
        ("workers", _read_workers(arguments.workers), 1),
        ("max_body_bytes", arguments.max_body, MIB),
        ("max_message_bytes", arguments.max_message, KIB),
        ("max_head_bytes", arguments.max_head, KIB),
        ("ping_interval", arguments.ping, 1),
        ("keep_alive_timeout", arguments.timeout, 1),
        ("max_requests", arguments.max_requests, 1),
        ("max_rss_bytes", arguments.max_rss, MIB),
        ("worker_timeout", arguments.worker_timeout, 1),
        ("stop_timeout", arguments.stop_timeout, 1),
        ("drain_timeout", arguments.drain_timeout, 1),
    ):
        if value is not None:
            options[name] = value * unit
    return Settings(**options)


def _read_workers(given: int | None) -> int | None:
    text = os.environ.get("WEB_CONCURRENCY", "")
    if given is not None or not text:
        return given
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"$WEB_CONCURRENCY is {text!r}, must be a number") from None


def _read_pairs(flag: str, texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in texts or ():
        first, equals, second = text.partition("=")
        if not equals or not first or not second:
            raise UsageError(f"{flag} {text!r}: an equals sign is missing, or what is around it")
        pairs.append((first, second))
    return tuple(pairs)


def read_binds(arguments: argparse.Namespace) -> list[Bind]:
    """Where to listen.

    Raises:
        UsageError: malformed, or a port given twice.
    """
    platform_port = os.environ.get("PORT", "")
    port = arguments.port
    if port is None:
        if platform_port and not (platform_port.isascii() and platform_port.isdigit()):
            raise UsageError(f"$PORT is {platform_port!r}, must be a number")
        port = int(platform_port or 3000)
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port}, must be 0 to 65535")
    if not arguments.bind and arguments.port is None and (fds := systemd.take_descriptors()):
        return [Bind(fd=fd) for fd in fds]
    if not arguments.bind:
        host = "0.0.0.0" if platform_port and arguments.port is None else "127.0.0.1"
        return [Bind(host=host, port=port)]
    binds = []
    for text in arguments.bind:
        bind = parse_bind(text, -1)
        if bind.host is not None and bind.port == -1:
            bind = Bind(host=bind.host, port=port)
        elif arguments.port is not None:
            raise UsageError(f"-b {text} beside -p: give the port once")
        binds.append(bind)
    return binds


def command() -> NoReturn:
    """Is the program: `main`, in a process that ends with it."""
    end_by(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves what the command line says; returns the exit code.

    0 after a clean stop, 2 wrong usage, 3 the app cannot be imported, 4 an address cannot
    be listened on, 5 the start failed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if "-?" in words:
        parser.print_help()
        return 0
    arguments = parser.parse_args(words)
    try:
        server = Server(None, read_binds(arguments), read_settings(arguments))
    except UsageError as error:
        return _say(error, EXIT_USAGE)
    log_to_stderr(arguments.access_log)
    raise_descriptor_limit()
    try:
        if server.settings.worker_count > 1:
            _serve_on_workers(server, arguments)
        else:
            _serve_alone(server, arguments)
    except OSError as error:
        return _say(error.strerror or error, EXIT_BIND)
    except (LoadError, UsageError) as error:
        return _say(error, EXIT_APP)
    except StartupError as error:
        return _say(error, error.exit_code)
    return 0


def _serve_alone(server: Server, arguments: argparse.Namespace) -> None:
    for flag, value in (("max-requests", arguments.max_requests), ("max-rss", arguments.max_rss)):
        if value:
            error_log.warning("--%s replaces workers, and there are none: add -w N", flag)
    try:
        # Before the app is imported: what is wrong with the address shows at once.
        server.open()
        _load(server, arguments)
    except BaseException:
        server.close_sockets()
        raise
    run_process(server, banner=not arguments.quiet)


def _serve_on_workers(server: Server, arguments: argparse.Namespace) -> None:
    run_workers(
        server,
        lambda: _load(server, arguments),
        preload=arguments.preload,
        banner=not arguments.quiet,
    )


def _load(server: Server, arguments: argparse.Namespace) -> None:
    try:
        site = is_site(arguments.target)
        with settled_collector(), importing(arguments.target):
            server.set_app(None if site else load_app(arguments.target, arguments.factory))
    except LoadError as error:
        if arguments.debug and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise
    # Failures would leave no trace, and whoever wants that sets a level.
    wake_logs()
    join_prepared(server)


def _say(error: object, code: int) -> int:
    print(f"iodine_aio: {error}", file=sys.stderr)
    return code
