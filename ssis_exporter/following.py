"""What the ledger gets about one run, while an exporter writes it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ssis_exporter.errors import StorageError
from ssis_exporter.ledger import NAME
from ssis_exporter.ledgerrows import SCHEMA, Event, column, event_of
from ssis_exporter.model import ExecutionKey
from ssis_exporter.storage import open_read_only


class Follower:
    """
    What the ledger gets about one run while an exporter writes it: a look costs one search by index. Blocks.

    `begin` passes over what stands there already, and `close` lets go of the file; a later look opens it again, on
    whichever thread.
    """

    def __init__(self, folder: Path, key: ExecutionKey) -> None:
        self._path = folder / NAME
        self._key = key
        self._connection: sqlite3.Connection | None = None
        self._last = 0

    def begin(self) -> None:
        """What follows is new. Raises `StorageError`: an old outcome must not be taken for the one to come."""
        try:
            self._read()
        except sqlite3.Error as exc:
            raise StorageError(f"{self._path} cannot be read: {exc}") from exc
        finally:
            self.close()

    def look(self) -> list[Event]:
        """The events since the look before, oldest first; none while the ledger cannot be read."""
        try:
            return self._read()
        except (StorageError, sqlite3.Error):
            # The ledger's writer is in the middle of something; the next look comes soon.
            self.close()
            return []

    def _read(self) -> list[Event]:
        if self._connection is None:
            self._connection = open_read_only(self._path, SCHEMA, is_in_use=True)
        found = self._connection.execute(
            "SELECT * FROM events WHERE source = ? AND instance_id = ? AND id > ? ORDER BY id",
            [column(self._key.source), column(self._key.instance_id), self._last],
        ).fetchall()
        self._last = found[-1][0] if found else self._last
        return [event_of(one) for one in found]

    def close(self) -> None:
        """Lets go of the file; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
