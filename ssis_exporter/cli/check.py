"""`ssis-exporter check`: is the configuration right, can every source be read, and what to install or grant if not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import click

from ssis_exporter.cli import exits, options
from ssis_exporter.cli.validate import check_stop, check_web, make_sources
from ssis_exporter.errors import SsisExporterError
from ssis_exporter.labels import clean_line
from ssis_exporter.model import Finding, FindingLevel
from ssis_exporter.sources.interface import Source
from ssis_exporter.sources.worker import SourceWorker

LONGEST_LINE = 4000
"""What is to be copied must be whole: T-SQL names an account several times, and may double each of its characters."""


@click.command("check")
@options.config_option
@options.web_config_option
@click.option(
    "--timeout",
    type=options.seconds,
    default=30.0,
    show_default=True,
    help="How long to wait for the sources, in seconds.",
)
@options.log_warnings
def command(*, config_file: Path | None, web_config_file: Path | None, timeout: float) -> int:
    """Check the configuration and every source; exit code 1 where something must be done."""
    config = options.load(config_file)
    sources = make_sources(config)
    check_web(web_config_file)
    stop = check_stop(config.stop, sources) if config.stop is not None else []
    _tell("configuration", [Finding(level=FindingLevel.OK, text=str(config_file or "built in; no file was named"))])
    if web_config_file is not None:
        _tell("web configuration", [Finding(level=FindingLevel.OK, text=str(web_config_file))])
    if stop:
        _tell("stopping", stop)
    found = [finding for part, findings in _look(sources, timeout) for finding in _tell(part, findings)]
    return exits.FOUND if any(finding.level is FindingLevel.PROBLEM for finding in found) else exits.OK


def _look(sources: Sequence[Source], timeout: float) -> list[tuple[str, Sequence[Finding]]]:
    """What each source finds; all look at the same time."""
    workers = [SourceWorker(source) for source in sources]
    ends = time.monotonic() + timeout
    asked = [worker.call(lambda source: source.check()) for worker in workers]
    found = [
        (f"source {source.name} ({source.kind})", _answer(future, ends - time.monotonic(), timeout))
        for source, future in zip(sources, asked, strict=True)
    ]
    for worker in workers:
        worker.close(timeout=0.5)
    return found


def _answer(future: Future[Sequence[Finding]], seconds: float, timeout: float) -> Sequence[Finding]:
    try:
        return future.result(max(seconds, 0))
    except TimeoutError:
        return [Finding(level=FindingLevel.PROBLEM, text=f"no answer within {timeout:g} s (--timeout)")]
    except SsisExporterError as exc:
        return [Finding(level=FindingLevel.PROBLEM, text=str(exc))]
    except Exception as exc:  # noqa: BLE001 - a source of somebody else's must not keep the others from being told
        return [Finding(level=FindingLevel.PROBLEM, text=f"unforeseen: {type(exc).__name__}: {exc}")]


def _tell(part: str, findings: Sequence[Finding]) -> Sequence[Finding]:
    click.echo(part)
    for finding in findings:
        click.echo(f"  {finding.level:<8} {clean_line(finding.text, longest=LONGEST_LINE)}")
        for line in finding.remedy.splitlines():
            click.echo(f"           {clean_line(line, longest=LONGEST_LINE)}")
    return findings
