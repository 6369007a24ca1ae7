"""The storage folder that a command is about."""

from __future__ import annotations

from pathlib import Path

from ssis_exporter.cli import options
from ssis_exporter.errors import StorageError


def storage_folder(given: Path | None) -> Path:
    """The folder of `--storage.path`, or this platform's."""
    return given if given is not None else options.state_directory()


def folder_in_use(given: Path | None) -> Path:
    """
    As `storage_folder`, for commands that are in vain in a folder that no exporter ever worked with.

    Raises `StorageError` for such a one: a hold in the wrong place would hold nothing.
    """
    from ssis_exporter.ledger import NAME  # noqa: PLC0415 - `serve` needs no ledger where stopping is not configured

    folder = storage_folder(given)
    if not (folder / NAME).exists() and not (folder / "lock").exists():
        raise StorageError(f"no exporter has worked with {folder} yet; give --storage.path as its serve has it")
    return folder
