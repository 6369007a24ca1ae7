"""Puts the parts of the history together: its file, its folder, and what reads the past in the background."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from ssis_exporter.backfill import Backfill, FirstErrors
from ssis_exporter.config import Config
from ssis_exporter.errors import StorageError, StorageInUse
from ssis_exporter.exporter import Exporter
from ssis_exporter.history import History
from ssis_exporter.ledger import NAME as LEDGER
from ssis_exporter.ourstops import OurStops, read_our_stops
from ssis_exporter.storage import StorageMetrics
from ssis_exporter.storagefolder import Storage

log = logging.getLogger(__name__)

PACKAGES_FACTOR = 2
"""Times the packages that have series: so many are remembered of each source."""


class Keeping:
    """The storage folder of a `serve`, and the history in it. `start` claims the folder, `close` gives it back."""

    def __init__(self, exporter: Exporter, folder: Path) -> None:
        self.storage = Storage(folder)
        self.metrics = StorageMetrics(exporter.registry)
        self.history = History.of(self.storage, self.metrics)
        self._exporter = exporter
        self._backfill = Backfill(
            self.history, worker=exporter.worker, share=lambda: exporter.config.limits.backfill_share
        )
        self._first_errors = FirstErrors(self.history, worker=exporter.worker)

    async def start(self) -> None:
        """
        Reads what was kept, and counts from now on. A folder that cannot be used is said, and the metrics go on.

        Raises `StorageInUse` when another exporter works with the folder.
        """
        try:
            await asyncio.to_thread(self.storage.claim)
        except StorageInUse:
            raise
        except StorageError as exc:
            log.debug("the folder is tried again with each file: %s", exc)
        self._configure(self._exporter.config)
        await self.history.open()
        # Where stopping is configured its ledger takes over from here.
        ours = await asyncio.to_thread(_our_stops, self.storage.folder)
        self.history.stopped_by_us = ours.__contains__
        self._exporter.keep_history(self.history)
        self._exporter.on_reload.append(self._configure)
        self._backfill.begin(self._exporter.source_names)
        self._first_errors.begin()

    async def end_reading(self) -> None:
        """Asks the sources nothing more of its own accord."""
        await self._backfill.close()
        await self._first_errors.close()

    @property
    def is_left_behind(self) -> bool:
        """Whether the disk did not let `close` end its work."""
        return self.history.is_left_behind

    async def close(self) -> None:
        """Writes what was counted last, and gives the folder back; may be called twice."""
        await self.history.close()
        self.storage.release()

    def _configure(self, config: Config) -> None:
        self.history.most_packages = PACKAGES_FACTOR * config.limits.packages_per_source
        if self._exporter.history is not None:
            self._backfill.begin(self._exporter.source_names)


def _our_stops(folder: Path) -> OurStops:
    with contextlib.suppress(StorageError):
        return read_our_stops(folder / LEDGER)
    return OurStops()
