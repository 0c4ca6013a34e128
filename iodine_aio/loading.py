"""From what the user wrote, `module:name` or `file.py`, to the app itself.

Every failure is a `LoadError` of one line with cause and cure: whoever starts
a server should not have to read a traceback of ours to find a typing error.
"""

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

from iodine_aio.errors import LoadError

# Tried in turn where a file is named without an attribute.
APP_NAMES: Final = ("app", "application")

# Where the code is that the user has not written.
_INSTALLED: Final = tuple(
    os.path.join(path, "")
    for path in {
        os.path.dirname(__file__),
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    }
)


def load_app(target: str, factory: bool = False) -> Any:
    """Import what `target` names.

    Args:
        target: `module:app`, `module:attr.sub`, `module` (its `app`), `file.py:app`, or
            `path/to/file.py`: its `app`, else `application`, else the only public
            function or class that it defines. Modules are looked for in the
            working directory first; a file's own folder is put first in `sys.path`.
        factory: call what was found, without arguments, for the app.

    Returns:
        A callable, or an object with a callable attribute `call`.

    Raises:
        LoadError: nothing there can be imported or called. What user code raised is
            the `__cause__`.
    """
    source, name = _split_target(target)
    is_file = source.endswith(".py") or "/" in source or os.sep in source
    if is_file:
        _check_file(source)
        module = _import_guarded(source, lambda: _import_file(source))
    else:
        _check_module_name(source)
        _put_first_in_path(os.getcwd())
        module = _import_guarded(source, lambda: _import_module(source))
    if name is None and is_file:
        name = _guess_name(module, source)
    app, path = _find_attribute(module, source, name or APP_NAMES[0])
    if factory:
        app, path = _call_factory(app, path), f"{path}()"
    if not callable(app) and not callable(getattr(app, "call", None)):
        cure = "" if factory else f". Callables there: {_callables_text(module)}"
        raise LoadError(f"{path!r} is of type {type(app).__name__}, not callable{cure}")
    return app


def is_site(target: str) -> bool:
    """True if `target` is a folder of files: one that is there, and can be no package."""
    if not os.path.isdir(target):
        return False
    return "/" in target or not (
        os.path.isfile(f"{target}.py") or os.path.isfile(os.path.join(target, "__init__.py"))
    )


def _split_target(target: str) -> tuple[str, str | None]:
    if target.endswith(".py"):
        return target, None
    source, colon, name = target.rpartition(":")
    if not colon:
        source, name = target, ""
    if not source or (colon and not name):
        raise LoadError(f"{target!r} names no app; write module:app or file.py")
    return source, name or None


def _check_file(source: str) -> None:
    if os.path.isdir(source):
        raise LoadError(f"{source!r} is a folder, not an app; name a file.py in it")
    if os.path.isfile(source):
        if not source.endswith(".py"):
            raise LoadError(f"{source!r} is no Python file; name a file.py or module:app")
        return
    folder, base = os.path.split(source)
    try:
        there = [entry for entry in os.listdir(folder or ".") if entry.endswith(".py")]
    except OSError:
        there = []
    raise LoadError(f"no file {source!r} in {os.getcwd()}{_suggestion(base, there)}")


def _check_module_name(source: str) -> None:
    if os.path.isfile(source):
        raise LoadError(f"{source!r} is no Python file; name a file.py or module:app")
    if os.path.isdir(source) and not (
        os.path.isfile(f"{source}.py") or os.path.isfile(os.path.join(source, "__init__.py"))
    ):
        raise LoadError(f"{source!r} is a folder, not an app; name a file.py in it")
    if not all(part.isidentifier() for part in source.split(".")):
        known = f"did you mean {source}.py?" if os.path.isfile(f"{source}.py") else ""
        raise LoadError(f"{source!r} is no module name; {known or 'write module:app or file.py'}")


