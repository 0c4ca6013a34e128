"""Who may import whom: every module of the package, read and not run."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import mypy.api
import pytest

import iodine_aio

PACKAGE = Path(iodine_aio.__file__).parent
NAMES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
IMPURE = {
    *("asyncio", "logging", "multiprocessing", "os", "select", "selectors", "signal", "socket"),
    *("ssl", "subprocess", "sys", "tempfile", "threading", "time"),
}


def read_imports(name: str, path: Path) -> set[str]:
    """Full names of all that is imported, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            assert node.module is not None
            found |= {
                # "from iodine_aio import loop" imports the module, not the package's name
                inner if (inner := f"{node.module}.{alias.name}") in NAMES else node.module
                for alias in node.names
            }
    return found


IMPORTS = {name: read_imports(name, path) for name, path in NAMES.items()}


def inside(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def modules_of(package: str) -> list[str]:
    found = [name for name in NAMES if inside(name, f"iodine_aio.{package}")]
    assert found
    return found


def ours(name: str) -> set[str]:
    return {imported for imported in IMPORTS[name] if inside(imported, "iodine_aio")}


@pytest.mark.parametrize("name", modules_of("wire"))
def test_wire_imports_only_errors_wire_and_what_does_no_io(name: str):
    """The wire format is arithmetic on bytes: no loop, no socket, no clock, no log."""
    roots = {imported.partition(".")[0] for imported in IMPORTS[name]} - {"iodine_aio"}

    assert all(inside(i, "iodine_aio.errors", "iodine_aio.wire") for i in ours(name))
    assert roots <= sys.stdlib_module_names
    assert not roots & IMPURE


@pytest.mark.parametrize("name", modules_of("protocols"))
def test_protocols_know_nothing_of_who_starts_them(name: str):
    """A protocol is given its service; it never reaches for the server or the process."""
    above = (
        "server",
        "surroundings",
        "draining",
        "stragglers",
        "supervision",
        "supervisor",
        "cli",
        "loading",
        "lifecycle",
        "apps",
        "addresses",
        "binds",
        "port_holders",
        "loop",
    )

    assert not [i for i in IMPORTS[name] if inside(i, *(f"iodine_aio.{a}" for a in above))]


@pytest.mark.parametrize("name", modules_of("apps"))
def test_apps_know_nothing_of_protocols_or_server(name: str):
    """An app's interface is the same behind every protocol."""
    assert not [i for i in IMPORTS[name] if inside(i, "iodine_aio.protocols", "iodine_aio.server")]


@pytest.mark.parametrize("name", modules_of("pubsub"))
def test_pubsub_knows_nothing_of_protocols_or_server(name: str):
    """A subscriber is anything with `deliver`."""
    above = (
        *("protocols", "server", "supervisor", "homes", "subscriptions", "channels"),
        *("cli", "apps"),
    )

    assert not [i for i in IMPORTS[name] if inside(i, *(f"iodine_aio.{a}" for a in above))]


@pytest.mark.parametrize("name", ["broker", "packets", "patterns"])
def test_broker_and_packets_do_no_io(name: str):
    """They are values and tables: no loop, no socket, no clock, no log."""
    imported = IMPORTS[f"iodine_aio.pubsub.{name}"]
    pure = ("iodine_aio.errors", "iodine_aio.wire", "iodine_aio.pubsub")

    assert all(inside(i, *pure) for i in imported if inside(i, "iodine_aio"))
    assert not {i.partition(".")[0] for i in imported} & IMPURE


def test_errors_import_nothing_of_ours():
    """Everything else may import the errors."""
    assert ours("iodine_aio.errors") == set()


def test_no_two_modules_import_each_other():
    """Nor in a longer circle, nor within a function."""
    graph = {name: ours(name) & NAMES.keys() for name in NAMES if name != "iodine_aio"}
    package = {name for name, imported in graph.items() if "iodine_aio" in imported}

    assert list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert package == set()


def test_only_main_imports_the_command_line():
    """The command line is the outermost layer."""
    assert [n for n, imported in IMPORTS.items() if "iodine_aio.cli" in imported] == [
        "iodine_aio.__main__"
    ]


def test_every_imported_module_of_ours_exists():
    """A name in the tests above that is no module would make them pass for nothing."""
    assert {i for name in NAMES for i in ours(name)} <= NAMES.keys()


@pytest.mark.parametrize("attribute", ["threads", "workers", "processes"])
def test_no_submodule_has_the_name_of_a_settable_attribute(attribute: str):
    """Importing the submodule would overwrite what the user has set."""
    assert hasattr(iodine_aio, attribute)
    assert f"iodine_aio.{attribute}" not in NAMES


@pytest.mark.slow
def test_import_changes_nothing_and_warns_of_nothing():
    """No event-loop policy, no signal handler, no log handler, no thread, no warning."""
    program = """
import asyncio, logging, signal, sys, threading
events = sys.modules["asyncio.events"]
before = {n: signal.getsignal(n) for n in signal.valid_signals()}
import iodine_aio
assert getattr(events, "_event_loop_policy") is None
assert {n: signal.getsignal(n) for n in signal.valid_signals()} == before
assert not logging.root.handlers
assert threading.active_count() == 1
assert "iodine_aio.cli" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_type_checker_sees_what_there_is_and_no_more(tmp_path: Path):
    """A misspelt name is found before the program runs; a lazy one is there."""
    program = tmp_path / "program.py"
    program.write_text("import iodine_aio\niodine_aio.install\niodine_aio.subscrible\n")
    out, _, _ = mypy.api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(program)])

    assert re.findall(r"program.py:(\d+): error: (\w+ has no attribute \"\w+\")", out) == [
        ("3", 'Module has no attribute "subscrible"')
    ]
