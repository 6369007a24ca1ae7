"""The catalog source reads: what runs, what ended, what the login may see; by seeking, and only what changed."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ssis_exporter.collector import Collector
from ssis_exporter.errors import SourceAccessDenied, SourceBroken, SourceTimeout
from ssis_exporter.model import ExecutionStatus, Reading, Result, Scope, Snapshot
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog import look as look_module
from ssis_exporter.testing import SourceContract
from tests.catalogs import Clock, Rig, complete, ids, make_estate, rig, statuses

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> Iterator[Rig]:
    with rig(tmp_path, make_estate(clock=clock)) as one:
        yield one


class TestCatalogSource(SourceContract):
    """The rules of every source."""

    @pytest.fixture
    def source(self, made: Rig) -> CatalogSource:
        made.estate.add(70)
        return made.source()

    @pytest.fixture
    def broken_source(self, made: Rig) -> CatalogSource:
        return made.source("broken", settings=made.settings(server="127.0.0.1:1"))


def test_an_empty_catalog_is_an_empty_answer(made: Rig) -> None:
    """
    A catalog in which nothing ever ran is read without trouble, look after look.
    """
    source = made.source()

    assert [set(), set()] == [ids(source.snapshot()), ids(source.snapshot())]
    made.estate.add(1)
    assert {1} == ids(source.snapshot())


def test_a_run_is_told_with_all_that_the_row_says(made: Rig, clock: Clock) -> None:
    """
    Names, accounts, times in UTC by the server's clock, environment, host.
    """
    began = clock.now.astimezone(timezone(timedelta(hours=5, minutes=30))) - timedelta(minutes=90)
    made.estate.add(
        41,
        package_name="Nightly Load.DTSX",
        folder_name="Finance",
        project_name="DW",
        environment_folder_name="Env",
        environment_name="Prod",
        executed_as_name="CORP\\svc",
        caller_name="CORP\\anna",
        created_time=began - timedelta(seconds=3),
        start_time=began,
        process_id=4711,
        machine_name="SQL01",
    )

    (run,) = made.source().snapshot().executions

    facts = run.facts
    assert "41" == run.key.instance_id
    assert ("Nightly Load", "Finance", "DW") == (facts.package_name, facts.folder, facts.project)
    assert ("CORP\\svc", "CORP\\anna", "Env\\Prod") == (facts.user_name, facts.caller, facts.environment)
    assert (began.astimezone(UTC), UTC) == (facts.started_at, facts.started_at and facts.started_at.tzinfo)
    assert ("SQL01", 4711, "ISServerExec") == (facts.machine, facts.process_id, facts.host)
    assert timedelta(minutes=90) == run.duration


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (1, ExecutionStatus.CREATED),
        (2, ExecutionStatus.RUNNING),
        (5, ExecutionStatus.PENDING),
        (8, ExecutionStatus.STOPPING),
    ],
)
def test_each_open_status_is_read(made: Rig, code: int, status: ExecutionStatus) -> None:
    """
    Created, running, pending and stopping are open.
    """
    made.estate.add(3, status=code)

    assert {3: status} == statuses(made.source().snapshot())


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (3, Result.CANCELED),
        (4, Result.FAILED),
        (6, Result.ENDED_UNEXPECTEDLY),
        (7, Result.SUCCEEDED),
        (9, Result.COMPLETED),
        (17, Result.UNKNOWN),
    ],
)
def test_each_end_is_told_once(made: Rig, clock: Clock, code: int, result: Result) -> None:
    """
    A run that was open and ended is told with its result, the time of the row, and its duration.
    """
    number = made.estate.add()
    source = made.source()
    source.snapshot()
    clock.pass_time(minutes=7)
    made.estate.set(number, status=code, end_time=clock.now)
    clock.pass_time(minutes=1)

    seen = source.snapshot()

    (end,) = seen.ended
    assert (set(), result) == (ids(seen), end.result)
    assert (clock.now - timedelta(minutes=1), timedelta(minutes=7)) == (end.ended_at, end.duration)
    assert () == source.snapshot().ended


def test_what_ended_before_the_first_look_is_the_past(made: Rig) -> None:
    """
    The first fill reports no ends; runs that come and go between two later looks are reported.
    """
    made.estate.fill(range(1, 50), status=7)
    source = made.source()
    assert () == source.snapshot().ended

    made.estate.add(60, status=4)
    seen = source.snapshot()

    assert ["60"] == [end.facts.key.instance_id for end in seen.ended]
    assert Result.FAILED == seen.ended[0].result


@pytest.mark.parametrize("release", [2012, 2014, 2016, 2017, 2022])
def test_every_release_is_read(tmp_path: Path, release: int) -> None:
    """
    Columns that a release lacks are not asked for; what it has is told.
    """
    with rig(tmp_path, make_estate(release=release, roles={"ssis_admin"})) as made:
        made.estate.add(5)
        source = made.source()

        seen = source.snapshot()

        assert ({5}, Scope.ALL) == (ids(seen), seen.visibility.scope)
        assert made.server.estate.release < 2016 or source.info.version
        assert not [one for one in made.server.exchanges if one.error]


def test_azure_has_no_recovery_forks(made: Rig) -> None:
    """
    Azure SQL Database lacks the view that tells a restore; it is read all the same.
    """
    made.estate.edition = "5"
    made.estate.add(5)

    assert {5} == ids(made.source().snapshot())


@pytest.mark.parametrize(
    "column",
    [
        "reference_id",
        "environment_name",
        "executed_as_name",
        "caller_name",
        "created_time",
        "start_time",
        "process_id",
        "machine_name",
        "server_name",
        "folder_name",
        "project_name",
        "end_time",
        "worker_agent_id",
        "cpu_count",
    ],
)
@pytest.mark.parametrize("status", [2, 7])
def test_every_column_may_be_null(made: Rig, column: str, status: int) -> None:
    """
    NULL where a column may be NULL disturbs neither an open run nor an end.
    """
    source = made.source()
    source.snapshot()
    made.estate.add(9, status=status, **{column: None})

    seen = source.snapshot()

    assert ({9}, 0) == (ids(seen), len(seen.ended)) if status == 2 else (set(), 1) == (ids(seen), len(seen.ended))


HOSTILE = [
    'quo\'te "double" [bracket] ]]; DROP TABLE x --',
    "new\nline\r\ttab",
    "back\\slash {brace} %s %(x)s @x",
    "\N{GRINNING FACE}\N{FAMILY} \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u05e9\u05dc\u05d5\u05dd \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u202eabc",
    "x" * 128,
    "\N{GREEK SMALL LETTER OMEGA}" * 128,
    " leading and trailing ",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_arrive_intact(made: Rig, value: str) -> None:
    """
    Quotes, line feeds, emoji, long names and right-to-left text pass the driver and the exposition unchanged.
    """
    made.estate.add(
        5, package_name=value, folder_name=value[:128], project_name=value[:128], executed_as_name=value[:128]
    )
    source = made.source()
    seen = source.snapshot()
    (run,) = seen.executions
    assert (value, value, value, value) == (
        run.facts.package_name,
        run.facts.folder,
        run.facts.project,
        run.facts.user_name,
    )

    labels = rendered_labels(source, seen)
    shown = value.translate(dict.fromkeys(map(ord, "\r\t\u202e"), "\ufffd"))

    assert (shown, shown) == (labels["package_name"], labels["folder"])


def rendered_labels(source: CatalogSource, seen: Any) -> dict[str, str]:
    """The labels of the duration series, as a Prometheus would read them."""
    from ssis_exporter.exposition import negotiate, render

    registry = CollectorRegistry()
    collector = Collector(executions_per_source=10, keep_user_names=True, registry=registry)
    reading = Reading(source=source.name, info=source.info, outcome=seen, took=timedelta())
    text = b"".join(render(collector.families([reading]), None, negotiate(None))).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "ssis_package_execution_duration_seconds":
                return dict(sample.labels)
    raise AssertionError("no duration series")


def test_a_run_gets_its_process_later_than_its_status(made: Rig) -> None:
    """
    Process, machine and start become known when the row has them; nothing else of the facts changes.
    """
    number = made.estate.add(status=5)
    source = made.source()
    (before,) = source.snapshot().executions
    made.estate.set(number, status=2, start_time=made.estate.now())
    (began,) = source.snapshot().executions
    made.estate.set(number, process_id=99, machine_name="SQL01")
    (after,) = source.snapshot().executions
    (again,) = source.snapshot().executions

    assert [None, None, 99] == [run.facts.process_id for run in (before, began, after)]
    assert None is before.facts.started_at is not began.facts.started_at
    assert again.facts is after.facts


def test_how_long_it_has_been_stopping_is_remembered(made: Rig, clock: Clock) -> None:
    """
    `stopping_since` is when it was first seen to be stopping.
    """
    number = made.estate.add()
    source = made.source()
    assert None is source.snapshot().executions[0].stopping_since
    made.estate.set(number, status=8)
    source.snapshot()
    since = clock.now
    clock.pass_time(minutes=20)

    (run,) = source.snapshot().executions

    assert (ExecutionStatus.STOPPING, since) == (run.status, run.stopping_since)


def test_a_look_in_which_nothing_changed_is_one_round_trip_of_few_rows(made: Rig) -> None:
    """
    Neither history nor the number of open runs makes a look larger: rows tell what changed.
    """
    made.estate.fill(range(1, 5001), status=7)
    made.estate.fill(range(5001, 5701), status=2)
    made.estate.fill(range(5701, 5751), status=5)
    source = made.source()
    assert 750 == len(complete(source).executions)
    made.server.forget()

    assert 750 == len(source.snapshot().executions)

    (one,) = made.server.exchanges
    assert (3, "sql", "ssis_exporter") == (one.rows, one.kind, one.application)


def test_no_query_scans_and_none_asks_for_locks(made: Rig) -> None:
    """
    Every statement seeks by id, with few parameters, and gives way; it reads uncommitted, but for what ended.
    """
    made.estate.fill(range(1, 3001), status=7)
    source = made.source()
    complete(source)
    for step in range(5):
        made.estate.add()
        made.estate.end(made.estate.add(), 7)
        made.estate.end(3001 + 2 * step, 4)
        source.snapshot()

    queries = [one for one in made.server.exchanges if one.kind == "sql"]
    assert [] == [scan for one in queries for scan in one.scans]
    assert max(len(one.parameters) for one in queries) < 10
    how = {
        (one.settings["ISOLATION"], one.settings["LOCK_TIMEOUT"], one.settings["DEADLOCK_PRIORITY"]) for one in queries
    }
    assert {("READ UNCOMMITTED", "1000", "LOW"), ("READ COMMITTED", "100", "LOW")} == how


def test_the_text_of_a_look_never_changes(made: Rig) -> None:
    """
    One plan in the server's cache serves every look, whatever is open.
    """
    source = made.source()
    for _ in range(4):
        made.estate.add()
        source.snapshot()

    texts = {one.text for one in made.server.exchanges if "@ids" in one.text and "@seen" in one.text}
    assert 1 == len(texts)


def test_waiting_runs_are_asked_for_seldom_once_they_are_old(tmp_path: Path) -> None:
    """
    A run that was created long ago is asked for once a minute; a young one at every look.
    """
    clock, ticks = Clock(), [0.0]
    with rig(tmp_path, make_estate(clock=clock)) as made:
        old = made.estate.add(status=1, created_time=clock.now - timedelta(days=2))
        young = made.estate.add(status=1)
        source = made.source(monotonic=lambda: ticks[0])
        source.snapshot()
        source.snapshot()
        for number in (old, young):
            made.estate.begin(number)

        soon = statuses(source.snapshot())
        ticks[0] += 61
        later = statuses(source.snapshot())

        assert ({old: "created", young: "running"}, {old: "running", young: "running"}) == (soon, later)


def test_an_id_that_commits_late_is_seen(made: Rig) -> None:
    """
    Ids are drawn in order and written in any: a row that appears below the highest id is found.
    """
    source = made.source()
    late, other = made.estate.allocate(), made.estate.allocate()
    made.estate.add(other)
    assert {other} == ids(source.snapshot())

    made.estate.add(late)
    ended = made.estate.allocate()
    made.estate.add(made.estate.allocate())
    source.snapshot()
    made.estate.add(ended, status=7)
    seen = source.snapshot()

    assert {late, other} < ids(seen)
    assert [str(ended)] == [end.facts.key.instance_id for end in seen.ended]


def test_an_end_that_is_rolled_back_was_none(made: Rig) -> None:
    """
    A row that somebody changed and has not committed neither ends a run nor confirms a stop.
    """
    number = made.estate.add()
    source = made.source()
    source.snapshot()
    made.estate.hold_lock(number, status=3)

    during = source.snapshot()
    made.estate.roll_back(number)
    after = source.snapshot()

    assert ({number}, (), {number}, ()) == (ids(during), during.ended, ids(after), after.ended)


def test_a_new_row_that_ended_and_is_locked_is_told_when_it_is_committed(made: Rig) -> None:
    """
    What cannot be read for certain is read again, and not forgotten.
    """
    source = made.source()
    source.snapshot()
    number = made.estate.add(status=2)
    made.estate.hold_lock(number, status=7, end_time=made.estate.now())
    seen = source.snapshot()
    # A later life of the exporter must not go on behind what has still to be told.
    assert ((), "") == (seen.ended, seen.bookmark)

    made.estate.commit(number)

    assert [str(number)] == [end.facts.key.instance_id for end in source.snapshot().ended]


def test_a_start_that_is_rolled_back_leaves_nothing(made: Rig) -> None:
    """
    A row that vanished again is gone without an end, and the rest needs no second fill.
    """
    made.estate.fill(range(1, 3000), status=7)
    keep = made.estate.add()
    source = made.source()
    complete(source)
    ghost = made.estate.add()
    assert {keep, ghost} == ids(source.snapshot())
    made.estate.delete(ghost)
    made.server.forget()

    seen = source.snapshot()

    assert ({keep}, ()) == (ids(seen), seen.ended)
    assert not [one for one in made.server.exchanges if "@low" in one.text]


def test_a_restore_is_noticed_and_read_anew(made: Rig) -> None:
    """
    After a restore ids are given out again: old runs are gone, those that are still the same stay the same object.
    """
    first = made.estate.add(package_name="First.dtsx")
    for _ in range(5):
        made.estate.add(package_name="Lost.dtsx")
    source = made.source()
    before = {run.key.instance_id: run.facts for run in source.snapshot().executions}
    made.server.restore(first)
    reused = made.estate.add(package_name="Another.dtsx")

    seen = complete(source)

    names = {int(run.key.instance_id): run.facts.package_name for run in seen.executions}
    assert {first: "First", reused: "Another"} == names
    assert before[str(first)] is next(run.facts for run in seen.executions if run.key.instance_id == str(first))
    assert () == seen.ended


def test_ids_that_were_given_out_again_are_other_runs(made: Rig, clock: Clock) -> None:
    """
    A restore that nothing tells but a highest id that went back: the ids below it may be other runs' by now.
    """
    for _ in range(5):
        made.estate.add(package_name="Lost.dtsx")
    source = made.source()
    source.snapshot()
    clock.pass_time(minutes=1)
    for number in (2, 3, 4, 5):
        made.estate.delete(number)
    made.estate.add(2, package_name="Another.dtsx")

    names = {int(run.key.instance_id): run.facts.package_name for run in source.snapshot().executions}

    assert {1: "Lost", 2: "Another"} == names


def test_an_end_is_told_although_reading_anew_was_cut_off(made: Rig) -> None:
    """
    A failover during which a run ended, and a look at it that failed half-way: the next one still knows what was open.
    """
    number = made.estate.add()
    source = made.source()
    source.snapshot()
    made.estate.end(number)
    made.estate.fork = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    made.estate._describe()

    def fail_once(text: str) -> None:
        if text.startswith("SELECT e.execution_id FROM"):
            made.server.before_each = None
            made.server.faults.errors = [(1205, 1)]

    made.server.before_each = fail_once
    with pytest.raises(SourceTimeout):
        source.snapshot()

    assert [str(number)] == [end.facts.key.instance_id for end in source.snapshot().ended]


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("fork", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("created", "2026-02-01T10:00:00"),
        ("server_name", "SQL02"),
    ],
)
def test_another_copy_under_the_same_name_is_read_anew(made: Rig, clock: Clock, fact: str, value: str) -> None:
    """
    Another fork, another copy of the database, another server behind the name: each alone says that an id may be
    another run's, also where its row looks like the one that was known.
    """
    number = made.estate.add(package_name="Known.dtsx")
    source = made.source()
    source.snapshot()
    clock.pass_time(minutes=1)
    made.estate.delete(number)
    made.estate.add(number, package_name="Another.dtsx")
    setattr(made.estate, fact, value)
    made.estate._describe()

    (run,) = complete(source).executions

    assert "Another" == run.facts.package_name


def test_a_restore_is_noticed_by_a_login_that_may_not_see_forks(made: Rig) -> None:
    """
    Where the recovery fork is hidden, ids that went back tell it.
    """
    made.estate.accounts["exporter"].sees_recovery = False
    first = made.estate.add()
    lost = made.estate.add(package_name="Lost.dtsx")
    source = made.source()
    source.snapshot()
    made.estate.restore(first)
    seen = complete(source)
    reused = made.estate.add(lost, package_name="Another.dtsx")

    assert {first} == ids(seen)
    assert {"Another", "Load"} == {run.facts.package_name for run in source.snapshot().executions}
    assert lost == reused


def test_a_locked_row_that_vanishes_is_not_waited_for(made: Rig) -> None:
    """
    A run that nobody knew, seen ended and locked, and then gone with its transaction: it never was.
    """
    source = made.source()
    source.snapshot()
    number = made.estate.add()
    made.estate.hold_lock(number, status=4, end_time=made.estate.now())
    during = source.snapshot()
    made.estate.roll_back(number)
    made.estate.delete(number)
    later = [source.snapshot() for _ in range(2)]

    assert (True, False) == (during.incomplete, later[-1].incomplete)
    assert [((), ()), ((), ())] == [(seen.executions, seen.ended) for seen in later]


def test_a_locked_end_is_told_although_a_start_was_rolled_back(made: Rig, clock: Clock) -> None:
    """
    A run that nobody knew and that was locked when it was seen to have ended: its end, committed long after, is news
    still when the newest ids are read again.
    """
    source = made.source()
    source.snapshot()
    number = made.estate.add()
    made.estate.hold_lock(number, status=4, end_time=clock.now)
    clock.pass_time(minutes=5)
    ghost = made.estate.add()
    assert [] == told(source.snapshot())
    made.estate.delete(ghost)
    made.estate.commit(number)
    clock.pass_time(minutes=5)

    assert [number] == told(source.snapshot())


def test_while_newer_rows_are_unread_the_answer_is_a_lower_bound(made: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After a long absence new runs are read over several looks; until all are, the answer says so.
    """
    source = made.source()
    complete(source)
    monkeypatch.setattr(look_module, "FILL_BUDGET", 0.0)
    made.estate.fill(range(1, 1201), status=7)
    newest = made.estate.add()
    looks = [source.snapshot() for _ in range(4)]

    assert [True, True, False, False] == [seen.incomplete for seen in looks]
    assert [set(), set(), {newest}, {newest}] == [ids(seen) for seen in looks]
    assert [*range(1, 1201)] == sorted(number for seen in looks for number in told(seen))


