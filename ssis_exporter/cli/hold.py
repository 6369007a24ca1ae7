"""`ssis-exporter hold`: nothing is stopped from now on, whether a service runs or not."""

from __future__ import annotations

from pathlib import Path

import click

from ssis_exporter.cli import exits, options
from ssis_exporter.cli.folder import folder_in_use
from ssis_exporter.cli.service import NotThere, find_service
from ssis_exporter.cli.stop import operator
from ssis_exporter.errors import ServiceError, StorageError
from ssis_exporter.hold import Hold


@click.command("hold")
@click.option("--reason", default="", help="Why; shown on the page and in answers.")
@options.storage_option
@options.log_warnings
def command(*, reason: str, storage_path: Path | None) -> int:
    """Put all stopping on hold, until `resume`."""
    folder = folder_in_use(storage_path)
    text = f"{reason} ({operator()})" if reason else operator()
    hold = Hold(folder)
    failed = _tell_service(folder, text)
    if failed is None and hold.reason() is None:
        # Another program has the port of a service that was killed, or a `resume` came right behind.
        failed = ""
    if failed is not None:
        try:
            hold.begin(text)
        except StorageError as exc:
            raise StorageError(f"{failed}{exc}") from exc
    click.echo(f"on hold: nothing is stopped until `ssis-exporter resume` ({hold.path})")
    return exits.OK


def _tell_service(folder: Path, text: str) -> str | None:
    """
    A service holds at once, and until its end also where it cannot write the file.

    None when all is done; otherwise what holds already, as the beginning of a sentence, and the file is to be written
    here: it holds a service that was not reached, and the next one.
    """
    try:
        service = find_service(folder)
    except StorageError:
        return "the service of this folder was not told, and "
    if service is None:
        return ""
    try:
        service.hold(text)
    except NotThere:
        return ""
    except ServiceError as exc:
        return f"{exc}; and "
    except StorageError:
        return "the service that runs stops nothing until `resume` or its end, and no later one knows of it: "
    return None
