"""`ssis-exporter explain`: what would become of an Alertmanager message, without doing it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click
import msgspec

from ssis_exporter.alertmessage import Disposition, NotAMessage, Selected, read_message, select
from ssis_exporter.cli import exits, options
from ssis_exporter.cli.folder import storage_folder
from ssis_exporter.cli.printing import explanation_lines
from ssis_exporter.cli.service import NotThere, find_service
from ssis_exporter.cli.standalone import stopping
from ssis_exporter.config import Config
from ssis_exporter.control import explain_all
from ssis_exporter.handlers import MAX_BODY_BYTES, TOO_LARGE
from ssis_exporter.labels import clean_line
from ssis_exporter.model import Nomination
from ssis_exporter.stopview import Explanation


@click.command("explain")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each alert.")
@options.config_option
@options.storage_option
@options.log_warnings
def command(
    *,
    file: Path,
    as_json: bool,
    config_file: Path | None,
    storage_path: Path | None,
) -> int:
    """
    Say what would be decided for each alert of a message that Alertmanager sent (FILE, or - for stdin).

    Asks the running service when there is one, which has its own configuration; looks by itself otherwise. Nothing is
    stopped or recorded.
    """
    body = _read(file)
    fits = len(body) <= MAX_BODY_BYTES
    message = read_message(body) if fits else NotAMessage(TOO_LARGE, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if isinstance(message, NotAMessage):
        click.echo(f"the webhook would answer {message.code}: {message.sentence}")
        return exits.FOUND
    chosen = select(message)
    wanted = [one.nomination for one in chosen if _asks(one) and one.nomination is not None]
    explained = iter(_explain(wanted, config_file, storage_folder(storage_path)))
    for number, one in enumerate(chosen, 1):
        explanation = next(explained) if _asks(one) else None
        if as_json:
            # Escaped to ASCII, because a name may hold what is no valid UTF-8.
            click.echo(json.dumps(msgspec.to_builtins(_as_json(one, explanation))))
        else:
            _print(number, len(chosen), one, explanation)
    if message.truncated:
        click.echo(f"{message.truncated} more alerts were left out by Alertmanager's max_alerts", err=True)
    return exits.OK


def _read(file: Path) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MAX_BODY_BYTES + 1)
        with file.open("rb") as opened:
            return opened.read(MAX_BODY_BYTES + 1)
    except OSError as exc:
        raise click.UsageError(f"{file} cannot be read: {exc.strerror}") from exc


def _asks(one: Selected) -> bool:
    return one.disposition is Disposition.NOMINATED


def _explain(nominations: Sequence[Nomination], config_file: Path | None, folder: Path) -> list[Explanation]:
    if not nominations:
        return []
    service = find_service(folder)
    if service is not None:
        try:
            return service.explain(nominations)
        except NotThere:
            pass
    return asyncio.run(_by_itself(options.load(config_file), folder, nominations))


async def _by_itself(config: Config, folder: Path, nominations: Sequence[Nomination]) -> list[Explanation]:
    async with stopping(config, folder, writes=False) as made:
        return await explain_all(made.stopper, nominations)


def _print(number: int, count: int, one: Selected, explanation: Explanation | None) -> None:
    name = clean_line(one.alert.labels.get("alertname", ""))
    status = "firing" if one.alert.firing else "resolved"
    click.echo(f"alert {number} of {count}: {name} {clean_line(one.alert.fingerprint)}, {status}")
    match one.disposition:
        case Disposition.NOMINATED:
            assert explanation is not None
            for line in explanation_lines(explanation):
                click.echo(f"  {line}")
        case Disposition.VETO:
            assert one.nomination is not None
            key = one.nomination.key
            click.echo(f"  run:      {clean_line(key.instance_id)} of {clean_line(key.source)}")
            click.echo("  decision: a stop of this run that was not requested yet is given up")
        case Disposition.NOT_FOR_US | Disposition.INCOMPLETE:
            click.echo(f"  decision: ignored ({one.disposition})")
            click.echo(f"  why:      {clean_line(one.reason)}")


def _as_json(one: Selected, explanation: Explanation | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "fingerprint": one.alert.fingerprint,
        "status": "firing" if one.alert.firing else "resolved",
        "disposition": one.disposition,
    }
    if one.nomination is not None:
        shown |= {"source": one.nomination.key.source, "instance_id": one.nomination.key.instance_id}
    if one.reason:
        shown["text"] = one.reason
    if explanation is not None:
        shown |= {
            "outcome": explanation.outcome,
            "would_be_asked_to_stop": explanation.would_be_asked_to_stop,
            "reason": explanation.reason,
            "rule": explanation.rule,
            "text": explanation.text,
            "facts": dict(explanation.facts),
        }
    return shown
