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
@options.log_options("warn")
def command(
    *,
    reason: str,
    storage_path: Path | None,
    log_level: str,
    log_format: str,
    log_file: Path | None,
) -> int:
    """Put all stopping on hold, until `resume`."""
    options.start_logging(log_level, log_format, log_file)
    folder = folder_in_use(storage_path)
    text = f"{reason} ({operator()})" if reason else operator()
    hold = Hold(folder)
    if not _through_service(folder, text):
        hold.begin(text)
    click.echo(f"on hold: nothing is stopped until `ssis-exporter resume` ({hold.path})")
    return exits.OK


def _through_service(folder: Path, text: str) -> bool:
    """A service holds at once, and also where the file cannot be written; without one, the file holds the next."""
    try:
        service = find_service(folder)
        if service is None:
            return False
        service.hold(text)
    except (NotThere, ServiceError):
        return False
    except StorageError as exc:
        click.echo(f"ssis-exporter: {exc}", err=True)
        return False
    return True
