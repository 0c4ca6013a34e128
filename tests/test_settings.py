"""Every option once."""

from dataclasses import FrozenInstanceError, fields

import pytest

from iodine_aio.errors import UsageError
from iodine_aio.settings import Settings


def test_defaults_are_what_is_promised():
    """The limits that a program may rely on."""
    settings = Settings()

    assert settings.max_head_bytes == 8 * 1024
    assert settings.max_body_bytes == 50 * 1024 * 1024
    assert settings.max_message_bytes == 256 * 1024
    assert settings.soft_limit_bytes == 1024 * 1024
    assert settings.hard_limit_bytes == 16 * 1024 * 1024
    assert settings.hard_limit_policy == "close"
    assert settings.keep_alive_timeout == 40
    assert settings.head_timeout == 10
    assert settings.body_timeout == 10
    assert settings.ping_interval == 40
    assert settings.stop_timeout == 10


def test_every_option_says_its_unit_and_consequence():
    """The table of the README is made of them."""
    for option in fields(Settings):
        assert option.metadata["unit"], option.name
        assert option.metadata["consequence"], option.name


def test_settings_do_not_change():
    """Connections may keep what they read of them."""
    settings = Settings()

    with pytest.raises(FrozenInstanceError):
        settings.threads = 3  # type: ignore[misc]


NUMBERS = [option.name for option in fields(Settings) if isinstance(option.default, int | float)
           and not isinstance(option.default, bool) and option.name != "workers"]  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_negative_number_is_refused(name: str):
    """No option counts below nothing; the message has its name and value."""
    with pytest.raises(UsageError, match=f"{name} is -1, must be"):
        Settings(**{name: -1})


@pytest.mark.parametrize("name", [name for name in NUMBERS if name.endswith("_timeout")])
def test_timeout_of_nothing_is_turned_off(name: str):
    """0 is a value of every timeout."""
    assert getattr(Settings(**{name: 0}), name) == 0


@pytest.mark.parametrize(
    "name", ["max_head_bytes", "max_message_bytes", "max_message_fragments", "max_waiting"]
)
def test_limit_that_would_refuse_everything_is_refused(name: str):
    """Nothing works with 0 of these."""
    with pytest.raises(UsageError, match=f"{name} is 0, must be 1 or more"):
        Settings(**{name: 0})


def test_hard_limit_below_the_soft_one_is_refused():
    """The soft one would never be heard of."""
    with pytest.raises(UsageError, match="hard_limit_bytes is 1, below soft_limit_bytes, 2"):
        Settings(soft_limit_bytes=2, hard_limit_bytes=1)


def test_unknown_policy_is_refused():
    """The message says what there is."""
    with pytest.raises(UsageError, match="'wait', must be 'close' or 'drop'"):
        Settings(hard_limit_policy="wait")  # type: ignore[arg-type]


def test_origins_are_no_string():
    """Its letters would be taken for origins."""
    with pytest.raises(UsageError, match="allowed_origins is a str"):
        Settings(allowed_origins="http://a")  # type: ignore[arg-type]


def test_no_worker_at_all_is_refused():
    """Nobody would serve."""
    with pytest.raises(UsageError, match="workers is 0, must be 1 or more"):
        Settings(workers=0)


@pytest.mark.parametrize(
    ("workers", "cores", "count"), [(3, 8, 3), (-1, 8, 8), (-2, 8, 4), (-3, 8, 2), (-16, 8, 1)]
)
def test_negative_workers_are_a_fraction_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int, cores: int, count: int
):
    """At least one."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)

    assert Settings(workers=workers).worker_count == count
