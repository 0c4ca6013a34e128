import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iodine_aio.errors import LoadError
from iodine_aio.loading import is_site, load_app

APP = "def app(env): return 200, {}, [b'hello']\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory; what is imported out of it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = dict(sys.modules)
    yield tmp_path
    sys.modules.clear()
    sys.modules.update(before)


def failure(target: str, factory: bool = False) -> str:
    """The one line that loading `target` fails with."""
    with pytest.raises(LoadError) as caught:
        load_app(target, factory)
    message = str(caught.value)
    assert "\n" not in message
    return message


# what is found


@pytest.mark.parametrize(
    "target",
    ["web_app", "web_app:app", "web_app:holder.inner.app", "web_app.py", "./web_app.py:app"],
)
def test_every_form_finds_the_app(folder: Path, target: str):
    (folder / "web_app.py").write_text(
        APP + "class holder:\n    class inner:\n        app = staticmethod(app)\n"
    )

    assert load_app(target)({}) == (200, {}, [b"hello"])


def test_module_in_a_package(folder: Path):
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "web.py").write_text(APP)

    assert load_app("package.web:app").__module__ == "package.web"


def test_file_imports_its_neighbours(folder: Path):
    """A file's own folder is first in sys.path, and its name is its module's."""
    (folder / "site").mkdir()
    (folder / "site" / "neighbour.py").write_text(APP)
    (folder / "site" / "main.py").write_text("from neighbour import app\n")

    load_app("site/main.py")

    assert sys.path[0] == str(folder / "site")
    assert "main" in sys.modules


def test_same_file_is_imported_once(folder: Path):
    (folder / "web.py").write_text(APP)

    assert load_app("web.py") is load_app(str(folder / "web.py"))


@pytest.mark.parametrize(("file", "module"), [("json.py", "json_"), ("my-app.py", "my_app")])
def test_file_with_an_unfit_name_gets_another_module_name(folder: Path, file: str, module: str):
    """A user's json.py must not take the place of the standard library's."""
    import json

    (folder / file).write_text(APP)

    assert load_app(file).__module__ == module
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    "source",
    [
        "application = print\ndef other(env): ...\n",
        "from os.path import join\ndef _private(): ...\ndef my_app(env): ...\n",
        "class MyApp:\n    def call(self, env): ...\n",
        "class C:\n    def call(self, env): ...\napp = C()\n",
    ],
    ids=["application", "only-function", "only-class", "object-with-call"],
)
def test_app_of_a_file_is_guessed(folder: Path, source: str):
    (folder / "web.py").write_text(source)

    assert load_app("web.py")


def test_factory_is_called(folder: Path):
    (folder / "web.py").write_text("def make():\n    def made(env): ...\n    return made\n")

    assert load_app("web:make", factory=True).__name__ == "made"
    assert load_app("web.py", factory=True).__name__ == "made"


# what is not


def test_unknown_attribute_names_those_there(folder: Path):
    (folder / "web.py").write_text(
        "from os.path import join\n" + APP + "def make_app(): ...\nsize = 3\ndef _private(): ...\n"
    )

    assert failure("web:ap") == (
        "no attribute 'ap' in module 'web' (web.py). Did you mean 'app'?"
        " Callables there: app, make_app"
    )


def test_unknown_attribute_of_an_attribute(folder: Path):
    (folder / "web.py").write_text(APP)

    assert failure("web:app.sub") == "no attribute 'sub' in 'web:app'. It is of type function"


def test_unknown_module_suggests_one(folder: Path):
    (folder / "web_site.py").write_text(APP)

    assert failure("wep_site:app") == (
        f"no module 'wep_site' in {folder} or sys.path. Did you mean 'web_site'?"
    )


def test_attribute_written_with_a_dot_suggests_a_colon(folder: Path):
    (folder / "web.py").write_text(APP)

    assert failure("web.app").endswith("Did you mean 'web:app'?")


