"""Every option once, with its unit, its default and what happens beyond it.

The command line and the table of the README are derived from the fields here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from iodine_aio.errors import UsageError
from iodine_aio.pubsub.urls import check_url

KIB: Final = 1024
MIB: Final = 1024 * 1024

DEFAULT_THREADS: Final = 16


def _option(default: Any, unit: str, consequence: str) -> Any:
    return field(default=default, metadata={"unit": unit, "consequence": consequence})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server behaves. A timeout of 0 is turned off.

    Raises:
        UsageError: a value is out of its range, or two contradict each other.
    """

    max_head_bytes: int = _option(
        8 * KIB,
        "bytes",
        "a longer request head answers 431 (its target alone: 414), a response's 500",
    )
    max_body_bytes: int = _option(50 * MIB, "bytes", "a longer request body answers 413")
    spool_body_bytes: int = _option(
        512 * KIB, "bytes", "a longer request body is kept in a temporary file"
    )
    max_message_bytes: int = _option(
        256 * KIB, "bytes", "a longer WebSocket message closes with 1009"
    )
    max_message_fragments: int = _option(
        65536, "frames", "a WebSocket message in more fragments closes with 1009"
    )
    soft_limit_bytes: int = _option(
        1 * MIB, "bytes", "with more than this pending, `write` returns False (the data is queued)"
    )
    hard_limit_bytes: int = _option(
        16 * MIB, "bytes", "with more than this pending, `write` does what `hard_limit_policy` says"
    )
    hard_limit_policy: Literal["close", "drop"] = _option(
        "close",
        "`close` or `drop`",
        "past the hard limit: close the connection (WebSocket: 1008), or drop what was written",
    )
    max_channels: int = _option(
        100_000,
        "channels",
        "with subscribers to so many, one to another raises `UsageError`; patterns count, too",
    )
    max_channel_length: int = _option(
        255, "characters", "a longer name of a channel raises `UsageError`"
    )
    max_subscriptions: int = _option(
        1024, "channels", "a connection that listens to so many gets `UsageError` for another"
    )
    max_waiting_messages: int = _option(
        1024,
        "messages",
        "with so many of a subscription not taken by its callback or loop, the next is dropped",
    )
    keep_alive_timeout: float = _option(
        40.0, "seconds", "an HTTP connection idle for longer is closed"
    )
    head_timeout: float = _option(
        10.0, "seconds", "a request head not complete so long after its first byte answers 408"
    )
    body_timeout: float = _option(
        10.0, "seconds", "a request body that stands still for so long answers 408"
    )
    send_timeout: float = _option(
        40.0, "seconds", "a client that takes nothing of its response for so long is dropped"
    )
    half_close_timeout: float = _option(
        10.0, "seconds", "an app is cancelled so long after its client stopped sending"
    )
    ping_interval: float = _option(
        40.0,
        "seconds",
        "a silent WebSocket is pinged, and dropped after two pings without answer; a client of"
        " an event stream that was sent nothing gets a comment",
    )
    close_timeout: float = _option(
        10.0, "seconds", "a closed connection whose peer does not take the rest is cut"
    )
    stop_timeout: float = _option(10.0, "seconds", "a stop cuts what is not finished by then")
    allowed_origins: tuple[str, ...] = _option(
        (), "origins", "if any, a WebSocket handshake with another Origin answers 403"
    )
    threads: int | None = _option(
        None,
        "threads",
        "how many plain apps and handlers run at once in the pool; 0: they run on the loop;"
        " unless said, 0 for apps of `env` and 16 for WSGI; -N: as many as cores / N",
    )
    max_waiting: int = _option(
        1024, "requests", "with as many waiting for a thread, the next answers 503"
    )
    interface: Literal["auto", "iodine", "wsgi", "asgi"] = _option(
        "auto", "`auto`, `iodine`, `wsgi` or `asgi`", "how the app is called"
    )
    public: str | None = _option(
        None, "folder", "its files answer GET and HEAD before the app; a PathLike too"
    )
    static: tuple[tuple[str, str], ...] = _option(
        (), "`(path, folder)`", "further folders, each under a path; a dict too"
    )
    sendfile: tuple[str, ...] = _option(
        (), "folders", "an app may name files of these, too, in the field X-Sendfile"
    )
    spa: str | None = _option(
        None,
        "file of `public`",
        "it answers who would rather have HTML, where there is no file and the app says 404",
    )
    file_cache_bytes: int = _option(
        32 * MIB, "bytes", "as much of small files is kept in memory; 0: nothing is"
    )
    cache_control: tuple[tuple[str, str], ...] = _option(
        (),
        "`(glob, value)`",
        "Cache-Control of files whose path matches, the first that does; `immutable` stands"
        " for a year and never asked again; a dict too",
    )
    log_static: bool = _option(False, "yes or no", "files are in the log of requests, too")
    workers: int = _option(
        1,
        "processes",
        "1: this one serves; more: it forks so many that do, and replaces those that die;"
        " -N: as many as cores / N",
    )
    worker_timeout: float = _option(
        60.0, "seconds", "a worker whose loop stands still for so long is killed and replaced"
    )
    drain_timeout: float = _option(
        10.0,
        "seconds",
        "in a rolling restart, so long is an idle connection left open for its next request",
    )
    max_requests: int = _option(
        0,
        "requests",
        "a worker that has served so many, and up to a tenth more, is replaced; 0: none is",
    )
    max_rss_bytes: int = _option(
        0, "bytes", "a worker that takes more memory is replaced; 0: none is"
    )
    pid_file: str | None = _option(
        None, "path", "has the process id in it as long as the server runs; a PathLike too"
    )
    redis_url: str | None = field(
        default=None,
        repr=False,  # there may be a password in it
        metadata={
            "unit": "URL",
            "consequence": "channels reach every server that has the same: `redis://host:port`,"
            " `rediss://host:port` (TLS) or `unix:///path`",
        },
    )
    access_log: bool = _option(False, "yes or no", "one log line a request")
    backlog: int = _option(2048, "connections", "how many may wait to be accepted")

    def __post_init__(self) -> None:
        self._normalise_files()
        if self.redis_url is not None:
            check_url(self.redis_url)
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in ("threads", "workers"):
                if type(value) is not int and value is not option.default:
                    raise UsageError(f"{option.name} is {value!r}, must be a whole number")
                continue  # may be negative
            if isinstance(option.default, (int, float)) and not isinstance(value, (int, float)):
                raise UsageError(f"{option.name} is {value!r}, must be a number")
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
                raise UsageError(f"{option.name} is {value}, must be 0 or more")
        for name in (
            *("max_head_bytes", "max_message_bytes", "max_message_fragments", "max_waiting"),
            *("max_channels", "max_channel_length", "max_subscriptions", "max_waiting_messages"),
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, must be 1 or more")
        if self.interface not in ("auto", "iodine", "wsgi", "asgi"):
            raise UsageError(
                f"interface is {self.interface!r}, must be 'auto', 'iodine', 'wsgi' or 'asgi'"
            )
        if self.hard_limit_bytes < self.soft_limit_bytes:
            raise UsageError(
                f"hard_limit_bytes is {self.hard_limit_bytes}, below soft_limit_bytes,"
                f" {self.soft_limit_bytes}"
            )
        if self.hard_limit_policy not in ("close", "drop"):
            raise UsageError(
                f"hard_limit_policy is {self.hard_limit_policy!r}, must be 'close' or 'drop'"
            )
        if isinstance(self.allowed_origins, str):
            raise UsageError("allowed_origins is a str, must be a tuple of them")
        if self.workers == 0:
            raise UsageError("workers is 0, must be 1 or more, or -N for as many as cores / N")

    def _normalise_files(self) -> None:
        if self.pid_file is not None:
            if not isinstance(self.pid_file, (str, os.PathLike)):
                raise UsageError(f"pid_file is {self.pid_file!r}, must be a path")
            object.__setattr__(self, "pid_file", os.fsdecode(self.pid_file))
        if self.public is not None:
            object.__setattr__(self, "public", _folder_path("public", self.public))
        for name in ("static", "cache_control"):
            object.__setattr__(self, name, _pairs(name, getattr(self, name)))
        for url, folder in self.static:
            if not url.startswith("/"):
                raise UsageError(f"static: path {url!r} must begin with a slash")
            _folder_path(f"static {url}", folder)
        if isinstance(self.sendfile, (str, os.PathLike)):
            raise UsageError("sendfile is one path, must be a tuple of them")
        folders = tuple(_folder_path("sendfile", folder) for folder in self.sendfile)
        object.__setattr__(self, "sendfile", folders)
        if self.spa is not None:
            self._check_page(self.spa)

    def _check_page(self, page: object) -> None:
        if not isinstance(page, str):
            raise UsageError(f"spa is {page!r}, must be the path of a file in public")
        if self.public is None:
            raise UsageError(f"spa is {page!r}, but there is no public folder to have it")
        path = "/" + page.lstrip("/")
        places = [os.path.join(self.public, path[1:])]
        for url, folder in self.static:
            prefix = url.rstrip("/") + "/"
            if path.startswith(prefix):
                places.append(os.path.join(folder, path[len(prefix) :]))
        if not any(os.path.isfile(place) for place in places):
            raise UsageError(f"spa: there is no file {page!r} in {self.public!r}")

    @property
    def serves_files(self) -> bool:
        """True if there is a folder whose files are served."""
        return self.public is not None or bool(self.static)

    @property
    def thread_count(self) -> int | None:
        """`threads` with fractions of the cores worked out; None if nothing was said."""
        if self.threads is None or self.threads >= 0:
            return self.threads
        return max(1, (os.cpu_count() or 1) // -self.threads)

    @property
    def worker_count(self) -> int:
        """`workers` with fractions of the cores worked out."""
        if self.workers > 0:
            return self.workers
        return max(1, (os.cpu_count() or 1) // -self.workers)

    @property
    def pool_size(self) -> int:
        """How many threads the pool has at most: whatever runs, `run` needs some."""
        return self.thread_count or DEFAULT_THREADS


def _folder_path(name: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} is {value!r}, must be the path of a folder")
    path = os.fsdecode(value)
    if not os.path.isdir(path):
        raise UsageError(f"{name}: there is no folder {path!r} in {os.getcwd()}")
    return path


def _pairs(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of a mapping, or of a sequence of them."""
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        made = tuple((first, os.fspath(second)) for first, second in pairs)
    except (TypeError, ValueError):
        made = ()
        pairs = [None]
    if len(made) != len(pairs) or not all(type(one) is str for pair in made for one in pair):
        raise UsageError(f"{name} is {value!r}, must be a dict or pairs of str")
    return made
