"""Open runs of the memory, as the outside sees them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from ssis_exporter.model import DataFlow, Execution
from ssis_exporter.sources.catalog.hosts import HostsSeen
from ssis_exporter.sources.catalog.memory import OpenRun


def execution_of(
    execution_id: int, run: OpenRun, now: datetime, hosts: HostsSeen | None, flows: Mapping[int, DataFlow]
) -> Execution:
    """A run as it is `now`, by the server's clock."""
    began = run.facts.started_at
    return Execution(
        facts=run.facts,
        status=run.status,
        duration=max(now - began, timedelta()) if began is not None else timedelta(),
        stopping_since=run.stopping_since,
        orphaned=hosts is not None and execution_id in hosts.orphans,
        figures=None if hosts is None else hosts.figures.get(execution_id),
        data_flow=flows.get(execution_id),
    )
