import resource
import subprocess
import sys

import pytest

from iodine_aio.descriptors import descriptor_limit, raise_descriptor_limit


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