def _put_first_in_path(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _import_module(source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        # Otherwise a module was found, and what it imports in turn is missing.
        if source != missing and not source.startswith(f"{missing}."):
            raise
        parent, _, last = source.rpartition(".")
        if parent and missing == source:
            cure = f". Did you mean '{parent}:{last}'?"
        else:
            cure = _suggestion(
                missing, (found.name for found in pkgutil.iter_modules([os.getcwd()]))
            )
        raise LoadError(f"no module {missing!r} in {os.getcwd()} or sys.path{cure}") from error


def _import_file(source: str) -> ModuleType:
    path = os.path.abspath(source)
    folder, base = os.path.split(path)
    _put_first_in_path(folder)
    name = re.sub(r"\W", "_", base.removesuffix(".py"))
    while name in sys.modules or name in sys.stdlib_module_names:
        if getattr(sys.modules.get(name), "__file__", None) == path:
            return sys.modules[name]
        # Someone else's module: json.py must not become what everybody imports as json.
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{source!r} is no Python file; name a file.py or module:app")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _import_guarded(source: str, import_it: Callable[[], ModuleType]) -> ModuleType:
    try:
        return import_it()
    except LoadError:
        raise
    except SystemExit as error:
        raise LoadError(
            f"importing {source!r} failed: it ended the program by SystemExit({error.code!r})"
            f"{_place(error)}; put that under if __name__ == '__main__':"
        ) from error
    # Whatever it is: the code is the user's, and its failure is what we report. Ctrl-C passes.
    except Exception as error:
        raise LoadError(f"importing {source!r} failed: {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}{_place(error)}"


def _place(error: BaseException) -> str:
    """` [web.py:3]`: the last line of the user's own code that the error passed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" [{_short_path(error.filename)}:{error.lineno}]"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename != __file__
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
    for frame in (own or frames)[-1:]:
        return f" [{_short_path(frame.filename)}:{frame.lineno}]"
    return ""


def _short_path(path: str) -> str:
    return path.removeprefix(os.path.join(os.getcwd(), ""))


def _guess_name(module: ModuleType, source: str) -> str:
    for name in APP_NAMES:
        if hasattr(module, name):
            return name
    own = [
        name
        for name in _callables(module)
        if inspect.isfunction(value := getattr(module, name)) or inspect.isclass(value)
    ]
    if len(own) == 1:
        return own[0]
    example = own[0] if own else APP_NAMES[0]
    raise LoadError(
        f"no attribute 'app' or 'application' in {source!r}; name one, as in {source}:{example}."
        f" Callables there: {_callables_text(module)}"
    )


def _find_attribute(module: ModuleType, source: str, name: str) -> tuple[Any, str]:
    found: Any = module
    path = source
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            if found is module:
                where = (
                    f"module {module.__name__!r} ({_short_path(module.__file__ or 'a package')})"
                )
                there = f"Callables there: {_callables_text(module)}"
            else:
                where, there = repr(path), f"It is of type {type(found).__name__}"
            cure = _suggestion(part, dir(found)) or "."
            raise LoadError(f"no attribute {part!r} in {where}{cure} {there}") from error
        path += f"{':' if path == source else '.'}{part}"
    return found, path


def _call_factory(make: Any, path: str) -> Any:
    if not callable(make):
        raise LoadError(f"{path!r} is of type {type(make).__name__}, not a factory to call")
    try:
        app = make()
    except Exception as error:
        raise LoadError(f"calling {path!r} failed: {_describe(error)}") from error
    if inspect.iscoroutine(app):
        app.close()
        raise LoadError(f"{path!r} is an async def; a factory must return the app itself")
    return app


def _callables(module: ModuleType) -> list[str]:
    """Public names of what a module defines and can be called, in order of definition."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (callable(value) or callable(getattr(value, "call", None)))
        # What it merely imported is hardly its app.
        and (
            not (inspect.isroutine(value) or inspect.isclass(value))
            or value.__module__ == module.__name__
        )
    ]


def _callables_text(module: ModuleType) -> str:
    names = _callables(module)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "none"


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [word for word in known if word[:1] != "_"], 1)
    return f". Did you mean {close[0]!r}?" if close else ""
