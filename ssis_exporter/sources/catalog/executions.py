"""Open runs of the memory, as the outside sees them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from ssis_exporter.model import DataFlow, Execution
from ssis_exporter.sources.catalog.hosts import HostsSeen
from ssis_exporter.sources.catalog.memory import OpenRun

NO_TIME = timedelta()


def executions_of(
    runs: Mapping[int, OpenRun], now: datetime, hosts: HostsSeen | None, flows: Mapping[int, DataFlow]
) -> tuple[Execution, ...]:
    """All runs as they are `now`, by the server's clock. Made anew at every look: what is equal is found out once."""
    orphans = frozenset() if hosts is None else hosts.orphans
    figures = {} if hosts is None else hosts.figures
    return tuple(
        [
            Execution(
                facts=run.facts,
                status=run.status,
                duration=NO_TIME if (began := run.facts.started_at) is None or began > now else now - began,
                stopping_since=run.stopping_since,
                orphaned=execution_id in orphans,
                figures=figures.get(execution_id),
                data_flow=flows.get(execution_id),
            )
            for execution_id, run in runs.items()
        ]
    )
