import os
import resource
import subprocess
import sys

import pytest

from iodine_aio.descriptors import (
    Levels,
    below_brim,
    descriptor_limit,
    make_levels,
    raise_descriptor_limit,
)


def test_soft_limit_is_raised_to_the_hard_one():
    """Iodine counts on every descriptor that the system may give."""
    code = (
        "import resource, iodine_aio.descriptors as l\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))\n"
        "print(l.descriptor_limit(), l.raise_descriptor_limit() == hard,"
        " l.descriptor_limit() == hard)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert finished.stdout == "128 True True\n"


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 1 << 30])
def test_limit_stops_at_what_the_kernel_grants(monkeypatch: pytest.MonkeyPatch, hard: int):
    """macOS grants OPEN_MAX at most, whatever the hard limit says."""
    limits = [(256, hard)]

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > 10240:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)

    assert raise_descriptor_limit() == 10240
    assert limits[-1] == (10240, hard)


def test_no_limit_at_all_is_a_large_number(monkeypatch: pytest.MonkeyPatch):
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)

    assert descriptor_limit() == raise_descriptor_limit() == sys.maxsize


@pytest.mark.parametrize(
    ("limit", "levels"),
    [(1024, (960, 992, 1024)), (128, (96, 112, 128)), (32, (24, 28, 32)), (4, (3, 4, 4))],
)
def test_reserve_is_64_descriptors_or_a_quarter(limit: int, levels: Levels):
    """Half of it is for those that are turned away."""
    assert make_levels(limit) == levels


def test_process_is_below_the_brim_while_enough_descriptors_are_free():
    """As many as half of those from the ceiling to the brim, wherever they are."""
    reader, writer = os.pipe()
    lowest = os.dup(reader)
    os.close(lowest)

    assert below_brim(Levels(lowest, lowest + 200, lowest + 400), reader)
    assert not below_brim(Levels(lowest - 8, lowest + 1, lowest + 400), reader)
    assert os.dup(reader) == lowest  # it closed what it took

    for fd in (reader, writer, lowest):
        os.close(fd)


def test_descriptors_taken_above_the_brim_must_be_free_again():
    """Else what every burst takes there adds up until there is nothing."""
    reader, writer = os.pipe()
    levels = Levels(600, 700, 800)
    os.dup2(reader, 750)

    assert not below_brim(levels, reader)
    os.close(750)
    assert below_brim(levels, reader)

    for fd in (reader, writer):
        os.close(fd)


def test_process_without_any_descriptor_is_not_below_the_brim():
    """It is told so by the kernel, and raises nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader, writer = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (writer + 1, limits[1]))
    try:
        below = below_brim(make_levels(1024), reader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(reader)
        os.close(writer)

    assert not below