def test_unknown_file_suggests_one(folder: Path):
    (folder / "web_site.py").write_text(APP)

    assert (
        failure("wep_site.py") == f"no file 'wep_site.py' in {folder}. Did you mean 'web_site.py'?"
    )


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import os\n\nimport flsk\n", "ModuleNotFoundError: No module named 'flsk' [web.py:3]"),
        (
            "import json\njson.loads('')\n",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) [web.py:2]",
        ),
        ("\nraise ValueError('two\\nlines')\n", "ValueError: two lines [web.py:2]"),
        ("assert False\n", "AssertionError [web.py:1]"),
        ("x = 1\ndef broken(\n", "SyntaxError: '(' was never closed [web.py:2]"),
    ],
)
@pytest.mark.parametrize("target", ["web", "web.py"])
def test_import_that_raises_names_cause_and_line(
    folder: Path, target: str, source: str, cause: str
):
    """The line is the last one in the user's own code."""
    (folder / "web.py").write_text(source)

    assert failure(target) == f"importing {target!r} failed: {cause}"


def test_cause_is_kept_and_the_half_made_module_is_not(folder: Path):
    (folder / "web.py").write_text("1 / 0\n")
    with pytest.raises(LoadError) as caught:
        load_app("web.py")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "web" not in sys.modules


def test_import_that_exits_is_an_error(folder: Path):
    (folder / "web.py").write_text("import sys\nsys.exit(1)\n")

    assert failure("web") == (
        "importing 'web' failed: it ended the program by SystemExit(1) [web.py:2];"
        " put that under if __name__ == '__main__':"
    )


def test_interrupt_during_import_passes(folder: Path):
    """Ctrl-C is no failure of the app."""
    (folder / "web.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_app("web")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("", "names no app"),
        (":app", "names no app"),
        ("web:", "names no app"),
        ("public", "is a folder"),
        ("./public", "is a folder"),
        ("style.css", "is no Python file"),
        ("./style.css", "is no Python file"),
        ("my-app", "did you mean my-app.py?"),
        ("no-app", "is no module name"),
        ("missing/web.py", "no file"),
        ("web:text", "'web:text' is of type str, not callable. Callables there: app"),
    ],
)
def test_what_is_no_app_is_refused_with_a_cure(folder: Path, target: str, said: str):
    (folder / "public").mkdir()
    (folder / "style.css").touch()
    (folder / "my-app.py").write_text(APP)
    (folder / "web.py").write_text(APP + "text = ''\n")

    assert said in failure(target)


@pytest.mark.parametrize(
    ("target", "site"),
    [
        ("dist", True),
        ("./dist", True),
        ("package", False),
        ("./package", True),
        ("module", False),
        ("missing", False),
        ("web.py", False),
        ("web:app", False),
    ],
)
def test_folder_of_files_is_a_site(folder: Path, target: str, site: bool):
    """A package, or what has a module of its name beside it, is one only with a slash."""
    for name in ("dist", "package", "module"):
        (folder / name).mkdir()
    (folder / "package" / "__init__.py").touch()
    (folder / "module.py").touch()
    (folder / "web.py").write_text(APP)

    assert is_site(target) == site


@pytest.mark.parametrize("source", ["", "def first(): ...\ndef second(): ...\n"])
def test_file_without_one_obvious_app_is_refused(folder: Path, source: str):
    (folder / "web.py").write_text(source)

    expected = "first, second" if source else "none"
    assert failure("web.py").endswith(f"Callables there: {expected}")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("web:fails", "calling 'web:fails' failed: ZeroDivisionError: division by zero [web.py:1]"),
        ("web:wants", "calling 'web:wants' failed: TypeError: wants() missing 1 required"),
        ("web:later", "'web:later' is an async def; a factory must return the app itself"),
        ("web:nothing", "'web:nothing()' is of type NoneType, not callable"),
        ("web:text", "'web:text' is of type str, not a factory to call"),
    ],
)
def test_factory_that_makes_no_app_is_refused(folder: Path, target: str, said: str):
    (folder / "web.py").write_text(
        "def fails(): 1 / 0\ndef wants(env): ...\nasync def later(): ...\n"
        "def nothing(): ...\ntext = ''\n"
    )

    assert failure(target, factory=True).startswith(said)
