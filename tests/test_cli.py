"""The command line: its flags, and what it says and returns when it cannot serve."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from iodine_aio.binds import Bind
from iodine_aio.cli import main, make_parser, read_binds, read_settings
from iodine_aio.errors import UsageError
from iodine_aio.settings import Settings
from tests.sockets import read_to_end

COMMAND = [sys.executable, "-m", "iodine_aio"]


@pytest.fixture(autouse=True)
def no_platform_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.delenv("IODINE_REDIS_URL", raising=False)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


def binds_of(*words: str) -> list[Bind]:
    return read_binds(make_parser().parse_args([*words, "app.py"]))


def settings_of(*words: str) -> Settings:
    return read_settings(make_parser().parse_args([*words, "app.py"]))


def command(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code and both outputs of one run of it."""
    result = subprocess.run(
        [*COMMAND, *words], cwd=folder, capture_output=True, text=True, timeout=20, check=False
    )
    return result.returncode, result.stdout, result.stderr


def write_app(folder: Path, text: str = "def app(env):\n    return 200, {}, 'hello'\n") -> str:
    (folder / "web_under_test.py").write_text(text)
    return "web_under_test:app"


# ---- flags ----


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-t", "3"], "threads", 3),
        (["-t", "0"], "threads", 0),
        (["-t", "-2"], "threads", -2),
        (["--threads", "3"], "threads", 3),
        (["-w", "1"], "workers", 1),
        (["-w", "3"], "workers", 3),
        (["--workers", "-2"], "workers", -2),
        (["--interface", "wsgi"], "interface", "wsgi"),
        (["-v"], "access_log", True),
        (["-maxbd", "2"], "max_body_bytes", 2 * 1024 * 1024),
        (["--max-body", "2"], "max_body_bytes", 2 * 1024 * 1024),
        (["-maxms", "2"], "max_message_bytes", 2048),
        (["-maxhd", "2"], "max_head_bytes", 2048),
        (["-ping", "2.5"], "ping_interval", 2.5),
        (["-tout", "0"], "keep_alive_timeout", 0),
    ],
)
def test_flag_is_an_option_in_its_unit(words: list[str], name: str, value: object):
    """MiB for bodies, KB for messages and heads, seconds for the rest."""
    assert getattr(settings_of(*words), name) == value


def test_no_flags_are_the_defaults():
    """What is not said is left to Settings."""
    assert settings_of() == Settings()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-w", "0"], "workers is 0, must be 1 or more"),
        (["-www", "missing"], "public: there is no folder 'missing'"),
        (["-www", ".", "--spa", "missing.html"], "spa: there is no file 'missing.html' in '.'"),
        (["--static", "/a=missing"], "static /a: there is no folder 'missing'"),
        (["--static", "a=."], "path 'a' must begin with a slash"),
        (["--static", "/a"], "--static '/a': an equals sign is missing"),
        (["--cache-control", "*="], "--cache-control '\\*=': an equals sign is missing"),
        (["-tout", "-1"], "keep_alive_timeout is -1"),
    ],
)
def test_flag_that_cannot_be_is_refused(words: list[str], message: str):
    """Said, not ignored."""
    with pytest.raises(UsageError, match=message):
        settings_of(*words)


# ---- where to listen ----


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [Bind("127.0.0.1", 3000)]),
        (["-p", "0"], [Bind("127.0.0.1", 0)]),
        (["--port", "8080"], [Bind("127.0.0.1", 8080)]),
        (["-b", "0.0.0.0"], [Bind("0.0.0.0", 3000)]),
        (["-b", "0.0.0.0", "-p", "80"], [Bind("0.0.0.0", 80)]),
        (["-b", "::1", "-p", "80"], [Bind("::1", 80)]),
        (["-b", "localhost:80"], [Bind("localhost", 80)]),
        (["-b", ":80"], [Bind("0.0.0.0", 80)]),
        (["--bind", "unix:/tmp/a?mode=660"], [Bind(path="/tmp/a", mode=0o660)]),
        (["-b", "fd://3"], [Bind(fd=3)]),
        (["-b", "a:1", "-b", "b:2"], [Bind("a", 1), Bind("b", 2)]),
    ],
)
def test_bind_and_port(words: list[str], expected: list[Bind]):
    """-p completes a -b without a port; both have their defaults."""
    assert binds_of(*words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Bind("0.0.0.0", 5000)),
        (["-p", "80"], Bind("127.0.0.1", 80)),
        (["-b", "127.0.0.1"], Bind("127.0.0.1", 5000)),
        (["-b", "127.0.0.1:80"], Bind("127.0.0.1", 80)),
    ],
)
def test_port_of_the_platform(monkeypatch: pytest.MonkeyPatch, words: list[str], expected: Bind):
    """With $PORT alone every interface is served, as platforms want it."""
    monkeypatch.setenv("PORT", "5000")

    assert binds_of(*words) == [expected]


