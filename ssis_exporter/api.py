"""What runs now and what failed last, as JSON. Its shape is stable: fields may be added, none changes or goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from ssis_exporter.baseline import Baseline
from ssis_exporter.errors import SourceError
from ssis_exporter.historyfile import Failure
from ssis_exporter.labels import LONGEST_PATH, clean_label, clean_line
from ssis_exporter.model import DataFlow, Execution, ExecutionFacts, Figures, Reading, Snapshot

EXECUTIONS_PATH = "/api/v1/executions"
FAILURES_PATH = "/api/v1/failures"


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """One source and how its look went."""

    name: str
    kind: str
    server: str
    version: str
    up: bool
    """Whether it answered. While it did not, nothing is known of its executions."""

    error: str | None
    """Why it did not answer, in one sentence."""

    reason: str | None
    """The value of the label `reason` in `ssis_scrape_errors_total`."""

    timed_out: bool
    took_seconds: float
    taken_at: datetime | None
    visibility: str | None
    """How much the account can see: `all`, `partial`, `own`, `none`, `unknown`."""

    visibility_detail: str | None
    incomplete: bool | None
    """The first fill is not done: there are more executions than these."""


class ProcessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the host process of a run and its children use; null where it cannot be read."""

    cpu_seconds: float | None
    resident_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    threads: int | None


class DataFlowCounters(msgspec.Struct, frozen=True, kw_only=True):
    """A run's live data-flow counters."""

    rows_read: int | None
    rows_written: int | None
    buffers_in_use: int | None
    buffers_spooled: int | None
    buffer_memory_bytes: int | None


class OpenExecution(msgspec.Struct, frozen=True, kw_only=True):
    """One open run. Times are in UTC, spans in seconds, unknown texts are empty."""

    source: str
    instance_id: str
    package_name: str
    folder: str
    project: str
    package_id: str
    user_name: str
    caller: str
    status: str
    """`created`, `pending`, `running`, `stopping`."""

    orphaned: bool
    created_at: datetime | None
    started_at: datetime | None
    duration_seconds: float | None
    """Now minus start by the source's clock; null for one that has not begun."""

    typical_seconds: float | None
    """Median of its package's newest runs; null while none is known."""

    p95_seconds: float | None
    samples: int
    """From how many runs these two come."""

    stopping_since: datetime | None
    machine: str
    process_id: int | None
    host: str
    description: str
    environment: str
    figures: ProcessFigures | None
    data_flow: DataFlowCounters | None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    sources: list[SourceState]
    executions: list[OpenExecution]
    """Of the sources that answered, the longest running first."""


class PastFailure(msgspec.Struct, frozen=True, kw_only=True):
    """One run that did not succeed."""

    source: str
    instance_id: str
    package_name: str
    folder: str
    project: str
    result: str
    """`failed`, `ended_unexpectedly`."""

    ended_at: datetime
    duration_seconds: float | None
    message: str | None
    """The first error message; empty where there is none, null while it has not been asked for."""


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """The answer at `FAILURES_PATH`."""

    failures: list[PastFailure]
    """The newest first."""


LONGEST_MESSAGE = 2000

Usual = Callable[[ExecutionFacts], Baseline | None]


def document(readings: Sequence[Reading], *, keep_user_names: bool, usual: Usual = lambda _: None) -> Document:
    """What these readings say; `usual` tells what is usual for a run's package."""
    runs = [run for reading in readings if isinstance(reading.outcome, Snapshot) for run in reading.outcome.executions]
    runs.sort(key=lambda run: run.duration, reverse=True)
    return Document(
        sources=[_source(reading) for reading in readings],
        executions=[_execution(run, usual(run.facts), keep_user_names=keep_user_names) for run in runs],
    )


def failures(known: Sequence[Failure]) -> Failures:
    """What is known of failures."""
    return Failures(
        failures=[
            PastFailure(
                source=clean_line(one.source),
                instance_id=clean_line(one.instance_id),
                package_name=clean_label(one.package_name),
                folder=clean_label(one.folder),
                project=clean_label(one.project),
                result=str(one.result),
                ended_at=one.ended_at,
                duration_seconds=None if one.duration is None else _seconds(one.duration),
                message=None if one.message is None else clean_line(one.message, longest=LONGEST_MESSAGE),
            )
            for one in known
        ]
    )


def encode(shown: Document | Failures) -> bytes:
    """As JSON."""
    return msgspec.json.encode(shown) + b"\n"


def _source(reading: Reading) -> SourceState:
    outcome = reading.outcome
    error = outcome if isinstance(outcome, SourceError) else None
    seen = outcome if isinstance(outcome, Snapshot) else None
    return SourceState(
        name=clean_line(reading.source),
        kind=clean_label(reading.info.kind),
        server=clean_label(reading.info.server),
        version=clean_label(reading.info.version),
        up=error is None,
        error=clean_line(str(error)) if error is not None else None,
        reason=error.reason if error is not None else None,
        timed_out=reading.timed_out,
        took_seconds=_seconds(reading.took),
        taken_at=seen.taken_at if seen is not None else None,
        visibility=str(seen.visibility.scope) if seen is not None else None,
        visibility_detail=clean_line(seen.visibility.detail) if seen is not None else None,
        incomplete=seen.incomplete if seen is not None else None,
    )


def _execution(run: Execution, baseline: Baseline | None, *, keep_user_names: bool) -> OpenExecution:
    facts = run.facts
    return OpenExecution(
        source=clean_line(facts.key.source),
        instance_id=clean_line(facts.key.instance_id),
        package_name=clean_label(facts.package_name),
        folder=clean_label(facts.folder),
        project=clean_label(facts.project),
        package_id=clean_label(facts.package_id),
        user_name=clean_label(facts.user_name) if keep_user_names else "",
        caller=clean_label(facts.caller) if keep_user_names else "",
        status=str(run.status),
        orphaned=run.orphaned,
        created_at=facts.created_at,
        started_at=facts.started_at,
        duration_seconds=_seconds(run.duration) if facts.started_at is not None else None,
        typical_seconds=None if baseline is None else _seconds(baseline.typical),
        p95_seconds=None if baseline is None else _seconds(baseline.p95),
        samples=0 if baseline is None else baseline.samples,
        stopping_since=run.stopping_since,
        machine=clean_label(facts.machine),
        process_id=facts.process_id,
        host=clean_label(facts.host),
        description=clean_label(facts.description),
        environment=clean_label(facts.environment, longest=LONGEST_PATH),
        figures=_figures(run.figures),
        data_flow=_data_flow(run.data_flow),
    )


def _figures(figures: Figures | None) -> ProcessFigures | None:
    if figures is None:
        return None
    return ProcessFigures(
        cpu_seconds=_seconds(figures.cpu_time) if figures.cpu_time is not None else None,
        resident_bytes=figures.resident_bytes,
        read_bytes=figures.read_bytes,
        written_bytes=figures.written_bytes,
        threads=figures.threads,
    )


def _data_flow(flow: DataFlow | None) -> DataFlowCounters | None:
    if flow is None:
        return None
    return DataFlowCounters(
        rows_read=flow.rows_read,
        rows_written=flow.rows_written,
        buffers_in_use=flow.buffers_in_use,
        buffers_spooled=flow.buffers_spooled,
        buffer_memory_bytes=flow.buffer_memory_bytes,
    )


def _seconds(span: timedelta) -> float:
    return span.total_seconds()
