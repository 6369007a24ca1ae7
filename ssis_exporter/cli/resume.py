"""`ssis-exporter resume`: ends a hold, or says that the loss of a damaged ledger is known."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from ssis_exporter import ledger
from ssis_exporter.cli import exits, options
from ssis_exporter.cli.folder import folder_in_use
from ssis_exporter.cli.service import NotThere, find_service
from ssis_exporter.hold import Hold


@click.command("resume")
@click.option(
    "--set-aside-damaged-ledger",
    "set_aside",
    is_flag=True,
    help="Keep a damaged ledger under another name and begin a new one: what it knew of past stops is not known then.",
)
@options.storage_option
@options.log_warnings
def command(*, set_aside: bool, storage_path: Path | None) -> int:
    """End a hold: what the rules allow is stopped again."""
    folder = folder_in_use(storage_path)
    if set_aside:
        kept = _acknowledge(folder)
        click.echo(f"the old ledger is kept as {kept}" if kept else "there was no ledger to set aside")
        return exits.OK
    hold = Hold(folder)
    was = hold.reason()
    try:
        service = find_service(folder)
        if service is not None:
            # What the service could not write down is known to it alone.
            was = service.resume() or was
        else:
            hold.end()
    except NotThere:
        hold.end()
    click.echo("nothing was on hold" if was is None else f"the hold is ended; it was: {was}")
    return exits.OK


def _acknowledge(folder: Path) -> str:
    service = find_service(folder)
    if service is not None:
        try:
            return service.acknowledge_damage()
        except NotThere:
            pass
    return str(ledger.acknowledge_damage(folder, datetime.now(UTC)) or "")
