"""For tests of sources, ours and others': a source that can be told what to see, and the rules every source keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from ssis_exporter.errors import NoSuchExecution, SourceError
from ssis_exporter.model import (
    EndedExecution,
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    HostProcess,
    Scope,
    Snapshot,
    SourceInfo,
    StopReply,
    Visibility,
)
from ssis_exporter.sources.interface import Source, StoppableSource


class FakeSource(StoppableSource):
    """
    A source whose runs a test sets.

    `fail_with` makes every look raise it; while `gate` is cleared, looks wait. `calls` counts the looks begun,
    `stop_requests` lists the instance ids that were asked to stop, `forced` those that were ended.
    """

    kind: ClassVar[str] = "fake"
    can_force_stop: ClassVar[bool] = True

    def __init__(self, name: str = "fake", *, now: Callable[[], datetime] | None = None) -> None:
        super().__init__(name)
        self._now = now if now is not None else lambda: datetime.now(UTC)
        self._runs: dict[str, Execution] = {}
        self.visibility = Visibility(Scope.ALL)
        self.fail_with: Exception | None = None
        self.fail_stop_with: Exception | None = None
        self.obeys = True
        """Whether a run that is asked to stop ends; otherwise it stays `stopping`."""
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Semaphore(0)
        """Released once per look begun, so that a test can wait for one."""
        self.calls = 0
        self.closed = 0
        self.stop_requests: list[str] = []
        self.forced: list[str] = []
        self.ended: list[EndedExecution] = []
        self.host_processes: tuple[HostProcess, ...] | None = None

    @property
    def info(self) -> SourceInfo:
        """A fixed server and version."""
        return SourceInfo(kind=self.kind, server="fake.example.com", version="1.0")

    def start(
        self,
        instance_id: str,
        package_name: str = "Load",
        *,
        folder: str = "Finance",
        project: str = "DW",
        user_name: str = "CORP\\etl",
        status: ExecutionStatus = ExecutionStatus.RUNNING,
        started_at: datetime | None = None,
    ) -> Execution:
        """A run begins (now, unless told otherwise); returns it as the next look shows it."""
        facts = ExecutionFacts(
            key=ExecutionKey(self.name, instance_id),
            package_name=package_name,
            folder=folder,
            project=project,
            user_name=user_name,
            started_at=started_at if started_at is not None else self._now(),
        )
        run = Execution(facts=facts, status=status)
        self._runs[instance_id] = run
        return self._as_of_now(run)

    def end(self, instance_id: str) -> None:
        """A run ends by itself."""
        del self._runs[instance_id]

    def snapshot(self) -> Snapshot:
        """The runs that were set, after `gate`, or `fail_with`."""
        self.calls += 1
        self.began.release()
        self.gate.wait()
        if self.fail_with is not None:
            raise self.fail_with
        return Snapshot(
            source=self.name,
            taken_at=self._now(),
            visibility=self.visibility,
            executions=tuple(self._as_of_now(run) for run in self._runs.values()),
            ended=tuple(self.ended),
            host_processes=self.host_processes,
        )

    def request_stop(self, execution: Execution) -> StopReply:
        """Records the request; the run is gone from the next look where the source `obeys`."""
        return self._stop(execution, self.stop_requests)

    def force_stop(self, execution: Execution) -> StopReply:
        """Records it; the run is gone from the next look."""
        return self._stop(execution, self.forced, always=True)

    def close(self) -> None:
        """Counts."""
        self.closed += 1

    def _stop(self, execution: Execution, record: list[str], *, always: bool = False) -> StopReply:
        instance_id = execution.key.instance_id
        if self.fail_stop_with is not None:
            raise self.fail_stop_with
        run = self._runs.get(instance_id)
        if run is None or execution.facts != run.facts:
            raise NoSuchExecution(f"{self.name}: no run {instance_id}")
        record.append(instance_id)
        if self.obeys or always:
            del self._runs[instance_id]
        else:
            stopping = Execution(facts=run.facts, status=ExecutionStatus.STOPPING, stopping_since=self._now())
            self._runs[instance_id] = stopping
        return StopReply.ACCEPTED

    def _as_of_now(self, run: Execution) -> Execution:
        duration = timedelta()
        if run.facts.started_at is not None:
            duration = max(self._now() - run.facts.started_at, timedelta())
        return Execution(
            facts=run.facts,
            status=run.status,
            duration=duration,
            stopping_since=run.stopping_since,
            orphaned=run.orphaned,
        )


class SourceContract:
    """
    The rules that every source keeps, as pytest tests: derive a test class from it and give it the two fixtures.

    `source` yields a fresh source in an estate where at least one run is open; `broken_source` yields one that
    cannot look. The derived class may skip nothing.
    """

    def test_snapshot_shows_each_open_run_once(self, source: Source) -> None:
        """A key names one run: no key comes twice in a snapshot."""
        seen = source.snapshot()
        keys = [run.key for run in seen.executions]

        assert keys
        assert len(set(keys)) == len(keys)
        assert {source.name} == {key.source for key in keys}
        assert all(key.instance_id for key in keys)

    def test_times_are_aware_and_utc_and_durations_are_not_negative(self, source: Source) -> None:
        """Times are aware, in UTC; a duration is never negative and agrees with the start."""
        seen = source.snapshot()

        assert seen.taken_at.utcoffset() == timedelta()
        for run in seen.executions:
            assert run.duration >= timedelta()
            if run.facts.started_at is not None:
                assert run.facts.started_at.utcoffset() == timedelta()
                assert run.facts.started_at <= seen.taken_at + timedelta(seconds=1)

    def test_facts_stay_the_same_object_between_looks(self, source: Source) -> None:
        """What does not change in a run is read once."""
        first = {run.key: run.facts for run in source.snapshot().executions}
        second = {run.key: run.facts for run in source.snapshot().executions}

        both = first.keys() & second.keys()
        assert both
        assert all(first[key] is second[key] for key in both)

    def test_duration_grows(self, source: Source) -> None:
        """A run that lives on is never younger at a later look."""
        first = {run.key: run.duration for run in source.snapshot().executions}
        second = {run.key: run.duration for run in source.snapshot().executions}

        assert all(second[key] >= first[key] for key in first.keys() & second.keys())

    def test_what_the_account_sees_is_said(self, source: Source) -> None:
        """Every snapshot says what the account could see."""
        assert isinstance(source.snapshot().visibility.scope, Scope)

    def test_a_source_that_cannot_look_raises(self, broken_source: Source) -> None:
        """A source that cannot look raises `SourceError`, with a sentence that names the source."""
        try:
            seen = broken_source.snapshot()
        except SourceError as exc:
            assert broken_source.name in str(exc)
        else:
            raise AssertionError(f"it answered {seen} instead of raising SourceError")

    def test_check_never_raises(self, source: Source, broken_source: Source) -> None:
        """`check` turns trouble into findings."""
        assert source.check()
        assert broken_source.check()

    def test_close_may_be_called_twice_and_before_use(self, source: Source) -> None:
        """Closing is harmless whenever it comes."""
        source.close()
        source.close()

    def test_a_run_that_never_was_is_not_stopped(self, source: Source) -> None:
        """A forged identity stops nothing."""
        if not isinstance(source, StoppableSource):
            return
        real = source.snapshot().executions[0]
        forged_facts = ExecutionFacts(
            key=ExecutionKey(source.name, real.key.instance_id + "0"),
            package_name=real.facts.package_name,
            started_at=real.facts.started_at,
            process_id=real.facts.process_id,
        )
        forged = Execution(facts=forged_facts, status=ExecutionStatus.RUNNING)
        for stop in (source.request_stop, source.force_stop):
            try:
                reply = stop(forged)
            except Exception as exc:  # noqa: BLE001 - each kind of refusal is right; an answer is not
                assert str(exc)
            else:
                raise AssertionError(f"{stop.__name__} of a forged run answered {reply}")

        assert real.key in {run.key for run in source.snapshot().executions}