def told(seen: Snapshot) -> list[int]:
    """The ids of the ends that a snapshot tells."""
    return sorted(int(end.facts.key.instance_id) for end in seen.ended)


@pytest.mark.parametrize("sees_forks", [True, False])
def test_an_id_whose_first_run_had_ended_may_be_given_out_again(made: Rig, clock: Clock, sees_forks: bool) -> None:
    """
    After a restore the runs that got such ids are shown, and those that came and went since are told; the ends of
    before are not told again, also where only the highest id tells of the restore.
    """
    made.estate.accounts["exporter"].sees_recovery = sees_forks
    kept, *lost = [made.estate.add() for _ in range(6)]
    source = made.source()
    source.snapshot()
    for number in lost:
        made.estate.end(number)
    clock.pass_time(minutes=5)
    assert lost == told(source.snapshot())
    clock.pass_time(minutes=5)
    made.server.restore(kept)
    reused = made.estate.add(package_name="Another.dtsx")
    gone = made.estate.add(status=4)
    clock.pass_time(minutes=5)

    seen = complete(source)

    assert ({kept, reused}, [gone]) == (ids(seen), told(seen))
    clock.pass_time(minutes=5)
    assert [] == told(source.snapshot())


def test_a_run_that_began_again_in_a_restored_catalog_is_told(made: Rig, clock: Clock) -> None:
    """
    It was open when it was last seen, its row is that of another run now, and it ended since: no end of it was told.
    """
    number, other = made.estate.add(), made.estate.add()
    source = made.source()
    source.snapshot()
    clock.pass_time(minutes=5)
    made.server.restore(other)
    made.estate.set(number, start_time=clock.now)
    clock.pass_time(minutes=5)
    made.estate.end(number, 4)

    seen = complete(source)

    assert ({other}, [number]) == (ids(seen), told(seen))