def test_empty_port_of_the_platform_is_none(monkeypatch: pytest.MonkeyPatch):
    """A variable that is set to nothing."""
    monkeypatch.setenv("PORT", "")

    assert binds_of() == [Bind("127.0.0.1", 3000)]


@pytest.mark.parametrize("value", ["http", "-1", "80 ", "\u0663", "65536"])
def test_port_of_the_platform_must_be_one(monkeypatch: pytest.MonkeyPatch, value: str):
    """Refused with what it is."""
    monkeypatch.setenv("PORT", value)

    with pytest.raises(UsageError, match="must be"):
        binds_of()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-b", "a:1", "-p", "2"], "give the port once"),
        (["-b", "unix:/tmp/a", "-p", "2"], "give the port once"),
        (["-p", "65536"], "port 65536, must be 0 to 65535"),
        (["-p", "-1"], "port -1, must be 0 to 65535"),
        (["-b", "3000"], "for a port write"),
        (["-b", "a:b"], "has port 'b'"),
    ],
)
def test_contradicting_binds_are_refused(words: list[str], message: str):
    """Nobody should have to guess which one holds."""
    with pytest.raises(UsageError, match=message):
        binds_of(*words)


# ---- help and usage ----


@pytest.mark.parametrize("words", [["-?"], ["app.py", "-?"], ["-w", "2", "x", "--nonsense", "-?"]])
def test_question_mark_anywhere_shows_all_flags(
    capsys: pytest.CaptureFixture[str], words: list[str]
):
    """With their defaults, and exit code 0, whatever else is there."""
    code = main(words)
    out = capsys.readouterr().out

    assert code == 0
    for flag in (
        "-p -b -t -w -www -v -q -maxbd -maxms -maxhd -ping -tout -? "
        "--port --bind --threads --workers --public --access-log --quiet --max-body"
    ).split():
        assert flag in out
    assert "(default: 50)" in out


@pytest.mark.parametrize("words", [["-h"], ["--help"]])
def test_other_spellings_of_help(capsys: pytest.CaptureFixture[str], words: list[str]):
    """As every Python program has them."""
    with pytest.raises(SystemExit) as caught:
        main(words)

    assert caught.value.code == 0
    assert "TARGET" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--nonsense", "app.py"],
        ["-x", "app.py"],
        ["--thread", "3", "app.py"],
        ["-p", "http", "app.py"],
        ["app.py", "other.py"],
        ["-p"],
    ],
)
def test_wrong_usage_is_one_line_and_2(capsys: pytest.CaptureFixture[str], words: list[str]):
    """A flag is known or refused; none is guessed from its beginning."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    err = capsys.readouterr().err

    assert caught.value.code == 2
    assert err.startswith("iodine_aio: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["-w", "0"], ["-www", "a"], ["-b", "3000"], ["-p", "70000"]])
def test_wrong_value_is_one_line_and_2(capsys: pytest.CaptureFixture[str], words: list[str]):
    """The value is named."""
    code = main([*words, "app.py"])
    err = capsys.readouterr().err

    assert code == 2
    assert err.startswith("iodine_aio: ")
    assert err.count("\n") == 1


# ---- exit codes of the process ----


@pytest.mark.slow
@pytest.mark.parametrize("target", ["nothing_there:app", "nothing.py", "web_under_test:other"])
def test_app_that_cannot_be_imported_is_one_line_and_3(tmp_path: Path, target: str):
    """Cause and cure."""
    write_app(tmp_path)
    code, out, err = command(tmp_path, "-p", "0", target)

    assert (code, out) == (3, "")
    assert err.startswith("iodine_aio: ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["1 / 0", "raise SystemExit(0)", "async def app(a, b): ...", "app = 7"]
)
def test_app_that_cannot_be_called_is_one_line_and_3(tmp_path: Path, text: str):
    """No traceback of ours, unless it is asked for."""
    code, out, err = command(tmp_path, "-p", "0", write_app(tmp_path, text))

    assert (code, out) == (3, "")
    assert err.startswith("iodine_aio: ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_target_that_runs_a_server_itself_is_one_line_and_3(tmp_path: Path, workers: str):
    """Else it would serve elsewhere, within its import, and a stop would begin the command's."""
    web = "import iodine_aio\n\ndef app(env): ...\n\niodine_aio.run(app, port=0)\n"
    code, out, err = command(tmp_path, "-p", "0", "-w", workers, write_app(tmp_path, web))

    assert (code, out) == (3, "")
    assert "put that under `if __name__ == '__main__'` [web_under_test.py:5]" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_debug_shows_the_traceback_of_the_app(tmp_path: Path):
    """For whoever looks for the fault in it; the exit code is the same."""
    code, _, err = command(tmp_path, "-p", "0", "--debug", write_app(tmp_path, "1 / 0"))

    assert "ZeroDivisionError" in err
    assert "Traceback" in err
    assert code == 3


