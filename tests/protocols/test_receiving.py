"""A request body that the app gets when it is whole, and where it is kept until then."""

import tempfile
from pathlib import Path

import pytest

from iodine_aio.errors import ProtocolError
from iodine_aio.protocols.receiving import WholeBody
from iodine_aio.wire.body import LengthReader


@pytest.mark.parametrize(
    ("size", "spool_bytes", "on_disk"), [(10, 10, False), (11, 10, True), (2, 0, True)]
)
def test_body_longer_than_the_bound_is_kept_on_the_disk(size: int, spool_bytes: int, on_disk: bool):
    """A bound of 0 is one, too."""
    body = WholeBody(LengthReader(size), spool_bytes)
    body.feed(bytes(size))
    file = body.open()

    assert file._rolled is on_disk  # type: ignore[attr-defined]
    assert file.read() == bytes(size)
    body.close()


def test_body_that_has_no_place_answers_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    """No folder for it: one entry, and nothing is kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    body = WholeBody(LengthReader(20), 10)
    with pytest.raises(ProtocolError) as caught:
        body.feed(bytes(20))
    body.close()

    assert caught.value.status == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]
