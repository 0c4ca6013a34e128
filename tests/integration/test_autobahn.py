"""The Autobahn test suite, which plays hundreds of clients, good and bad, against an echo.

Run by `pytest -m autobahn`. Its program `wstest` is named by AUTOBAHN_WSTEST or found on
PATH; it is written in Python 2.7, so it wants an environment of its own (see .ci/run).
"""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

import iodine_aio
from tests.handlers import Echo

WSTEST = shutil.which(os.environ.get("AUTOBAHN_WSTEST", "wstest"))

CASES = 301  # of release 25.10.1, without those of compression
# Compression is not offered.
LEFT_OUT = ["12.*", "13.*"]
# A message behind the close, and close codes that nobody has defined: any outcome will do.
UNJUDGED = {"7.1.6", "7.13.1", "7.13.2"}


def app(env: iodine_aio.Env) -> tuple[int, dict[str, str], None]:
    """An echo on every path."""
    env["upgrade.websocket"] = Echo
    return 101, {}, None


async def run_wstest(url: str, folder: Path) -> dict[str, dict[str, object]]:
    """What the suite found at this URL, by the number of the case."""
    assert WSTEST is not None
    specification = folder / "fuzzingclient.json"
    specification.write_text(
        json.dumps({
            "outdir": str(folder / "reports"),
            "servers": [{"agent": "iodine_aio", "url": url}],
            "cases": ["*"],
            "exclude-cases": LEFT_OUT,
        })
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        WSTEST, "--mode", "fuzzingclient", "--spec", str(specification),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=folder,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode(errors="replace")[-2000:]
    report = json.loads((folder / "reports" / "index.json").read_text())
    return report["iodine_aio"]


@pytest.mark.slow
@pytest.mark.autobahn
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    WSTEST is None, reason="wstest of autobahntestsuite is neither in AUTOBAHN_WSTEST nor on PATH"
)
@pytest.mark.parametrize(
    "loop_factory",
    [
        pytest.param(iodine_aio.new_event_loop, id="uvloop"),
        pytest.param(asyncio.new_event_loop, id="asyncio"),
    ],
)
def test_autobahn_finds_nothing_to_complain_of(loop_factory, tmp_path):
    """Every case is OK, in what was answered and in how it was closed; none merely non-strict."""

    async def converse():
        # Cases 9.* send 16 MiB in a message, and 4 MiB in 65536 fragments and an empty last one.
        limits = {"max_message_bytes": 16 << 20, "max_message_fragments": 65537}
        async with iodine_aio.serve(app, port=0, **limits) as server:
            return await run_wstest(server.url.replace("http", "ws"), tmp_path)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        cases = runner.run(converse())
    outcomes = {
        name: (case["behavior"], case["behaviorClose"])
        for name, case in cases.items()
        if name not in UNJUDGED
    }

    assert len(cases) >= CASES
    assert {name: both for name, both in outcomes.items() if both != ("OK", "OK")} == {}
