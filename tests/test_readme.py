"""README.md says what is true: its tables, its commands, its programs."""

import argparse
import asyncio
import dataclasses
import re
import signal
import sys
from pathlib import Path

import pytest

from iodine_aio.cli import make_parser
from iodine_aio.settings import KIB, MIB, Settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)


def render_default(value: object, unit: str) -> str:
    """A default as a reader writes it: 8 KiB, 40, none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if value is None:
        return "unset"
    assert isinstance(value, (int, float))
    if unit == "bytes" and value and value % KIB == 0:
        return f"{value // MIB} MiB" if value % MIB == 0 else f"{value // KIB} KiB"
    return f"{value:g}"


def settings_rows() -> list[str]:
    return [
        f"| `{option.name}` | {render_default(option.default, option.metadata['unit'])}"
        f" | {option.metadata['unit']} | {option.metadata['consequence']} |"
        for option in dataclasses.fields(Settings)
    ]


def flags() -> list[argparse.Action]:
    return [action for action in make_parser()._actions if action.option_strings]


def flag_rows() -> list[str]:
    return [
        f"| {' '.join(f'`{flag}`' for flag in action.option_strings)}"
        f"{f' {action.metavar}' if action.metavar else ''} | {action.help} |"
        for action in flags()
    ]


def table_below(header: str) -> list[str]:
    """The rows of the one table that begins with the line `header`."""
    _, found, rest = README.partition(f"\n{header}\n")
    assert found
    rows = rest.split("\n\n", 1)[0].splitlines()
    assert set(rows[0]) == {"|", "-"}
    return rows[1:]


def test_table_of_settings_is_what_settings_says():
    """Name, default, unit and consequence of every field, in their order."""
    assert table_below("| name | default | unit | consequence |") == settings_rows()


def test_table_of_flags_is_what_the_parser_says():
    """All names, the value and the help text of every flag, in their order."""
    assert table_below("| flag | meaning |") == flag_rows()


def test_every_flag_that_is_named_exists():
    """Wherever it is named, commands of other programs left out."""
    text = re.sub(r"^python -m pip.*$", "", README, flags=re.M)
    named = set(re.findall(r"(?<=`)-{1,2}[a-z?][a-z-]*(?=[ `])", text))
    known = {name for action in flags() for name in action.option_strings}

    assert named == known


@pytest.mark.parametrize(
    "command",
    [
        "python -m pip install -e . && python -m iodine_aio examples/hello.py",
        "python -m pip install -e '.[test]' && python -m pytest",
    ],
)
def test_command_stands_on_the_first_screen(command: str):
    """Exactly so, on a line of its own."""
    assert command in README.splitlines()[:60]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
def test_program_compiles(program: str):
    """Every block marked as Python is a program."""
    compile(program, "README.md", "exec", dont_inherit=True)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
async def test_program_runs(program: str):
    """It ends by itself, or serves until Ctrl-C; only the port is another."""
    program = program.replace("port=3000", "port=0").replace("listen(3000", "listen(0")
    program = program.replace("run(app)\n", "run(app, port=0)\n")
    serves = "iodine_aio.run(" in program and "asyncio.R" not in program
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            if serves:
                assert process.stderr is not None
                banner = await process.stderr.readline()
                assert banner.startswith(b"iodine_aio serves on "), (
                    banner + await process.stderr.read()
                )
                process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()

    assert (process.returncode, err.decode()) == (0, "")
