"""The stopper without a service: for commands that are given while none runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from prometheus_client import CollectorRegistry

from ssis_exporter.cli.folder import passing_folder
from ssis_exporter.cli.remembered import Remembered
from ssis_exporter.cli.stopping import Stopping
from ssis_exporter.config import Config
from ssis_exporter.errors import ConfigError
from ssis_exporter.exporter import Exporter
from ssis_exporter.ledger import NAME
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.storage import StorageMetrics
from ssis_exporter.storagefolder import Storage


@asynccontextmanager
async def stopping(config: Config, folder: Path, *, writes: bool) -> AsyncIterator[Stopping]:
    """
    The stopper of a configuration and a storage folder, which it claims. What is open there stays as it is.

    Where nothing is to be written and there is no ledger yet, none is made. Raises `StorageInUse` when a service works
    with the folder, `ConfigError` for a configuration without `stop`.
    """
    if config.stop is None:
        raise ConfigError(
            f"no exporter that may stop anything runs with {folder} (--storage.path), and the configuration "
            "(--config.file) has no section stop, so nothing may be stopped"
        )
    registry = CollectorRegistry()
    exporter = Exporter(config, registry=registry, load=lambda: config)
    kept = writes or (folder / NAME).exists()
    with nullcontext(folder) if kept else passing_folder(folder) as used:
        storage = Storage(used)
        remembered = await asyncio.to_thread(Remembered, folder)
        made = Stopping(
            config.stop,
            storage=storage,
            storage_metrics=StorageMetrics(registry),
            exporter=exporter,
            metrics=StopMetrics(registry),
            typical=remembered.typical,
            was_seen=remembered.knows,
            takes_up=False,
        )
        try:
            await made.start()
            yield made
        finally:
            await made.close()
            storage.release()
            await exporter.close()
