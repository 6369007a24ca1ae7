"""hold: a file alone puts all stopping on hold; what cannot be read holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssis_exporter.errors import StorageError
from ssis_exporter.hold import Hold


def test_it_holds_while_the_file_is_there(tmp_path: Path) -> None:
    """
    From `begin` to `end`, with the reason on one line.
    """
    hold = Hold(tmp_path / "storage")

    assert hold.reason() is None
    hold.end()
    hold.begin("month end,\n ask\tAnna \udc80")
    assert "month end, ask Anna ?" == hold.reason()
    hold.begin("")
    assert "no reason given" == hold.reason()
    hold.end()
    assert hold.reason() is None


def test_what_an_operator_writes_is_cleaned(tmp_path: Path) -> None:
    """
    An empty file, bytes that are no text and control characters hold as well, and break no page.
    """
    hold = Hold(tmp_path)

    hold.path.write_bytes(b"")
    assert "no reason given" == hold.reason()
    hold.path.write_bytes(b"\xff\x1b[31m" + b"x" * 1000)
    assert "\ufffd\ufffd[31m" + "x" * 249 + "\u2026" == hold.reason()


def test_what_cannot_be_read_holds(tmp_path: Path) -> None:
    """
    In doubt nothing is stopped.
    """
    hold = Hold(tmp_path)
    hold.path.mkdir()

    assert str(hold.reason()).startswith(f"the file {hold.path} cannot be read: ")


def test_a_hold_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """
    The operator is told.
    """
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Hold(tmp_path / "file").begin("now")

    hold = Hold(tmp_path)
    hold.path.mkdir()
    with pytest.raises(StorageError):
        hold.end()
