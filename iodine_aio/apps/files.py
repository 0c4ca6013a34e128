"""Static files: which file answers a request, before the app is asked.

A path is looked up on the loop, as nginx does it: what that takes are names and inodes,
which the kernel has at hand but for the first time. The content is another matter: it
is taken here only if it lies in the page cache, and else read by a thread while it is
sent. What was found is believed for a second, what was not found too, so that an app
behind pays for no look at the disk with each of its requests.
"""

import contextlib
import errno
import fnmatch
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote, quote_from_bytes

from iodine_aio.apps.file_cache import Entry, FileCache
from iodine_aio.apps.folders import Folder, FoundFolder, split_path
from iodine_aio.apps.representation import TEXT, Answer, Representation, describe
from iodine_aio.apps.spa import navigates, replace_missing
from iodine_aio.errors import ProtocolError, UsageError
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import Env
from iodine_aio.wire.media_types import guess_media_type
from iodine_aio.wire.negotiation import choose_coding
from iodine_aio.wire.request_line import split_target
from iodine_aio.wire.response import make_head

SMALL_BYTES: Final = 64 * 1024  # a file up to this size is kept in memory
BELIEVED_SECONDS: Final = 0.9  # less than a tick of the clock, which may come early

_INDEX: Final = b"index.html"
_EXTENSIONS: Final = (("br", b".br"), ("zstd", b".zst"), ("gzip", b".gz"))
_IMMUTABLE: Final = "public, max-age=31536000, immutable"
# What is said of a page that is not what was asked for.
_OF_404: Final = frozenset(("Content-Type", "Content-Encoding", "Vary"))

_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)  # Linux only
_NOT_FOUND: Final = (404, make_head(404, [TEXT]), b"Not Found")


class Time(Protocol):
    """The clock, as much of it as is needed."""

    now: float


class StaticFiles:
    """Answers GET and HEAD with files of folders, and leaves the rest to the app.

    Args:
        app: is asked where there is no file; None where there is no app.
        settings: `public`, `static` and what else is said about files.
        clock: its `now` goes on once a second.

    Raises:
        UsageError: a folder is none.
    """

    def __init__(self, app: Callable[[Env], Any] | None, settings: Settings, clock: Time) -> None:
        self._app: Final = app
        self._clock: Final = clock
        self._mounts: Final = _make_mounts(settings)
        self._cache: Final = FileCache(settings.file_cache_bytes)
        self._get: Final = self._cache.get
        self._cache_control: Final = [
            (re.compile(fnmatch.translate(glob)), _IMMUTABLE if value == "immutable" else value)
            for glob, value in settings.cache_control
        ]
        self._spa: str | None = None
        if settings.spa is not None:
            path = "/" + settings.spa.lstrip("/")
            self._spa = quote(path)
            # Its next version must be found, under whatever path it is shown.
            self._cache_control.append((re.compile(re.escape(path) + r"\Z"), "no-cache"))
        self._unlogged: Final = settings.access_log and not settings.log_static

    def __call__(self, env: Env) -> Any:
        method = env["REQUEST_METHOD"]
        if method == "GET" or method == "HEAD":
            path = env["REQUEST_URI"]
            entry = self._get(path)
            if entry is None or entry.check_at <= self._clock.now:
                path, entry = self._find(path)
            entry.used = True
            form = entry.plain
            if form is not None:
                if self._unlogged:
                    env["iodine_aio.unlogged"] = True
                if entry.codings:
                    form = _choose_form(entry, form, env)
                if (
                    form.ready is not None
                    and "HTTP_IF_NONE_MATCH" not in env
                    and "HTTP_IF_MODIFIED_SINCE" not in env
                    and "HTTP_RANGE" not in env
                    and "HTTP_IF_MATCH" not in env
                    and "HTTP_IF_UNMODIFIED_SINCE" not in env
                ):
                    return form.ready
                try:
                    return form.answer(env)
                except FileNotFoundError:
                    entry.check_at = 0.0
                    return self._show(env, path) or self._pass_on(env)
            if entry.redirect is not None:
                query = env["QUERY_STRING"]
                location = f"{entry.redirect}?{query}" if query else entry.redirect
                return 301, [("Location", location), TEXT], "Moved Permanently"
        return self._pass_on(env)

    def _pass_on(self, env: Env) -> Any:
        """Where there is no file."""
        if self._app is None:
            return self._refuse(env)
        result = self._app(env)
        if self._spa is not None and navigates(env):
            return replace_missing(result, functools.partial(self._show, env, self._spa))
        return result

    def _refuse(self, env: Env) -> Answer:
        """The answer where there is neither file nor app."""
        method = env["REQUEST_METHOD"]
        if method != "GET" and method != "HEAD":
            return 405, [("Allow", "GET, HEAD"), TEXT], "Method Not Allowed"
        answer = self._show(env, self._spa) if self._spa is not None and navigates(env) else None
        return answer or self._show_404(env) or _NOT_FOUND

    def _show_404(self, env: Env) -> Answer | None:
        for _ in range(2):
            entry = self._find("/404.html")[1]
            form = entry.plain
            if form is None:
                return None
            form = _choose_form(entry, form, env)
            try:
                body = form.make_body()
            except FileNotFoundError:
                entry.check_at = 0.0
            else:
                return 404, [field for field in form.fields if field[0] in _OF_404], body
        return None

    def _show(self, env: Env, target: str) -> Answer | None:
        """The answer with the file of a path; None if there is none."""
        for _ in range(2):
            entry = self._find(target)[1]
            form = entry.plain
            if form is None:
                return None
            try:
                return _choose_form(entry, form, env).answer(env)
            except FileNotFoundError:
                # Changed or gone since: the next look finds what is there now.
                entry.check_at = 0.0
        return None  # it changes all the time: to its client it is not there

    # Looking.

    def _find(self, target: str) -> tuple[str, Entry]:
        """The path of a request target, and what is there, as it was less than a second ago."""
        if target[0] != "/":
            try:
                path = split_target("GET", target)[0]
            except ProtocolError:  # "*": is of no file
                return target, Entry()
        else:
            path = target.partition("?")[0]
        now = self._clock.now
        entry = self._get(path)
        if entry is None or entry.check_at <= now:
            entry = self._look_up(path)
            entry.check_at = now + BELIEVED_SECONDS
            self._cache.put(path, entry)
        return path, entry

    def _look_up(self, path: str) -> Entry:
        names = split_path(path)
        if names is None:
            return Entry()
        for prefix, folder in self._mounts:
            if names[: len(prefix)] == prefix:
                try:
                    return self._look_in(folder, names, len(prefix))
                except (FileNotFoundError, FoundFolder):
                    continue
        return Entry()

    def _look_in(self, folder: Folder, names: Sequence[bytes], depth: int) -> Entry:
        inner = names[depth:]
        page = [*(name for name in inner if name), _INDEX]
        if inner and not inner[-1]:
            return self._describe_file(folder, page, names)
        if inner:
            with contextlib.suppress(FoundFolder):
                return self._describe_file(folder, inner, names)
        # A folder without its slash. It has one only if there is a page to show: else the
        # app may have one under this very path.
        folder.open(page)[0].close()
        # Not as it was sent: a path that begins with two slashes is another host's.
        quoted = "/".join(quote_from_bytes(name, safe="!$&'()*+,;=:@~") for name in names)
        return Entry(redirect=f"/{quoted}/")

    def _describe_file(
        self, folder: Folder, inner: Sequence[bytes], names: Sequence[bytes]
    ) -> Entry:
        content_type = guess_media_type(inner[-1].decode("latin-1"))
        common = self._find_cache_control(names, inner[-1])
        file, status = folder.open(inner)
        siblings = []
        for coding, extension in _EXTENSIONS:
            sibling = [*inner[:-1], inner[-1] + extension]
            try:
                siblings.append((coding, sibling, *folder.open(sibling)))
            except (FileNotFoundError, FoundFolder):
                continue
        if siblings:
            common.append(("Vary", "Accept-Encoding"))
        forms = {}
        for coding, opened, found, its_status in siblings:
            fields = [
                *describe(its_status, content_type, coding),
                ("Content-Encoding", coding),
                *common,
            ]
            forms[coding] = _represent(folder, opened, found, its_status, fields)
        fields = describe(status, content_type) + common
        forms["identity"] = _represent(folder, inner, file, status, fields)
        return Entry(forms)

    def _find_cache_control(self, names: Sequence[bytes], name: bytes) -> list[tuple[str, str]]:
        path = b"/".join((b"", *names[:-1], name)).decode("utf-8", "replace")
        for pattern, value in self._cache_control:
            if pattern.match(path):
                return [("Cache-Control", value)]
        return []


