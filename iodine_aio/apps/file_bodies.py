"""A file that an app returns, or names, is answered as a static one: in parts, if asked.

The app's own fields win: its `ETag` and `Last-Modified` are what conditions are compared
with, its `Content-Type` and `Content-Encoding` are sent. Its `Content-Length` is not: how
long a file is, the file says.
"""

import contextlib
import io
import os
import stat
from collections.abc import Sequence
from typing import Any, Final

from iodine_aio.apps.folders import Folder, FoundFolder
from iodine_aio.apps.representation import Representation, describe
from iodine_aio.errors import ResponseError
from iodine_aio.settings import Settings
from iodine_aio.wire.environ import Env
from iodine_aio.wire.media_types import guess_media_type
from iodine_aio.wire.response import ResponseHead, make_head
from iodine_aio.wire.segments import FileBody


class FileBodies:
    """Makes responses of files that an app returns.

    Args:
        settings: where `X-Sendfile` may point to: `public`, `static` and `sendfile`.
    """

    def __init__(self, settings: Settings) -> None:
        paths = [settings.public, *(folder for _, folder in settings.static), *settings.sendfile]
        self._folders: Final = [Folder(path) for path in paths if path is not None]

    def __call__(self, env: Env, head: ResponseHead, body: Any) -> tuple[ResponseHead, Any] | None:
        """Head and body as they are sent; None where `body` is no file, and none was named.

        The body that comes back closes `body` where it is the file that is sent; else the
        caller does.

        Raises:
            OSError: it cannot be opened.
            ResponseError: it is no file that may be sent.
        """
        file: Any
        offset = 0
        if head.directives.sendfile is not None and self._folders:
            text, head = head.directives.sendfile, _without_name(head)
            if head.status in (204, 205, 304):
                return head, b""
            file, status, name = self._open_permitted(text)
        elif isinstance(body, os.PathLike):
            name = os.fsencode(body)
            file, status = _open_regular(name)
        else:
            found = find_regular(body)
            if found is None:
                return None
            file = body
            status, offset = found
            name = os.fsencode(body.name) if isinstance(body.name, (str, bytes)) else b""
        try:
            answer = _represent(env, head, file, name, status, offset)
        except BaseException:
            if file is not body:
                file.close()
            raise
        if file is not body and type(answer[1]) is not FileBody:
            file.close()
        return answer

    def _open_permitted(self, text: str) -> tuple[io.FileIO, os.stat_result, bytes]:
        # A name that is not ASCII is either bytes, as WSGI spells them, or a plain str.
        names = [os.fsencode(text)]
        with contextlib.suppress(UnicodeEncodeError):
            names.insert(0, text.encode("latin-1"))
        for name in names:
            for folder in self._folders:
                try:
                    return *folder.open_path(name), name
                except (FileNotFoundError, FoundFolder):
                    continue
        raise ResponseError(
            f"X-Sendfile {text!r} is no file in public, nor in a folder of static or sendfile"
        )


def _without_name(head: ResponseHead) -> ResponseHead:
    """The head of an app that named a file, without what is for us, or of its own body.

    A framework that has cut a part out of a body of its own says 206. Which part of the
    file is sent is found out here, once more.
    """
    ours = ("x-sendfile", "content-range") if head.status == 206 else ("x-sendfile",)
    fields = [field for field in head.fields() if field[0].lower() not in ours]
    made = make_head(200 if head.status == 206 else head.status, fields)
    if head.status != 206:
        made.status_line = head.status_line
    return made


def _represent(
    env: Env, head: ResponseHead, file: Any, name: bytes, status: os.stat_result, offset: int
) -> tuple[ResponseHead, Any]:
    size = max(0, status.st_size - offset)
    fields = head.fields()
    own = {field.lower() for field, _ in fields}
    content_type = guess_media_type(os.path.basename(name).decode("latin-1"))
    said = describe(status, content_type, offset=offset)
    if head.status != 200 or env["REQUEST_METHOD"] not in ("GET", "HEAD"):
        # It is not what was asked for: no condition holds for it, and no part is of use.
        said = said[:1]
    elif "content-type" in own:
        said = [one for one in said if one[0] != "X-Content-Type-Options"]
    fields += [field for field in said if field[0].lower() not in own]
    if len(said) == 1:
        answer: Any = (head.status, fields, FileBody(file, [(offset, offset + size)]))
    else:
        answer = Representation(size, fields, lambda: file, offset=offset).answer(env)
    number, its_fields, body = answer
    made = its_fields if type(its_fields) is ResponseHead else make_head(number, its_fields)
    if number == head.status:
        made.status_line = head.status_line
    return made, body


def _open_regular(path: bytes) -> tuple[io.FileIO, os.stat_result]:
    # O_NONBLOCK: who opens a FIFO waits for its writer.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise ResponseError(f"{path!r} is no regular file")
        return io.FileIO(number), status
    except BaseException:
        os.close(number)
        raise


_BUFFERED: Final[Sequence[type]] = (io.BufferedReader, io.BufferedRandom)


def find_regular(body: Any) -> tuple[os.stat_result, int] | None:
    """Status and position of an open regular file; None where `body` is something else.

    Not everything with a `fileno` is what that number says: a GzipFile has the one of the
    compressed file. So only what `open` makes is taken, and what `tempfile` wraps it in.

    Raises:
        ValueError: it is closed.
    """
    file = body
    if type(file).__module__ == "tempfile":
        file = getattr(file, "file", None)
    raw = file.raw if type(file) in _BUFFERED else file
    if type(raw) is not io.FileIO or not raw.readable():
        return None
    if type(file) is io.BufferedRandom:
        file.flush()
    status = os.fstat(raw.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None
    return status, file.tell()