@pytest.mark.slow
def test_address_that_is_taken_is_one_line_and_4(tmp_path: Path):
    """Before the app is imported, whose own fault is not reached."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        code, out, err = command(tmp_path, "-p", port, write_app(tmp_path, "1 / 0"))

    assert (code, out) == (4, "")
    assert err.startswith(f"iodine_aio: cannot listen on 127.0.0.1:{port}: ")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_address_that_the_app_listens_on_is_taken_too_and_4(tmp_path: Path):
    """What `listen()` has prepared while the app was imported is opened before the start."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        text = f"import iodine_aio\niodine_aio.listen({port}, object)\ndef app(env): ...\n"
        code, out, err = command(tmp_path, "-p", "0", write_app(tmp_path, text))

    assert (code, out) == (4, "")
    assert err.startswith(f"iodine_aio: cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.slow
def test_unknown_host_is_one_line_and_4(tmp_path: Path):
    """A name that means nothing here."""
    code, out, err = command(tmp_path, "-b", "no-such-host.invalid:0", write_app(tmp_path))

    assert (code, out) == (4, "")
    assert err.startswith("iodine_aio: cannot listen on no-such-host.invalid:0: ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("state", ["pre_start", "on_start"])
def test_hook_that_raises_is_one_line_and_5(tmp_path: Path, state: str):
    """The start failed, and says by whose fault."""
    text = f"import iodine_aio\niodine_aio.on_state({state!r}, lambda: 1 / 0)\n"
    code, out, err = command(tmp_path, "-p", "0", write_app(tmp_path, f"{text}app = lambda env: 1"))

    assert (code, out) == (5, "")
    assert err.startswith(f"iodine_aio: a hook of {state} raised ZeroDivisionError")
    assert err.count("\n") == 1


def serve_once(folder: Path, words: Sequence[str], number: int) -> tuple[int, str, bytes]:
    """Starts it, asks it once, stops it by a signal."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [*COMMAND, "-b", f"fd://{listener.fileno()}", *words],
            cwd=folder,
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
                sock.sendall(b"GET /a%1b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = read_to_end(sock)
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                process.kill()
    return process.returncode, err, answer


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_clean_stop_is_0(tmp_path: Path, number: int):
    """One banner, and nothing else."""
    code, err, answer = serve_once(tmp_path, [write_app(tmp_path)], number)

    assert answer.endswith(b"hello")
    assert code == 0
    assert err.startswith("iodine_aio serves on http://127.0.0.1:")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "logged"), [(["."], 0), (["./"], 0), (["-v", "."], 1), (["-www", ".", "-v"], 0)]
)
def test_folder_is_a_site(tmp_path: Path, words: list[str], logged: int):
    """Its files are in the log where there is nothing else to be logged, and one is asked for."""
    (tmp_path / "a\x1b").write_bytes(b"file")
    if "-www" in words:
        words = [*words, write_app(tmp_path)]
    code, err, answer = serve_once(tmp_path, words, signal.SIGTERM)

    assert answer.endswith(b"file")
    assert code == 0
    assert err.count('"GET /a%1b HTTP/1.1" 200') == logged


def test_folder_beside_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Which of them it should be, only who wrote it knows."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match="name one of them"):
        read_settings(make_parser().parse_args(["-www", ".", "."]))


def test_flags_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each may be repeated where there can be several."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.html").touch()
    words = ["--static", "/a=.", "--static", "/b=..", "--cache-control", "*.js=max-age=1"]
    settings = settings_of(*words, "-www", ".", "--spa", "app.html", "--sendfile", "..")

    assert settings.static == (("/a", "."), ("/b", ".."))
    assert settings.cache_control == (("*.js", "max-age=1"),)
    assert (settings.public, settings.spa, settings.sendfile) == (".", "app.html", ("..",))


@pytest.mark.slow
def test_listeners_of_the_app_are_served_beside_it(tmp_path: Path):
    """The banner names them all."""
    text = "import iodine_aio\niodine_aio.listen(0, object)\nasync def app(env): return 200, {}, ''"
    code, err, _ = serve_once(tmp_path, [write_app(tmp_path, text)], signal.SIGTERM)

    assert code == 0
    assert ", tcp://127.0.0.1:" in err


@pytest.mark.slow
def test_quiet_server_says_nothing(tmp_path: Path):
    """-q leaves the banner out."""
    code, err, answer = serve_once(tmp_path, ["-q", write_app(tmp_path)], signal.SIGTERM)

    assert answer.endswith(b"hello")
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_verbose_server_logs_one_line_a_request(tmp_path: Path):
    """-v: Iodine's line, at the latest when it stops."""
    code, err, _ = serve_once(tmp_path, ["-q", "-v", write_app(tmp_path)], signal.SIGTERM)

    assert code == 0
    assert err.startswith("127.0.0.1 - - [")
    assert '"GET /a%1b HTTP/1.1" 200 ' in err
    assert err.count("\n") == 1


def test_command_is_installed():
    """`iodine-aio` beside `python -m iodine_aio`."""
    assert os.access(Path(sys.executable).parent / "iodine-aio", os.X_OK)


def test_redis_is_named_by_flag_or_environment(monkeypatch: pytest.MonkeyPatch):
    """The flag wins; an empty variable says nothing."""
    monkeypatch.setenv("IODINE_REDIS_URL", "")
    nothing = settings_of().redis_url
    monkeypatch.setenv("IODINE_REDIS_URL", "redis://one")

    assert nothing is None
    assert settings_of().redis_url == "redis://one"
    assert settings_of("--redis", "redis://two").redis_url == "redis://two"


def test_url_that_is_none_of_redis_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    """Said before anything is opened."""
    code = main(["--redis", "localhost", "app.py"])

    assert code == 2
    assert "must be redis://host:port" in capsys.readouterr().err


@pytest.mark.slow
def test_collector_leaves_what_the_start_has_made_alone(tmp_path: Path):
    """And looks for cycles less often than Python's own number says."""
    text = (
        "import gc\n\ndef app(env):\n"
        "    return 200, {}, repr((gc.get_threshold()[0], gc.get_freeze_count() > 1000))\n"
    )
    _, _, answer = serve_once(tmp_path, [write_app(tmp_path, text)], signal.SIGTERM)

    assert answer.endswith(b"(10000, True)")


@pytest.mark.slow
def test_logging_that_the_app_sets_up_does_not_silence_failures(tmp_path: Path):
    """`dictConfig` disables every logger that it does not name, unless it is told not to."""
    text = (
        "import logging.config\nlogging.config.dictConfig({'version': 1})\n\n"
        "def app(env):\n    raise ZeroDivisionError\n"
    )
    _, err, answer = serve_once(tmp_path, [write_app(tmp_path, text)], signal.SIGTERM)

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in err
