"""Live data-flow counters of the longest running executions, from `catalog.dm_execution_performance_counters`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from ssis_exporter.model import DataFlow
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.session import CatalogSession

log = logging.getLogger(__name__)

MOST = 50
"""Executions that are asked for in one look."""

LIMIT = timedelta(seconds=1)
"""For all of them together: behind the view is code that talks to each ISServerExec, and it may hang."""

PAUSE = 60.0
"""Seconds before it is tried again after it failed."""

# Never with NULL for all: the view then asks whether the caller may read operation NULL, and shows nothing.
_QUERY = "SELECT c.counter_name, c.counter_value FROM catalog.dm_execution_performance_counters(@id) AS c"

_FIELDS = {
    "Rows read": "rows_read",
    "Rows written": "rows_written",
    "Buffers in use": "buffers_in_use",
    "Buffers spooled": "buffers_spooled",
    "Buffer memory": "buffer_memory_bytes",
}


class Counters:
    """Reads them on a connection of its own, so that a view that hangs costs a look nothing but its limit."""

    def __init__(
        self,
        source: str,
        connect: Callable[[Deadline], CatalogSession],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._connect = connect
        self._monotonic = monotonic
        self._session: CatalogSession | None = None
        self._not_before: float | None = None

    def read(self, ids: Sequence[int], deadline: Deadline) -> dict[int, DataFlow]:
        """What could be read in time; never raises for the server's sake."""
        found: dict[int, DataFlow] = {}
        if not ids or (self._not_before is not None and self._monotonic() < self._not_before):
            return found
        try:
            own = Deadline(min(LIMIT, timedelta(seconds=deadline.wait / 2)), monotonic=self._monotonic)
            if self._session is None or not self._session.is_open:
                self._session = self._connect(own)
            for execution_id in ids[:MOST]:
                rows = self._session.connection.query(_QUERY, [("id", "bigint", execution_id)], own)[0]
                if rows:
                    found[execution_id] = _data_flow(rows)
        except Exception as exc:  # noqa: BLE001 - whatever it was, the look goes on without
            log.debug("source %s: performance counters could not be read: %s", self._source, exc)
            self.close()
            self._not_before = self._monotonic() + PAUSE
        return found

    def close(self) -> None:
        """May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


def _data_flow(rows: Sequence[tuple[Any, ...]]) -> DataFlow:
    values = {_FIELDS[name]: int(value) for name, value in rows if name in _FIELDS and value is not None}
    return DataFlow(**values)
