"""`ssis-exporter serve`: puts the parts together, runs them, ends them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ssis_exporter import __version__, failurepanel, stoppanel
from ssis_exporter.addresses import Address
from ssis_exporter.cli import exits, options
from ssis_exporter.cli.folder import storage_folder
from ssis_exporter.cli.keeping import Keeping
from ssis_exporter.cli.signals import Signals
from ssis_exporter.cli.validate import check_files, check_stop, check_web, make_sources
from ssis_exporter.config import Config
from ssis_exporter.errors import SsisExporterError
from ssis_exporter.exporter import Exporter
from ssis_exporter.listening import Listener
from ssis_exporter.selfmetrics import CertificateExpiry, make_registry
from ssis_exporter.stopconfig import StopConfig
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.web import WebSettings, make_application
from ssis_exporter.webconfig import WebConfig

if TYPE_CHECKING:
    from ssis_exporter.cli.stopping import Stopping

log = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
"""How long requests that run may go on after the exporter was asked to end."""

OBJECTS_BEFORE_GC = 5_000
"""
After how many new objects Python looks for cycles. A look makes an object for each run, none of them in a cycle: with
Python's own 700 a third of a look at 10 000 runs was that search.
"""

LAST_LOOKS = timedelta(seconds=0.7 * DRAIN_SECONDS)
"""How long scrapes that run then wait for their sources; the rest is for making and sending the answers."""


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
@click.option("--config.check", "config_check", is_flag=True, help="Check the configuration files and exit.")
@options.listen_option(options.DEFAULT_ADDRESS)
@options.web_options
@options.storage_option
@options.log_options("info")
def command(*, config_file: Path | None, config_check: bool, **given: Any) -> int:
    """Run the exporter until SIGTERM, SIGINT or Ctrl-Break."""
    flags = Flags(**given)
    options.start_logging(flags.log_level, flags.log_format, flags.log_file)
    if config_check:
        config = options.load(config_file)
        sources = make_sources(config)
        check_files(config)
        check_web(flags.web_config_file)
        if config.stop is not None:
            check_stop(config.stop, sources)
        click.echo("the configuration is right")
        return exits.OK
    return run(lambda: options.load(config_file), flags)


def run(load: Callable[[], Config], flags: Flags, *, on_started: Callable[[str], None] | None = None) -> int:
    """
    Serves until told to end; returns the exit code.

    `on_started` is told a URL of this machine once everything listens. Raises `SsisExporterError` for what keeps it
    from starting.
    """
    gc.set_threshold(OBJECTS_BEFORE_GC)
    return asyncio.run(_serve(load, flags, on_started))


async def _serve(load: Callable[[], Config], flags: Flags, on_started: Callable[[str], None] | None) -> int:
    # The one place where parts are put together. What starts is closed in the opposite order, whatever happens.
    async with AsyncExitStack() as started:
        config = load()
        registry = make_registry(own_process=not flags.disable_exporter_metrics)
        certificates = CertificateExpiry(registry)
        exporter = Exporter(config, registry=registry, load=load)
        keeping = Keeping(exporter, storage_folder(flags.storage_path))
        # Closed after the sources: what they see last is counted, too.
        started.push_async_callback(keeping.close)
        started.push_async_callback(exporter.close)

        web_config = WebConfig(flags.web_config_file) if flags.web_config_file is not None else None
        if web_config is not None:
            started.callback(web_config.close)
            certificates.watch("metrics", lambda: web_config.certificate_expires_at)
        settings = WebSettings(
            telemetry_path=flags.telemetry_path,
            timeout_margin=timedelta(seconds=flags.timeout_margin),
            max_requests=flags.max_requests,
            enable_lifecycle=flags.enable_lifecycle,
            guard=web_config,
            page_sections=lambda: (
                failurepanel.render(keeping.history.failures(failurepanel.SHOWN)),
                stoppanel.render(exporter.stopper),
            ),
        )
        tls = web_config if web_config is not None and web_config.uses_tls else None
        listener = Listener(
            make_application(exporter, settings), flags.listen_addresses, tls=tls, setting="--web.listen-address"
        )

        await keeping.start()
        started.push_async_callback(keeping.end_reading)
        stop_metrics = StopMetrics(registry)
        stop_metrics.know(exporter.source_names)
        kept_by: list[Keeping | Stopping] = [keeping]
        # From here on a signal ends what was started, in order.
        signals = Signals(on_hangup=Reloads(exporter).begin)
        if config.stop is not None:
            stopping = _make_stopping(config.stop, exporter, stop_metrics, keeping)
            kept_by.append(stopping)
            keeping.history.stopped_by_us = stopping.stopped_by_us
            started.push_async_callback(stopping.close)
            await stopping.start()
            await stopping.listen()
            started.push_async_callback(stopping.drain, DRAIN_SECONDS)
            exporter.stopper = stopping.stopper
            exporter.on_reload.append(lambda new: stopping.reconfigure(new.stop))
            certificates.watch("webhook", lambda: stopping.certificate_expires_at)
        else:
            exporter.on_reload.append(_tell_that_stop_needs_a_start)

        await listener.start()
        started.push_async_callback(listener.drain, DRAIN_SECONDS)
        exporter.ready = True
        _tell_start(exporter, listener, encrypted=tls is not None)
        if on_started is not None:
            on_started(url_of(listener.addresses[0], encrypted=tls is not None))
        await signals.stop.wait()
        exporter.end_soon(LAST_LOOKS)
        log.info("ending; requests that run are answered first")
    log.info("ended")
    if any(one.is_left_behind for one in kept_by):
        _leave_the_disk_alone(keeping.storage.folder)
    return exits.OK


def _leave_the_disk_alone(folder: Path) -> NoReturn:
    """Python waits for each thread before it ends, also for one whose disk never answers."""
    log.warning("the disk of %s does not answer: what it has not taken is found out again by the next start", folder)
    logging.shutdown()
    os._exit(exits.OK)


def _make_stopping(config: StopConfig, exporter: Exporter, metrics: StopMetrics, keeping: Keeping) -> Stopping:
    from ssis_exporter.cli.stopping import Stopping  # noqa: PLC0415 - nothing of it is loaded where it is not configured

    return Stopping(
        config,
        storage=keeping.storage,
        storage_metrics=keeping.metrics,
        exporter=exporter,
        metrics=metrics,
        typical=keeping.history.typical,
        was_seen=keeping.history.knows,
    )


def _tell_that_stop_needs_a_start(config: Config) -> None:
    if config.stop is not None:
        log.warning("the section stop is new: it takes effect with the next start")


def url_of(address: Address, *, encrypted: bool) -> str:
    """How to reach what listens there from this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(address.host, address.host)  # noqa: S104 - compared only
    return f"{'https' if encrypted else 'http'}://{Address(reachable, address.port)}"


class Reloads:
    """Reloads that a signal asked for, and nobody waits for."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._running: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begins one."""
        task = asyncio.get_running_loop().create_task(self._reload())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _reload(self) -> None:
        # What was wrong is in the log and in a metric; the old configuration stays in force.
        with suppress(SsisExporterError):
            await self._exporter.reload()


def _tell_start(exporter: Exporter, listener: Listener, *, encrypted: bool) -> None:
    log.info("ssis_exporter %s reads %s", __version__, ", ".join(exporter.source_names))
    for address in listener.addresses:
        log.info("listening on %s%s", address, " with TLS" if encrypted else "")
    if _has_all_rights():
        log.warning("running with all rights of this machine; an account of its own with few rights is enough")


def _has_all_rights() -> bool:
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - only here, and only on Windows

        return bool(ctypes.windll.shell32.IsUserAnAdmin())
    return os.geteuid() == 0