def test_a_start_that_was_rolled_back_tells_no_old_end(made: Rig, clock: Clock) -> None:
    """
    The newest ids are read again then; what ended before, or before the first look, stays told or untold.
    """
    past = made.estate.add(status=7)
    source = made.source()
    source.snapshot()
    number = made.estate.add(status=4)
    ghost = made.estate.add()
    assert [number] == told(source.snapshot())
    made.estate.delete(ghost)
    clock.pass_time(seconds=1)
    seen = source.snapshot()

    assert ([], set()) == (told(seen), ids(seen))
    assert past < number < ghost


def test_ends_of_another_past_are_not_told(made: Rig, clock: Clock) -> None:
    """
    A failover to a copy that has runs of its own, with ids that we never saw: those that ended before our last look
    are its past; those since are told, also where its clock is a little behind.
    """
    open_run = made.estate.add()
    source = made.source()
    source.snapshot()
    made.estate.server_name = "SQL02"
    made.server.cut_all()
    long_ago = made.estate.add(status=7, end_time=clock.now - timedelta(minutes=2))
    clock_behind = made.estate.add(status=7, end_time=clock.now - timedelta(seconds=50))
    clock.pass_time(minutes=1)
    since = made.estate.add(status=4)

    seen = complete(source)

    assert ({open_run}, [clock_behind, since]) == (ids(seen), told(seen))
    assert long_ago not in told(source.snapshot())
    later = made.estate.add(status=7, end_time=clock.now - timedelta(hours=1))
    assert [later] == told(source.snapshot())


