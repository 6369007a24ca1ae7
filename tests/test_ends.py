"""From looks to ends, without a file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ssis_exporter.ends import Marks, SourceEnds
from ssis_exporter.model import (
    EndedExecution,
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Result,
    Scope,
    Snapshot,
    Visibility,
)

T0 = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
ALL = Visibility(Scope.ALL)


def facts(instance: str) -> ExecutionFacts:
    """A run of the package Load that began at T0."""
    return ExecutionFacts(key=ExecutionKey("s", instance), package_name="Load", started_at=T0)


def look(
    *instances: str,
    at: float,
    visibility: Visibility = ALL,
    ended: tuple[EndedExecution, ...] = (),
    records: bool = False,
) -> Snapshot:
    """A look that shows these runs."""
    now = T0 + timedelta(seconds=at)
    runs = tuple(
        Execution(facts=facts(instance), status=ExecutionStatus.RUNNING, duration=now - T0) for instance in instances
    )
    return Snapshot(source="s", taken_at=now, visibility=visibility, executions=runs, ended=ended, records_ends=records)


def end(instance: str, result: Result = Result.SUCCEEDED) -> EndedExecution:
    """A recorded end after a minute."""
    return EndedExecution(
        facts=facts(instance), result=result, ended_at=T0 + timedelta(minutes=1), duration=timedelta(minutes=1)
    )


def results(ends: SourceEnds, seen: Snapshot, *ours: str) -> list[tuple[str, Result]]:
    """The ends that a look tells of."""
    digest = ends.digest(seen, stopped_by_us=lambda key: key.instance_id in ours)
    return [(found.facts.key.instance_id, found.result) for found in digest.ended]


def test_a_run_that_vanished_has_ended_half_way() -> None:
    """
    Where nothing records ends, a run that is gone ended somehow, half-way between the two looks.
    """
    ends = SourceEnds("s")
    ends.digest(look("1", at=100), stopped_by_us=lambda _: False)
    [found] = ends.digest(look(at=110), stopped_by_us=lambda _: False).ended

    assert Result.UNKNOWN == found.result
    assert timedelta(seconds=105) == found.duration


def test_a_run_that_vanished_with_the_right_to_see_it_has_not_ended() -> None:
    """
    Lost or changed rights end nothing; when they are back, what is still there goes on and what is gone ended.
    """
    ends = SourceEnds("s")
    own = Visibility(Scope.OWN, "a")
    none = Visibility(Scope.NONE)

    assert [] == results(ends, look("1", "2", at=0))
    assert [] == results(ends, look(at=10, visibility=own))
    assert [] == results(ends, look(at=20, visibility=none))
    assert [("2", Result.UNKNOWN)] == results(ends, look("1", at=30))


def test_equal_rights_prove_an_end() -> None:
    """
    A run seen under partial sight has ended when it is gone under the very same sight.
    """
    ends = SourceEnds("s")
    sight = Visibility(Scope.PARTIAL, "grants 1,2")

    assert [] == results(ends, look("1", at=0, visibility=sight))
    assert [("1", Result.UNKNOWN)] == results(ends, look(at=10, visibility=sight))


def test_a_recorded_end_counts_once() -> None:
    """
    The same end told again, by a look-back or after a restart, counts once.
    """
    ends = SourceEnds("s")

    assert [] == results(ends, look("1", at=0, records=True))
    assert [("1", Result.FAILED)] == results(ends, look(at=70, ended=(end("1", Result.FAILED),), records=True))
    assert [] == results(ends, look(at=80, ended=(end("1", Result.FAILED),), records=True))


def test_what_a_recording_source_does_not_show_has_not_ended() -> None:
    """
    Where the source records ends, only the record tells one.
    """
    ends = SourceEnds("s")
    results(ends, look("1", at=0, records=True))

    assert [] == results(ends, look(at=10, records=True))
    assert [("1", Result.SUCCEEDED)] == results(ends, look(at=70, ended=(end("1"),), records=True))


def test_our_stop_is_told_apart() -> None:
    """
    A canceled run, or a vanished one, that the ledger says we stopped is ours; any other is not.
    """
    ends = SourceEnds("s")
    results(ends, look("1", "2", at=0))

    assert [("1", Result.STOPPED_BY_EXPORTER), ("2", Result.UNKNOWN)] == results(ends, look(at=10), "1")
    canceled = (
        end("3", Result.CANCELED),
        end("4", Result.CANCELED),
        end("5", Result.FAILED),
        end("6", Result.ENDED_UNEXPECTEDLY),
        end("7", Result.ENDED_UNEXPECTEDLY),
    )
    assert [
        ("3", Result.STOPPED_BY_EXPORTER),
        ("4", Result.CANCELED),
        ("5", Result.FAILED),
        ("6", Result.STOPPED_BY_EXPORTER),
        ("7", Result.ENDED_UNEXPECTEDLY),
    ] == results(ends, look(at=70, ended=canceled, records=True), "3", "5", "6")


def test_what_another_source_owns_ends_there() -> None:
    """
    A process whose package another source shows ends without being counted here, unless it came back.
    """
    ends = SourceEnds("s")
    results(ends, look("1", "2", at=0))
    told = ends.link(elsewhere=["1", "2", "3"], returned=(), kept_alive=(), abandoned=())
    ends.link(elsewhere=(), returned={"2"}, kept_alive=(), abandoned=())

    assert ["1", "2"] == [run.facts.key.instance_id for run in told.began]
    assert [("2", Result.UNKNOWN)] == results(ends, look(at=10))


def test_a_run_whose_process_lives_has_not_ended() -> None:
    """
    A package that the service lost while its process goes on has not ended; it ends with its process.
    """
    ends = SourceEnds("s")
    results(ends, look("1", "2", at=0))
    ends.link(elsewhere=(), returned=(), kept_alive={"1", "2"}, abandoned=())
    assert [] == results(ends, look(at=10))
    ends.link(elsewhere=(), returned=(), kept_alive={"1"}, abandoned=())
    assert [("2", Result.UNKNOWN)] == results(ends, look(at=20))
    gone = ends.link(elsewhere=(), returned=(), kept_alive=(), abandoned={"1"})

    assert ["1"] == gone.closed
    assert [] == results(ends, look(at=30))
    # Its source shows it again, and again it is the one that counts it.
    assert [] == results(ends, look("1", at=40))
    assert [("1", Result.UNKNOWN)] == results(ends, look(at=50))


def test_one_that_ended_while_nobody_looked_teaches_nothing() -> None:
    """
    A run known from an earlier life of the exporter is counted, and its duration is not known.
    """
    ends = SourceEnds("s")
    change = ends.digest(look("1", at=0), stopped_by_us=lambda _: False)
    later = SourceEnds("s")
    change.began[0].seen_at = None
    later.open["1"] = change.began[0]
    [found] = later.digest(look(at=5000), stopped_by_us=lambda _: False).ended

    assert Result.UNKNOWN == found.result
    assert found.duration is None


def test_a_run_that_was_lost_from_sight_counts_once() -> None:
    """
    One that vanished, was counted and is there again is not counted a second time.
    """
    ends = SourceEnds("s")
    results(ends, look("1", at=0))

    assert [("1", Result.UNKNOWN)] == results(ends, look(at=10))
    assert [] == results(ends, look("1", at=20))
    assert [] == results(ends, look(at=30))


def test_an_id_that_was_given_out_again_is_another_run() -> None:
    """
    After a restore a catalog gives ids out again; the creation tells the runs apart.
    """
    ends = SourceEnds("s")
    told = [
        replace(end("1"), facts=replace(facts("1"), created_at=T0 + timedelta(minutes=minutes)))
        for minutes in (0, 9, 0)
    ]

    assert [1, 1, 0] == [len(results(ends, look(at=600, ended=(one,), records=True))) for one in told]


def test_an_end_that_has_still_to_be_told_is_waited_for() -> None:
    """
    A run that a recording source shows no more stays open until its bookmark says that all was told.
    """
    ends = SourceEnds("s")
    results(ends, look("1", at=0, records=True))
    results(ends, look(at=10, records=True))
    assert {"1"} == set(ends.open)
    results(ends, replace(look(at=20, records=True), bookmark="7"))

    assert set() == set(ends.open)
    assert "7" == ends.bookmark


def test_only_the_newest_ends_are_remembered() -> None:
    """
    What is forgotten is told, so that the file forgets it too.
    """
    marks = Marks(2)

    assert [[], [], [], ["a"]] == [marks.add(mark) for mark in ("a", "b", "a", "c")]
    assert ["b", "c"] == list(marks)
