"""`ssis-exporter demo`: `serve` with a made-up estate, on loopback, and what to open and what to try."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click

from ssis_exporter.addresses import METRICS_PORT
from ssis_exporter.cli import options
from ssis_exporter.cli.folder import passing_folder
from ssis_exporter.cli.serve import Flags, run
from ssis_exporter.config import Config, default_source
from ssis_exporter.sources.demo import DemoSettings
from ssis_exporter.stopconfig import MatchConfig, RuleConfig, StopConfig

Mode: TypeAlias = Literal["off", "dry-run", "armed"]


@click.command("demo")
@options.listen_option(f"127.0.0.1:{METRICS_PORT}")
@click.option("--seed", type=int, default=1, show_default=True, help="Equal seeds make equal estates.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True, max=10_000),
    default=1.0,
    show_default=True,
    help="How many times faster than in real life everything happens.",
)
@click.option(
    "--packages",
    type=click.IntRange(min=1, max=100_000),
    default=40,
    show_default=True,
    help="How many packages the estate has.",
)
@click.option("--troubles", is_flag=True, help="Now and then the estate cannot be reached, or not be seen whole.")
@click.option(
    "--stop.mode",
    "stop_mode",
    type=click.Choice(["off", "dry-run", "armed"]),
    default="off",
    show_default=True,
    help="Take requests to stop runs that are older than an hour: record them, or obey.",
)
@options.web_options
@click.option(
    "--storage.path",
    "storage_path",
    type=options.FILE,
    help="Folder for what must survive a restart.  [default: a new one, gone afterwards]",
)
@options.log_options("info")
def command(
    *,
    seed: int,
    speed: float,
    packages: int,
    troubles: bool,
    stop_mode: Mode,
    storage_path: Path | None,
    **given: Any,
) -> int:
    """Run the exporter on a made-up estate: nothing is needed, nothing is touched."""
    # What is remembered of a made-up estate must not mix with what a real exporter on this machine keeps.
    with nullcontext(storage_path) if storage_path is not None else passing_folder(options.state_directory()) as folder:
        flags = Flags(storage_path=folder, **given)
        options.start_logging(flags.log_level, flags.log_format, flags.log_file)
        settings = DemoSettings(seed=seed, speed=speed, packages=packages, troubles=troubles)
        config = Config(sources=(default_source("demo", "demo", settings),), stop=_stop(stop_mode, speed))
        return run(lambda: config, flags, on_started=lambda url: _tell(url, flags, config.stop))


def _stop(mode: Mode, speed: float) -> StopConfig | None:
    if mode == "off":
        return None
    hour = timedelta(hours=1) / speed
    rule = RuleConfig(match=MatchConfig(package_name="*"), action="stop", min_duration=hour)
    return StopConfig(mode=mode, entries=(rule,))


def _tell(url: str, flags: Flags, stop: StopConfig | None) -> None:
    telemetry_path = flags.telemetry_path
    click.echo(f"""
A made-up estate of SSIS packages is running. Open:

  {url}/            the page
  {url}{telemetry_path}     what Prometheus reads

Try, in another terminal:

  {this_program()} list --url {url}
  curl -s {url}{telemetry_path} | grep ssis_package_execution_duration_seconds

{_told_of_stopping(flags, stop)}Ctrl-C ends it.
""")


def this_program() -> str:
    """How a shell in the same folder calls this program: `make demo` leaves it off the search path."""
    if shutil.which("ssis-exporter") is not None:
        return "ssis-exporter"
    started_as = Path(sys.argv[0])
    return str(started_as) if started_as.stem == "ssis-exporter" else f"{sys.executable} -m ssis_exporter"


def _told_of_stopping(flags: Flags, stop: StopConfig | None) -> str:
    if stop is None:
        return ""
    return f"""Runs older than an hour may be stopped ({stop.mode}); an instance id stands in the table of `list`:

  {this_program()} stop INSTANCE_ID --source demo --storage.path {flags.storage_path}
  {this_program()} audit --storage.path {flags.storage_path}

"""
