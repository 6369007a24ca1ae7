"""Which runs ended because we asked them to: answered from memory, so that any thread may ask at any moment."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ssis_exporter.ledgerrows import SCHEMA, EventKind, Row
from ssis_exporter.model import ExecutionKey, StopOutcome
from ssis_exporter.stopview import Stage
from ssis_exporter.storage import open_read_only

WAS_ASKED = (StopOutcome.STOPPED, StopOutcome.UNCONFIRMED, StopOutcome.ROW_STUCK)
"""Outcomes that a run only comes to after its source was asked, or may have been."""

_QUERY = f"""
SELECT source, instance_id FROM runs
WHERE stage NOT IN ('{Stage.NOMINATED}', '{Stage.ALLOWED}', '{Stage.CLOSED}') OR outcome IN ({",".join("?" * 3)})
OR (outcome = '{StopOutcome.FAILED}' AND EXISTS (
    SELECT 1 FROM events WHERE events.source = runs.source AND events.instance_id = runs.instance_id
    AND events.episode = runs.episode AND kind = '{EventKind.ASKED}'
))
"""  # noqa: S608 - our own names


class OurStops:
    """The ledger tells it each row that moved, before anything is done on the strength of that move."""

    def __init__(self) -> None:
        self._keys: set[ExecutionKey] = set()
        self._is_loaded = False

    def __contains__(self, key: ExecutionKey) -> bool:
        return key in self._keys

    @property
    def is_loaded(self) -> bool:
        """Whether it knows of what was asked before this start."""
        return self._is_loaded

    def load(self, connection: sqlite3.Connection) -> None:
        """Reads what the ledger knows."""
        self._keys |= {ExecutionKey(*found) for found in connection.execute(_QUERY, WAS_ASKED)}
        self._is_loaded = True

    def moved(self, row: Row, *, came_from: Stage) -> None:
        """A row is where it is now."""
        if row.stage in (Stage.REQUESTED, Stage.ESCALATED):
            self._keys.add(row.key)
        elif row.stage in (Stage.NOMINATED, Stage.ALLOWED):
            self._keys.discard(row.key)
        elif row.stage is Stage.CLOSED and row.outcome not in WAS_ASKED and not _failed_late(row, came_from):
            # It ended by itself, or the source refused: whoever ends it now, it is not us.
            self._keys.discard(row.key)

    def in_vain(self, key: ExecutionKey) -> None:
        """The source said that it did nothing: when the run is gone, it ended by itself."""
        self._keys.discard(key)


def _failed_late(row: Row, came_from: Stage) -> bool:
    """It was asked, and did not end in time: it may yet."""
    return row.outcome is StopOutcome.FAILED and came_from is not Stage.REQUESTED


def read_our_stops(ledger: Path) -> OurStops:
    """
    What a ledger's file knows, for a start without stopping. Blocks.

    Raises `StorageError` when there is none, or it cannot be read.
    """
    ours = OurStops()
    connection = open_read_only(ledger, SCHEMA)
    try:
        ours.load(connection)
    finally:
        connection.close()
    return ours
