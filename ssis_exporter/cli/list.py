"""`ssis-exporter list`: what runs now, or what failed last, as a table, plain lines or JSON."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click
import msgspec
from prometheus_client import CollectorRegistry

from ssis_exporter.api import (
    FAILURES_PATH,
    LONGEST_MESSAGE,
    Document,
    Failures,
    OpenExecution,
    PastFailure,
    SourceState,
    document,
    failures,
)
from ssis_exporter.cli import exits, options
from ssis_exporter.cli.fetch import fetch, fetch_as
from ssis_exporter.cli.folder import storage_folder
from ssis_exporter.cli.remembered import Remembered
from ssis_exporter.cli.tables import print_rows
from ssis_exporter.config import Config
from ssis_exporter.durations import short_duration
from ssis_exporter.exporter import Exporter
from ssis_exporter.history import read_history
from ssis_exporter.labels import clean_line
from ssis_exporter.model import Scope

HEADS = ("PACKAGE", "USER", "AGE", "USUAL", "TIMES", "STATUS", "FOLDER", "PROJECT", "SOURCE", "INSTANCE ID")

FAILED_HEADS = ("ENDED (UTC)", "RESULT", "PACKAGE", "TOOK", "FOLDER", "PROJECT", "SOURCE", "INSTANCE ID", "FIRST ERROR")


@click.command("list")
@options.config_option
@click.option("--url", help="Ask a running exporter, like http://127.0.0.1:10058, instead of looking anew.")
@click.option("--failed", is_flag=True, help="Show what failed last, with the first error message, instead.")
@click.option("--json", "as_json", is_flag=True, help="Print what /api/v1/executions answers (or .../failures).")
@options.storage_option
@click.option(
    "--timeout",
    type=options.seconds,
    default=10.0,
    show_default=True,
    help="How long to wait for the sources, in seconds.",
)
@options.log_warnings
def command(
    *,
    config_file: Path | None,
    url: str | None,
    failed: bool,
    as_json: bool,
    storage_path: Path | None,
    timeout: float,
) -> int:
    """
    Show the packages that are running, the longest running first.

    USUAL is the median of the package's newest runs, TIMES how many times as long this one has been running.
    """
    if url is not None and config_file is not None:
        raise click.UsageError(
            "--url asks a running exporter, which has its own configuration: leave --config.file out"
        )
    folder = storage_folder(storage_path)
    if failed:
        return _show_failures(url, timeout, folder, as_json=as_json)
    shown = fetch(url, timeout) if url is not None else asyncio.run(_look(options.load(config_file), timeout, folder))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))
    else:
        _print(shown)
    for source in shown.sources:
        for line in _remarks(source):
            click.echo(line, err=True)
    return exits.OK if all(source.up for source in shown.sources) else exits.FOUND


def _show_failures(url: str | None, timeout: float, folder: Path, *, as_json: bool) -> int:
    if url is not None:
        shown = fetch_as(Failures, url, FAILURES_PATH, timeout)
    else:
        shown = failures(read_history(folder).failures[::-1])
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))
    elif not shown.failures:
        click.echo("no failure is known")
    else:
        _print_rows(FAILED_HEADS, [_failed_row(one) for one in shown.failures])
    return exits.OK


async def _look(config: Config, seconds: float, folder: Path) -> Document:
    remembered = await asyncio.to_thread(Remembered, folder)
    exporter = Exporter(config, registry=CollectorRegistry(), load=lambda: config)
    try:
        readings = await exporter.read(timedelta(seconds=seconds))
        return document(readings, keep_user_names=config.keep_user_names, usual=remembered.usual)
    finally:
        await exporter.close()


def _remarks(source: SourceState) -> list[str]:
    """What keeps the list from being the whole truth."""
    name = clean_line(source.name)
    if not source.up:
        # The sentence begins with the source's name.
        why = clean_line(source.error or "no reason given").removeprefix(f"{name}: ")
        return [f"source {name} could not be read: {why}"]
    remarks = []
    if source.incomplete:
        remarks.append(f"source {name} is still being filled: there are more executions than these")
    if source.visibility != Scope.ALL:
        remarks.append(f"source {name}: this account may not see every execution (visibility {source.visibility})")
    return remarks


def _print(shown: Document) -> None:
    if not shown.executions:
        sentence = _nothing(shown.sources)
        if sentence:
            click.echo(sentence)
        return
    _print_rows(HEADS, [_row(run) for run in shown.executions])


def _print_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_rows(heads, rows, sys.stdout, shutil.get_terminal_size().columns)


def _nothing(sources: Sequence[SourceState]) -> str:
    """No more than is known: where a source could not be read, or not all of it seen, something may be running."""
    if not any(source.up for source in sources):
        return ""
    if all(source.up and source.visibility == Scope.ALL and not source.incomplete for source in sources):
        return "no package is running"
    return "no package is running as far as can be seen"


def _row(run: OpenExecution) -> tuple[str, ...]:
    age, usual = _span(run.duration_seconds), _span(run.typical_seconds) or "unknown"
    times = "-"
    if run.duration_seconds is not None and run.typical_seconds:
        times = f"{run.duration_seconds / run.typical_seconds:.1f}"
    status = f"{run.status}, orphaned" if run.orphaned else run.status
    texts = (run.package_name, run.user_name, age, usual, times, status, run.folder, run.project, run.source)
    # Also of an answer that came over the network: nothing in it may move the cursor.
    return tuple(clean_line(text) for text in (*texts, run.instance_id))


def _failed_row(one: PastFailure) -> tuple[str, ...]:
    texts = (one.result, one.package_name, _span(one.duration_seconds), one.folder, one.project, one.source)
    message = clean_line(one.message or "", longest=LONGEST_MESSAGE)
    return (f"{one.ended_at:%Y-%m-%dT%H:%M:%SZ}", *(clean_line(text) for text in (*texts, one.instance_id)), message)


def _span(seconds: float | None) -> str:
    return "" if seconds is None else short_duration(timedelta(seconds=seconds))
