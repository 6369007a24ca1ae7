"""A source's answer is checked at the door: nonsense is a broken source, and only that source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ssis_exporter.errors import SourceBroken, SourceUnreachable
from ssis_exporter.model import (
    EndedExecution,
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Figures,
    Result,
    Snapshot,
    SourceInfo,
    Visibility,
)
from ssis_exporter.sources.interface import Source
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.testing import FakeSource

DEADLINE = 20.0
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NAIVE = datetime(2026, 11, 22, 12)
GOOD = Execution(
    facts=ExecutionFacts(key=ExecutionKey("a", "1"), package_name="Load", started_at=NOW),
    status=ExecutionStatus.RUNNING,
    figures=Figures(cpu_time=timedelta(seconds=1), threads=3),
)


class Answering(FakeSource):
    """Answers what a test sets instead of what it saw."""

    instead: Callable[[Snapshot], Any] | None = None
    info_instead: Any = None

    def snapshot(self) -> Snapshot:
        seen = super().snapshot()
        if self.instead is None:
            return seen
        answer: Snapshot = self.instead(seen)
        return answer

    @property
    def info(self) -> SourceInfo:
        if isinstance(self.info_instead, Exception):
            raise self.info_instead
        return super().info if self.info_instead is None else self.info_instead


class Speechless(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


class SpeechlessSource(SourceUnreachable, Speechless):
    """The same, as an error of a source."""

    __str__ = Speechless.__str__


@pytest.fixture
def source() -> Answering:
    return Answering("a")


@pytest.fixture
def worker(source: Answering) -> Iterator[SourceWorker]:
    made = SourceWorker(source)
    yield made
    made.close(DEADLINE)


def with_run(**changed: Any) -> Callable[[Snapshot], Any]:
    """An answer with one run that differs from a good one."""
    return lambda seen: replace(seen, executions=(replace(GOOD, **changed),))


def with_facts(**changed: Any) -> Callable[[Snapshot], Any]:
    """An answer with one run whose facts differ from good ones."""
    return with_run(facts=replace(GOOD.facts, **changed))


def with_end(**changed: Any) -> Callable[[Snapshot], Any]:
    """An answer with one ended run that differs from a good one."""
    end = EndedExecution(facts=GOOD.facts, result=Result.FAILED, ended_at=NOW, duration=timedelta())
    return lambda seen: replace(seen, ended=(replace(end, **changed),))


NONSENSE = {
    "nothing": lambda _: None,
    "text": lambda _: "nothing runs",
    "another source": lambda seen: replace(seen, source="b"),
    "no visibility": lambda seen: replace(seen, visibility=None),
    "scope as text": lambda seen: replace(seen, visibility=Visibility("everything")),  # type: ignore[arg-type]
    "detail is none": lambda seen: replace(seen, visibility=replace(seen.visibility, detail=None)),
    "naive moment": lambda seen: replace(seen, taken_at=NAIVE),
    "naive change": lambda seen: replace(seen, same_since=NAIVE),
    "clocks apart by a number": lambda seen: replace(seen, clock_ahead=5.0),
    "clock set by a number": lambda seen: replace(seen, set_forward=((seen.taken_at, 5.0),)),
    "clock set at a naive time": lambda seen: replace(seen, set_forward=((NAIVE, timedelta()),)),
    "runs are none": lambda seen: replace(seen, executions=None),
    "run is text": lambda seen: replace(seen, executions=("1",)),
    "no facts": with_run(facts=None),
    "status as text": with_run(status="running"),
    "duration as number": with_run(duration=5.0),
    "stopping since naive": with_run(stopping_since=NAIVE),
    "figures as dict": with_run(figures={"threads": 1}),
    "threads as text": with_run(figures=Figures(threads="many")),  # type: ignore[arg-type]
    "cpu as number": with_run(figures=Figures(cpu_time=1.5)),  # type: ignore[arg-type]
    "data flow as dict": with_run(data_flow={}),
    "key is a list": with_facts(key=["1"]),
    "key of another source": with_facts(key=ExecutionKey("b", "1")),
    "id is a number": with_facts(key=ExecutionKey("a", 1)),  # type: ignore[arg-type]
    "no name": with_facts(package_name=None),
    "name in bytes": with_facts(package_name=b"Load"),
    "host is none": with_facts(host=None),
    "naive start": with_facts(started_at=NAIVE),
    "start as text": with_facts(started_at="2026-11-22"),
    "pid as text": with_facts(process_id="17"),
    "end is text": lambda seen: replace(seen, ended=("1",)),
    "end without facts": with_end(facts=None),
    "end with a naive moment": with_end(ended_at=NAIVE),
    "end with another result": with_end(result="failed"),
    "end of another source": with_end(facts=replace(GOOD.facts, key=ExecutionKey("b", "1"))),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_a_broken_source(
    worker: SourceWorker, source: Answering, answer: Callable[[Snapshot], Any]
) -> None:
    """
    An answer that is none is an error of this source, never an exception elsewhere, and the next one counts again.
    """
    source.instead = answer
    broken = worker.look().result(DEADLINE).outcome
    source.instead = with_run()
    recovered = worker.look().result(DEADLINE).outcome

    assert isinstance(broken, SourceBroken)
    assert str(broken).startswith("a: ")
    assert isinstance(recovered, Snapshot)


def test_facts_are_checked_again_when_they_are_others(worker: SourceWorker, source: Answering) -> None:
    """
    That a run was in order once says nothing of other facts under its id.
    """
    source.instead = with_run()
    worker.look().result(DEADLINE)
    source.instead = with_facts(package_name=None)

    assert isinstance(worker.look().result(DEADLINE).outcome, SourceBroken)


@pytest.mark.parametrize("error", [Speechless(), SpeechlessSource()])
def test_an_error_that_cannot_be_told_ends_nothing(worker: SourceWorker, source: Answering, error: Exception) -> None:
    """
    An exception whose text cannot be had is a broken source, too, and the source is asked again.
    """
    source.fail_with = error
    broken = worker.look().result(DEADLINE).outcome
    source.fail_with = None

    assert isinstance(broken, SourceBroken)
    assert "" != str(broken)
    assert isinstance(worker.look().result(DEADLINE).outcome, Snapshot)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), Speechless()])
def test_what_a_call_raises_ends_no_event_loop(worker: SourceWorker, error: BaseException) -> None:
    """
    Where a call is awaited, what would end the program, or never arrive, comes as a broken source.
    """

    def fail(_: Source) -> None:
        raise error

    async def call() -> None:
        await asyncio.wait_for(asyncio.wrap_future(worker.call(fail)), DEADLINE)

    with pytest.raises(SourceBroken, match=type(error).__name__):
        asyncio.run(call())


@pytest.mark.parametrize("info", [RuntimeError("odd"), 5, SourceInfo(kind="fake", server=None)])  # type: ignore[arg-type]
def test_a_source_that_cannot_say_what_it_is(worker: SourceWorker, source: Answering, info: object) -> None:
    """
    A source whose info raises, or is none, is still shown by its kind.
    """
    source.info_instead = info

    assert SourceInfo(kind="fake") == worker.info


def test_a_failure_that_stays_is_logged_once(
    worker: SourceWorker, source: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What fails in the same way at every look is logged when it begins, and again after it worked.
    """

    def errors() -> int:
        return sum(record.levelname == "ERROR" for record in caplog.records)

    source.fail_with = RuntimeError("odd")
    for _ in range(3):
        worker.look().result(DEADLINE)
    while_it_lasted = errors()
    source.fail_with = None
    worker.look().result(DEADLINE)
    source.fail_with = RuntimeError("odd")
    worker.look().result(DEADLINE)

    assert (1, 2) == (while_it_lasted, errors())
