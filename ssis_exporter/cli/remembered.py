"""What the history of a storage folder knows, for commands that look without a service."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

from ssis_exporter.baseline import Baseline
from ssis_exporter.errors import StorageError
from ssis_exporter.history import read_history
from ssis_exporter.historyfile import NAME, Loaded, PackageKey
from ssis_exporter.model import ExecutionFacts, ExecutionKey

log = logging.getLogger(__name__)


class Remembered:
    """Read once, when it is made, which blocks; nothing is remembered where the file cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._loaded = _read(folder)

    def knows(self, key: ExecutionKey) -> bool:
        """Whether this run was seen before."""
        source = self._loaded.sources.get(key.source)
        return source is not None and source.knows(key.instance_id)

    def usual(self, facts: ExecutionFacts) -> Baseline | None:
        """What is usual for the package of a run."""
        record = self._loaded.packages.get(PackageKey.of(facts))
        return record.samples.baseline() if record is not None else None

    def typical(self, facts: ExecutionFacts) -> timedelta | None:
        """How long that usually takes."""
        usual = self.usual(facts)
        return usual.typical if usual is not None else None


def _read(folder: Path) -> Loaded:
    try:
        return read_history(folder) if (folder / NAME).exists() else Loaded()
    except StorageError as exc:
        log.warning("what ran before is not known: %s", exc)
        return Loaded()
