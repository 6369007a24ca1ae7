"""The catalog source reads: what runs, what ended; by seeking, and only what changed."""

from __future__ import annotations

import gc
import os
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ssis_exporter.collector import Collector
from ssis_exporter.errors import SourceBroken
from ssis_exporter.model import ExecutionStatus, Reading, Result, Scope
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog import look as look_module
from ssis_exporter.testing import SourceContract
from tests.catalogs import Clock, Rig, complete, ids, make_estate, rig, statuses

pytest_plugins = ("tests.catalogfixtures",)

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"


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


def test_what_reads_many_rows_takes_one_core_of_the_server(made: Rig) -> None:
    """
    The first fill and the past are read in the background; nothing that one scrape waits for needs more than one.
    """
    made.estate.fill(range(1, 600), status=7)
    source = made.source()
    complete(source)
    source.past("")

    texts = [one.text for one in made.server.exchanges if "@low" in one.text or "@below" in one.text]

    assert 2 <= len(texts)
    assert all(text.endswith(" OPTION (MAXDOP 1)") for text in texts)


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
    for row in ((1, 7, 70, "began"), (2, 7, 120, "first"), (3, 7, 120, "second"), (4, 8, 120, "other")):
        made.estate.add_message(*row)
    source = made.source()

    assert ("first", "") == (source.first_error("7"), source.first_error("9"))


def test_messages_of_a_scale_out_worker_have_no_ids(made: Rig, clock: Clock) -> None:
    """
    The view gives NULL for them (2017 and later; on Azure for all of a run's): then their time is their order.
    """
    number = made.estate.add()
    for place in (3, 1, 4, 2, 6, 5):
        made.estate.add_message(None, number, 120, f"worker {place}", at=clock.now + timedelta(minutes=place))
    made.estate.add_message(9, number, 120, "procedure", at=clock.now + timedelta(minutes=5, seconds=30))
    source = made.source()
    (run,) = source.snapshot().executions

    texts = [text.split(": ")[1] for name, text in source.evidence(run).items() if name.startswith("message")]

    assert "worker 1" == source.first_error(str(number))
    assert ["worker 6", "procedure", "worker 5", "worker 4", "worker 3"] == texts


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
