"""`ssis-exporter audit`: the ledger of stops, read only, also while a service works with it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from ssis_exporter.cli import exits, options
from ssis_exporter.cli.folder import storage_folder
from ssis_exporter.cli.tables import plain_lines
from ssis_exporter.durations import parse_duration
from ssis_exporter.labels import clean_line
from ssis_exporter.ledger import read_events
from ssis_exporter.ledgerrows import Event

HEADS = ("TIME (UTC)", "SOURCE", "INSTANCE ID", "WHAT", "RULE", "REASON", "TEXT")


def moment(text: str) -> datetime:
    """A span before now (`12h`) or a time (`2026-11-22T20:00:00Z`; without a zone it is UTC)."""
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise click.BadParameter(f"{text[:40]!r} must be like 12h, 7d or 2026-11-22T20:00:00Z") from exc


@click.command("audit")
@click.option("--since", type=moment, help="Only what happened since then: 12h, 7d, 2026-11-22T20:00:00Z.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event, with all that was known.")
@options.storage_option
@options.log_warnings
def command(*, since: datetime | None, as_json: bool, storage_path: Path | None) -> int:
    """Show what was nominated, decided and done, oldest first."""
    events = read_events(storage_folder(storage_path), since)
    if as_json:
        for event in events:
            click.echo(json.dumps(_as_json(event), sort_keys=True))
        return exits.OK
    rows = [_row(event) for event in events]
    if not rows:
        click.echo("the ledger is empty" if since is None else "nothing happened since then")
        return exits.OK
    for line in plain_lines(HEADS, rows):
        click.echo(line)
    return exits.OK


def _as_json(event: Event) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(event)
    return shown


def _row(event: Event) -> tuple[str, ...]:
    what = str(event.outcome or event.kind)
    texts = (
        f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
        event.key.source,
        event.key.instance_id,
        what,
        event.rule,
        str(event.reason or ""),
        event.text,
    )
    return tuple(clean_line(text) for text in texts)
