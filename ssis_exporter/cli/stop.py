"""`ssis-exporter stop`: one run, on the same path as an alert's nomination."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import time
from collections.abc import Callable
from pathlib import Path

import click

from ssis_exporter.cli import exits, options
from ssis_exporter.cli.folder import storage_folder
from ssis_exporter.cli.printing import event_line, explanation_lines
from ssis_exporter.cli.service import NotThere, RunningService, find_service
from ssis_exporter.cli.standalone import stopping
from ssis_exporter.config import Config
from ssis_exporter.control import explain_all
from ssis_exporter.following import Follower
from ssis_exporter.labels import clean_line
from ssis_exporter.model import Decision, ExecutionKey, Nomination, StopOutcome
from ssis_exporter.stopview import Explanation

POLL_SECONDS = 0.2


@click.command("stop")
@click.argument("instance_id")
@click.option("--source", required=True, help="Name of the source that shows the run.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be decided.")
@click.option(
    "--timeout",
    "seconds",
    type=options.seconds,
    default=1800.0,
    show_default=True,
    help="How long to wait for the outcome, in seconds; the stop goes on without being watched.",
)
@options.config_option
@options.storage_option
@options.log_warnings
def command(
    *,
    instance_id: str,
    source: str,
    yes: bool,
    dry_run: bool,
    seconds: float,
    config_file: Path | None,
    storage_path: Path | None,
) -> int:
    """
    Stop one run: the rules, the breaker and the proof are the same as for an alert.

    Goes through the running service when there is one, which has its own configuration; looks and stops by itself
    otherwise.
    """
    folder = storage_folder(storage_path)
    nomination = Nomination(key=ExecutionKey(source, instance_id), origin=f"operator {operator()}")

    def agreed(explanation: Explanation) -> bool:
        for line in explanation_lines(explanation):
            click.echo(line)
        would = explanation.would_be_asked_to_stop or explanation.outcome is StopOutcome.WOULD_STOP
        if dry_run or not would:
            return False
        question = "Stop this run?" if explanation.would_be_asked_to_stop else "Record this in the ledger as a dry run?"
        return yes or click.confirm(question)

    service = find_service(folder)
    if service is not None:
        try:
            return _through_service(service, nomination, folder, agreed, seconds)
        except NotThere:
            # It was killed, or has just ended: the lock of the folder tells for certain.
            pass
    return asyncio.run(_by_itself(options.load(config_file), folder, nomination, agreed, seconds, writes=not dry_run))


def operator() -> str:
    """Who gives the command, for the ledger."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "of unknown name"


def _through_service(
    service: RunningService,
    nomination: Nomination,
    folder: Path,
    agreed: Callable[[Explanation], bool],
    seconds: float,
) -> int:
    [explanation] = service.explain([nomination])
    if not agreed(explanation):
        return _of_explanation(explanation)
    follower = Follower(folder, nomination.key)
    follower.begin()
    [decision] = service.submit([nomination])
    return _follow(decision, follower, seconds)


async def _by_itself(
    config: Config,
    folder: Path,
    nomination: Nomination,
    agreed: Callable[[Explanation], bool],
    seconds: float,
    *,
    writes: bool,
) -> int:
    async with stopping(config, folder, writes=writes) as made:
        [explanation] = await explain_all(made.stopper, [nomination])
        if not await asyncio.to_thread(agreed, explanation):
            return _of_explanation(explanation)
        follower = Follower(folder, nomination.key)
        await asyncio.to_thread(follower.begin)
        [decision] = await made.stopper.submit([nomination])
        return await asyncio.to_thread(_follow, decision, follower, seconds)


def _follow(decision: Decision, follower: Follower, seconds: float) -> int:
    """Prints each step that the ledger gets, until the outcome."""
    if decision.outcome is not None:
        click.echo(f"{decision.outcome}: {clean_line(decision.text)}" if decision.text else str(decision.outcome))
        return _of_outcome(decision.outcome)
    deadline = time.monotonic() + seconds
    with contextlib.closing(follower):
        while time.monotonic() < deadline:
            for event in follower.look():
                click.echo(event_line(event))
                if event.outcome is not None:
                    return _of_outcome(event.outcome)
            time.sleep(POLL_SECONDS)
    click.echo(f"no outcome within {seconds:g} s; `ssis-exporter audit` will show it", err=True)
    return exits.FOUND


def _of_outcome(outcome: StopOutcome) -> int:
    done = (StopOutcome.STOPPED, StopOutcome.ALREADY_ENDED, StopOutcome.WOULD_STOP)
    return exits.OK if outcome in done else exits.FOUND


def _of_explanation(explanation: Explanation) -> int:
    if explanation.would_be_asked_to_stop:
        return exits.OK
    return _of_outcome(explanation.outcome) if explanation.outcome is not None else exits.FOUND
