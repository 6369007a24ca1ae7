"""Open runs of the memory, as executions: their ages, and since when they can have been meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ssis_exporter.model import DataFlow, Execution
from ssis_exporter.sources.catalog.hosts import HostsSeen
from ssis_exporter.sources.catalog.memory import OpenRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The time of a look."""

    server: datetime
    ahead: timedelta
    """How far this machine's clock is ahead of the server's."""

    same_since: datetime | None
    """By this machine's clock, since when the catalog is this one; None where it is not known to have been another."""

    @classmethod
    def of(cls, *, server: datetime, here: datetime, same_for: timedelta | None) -> Clocks:
        """From what both show after a look, and for how long the catalog has been this one."""
        return cls(server=server, ahead=here - server, same_since=None if same_for is None else here - same_for)

    def known_since(self, began: datetime | None) -> datetime | None:
        """By this machine's clock, from when on a name can have meant a run that began then by the server's."""
        try:
            here = began + self.ahead if began is not None else None
        except OverflowError:
            # A start at the end of all time, which a row can hold.
            here = None
        moments = [moment for moment in (here, self.same_since) if moment is not None]
        return max(moments, default=None)


def execution_of(
    execution_id: int, run: OpenRun, clocks: Clocks, hosts: HostsSeen | None, flows: Mapping[int, DataFlow]
) -> Execution:
    """A run as the outside sees it."""
    began = run.facts.started_at
    return Execution(
        facts=run.facts,
        status=run.status,
        duration=max(clocks.server - began, timedelta()) if began is not None else timedelta(),
        stopping_since=run.stopping_since,
        known_since=clocks.known_since(began),
        orphaned=hosts is not None and execution_id in hosts.orphans,
        figures=None if hosts is None else hosts.figures.get(execution_id),
        data_flow=flows.get(execution_id),
    )