def test_what_ended_before_the_first_look_stays_past_when_reading_anew_was_cut_off(made: Rig) -> None:
    """
    A failover, and two looks at it of which the first failed half-way: which ids were known is not forgotten.
    """
    past, open_run = made.estate.add(status=7), made.estate.add()
    source = made.source()
    source.snapshot()
    made.estate.server_name = "SQL02"

    def fail_once(text: str) -> None:
        if text.startswith("SELECT e.execution_id FROM"):
            made.server.before_each = None
            made.server.faults.errors = [(1205, 1)]

    made.server.before_each = fail_once
    with pytest.raises(SourceTimeout):
        source.snapshot()
    seen = source.snapshot()

    assert ({open_run}, []) == (ids(seen), told(seen))
    assert past < open_run


def test_a_long_past_of_another_copy_is_not_told_over_several_looks(
    made: Rig, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Also where it takes more than one look to read all that the copy has beyond what we knew.
    """
    monkeypatch.setattr(look_module, "FILL_BUDGET", 0.0)
    clock.pass_time(hours=1)
    source = made.source()
    source.snapshot()
    made.estate.server_name = "SQL02"
    clock.pass_time(hours=-1)
    made.estate.fill(range(1, 1201), status=7)
    clock.pass_time(hours=2)
    since = made.estate.add(status=4)
    looks = [source.snapshot() for _ in range(4)]

    assert [[], [], [since], []] == [told(seen) for seen in looks]


def test_a_later_life_goes_on_below_the_bookmark(made: Rig) -> None:
    """
    A row of a lower id that was written, and ended, while the exporter was off is told.
    """
    source = made.source(lookback=10)
    made.estate.add()
    source.snapshot()
    late, beyond = made.estate.allocate(), [made.estate.add() for _ in range(5)]
    seen = source.snapshot()
    source.close()
    made.estate.add(late, status=4)
    another = made.source("another", lookback=10)
    another.resume(seen.bookmark, [run.key.instance_id for run in seen.executions])

    again = another.snapshot()

    assert ([late], {1, *beyond}) == (told(again), ids(again))


def test_the_first_fill_goes_on_over_several_looks(made: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Newest first, a piece a look when time is short; until it is done the answer says that it is a lower bound.
    """
    monkeypatch.setattr(look_module, "FILL_BUDGET", 0.0)
    made.estate.fill(range(1, 120_001), status=7)
    oldest, newest = 5, 119_990
    made.estate.set(oldest, status=2, end_time=None)
    made.estate.set(newest, status=2, end_time=None)
    source = made.source()

    first = source.snapshot()
    last = complete(source)

    assert ({newest}, True) == (ids(first), first.incomplete)
    assert ({oldest, newest}, False) == (ids(last), last.incomplete)


def test_without_a_role_only_own_runs_are_seen_and_it_says_so(tmp_path: Path) -> None:
    """
    An answer of few runs can be told from an idle server.
    """
    with rig(tmp_path, make_estate(roles=set())) as made:
        made.estate.add(1, caller_name="CORP\\etl")
        mine = made.estate.add(2, caller_name="exporter")

        seen = made.source().snapshot()

        assert ({mine}, Scope.OWN) == (ids(seen), seen.visibility.scope)


class Own:
    """A login without a role, whose server needs `seconds` to find what is new among the runs of all others."""

    def __init__(self, made: Rig, *, seconds: float, roles: set[str] | None = None) -> None:
        self.now = 1000.0
        self.seconds = seconds
        made.estate.accounts["exporter"].roles = roles or set()
        made.server.before_each = self._answer
        self.estate = made.estate
        self.source = made.source(monotonic=lambda: self.now)
        self.first = self.add()
        complete(self.source)
        self.now += 1000

    def _answer(self, text: str) -> None:
        if "COUNT_BIG" in text:
            self.now += self.seconds

    def add(self) -> int:
        return self.estate.add(caller_name="exporter")

    def look(self, *, after: float = 0.0) -> tuple[set[int], bool]:
        self.now += after
        seen = self.source.snapshot()
        return ids(seen), seen.incomplete


def test_where_new_runs_are_hard_to_find_they_are_looked_for_seldom(made: Rig) -> None:
    """
    A login that sees only its own makes the server judge each row of others: that takes a twentieth of its time, and
    the answer between is a lower bound. Known runs and their ends are told at every look.
    """
    own = Own(made, seconds=2.0)
    assert ({own.first}, False) == own.look()
    second = own.add()

    assert ({own.first}, True) == own.look()
    assert ({own.first}, True) == own.look(after=37)
    assert ({own.first, second}, False) == own.look(after=2)

    own.estate.end(own.first)
    seen = own.source.snapshot()
    assert ({second}, [own.first], True) == (ids(seen), told(seen), seen.incomplete)


@pytest.mark.parametrize(("seconds", "roles"), [(0.4, set()), (2.0, {"ssis_logreader"})])
def test_new_runs_are_looked_for_at_once_where_they_are_easy_to_find(
    made: Rig, seconds: float, roles: set[str]
) -> None:
    """
    A small catalog, or a login that sees all: its questions are a seek however long they wait.
    """
    own = Own(made, seconds=seconds, roles=roles)
    own.look()
    second = own.add()

    assert ({own.first, second}, False) == own.look()


def test_a_restore_is_noticed_while_new_runs_are_not_looked_for(made: Rig) -> None:
    """
    The recovery fork is read at every look, and then everything is read anew.
    """
    own = Own(made, seconds=2.0)
    second = own.add()
    assert {own.first, second} == own.look()[0]
    made.server.restore(own.first)
    for _ in range(5):
        third = own.add()

    assert ({own.first, *range(second, third + 1)}, False) == own.look()
    assert [] == told(own.source.snapshot())


def test_before_2016_there_is_no_reader_role(tmp_path: Path) -> None:
    """
    `ssis_logreader` says nothing on a release that does not know it.
    """
    with rig(tmp_path, make_estate(release=2014)) as made:
        made.estate.add(1)

        assert Scope.OWN == made.source().snapshot().visibility.scope


def test_a_lost_role_is_an_error_and_no_end(made: Rig) -> None:
    """
    Runs that vanish together with the right to see them have not ended; with the right they are there again.
    """
    number = made.estate.add()
    source = made.source()
    source.snapshot()
    made.estate.accounts["exporter"].roles.clear()

    with pytest.raises(SourceAccessDenied, match="the right to see all runs is lost"):
        source.snapshot()
    with pytest.raises(SourceAccessDenied):
        source.snapshot()
    made.estate.accounts["exporter"].roles.add("ssis_logreader")
    seen = source.snapshot()

    assert ({number}, ()) == (ids(seen), seen.ended)


def test_a_role_that_is_lost_in_the_middle_of_a_look_ends_nothing(made: Rig) -> None:
    """
    Rights are read before and after the rows: what vanished in between is not believed.
    """
    number = made.estate.add()
    gone = made.estate.add()
    source = made.source()
    source.snapshot()
    account = made.estate.accounts["exporter"]
    made.estate.end(gone, 7)
    made.server.before_each = lambda text: account.roles.clear() if "READ COMMITTED" in text else None

    with pytest.raises(SourceAccessDenied):
        source.snapshot()
    made.server.before_each = None
    account.roles.add("ssis_logreader")
    seen = complete(source)

    assert ({number}, [str(gone)]) == (ids(seen), [end.facts.key.instance_id for end in seen.ended])


def test_more_rights_show_more(tmp_path: Path) -> None:
    """
    A role that is given shows all runs, also those that are far below the newest ids.
    """
    with rig(tmp_path, make_estate(roles=set())) as made:
        made.estate.fill(range(1, 4000), status=7)
        made.estate.set(3, status=2, end_time=None)
        source = made.source()
        assert set() == ids(source.snapshot())
        made.estate.accounts["exporter"].roles.add("ssis_logreader")

        seen = complete(source)

        assert ({3}, Scope.ALL) == (ids(seen), seen.visibility.scope)


def test_a_catalog_that_cannot_be_seen_is_no_empty_answer(made: Rig) -> None:
    """
    Without the view's columns nothing is claimed.
    """
    made.estate.db.execute("DELETE FROM sys_columns")

    with pytest.raises(SourceBroken, match=r"no view catalog\.executions"):
        made.source().snapshot()


def test_a_restarted_exporter_reports_what_ended_meanwhile(made: Rig) -> None:
    """
    From the bookmark on: runs that were open, runs that came and went; nothing that ended before the very first look.
    """
    made.estate.fill(range(1, 20), status=7)
    was_open, stays = made.estate.add(), made.estate.add()
    first = made.source().snapshot()
    made.estate.end(was_open, 4)
    came_and_went = made.estate.add(status=7)
    later = made.source()
    later.resume(first.bookmark, [run.key.instance_id for run in first.executions])

    seen = later.snapshot()

    assert {stays} == ids(seen)
    told = {int(end.facts.key.instance_id): end.result for end in seen.ended}
    assert {was_open: Result.FAILED, came_and_went: Result.SUCCEEDED} == told


def test_a_bookmark_of_another_catalog_is_ignored(made: Rig) -> None:
    """
    After a restore between two lives of the exporter the new one begins anew.
    """
    first = made.estate.add()
    made.estate.add()
    bookmark = made.source().snapshot().bookmark
    made.estate.restore(first)
    again = made.estate.add(status=7)
    later = made.source()
    later.resume(bookmark, [str(again)])

    seen = later.snapshot()

    assert ({first}, ()) == (ids(seen), seen.ended)
    for nonsense in ("", "x", "1 2", "-1 3 abc"):
        other = made.source()
        other.resume(nonsense, ["x", "-3"])
        assert {first} == ids(other.snapshot())


def test_the_past_is_read_newest_first(made: Rig) -> None:
    """
    Pieces of ended runs with a cursor, to the oldest; open ones are left out.
    """
    made.estate.fill(range(1, 1201), status=7)
    made.estate.set(1000, status=2, end_time=None)
    source = made.source()
    found: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        ended, cursor = source.past(cursor)
        found += [int(end.facts.key.instance_id) for end in ended]

    assert [number for number in range(1200, 0, -1) if number != 1000] == found


def test_the_first_error_of_a_run_is_found(made: Rig) -> None:
    """
    The oldest message of type 120.
    """
    columns = "event_message_id, operation_id, message_type, message"
    for row in ((1, 7, 70, "began"), (2, 7, 120, "first"), (3, 7, 120, "second"), (4, 8, 120, "other")):
        made.estate.db.execute(f"INSERT INTO catalog_event_messages ({columns}) VALUES (?, ?, ?, ?)", row)
    source = made.source()

    assert ("first", "") == (source.first_error("7"), source.first_error("9"))


def test_the_record_is_asked_for_one_run(made: Rig) -> None:
    """
    One that ended long ago is known, one that never was is not; one that is open and was not shown is trouble.
    """
    made.estate.add(7, status=7)
    made.estate.add(8, status=2)
    source = made.source()

    assert source.has_record_of("7")
    for name in ("9", "", "x", "-7", "7.0", " 7", "\N{ARABIC-INDIC DIGIT SEVEN}", "9" * 19, "9" * 5000):
        assert not source.has_record_of(name)
    with pytest.raises(SourceBroken, match="execution 8 is open, and no look has shown it yet"):
        source.has_record_of("8")


def test_size_of_a_look_does_not_grow_with_history(made: Rig) -> None:
    """
    Ten thousand running, five hundred pending, a million ended (a tenth of it in small): exactly these are open, and a
    look in which nothing changed returns at most 100 rows and costs at most a tenth of the first fill's processor time.
    """
    share = 1 if FULL else 10
    ended, running, pending = 1_000_000 // share, 10_000 // share, 500 // share
    every = ended // running
    made.estate.fill(range(1, ended + 1), status=7)
    made.estate.db.execute(
        f"UPDATE catalog_executions SET status = 2, end_time = NULL WHERE execution_id % {every} = 0"
    )
    made.estate.fill(range(ended + 1, ended + pending + 1), status=5)
    source = made.source(settings=made.settings(time_limit=timedelta(minutes=5)))
    # Garbage of other tests is not what is measured.
    gc.collect()
    gc.freeze()

    began = time.thread_time()
    first = complete(source)
    fill = time.thread_time() - began
    source.snapshot()
    made.server.forget()
    looks = 5
    began = time.thread_time()
    for _ in range(looks):
        again = source.snapshot()
    look = (time.thread_time() - began) / looks
    gc.unfreeze()

    expected = {*range(every, ended + 1, every), *range(ended + 1, ended + pending + 1)}
    assert expected == ids(first) == ids(again)
    assert sum(one.rows for one in made.server.exchanges) / looks <= 100
    assert [] == [scan for one in made.server.exchanges for scan in one.scans]
    assert look <= 0.1 * fill, f"{look:.4f} s a look, {fill:.4f} s the fill"


def test_the_clock_that_counts_is_the_servers(made: Rig) -> None:
    """
    A server whose clock is years away tells durations all the same.
    """
    made.estate.add(1, start_time=datetime(2026, 3, 1, 7, 0, tzinfo=UTC))

    seen = made.source().snapshot()

    assert (timedelta(hours=1), datetime(2026, 3, 1, 8, 0, tzinfo=UTC)) == (seen.executions[0].duration, seen.taken_at)
