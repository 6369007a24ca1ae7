"""A rich set of readings made by hand: every kind of value, a source that failed, one that is late, hostile names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from prometheus_client import Metric

from ssis_exporter.collector import Collector
from ssis_exporter.errors import SourceError, SourceLoginFailed, SourceTimeout
from ssis_exporter.model import (
    DataFlow,
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Figures,
    HostProcess,
    Reading,
    Scope,
    Snapshot,
    SourceInfo,
    Visibility,
)

NOW = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)


class LatestReadings:
    """A collector as the library's registry takes it, that tells the readings it was given last."""

    def __init__(self, collector: Collector, readings: Sequence[Reading] = ()) -> None:
        self._collector = collector
        self.readings = readings

    def describe(self) -> Iterable[Metric]:
        """The names, without readings."""
        return self._collector.describe()

    def collect(self) -> Iterable[Metric]:
        """What the readings give."""
        return self._collector.families(self.readings)


def run(
    instance_id: str,
    package_name: str = "Load",
    *,
    source: str = "sql01",
    minutes: float = 10,
    status: ExecutionStatus = ExecutionStatus.RUNNING,
    stopping_minutes: float | None = None,
    created_minutes: float | None = None,
    orphaned: bool = False,
    figures: Figures | None = None,
    data_flow: DataFlow | None = None,
    **facts: object,
) -> Execution:
    """One run as a source would show it at `NOW`."""
    duration = timedelta(minutes=minutes) if status.is_active else timedelta()
    return Execution(
        facts=ExecutionFacts(
            key=ExecutionKey(source, instance_id),
            package_name=package_name,
            started_at=NOW - duration if status.is_active else None,
            created_at=None if created_minutes is None else NOW - timedelta(minutes=created_minutes),
            **facts,  # type: ignore[arg-type]
        ),
        status=status,
        duration=duration,
        stopping_since=None if stopping_minutes is None else NOW - timedelta(minutes=stopping_minutes),
        orphaned=orphaned,
        figures=figures,
        data_flow=data_flow,
    )


def reading(source: str = "sql01", *runs: Execution, scope: Scope = Scope.ALL, **more: object) -> Reading:
    """What a scrape got from a source that showed these runs."""
    seen = Snapshot(source=source, taken_at=NOW, visibility=Visibility(scope), executions=runs, **more)  # type: ignore[arg-type]
    return Reading(source=source, info=SourceInfo(kind="fake"), outcome=seen, took=timedelta(seconds=0.25))


def failed(source: str, error: SourceError, *, timed_out: bool = False) -> Reading:
    """What a scrape got from a source that did not answer."""
    info = SourceInfo(kind="fake")
    return Reading(source=source, info=info, outcome=error, took=timedelta(seconds=9.5), timed_out=timed_out)


def rich_readings() -> list[Reading]:
    """The readings behind the golden files."""
    catalog = Snapshot(
        source="sql01",
        taken_at=NOW,
        visibility=Visibility(Scope.ALL, "roles: ssis_admin"),
        hosts_without_row=1,
        incomplete=True,
        executions=(
            run(
                "40713",
                "Load Customers",
                folder="Finance",
                project="DW",
                package_id="{6F9619FF-8B86-D011-B42D-00C04FC964FF}",
                user_name="CORP\\svc_etl",
                machine="ETL01",
                process_id=4711,
                description="Nightly load, part 1",
                environment="Finance/Production",
                caller="CORP\\agent",
                host="ISServerExec",
                minutes=137.5,
                figures=Figures(
                    cpu_time=timedelta(minutes=91, milliseconds=125),
                    resident_bytes=3 * 2**30,
                    read_bytes=2**53 + 1,
                    written_bytes=0,
                    threads=48,
                ),
                data_flow=DataFlow(
                    rows_read=12_500_000,
                    rows_written=12_499_000,
                    buffers_in_use=22,
                    buffers_spooled=0,
                    buffer_memory_bytes=220 * 2**20,
                ),
            ),
            run("40720", "Load Orders", folder="Finance", project="DW", user_name="CORP\\svc_etl", minutes=0),
            run("40721", "Export", status=ExecutionStatus.STOPPING, stopping_minutes=12, minutes=45),
            run(
                "40722", "Archive", status=ExecutionStatus.STOPPING, stopping_minutes=1, minutes=3, start_uncertain=True
            ),
            run("40730", "Waits", status=ExecutionStatus.PENDING, created_minutes=2.5),
            run("40731", "Waits longer", status=ExecutionStatus.PENDING, created_minutes=20),
            run("40732", "Never started", status=ExecutionStatus.CREATED, created_minutes=9000),
            run("31000", "Left behind", minutes=50_000, orphaned=True),
        ),
    )
    processes = Snapshot(
        source="local",
        taken_at=NOW,
        visibility=Visibility(Scope.PARTIAL, "hidepid=1"),
        ambiguous=2,
        host_processes=(
            HostProcess(program="ISServerExec", process_id=4711, started_at=NOW),
            HostProcess(program="ISServerExec", process_id=815, started_at=NOW),
            HostProcess(program="DTExecUI", process_id=99, started_at=NOW),
        ),
        executions=(
            run(
                "991-8812345-5f3a9c01",
                'Lo"ad\\n \n{a="b"} 1\u2028\ud800\u202eLoad',
                source="local",
                folder="\x00\x1b[31m",
                user_name="münchen\\jörg",
                description="x" * 300,
                host="dtexec",
                minutes=1 / 3,
                figures=Figures(cpu_time=timedelta(microseconds=1), resident_bytes=1),
            ),
            run("992-8812399-5f3a9c01", "日本語", source="local", minutes=2),
        ),
    )
    sql01 = SourceInfo(kind="catalog", server="sql01.corp.example", version="16.0.4135.4")
    return [
        Reading(source="sql01", info=sql01, outcome=catalog, took=timedelta(seconds=0.125)),
        Reading(source="local", info=SourceInfo(kind="dtexec"), outcome=processes, took=timedelta(seconds=0.003)),
        failed("sql02", SourceLoginFailed("sql02: login failed for user 'exporter'")),
        failed("sql03", SourceTimeout("sql03: no answer within 9.5 s"), timed_out=True),
    ]
