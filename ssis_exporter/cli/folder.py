"""The storage folder that a command is about, or one that is gone after it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def passing_folder(home: Path, temporary: Path | None = None) -> Iterator[Path]:
    """
    A folder that is gone afterwards: below `temporary` (the platform's choice), or else below `home`.

    A container whose file system is read-only has no `/tmp`, but a volume for what must survive. Raises `StorageError`.
    """
    prefix = "ssis-exporter-"
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix, dir=temporary, ignore_cleanup_errors=True)
    except OSError:
        try:
            made = tempfile.TemporaryDirectory(prefix=prefix, dir=home, ignore_cleanup_errors=True)
        except OSError as exc:
            raise StorageError(
                f"a temporary folder can be made nowhere, {home} included: {exc.strerror}; name one by TMPDIR"
            ) from exc
    with made as folder:
        yield Path(folder)