def _choose_form(entry: Entry, plain: Representation, env: Env) -> Representation:
    """The form of a file that suits the client best."""
    coding = choose_coding(env.get("HTTP_ACCEPT_ENCODING"), entry.codings)
    return entry.forms.get(coding or "identity", plain)


def read_busy_page(settings: Settings) -> bytes | None:
    """The page `503.html` of the public folder; None if there is none."""
    if settings.public is None:
        return None
    try:
        file, status = Folder(settings.public).open([b"503.html"])
    except (FileNotFoundError, FoundFolder):
        return None
    with file:
        return file.read(SMALL_BYTES) if status.st_size <= SMALL_BYTES else None


def _make_mounts(settings: Settings) -> list[tuple[list[bytes], Folder]]:
    """Prefixes and their folders, the longest prefix first; `public` is last."""
    mounts = []
    for url, folder in settings.static:
        names = split_path(url if url.endswith("/") else f"{url}/")
        if names is None:
            raise UsageError(f"static: {url!r} is no path of files")
        mounts.append((names[:-1], Folder(folder)))
    if settings.public is not None:
        mounts.append(([], Folder(settings.public)))
    mounts.sort(key=lambda mount: -len(mount[0]))
    return mounts


def _represent(
    folder: Folder,
    names: Sequence[bytes],
    file: Any,
    status: os.stat_result,
    fields: list[tuple[str, str]],
) -> Representation:
    with file:
        size = status.st_size
        content = _read_at_once(file.fileno(), size) if size <= SMALL_BYTES else None
    return Representation(size, fields, functools.partial(folder.reopen, names, status), content)


def _read_at_once(number: int, size: int) -> bytes | None:
    """The content of a file; None if that would wait for the disk, or is not of that size."""
    if _NOWAIT is not None:
        block = bytearray(size + 1)
        try:
            count = os.preadv(number, [block], 0, _NOWAIT)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                return None
            # The file system cannot say: it is one in memory, as a rule.
        else:
            return bytes(block[:size]) if count == size else None
    content = os.pread(number, size + 1, 0)
    return content if len(content) == size else None
