"""`ssis-exporter serve`: puts the parts together, runs them, ends them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from ssis_exporter import __version__, logs
from ssis_exporter.addresses import Address
from ssis_exporter.cli import exits, options
from ssis_exporter.cli.signals import Signals
from ssis_exporter.config import Config, default_config, load_config
from ssis_exporter.errors import ConfigError, SsisExporterError
from ssis_exporter.exporter import Exporter
from ssis_exporter.listening import Listener
from ssis_exporter.web import WebSettings, make_application

log = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
"""How long requests that run may go on after the exporter was asked to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of `serve` and `demo`."""

    listen_addresses: tuple[Address, ...]
    telemetry_path: str
    web_config_file: Path | None
    max_requests: int
    disable_exporter_metrics: bool
    enable_lifecycle: bool
    timeout_margin: float
    storage_path: Path | None
    log_level: str
    log_format: str
    log_file: Path | None


@click.command("serve")
@options.config_option
@click.option("--config.check", "config_check", is_flag=True, help="Check the configuration and exit.")
@options.listen_option(options.DEFAULT_ADDRESS)
@options.web_options
@options.storage_option
@options.log_options
def command(config_file: Path | None, config_check: bool, **flags: Any) -> int:
    """Run the exporter until SIGTERM, SIGINT or Ctrl-Break."""
    checked = Flags(**flags)
    start_logging(checked)

    def load() -> Config:
        return load_config(config_file) if config_file is not None else default_config()

    if config_check:
        config = load()
        for source in config.sources:
            source.build()
        click.echo("the configuration is right")
        return exits.OK
    return run(load, checked)


def start_logging(flags: Flags) -> None:
    """Sends the log where the flags say. Raises `ConfigError` for a file that cannot be written."""
    try:
        logs.configure(level=flags.log_level, format=flags.log_format, file=flags.log_file)
    except OSError as exc:
        raise ConfigError(f"--log.file {flags.log_file} cannot be written: {exc.strerror}") from exc


def run(load: Callable[[], Config], flags: Flags, *, on_started: Callable[[Listener], None] | None = None) -> int:
    """Serves until told to end; returns the exit code. Raises `SsisExporterError` for what keeps it from starting."""
    config = load()
    return asyncio.run(_serve(config, load, flags, on_started))


async def _serve(
    config: Config, load: Callable[[], Config], flags: Flags, on_started: Callable[[Listener], None] | None
) -> int:
    # The one place where parts are put together.
    registry = CollectorRegistry()
    exporter = Exporter(config, registry=registry, load=load)
    settings = WebSettings(
        telemetry_path=flags.telemetry_path,
        max_requests=flags.max_requests,
        exporter_metrics=not flags.disable_exporter_metrics,
        enable_lifecycle=flags.enable_lifecycle,
        timeout_margin=timedelta(seconds=flags.timeout_margin),
    )
    listener = Listener(make_application(exporter, settings), flags.listen_addresses)

    reloads: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = asyncio.get_running_loop().create_task(_reload(exporter))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    signals = Signals(on_hangup)
    try:
        await listener.start()
        exporter.ready = True
        _tell_start(exporter, listener)
        if on_started is not None:
            on_started(listener)
        await signals.stop.wait()
        log.info("ending: requests that run are answered first")
        exporter.ready = False
        await listener.drain(DRAIN_SECONDS)
    finally:
        await exporter.close()
    log.info("ended")
    return exits.OK


async def _reload(exporter: Exporter) -> None:
    try:
        await exporter.reload()
    except SsisExporterError:
        # Logged where it happened; the old configuration stays in force.
        return


def _tell_start(exporter: Exporter, listener: Listener) -> None:
    log.info("ssis_exporter %s reads %s", __version__, ", ".join(exporter.source_names))
    for address in listener.addresses:
        log.info("listening on %s", address)
    if _has_all_rights():
        log.warning("running with all rights of this machine; an account of its own with few rights is enough")


def _has_all_rights() -> bool:
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - only here, and only on Windows

        return bool(ctypes.windll.shell32.IsUserAnAdmin())
    return os.geteuid() == 0
