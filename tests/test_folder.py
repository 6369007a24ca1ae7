"""Folders that commands work with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssis_exporter.cli.folder import passing_folder
from ssis_exporter.errors import StorageError


def test_a_passing_folder_is_gone_afterwards(tmp_path: Path) -> None:
    """
    With all that was put into it.
    """
    with passing_folder(tmp_path / "home", tmp_path) as folder:
        (folder / "file").touch()

        assert tmp_path == folder.parent
    assert [] == [*tmp_path.iterdir()]


def test_without_a_place_for_temporary_files_the_volume_takes_it(tmp_path: Path) -> None:
    """
    As in a container whose file system is read-only: `docker run --read-only ... demo`.
    """
    with passing_folder(tmp_path, tmp_path / "nowhere") as folder:
        (folder / "file").touch()

        assert tmp_path == folder.parent
    assert [] == [*tmp_path.iterdir()]


def test_without_any_place_one_sentence_says_so(tmp_path: Path) -> None:
    """
    And what to do.
    """
    with (
        pytest.raises(StorageError, match=r"can be made nowhere, .*home included: No such file.*; name one by TMPDIR"),
        passing_folder(tmp_path / "home", tmp_path / "nowhere"),
    ):
        pass
