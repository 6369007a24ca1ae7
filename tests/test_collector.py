"""Readings to metric families."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector as LibraryCollector

from ssis_exporter.collector import Collector
from ssis_exporter.errors import SOURCE_ERROR_REASONS, SourceError, SourceMissing, SourceTimeout, SourceUnreachable
from ssis_exporter.exposition import TEXT, render
from ssis_exporter.model import (
    DataFlow,
    ExecutionStatus,
    Figures,
    HostProcess,
    Reading,
    Scope,
    SourceInfo,
)
from ssis_exporter.sourcemetrics import DEFINITIONS, SCRAPE_ERRORS
from tests.readings import NOW, LatestReadings, failed, reading, rich_readings, run

Value = Callable[..., float | None]

RUNNING = "ssis_running_packages"
DURATION = "ssis_package_execution_duration_seconds"
INFO = "ssis_package_execution_info"


class Scraped:
    """A collector on a real registry, and what it says of the readings it was given last."""

    def __init__(self, *, executions_per_source: int = 1000, keep_user_names: bool = True) -> None:
        self.registry = CollectorRegistry()
        self.collector = Collector(
            executions_per_source=executions_per_source, keep_user_names=keep_user_names, registry=self.registry
        )
        self._latest = LatestReadings(self.collector)
        self._page = CollectorRegistry()
        self._page.register(cast("LibraryCollector", self._latest))

    def read(self, *readings: Reading) -> None:
        """One scrape; later questions do not count errors again."""
        kept = list(self.collector.families(readings))
        self._latest.collect = lambda: kept  # type: ignore[method-assign]

    def value(self, name: str, **labels: str) -> float | None:
        """As Prometheus would see it."""
        on_page = self._page.get_sample_value(name, labels)
        return on_page if on_page is not None else self.registry.get_sample_value(name, labels)

    def series(self, name: str) -> list[dict[str, str]]:
        """The labels of every series of one metric."""
        return [sample.labels for family in self._page.collect() for sample in family.samples if sample.name == name]

    def ids(self, name: str = DURATION) -> list[str]:
        """The instance ids that have this metric."""
        return [labels["instance_id"] for labels in self.series(name)]

    def all_series(self) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
        """Name and labels of every series of the page."""
        samples = [sample for family in self._page.collect() for sample in family.samples]
        return [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]


@pytest.fixture
def scraped() -> Scraped:
    """A collector with the default budget."""
    return Scraped()


def test_registering_looks_at_nothing_and_takes_the_names() -> None:
    """
    `describe` tells the names without a look, so a name that is taken twice fails at once.
    """
    collector = Collector(executions_per_source=1, keep_user_names=True, registry=CollectorRegistry())
    registry = CollectorRegistry()
    latest = cast("LibraryCollector", LatestReadings(collector))
    registry.register(latest)

    assert [definition.family_name for definition in DEFINITIONS] == [family.name for family in collector.describe()]
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(cast("LibraryCollector", LatestReadings(collector)))


def test_main_gauges_carry_the_identity(scraped: Scraped) -> None:
    """
    Duration and start name the run by all its identity labels.
    """
    facts: dict[str, Any] = {"folder": "Finance", "project": "DW", "package_id": "{A}", "user_name": "CORP\\etl"}
    scraped.read(reading("sql01", run("7", "Load", minutes=2, **facts)))
    labels = {"source": "sql01", "package_name": "Load", "instance_id": "7", **facts}

    assert 120 == scraped.value(DURATION, **labels)
    assert NOW.timestamp() - 120 == scraped.value("ssis_package_execution_start_timestamp_seconds", **labels)


def test_other_series_of_a_run_carry_few_labels(scraped: Scraped) -> None:
    """
    Figures carry source, package name and instance id only; the info metric has the rest.
    """
    figures = Figures(cpu_time=timedelta(seconds=1.5), resident_bytes=1, read_bytes=2, written_bytes=3, threads=4)
    flow = DataFlow(rows_read=5, rows_written=6, buffers_in_use=7, buffers_spooled=8, buffer_memory_bytes=9)
    scraped.read(reading("sql01", run("7", figures=figures, data_flow=flow, process_id=42, host="dtexec")))
    labels = {"source": "sql01", "package_name": "Load", "instance_id": "7"}
    told = {"machine": "", "process_id": "42", "description": "", "environment": "", "caller": "", "host": "dtexec"}
    prefix = "ssis_package_execution_"

    assert 1.5 == scraped.value(f"{prefix}cpu_seconds_total", **labels)
    assert 1 == scraped.value(f"{prefix}resident_memory_bytes", **labels)
    assert 2 == scraped.value(f"{prefix}read_bytes_total", **labels)
    assert 3 == scraped.value(f"{prefix}written_bytes_total", **labels)
    assert 4 == scraped.value(f"{prefix}threads", **labels)
    assert 5 == scraped.value(f"{prefix}rows_read_total", **labels)
    assert 6 == scraped.value(f"{prefix}rows_written_total", **labels)
    assert 7 == scraped.value(f"{prefix}buffers_in_use", **labels)
    assert 8 == scraped.value(f"{prefix}buffers_spooled", **labels)
    assert 9 == scraped.value(f"{prefix}buffer_memory_bytes", **labels)
    assert 1 == scraped.value(f"{prefix}status", status="running", **labels)
    assert 1 == scraped.value(INFO, **labels, **told)


def test_what_could_not_be_read_has_no_series(scraped: Scraped) -> None:
    """
    A figure that is unknown is absent, never 0.
    """
    scraped.read(reading("sql01", run("7", figures=Figures(threads=4)), run("8")))

    assert ["7"] == scraped.ids("ssis_package_execution_threads")
    assert [] == scraped.ids("ssis_package_execution_cpu_seconds_total")
    assert [] == scraped.ids("ssis_package_execution_resident_memory_bytes")
    assert [] == scraped.ids("ssis_package_execution_rows_read_total")


def test_a_run_without_a_known_start_has_no_start_series(scraped: Scraped) -> None:
    """
    An unknown start is absent; the run is shown all the same.
    """
    known = run("7")
    unknown = dataclasses.replace(known, facts=dataclasses.replace(known.facts, started_at=None))
    scraped.read(reading("sql01", unknown))

    assert ["7"] == scraped.ids()
    assert [] == scraped.ids("ssis_package_execution_start_timestamp_seconds")


def test_every_status_is_counted_from_zero(scraped: Scraped) -> None:
    """
    Open executions are counted for all four statuses.
    """
    scraped.read(reading("sql01", run("7"), run("8", status=ExecutionStatus.PENDING), run("9", orphaned=True)))
    counts = {
        status: scraped.value("ssis_open_executions", source="sql01", status=status) for status in ExecutionStatus
    }

    assert {"created": 0, "pending": 1, "running": 2, "stopping": 0} == counts


def test_orphans_do_not_run(scraped: Scraped) -> None:
    """
    A run whose host process is gone for certain is counted as an orphan, not as running, and has no series.
    """
    scraped.read(reading("sql01", run("7"), run("8", orphaned=True), hosts_without_row=3))

    assert 1 == scraped.value(RUNNING, source="sql01")
    assert ["7"] == scraped.ids()
    assert 1 == scraped.value("ssis_orphaned_executions", source="sql01", problem="no_process")
    assert 3 == scraped.value("ssis_orphaned_executions", source="sql01", problem="no_row")


def test_host_processes_without_a_row_are_unknown_where_there_is_no_record(scraped: Scraped) -> None:
    """
    A source that keeps no record says nothing about missing rows.
    """
    scraped.read(reading("local", run("7", source="local")))

    assert scraped.value("ssis_orphaned_executions", source="local", problem="no_row") is None


def test_runs_that_wait_are_counted_and_have_no_series(scraped: Scraped) -> None:
    """
    Created and pending runs are no running packages; the oldest pending one tells how long it waits.
    """
    pending = ExecutionStatus.PENDING
    scraped.read(
        reading(
            "sql01",
            run("7", status=pending, created_minutes=1),
            run("8", status=pending, created_minutes=3),
            run("9", status=pending),
            run("10", status=ExecutionStatus.CREATED, created_minutes=99),
        )
    )

    assert 0 == scraped.value(RUNNING, source="sql01")
    assert [] == scraped.ids()
    assert [] == scraped.ids(INFO)
    assert 180 == scraped.value("ssis_oldest_pending_seconds", source="sql01")


def test_stopping_for_long_is_stuck(scraped: Scraped) -> None:
    """
    A run that has been stopping for more than five minutes is stuck; one whose begin of stopping is unknown is not.
    """
    stopping = ExecutionStatus.STOPPING
    scraped.read(
        reading(
            "sql01",
            run("7", status=stopping, stopping_minutes=5),
            run("8", status=stopping, stopping_minutes=5.1),
            run("9", status=stopping),
        )
    )

    assert 1 == scraped.value("ssis_stuck_stopping_executions", source="sql01")
    assert 3 == scraped.value(RUNNING, source="sql01")
    assert 3 == len(scraped.series("ssis_package_execution_status"))


@pytest.mark.parametrize("scope", list(Scope))
def test_visibility_has_every_scope(scraped: Scraped, scope: Scope) -> None:
    """
    The scope that holds is 1, every other one is 0.
    """
    scraped.read(reading("sql01", scope=scope))
    values = {each: scraped.value("ssis_visibility", source="sql01", scope=each) for each in Scope}

    assert {each: int(each is scope) for each in Scope} == values


def test_a_source_that_did_not_answer_has_no_run_metrics(scraped: Scraped) -> None:
    """
    What could not be read is absent: no run, no count, no visibility; what is known of the source itself stays.
    """
    scraped.read(reading("sql01", run("7")))
    scraped.read(failed("sql01", SourceTimeout("late"), timed_out=True))
    names = {name for name, _ in scraped.all_series()}

    expected = {"ssis_up", "ssis_source_info", "ssis_scrape_duration_seconds", "ssis_scrape_timed_out"}
    assert expected == names
    assert 0 == scraped.value("ssis_up", source="sql01")
    assert 9.5 == scraped.value("ssis_scrape_duration_seconds", source="sql01")
    assert 1 == scraped.value("ssis_scrape_timed_out", source="sql01")


def test_a_source_that_recovers_has_its_runs_again(scraped: Scraped) -> None:
    """
    The scrape after a failure shows everything again.
    """
    scraped.read(failed("sql01", SourceUnreachable("gone")))
    scraped.read(reading("sql01", run("7")))

    assert 1 == scraped.value("ssis_up", source="sql01")
    assert ["7"] == scraped.ids()


def test_nothing_running_is_zero(scraped: Scraped) -> None:
    """
    A source that answered and shows no run says 0, which is not the same as nothing.
    """
    scraped.read(reading("sql01"))

    assert 0 == scraped.value(RUNNING, source="sql01")
    assert 0 == scraped.value("ssis_oldest_pending_seconds", source="sql01")


def test_errors_start_at_zero_and_are_counted_by_reason(scraped: Scraped) -> None:
    """
    Every reason of every source that was ever read is there from the first scrape on.
    """
    scraped.read(reading("sql01"), failed("sql02", SourceMissing("no SSISDB")))
    scraped.read(reading("sql01"), failed("sql02", SourceMissing("no SSISDB")))
    first = {
        reason: scraped.value(SCRAPE_ERRORS.name, source="sql01", reason=reason) for reason in SOURCE_ERROR_REASONS
    }
    second = {
        reason: scraped.value(SCRAPE_ERRORS.name, source="sql02", reason=reason) for reason in SOURCE_ERROR_REASONS
    }

    assert dict.fromkeys(SOURCE_ERROR_REASONS, 0) == first
    assert {**dict.fromkeys(SOURCE_ERROR_REASONS, 0), "missing": 2} == second


def test_an_error_with_a_reason_of_its_own_counts_as_broken(scraped: Scraped) -> None:
    """
    The values of the label are a closed set, whatever a source from outside brings.
    """

    class Strange(SourceError):
        reason = "strange"

    scraped.read(failed("sql01", Strange("x")))

    assert 1 == scraped.value(SCRAPE_ERRORS.name, source="sql01", reason="broken")


def test_the_budget_keeps_the_longest_running_and_counts_the_rest() -> None:
    """
    Beyond the budget the youngest runs have no series; counts are taken before it.
    """
    scraped = Scraped(executions_per_source=2)
    runs = [run(str(minutes), minutes=minutes) for minutes in (1, 30, 2, 10)]
    waiting = [run("50", status=ExecutionStatus.PENDING), run("60", minutes=999, orphaned=True)]
    scraped.read(reading("sql01", *waiting, *runs), reading("sql02", run("7", source="sql02")))

    assert ["30", "10"] == [labels["instance_id"] for labels in scraped.series(INFO) if labels["source"] == "sql01"]
    assert 4 == scraped.value(RUNNING, source="sql01")
    assert 5 == scraped.value("ssis_open_executions", source="sql01", status="running")
    assert 2 == scraped.value("ssis_executions_truncated", source="sql01")
    assert 0 == scraped.value("ssis_executions_truncated", source="sql02")


def test_user_names_can_be_dropped() -> None:
    """
    With `labels.user_name: drop` the label stays empty.
    """
    scraped = Scraped(keep_user_names=False)
    scraped.read(reading("sql01", run("7", user_name="CORP\\etl")))

    assert [""] == [labels["user_name"] for labels in scraped.series(DURATION)]


def test_a_reload_applies_to_runs_that_are_there_already(scraped: Scraped) -> None:
    """
    A changed setting takes effect with the next scrape, for every run.
    """
    seen = reading("sql01", run("7", user_name="CORP\\etl", minutes=1), run("8", minutes=2))
    scraped.read(seen)
    scraped.collector.configure(executions_per_source=1, keep_user_names=False, sources=["sql01"])
    scraped.read(seen)

    assert [("8", "")] == [(labels["instance_id"], labels["user_name"]) for labels in scraped.series(DURATION)]


def test_a_source_that_left_the_configuration_leaves_the_error_counter(scraped: Scraped) -> None:
    """
    After a reload nothing is said about a source that is no longer configured.
    """
    scraped.read(reading("sql01"), failed("sql02", SourceMissing("no SSISDB")))
    scraped.collector.configure(executions_per_source=1, keep_user_names=True, sources=["sql01", "sql03"])

    assert 0 == scraped.value(SCRAPE_ERRORS.name, source="sql01", reason="missing")
    assert scraped.value(SCRAPE_ERRORS.name, source="sql02", reason="missing") is None


def test_a_run_shown_twice_is_one_run(scraped: Scraped, caplog: pytest.LogCaptureFixture) -> None:
    """
    A faulty source that shows a key twice makes no series twice; the log says so once.
    """
    twice = reading("sql01", run("7", minutes=1), run("7", "Other", minutes=2), run("8"))
    with caplog.at_level(logging.WARNING):
        scraped.read(twice)
        scraped.read(twice)

    assert ["7", "8"] == sorted(scraped.ids())
    assert 2 == scraped.value(RUNNING, source="sql01")
    assert 1 == caplog.text.count("more than once")


@pytest.mark.parametrize("raw_first", [True, False])
def test_ids_that_are_equal_once_cleaned_make_one_series(scraped: Scraped, raw_first: bool) -> None:
    """
    The run that truly has the id keeps it, since a stop is asked for by it; the other is counted as left out.
    """
    runs = [run("7\ufffd", "Real"), run("7\x00", "Unclean")]
    scraped.read(reading("sql01", *(runs if raw_first else runs[::-1])))

    assert ["Real"] == [labels["package_name"] for labels in scraped.series(DURATION)]
    assert 2 == scraped.value(RUNNING, source="sql01")
    assert 1 == scraped.value("ssis_executions_truncated", source="sql01")


def test_a_name_has_all_its_lines_and_a_key_is_one(scraped: Scraped) -> None:
    """
    Names are shown with their line feeds; the instance id, by which a stop is asked for, is one line.
    """
    scraped.read(reading("sql01", run("7\n", "Load\nCustomers", folder='"\n\\', user_name="\n")))
    [labels] = scraped.series(DURATION)

    assert ("7\ufffd", "Load\nCustomers", '"\n\\', "\n") == tuple(
        labels[name] for name in ("instance_id", "package_name", "folder", "user_name")
    )


def test_an_environment_with_its_folder_is_not_cut(scraped: Scraped) -> None:
    """
    Both names may have 128 characters.
    """
    environment = "f" * 128 + "\\" + "\U0001f600" * 128
    scraped.read(reading("sql01", run("7", environment=environment, description="x" * 300)))
    [labels] = scraped.series(INFO)

    assert (environment, "x" * 256 + "\u2026") == (labels["environment"], labels["description"])


def test_sources_that_are_equal_once_cleaned_make_one_series(
    scraped: Scraped, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Of two sources under one name only the first is shown.
    """
    with caplog.at_level(logging.WARNING):
        scraped.read(reading("a\x00", run("7")), reading("a\x01", run("8")))

    assert ["7"] == scraped.ids()
    assert "two sources are called" in caplog.text


BAD_ANSWERS: dict[str, Callable[[], dict[str, Any]]] = {
    "no runs at all": lambda: {"executions": None},
    "a name that is no text": lambda: {"executions": (run("7", cast("str", None)),)},
    "a figure that is no number": lambda: {"executions": (run("7", figures=Figures(threads=cast("int", "4"))),)},
    "a figure beyond all numbers": lambda: {"executions": (run("7", figures=Figures(resident_bytes=10**400)),)},
    "a figure that is not finite": lambda: {"executions": (run("7", figures=Figures(threads=cast("int", 1e999))),)},
    "a figure that is NaN": lambda: {"executions": (run("7", figures=Figures(threads=cast("int", float("nan")))),)},
    "an unknown status": lambda: {
        "executions": (dataclasses.replace(run("7"), status=cast("ExecutionStatus", "walking")),)
    },
    "a time without a zone": lambda: {
        "executions": (run("7", status=ExecutionStatus.PENDING, created_minutes=1),),
        "taken_at": NOW.replace(tzinfo=None),
    },
    "no visibility": lambda: {"visibility": None},
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_an_answer_that_makes_no_sense_lowers_only_its_source(scraped: Scraped, bad: str) -> None:
    """
    One source's bad data never takes the others' metrics, and leaves no half of its own.
    """
    answer = dataclasses.replace(cast("Any", reading("bad").outcome), **BAD_ANSWERS[bad]())
    broken = dataclasses.replace(reading("bad"), outcome=answer)
    scraped.read(reading("first", run("1")), broken, reading("last", run("2")))

    up = {source: scraped.value("ssis_up", source=source) for source in ("first", "bad", "last")}
    assert {"first": 1, "bad": 0, "last": 1} == up
    assert ["1", "2"] == scraped.ids()
    assert scraped.value(RUNNING, source="bad") is None
    assert 1 == scraped.value(SCRAPE_ERRORS.name, source="bad", reason="broken")


class Told(int):
    """A number with a spelling of its own, as a driver may have it."""

    def __str__(self) -> str:
        return f"{int(self)} threads"


@pytest.mark.parametrize("threads", [True, Told(1)])
def test_a_number_is_written_as_one(scraped: Scraped, threads: int) -> None:
    """
    Whatever kind of number a source has: one that Prometheus cannot read would take the whole page away.
    """
    kept = scraped.collector.families([reading("sql01", run("7", figures=Figures(threads=threads)))])
    page = b"".join(render(kept, None, TEXT)).decode()

    assert ["1"] == re.findall(r"^ssis_package_execution_threads{.*} (.*)$", page, re.MULTILINE)


def test_a_source_that_is_down_is_logged_once(scraped: Scraped, caplog: pytest.LogCaptureFixture) -> None:
    """
    The log tells when a source goes down, not at every scrape, and again when it goes down again.
    """
    down = failed("sql01", SourceUnreachable("sql01: nobody answers"))
    with caplog.at_level(logging.WARNING):
        for each in (down, down, reading("sql01"), down):
            scraped.read(each)

    assert 2 == caplog.text.count("nobody answers")


def host(program: str, process_id: int) -> HostProcess:
    """A process that may host packages."""
    return HostProcess(program=program, process_id=process_id, started_at=NOW)


def test_host_processes_are_counted_from_zero(scraped: Scraped) -> None:
    """
    Each program that may host packages has a count where a source looks at processes, and none where it does not.
    """
    scraped.read(reading("local", host_processes=(host("DTExecUI", 1), host("DTExecUI", 2))), reading("sql01"))
    counts = {
        labels["program"]: scraped.value("ssis_host_processes", **labels)
        for labels in scraped.series("ssis_host_processes")
    }

    assert {"ISServerExec": 0, "DTExecUI": 2, "DtsDebugHost": 0} == counts


def test_host_processes_that_no_run_accounts_for_are_unclaimed(scraped: Scraped) -> None:
    """
    A run claims a process of this machine only when its figures were read from it.
    """
    hosts = (host("ISServerExec", 1), host("ISServerExec", 2), host("ISServerExec", 3), host("DTExecUI", 4))
    here = run("7", process_id=1, host="ISServerExec", figures=Figures(threads=1))
    elsewhere = run("8", process_id=2, host="ISServerExec")
    scraped.read(reading("local", host_processes=hosts), reading("sql01", here, elsewhere))

    assert 2 == scraped.value("ssis_unclaimed_host_processes", source="local")
    assert scraped.value("ssis_unclaimed_host_processes", source="sql01") is None


def test_unclaimed_host_processes_are_unknown_while_who_claims_them_is_not_read(scraped: Scraped) -> None:
    """
    Who could not ask the catalog doesn't know which processes are its own; a catalog elsewhere does not matter.
    """
    local = reading("local", host_processes=(host("ISServerExec", 1),))
    here = run("7", process_id=1, host="ISServerExec", figures=Figures(threads=1))
    scraped.read(local, reading("sql01", here), failed("sql02", SourceTimeout("late")))
    before = scraped.value("ssis_unclaimed_host_processes", source="local")
    scraped.read(local, failed("sql01", SourceTimeout("late")))
    late = scraped.value("ssis_unclaimed_host_processes", source="local")
    scraped.read(local)

    assert 0 == before
    assert late is None
    assert scraped.value("ssis_unclaimed_host_processes", source="local") is None


def test_source_info_tells_what_the_source_is(scraped: Scraped) -> None:
    """
    Kind, server and version are labels of the info metric, also while the source is down.
    """
    info = SourceInfo(kind="catalog", server="sql01.corp.example", version="16.0")
    scraped.read(dataclasses.replace(failed("sql01", SourceTimeout("late")), info=info))

    labels = {"source": "sql01", "kind": "catalog", "server": "sql01.corp.example", "version": "16.0"}
    assert 1 == scraped.value("ssis_source_info", **labels)


def test_label_texts_are_kept_only_for_runs_that_are_there(scraped: Scraped) -> None:
    """
    Nothing of a run is kept once it is gone, so memory does not grow with the runs that ever were.
    """
    for number in range(50):
        scraped.read(reading("sql01", run(str(number)), run(str(number + 1))))

    kept = scraped.collector._labels._kept
    assert {"sql01": {"49", "50"}} == {source: set(labels) for source, labels in kept.items()}
    scraped.read(failed("sql01", SourceTimeout("late")))
    assert {} == scraped.collector._labels._kept


def test_a_new_run_under_an_old_id_has_its_own_labels(scraped: Scraped) -> None:
    """
    Kept texts belong to the facts they were made from, not to the id.
    """
    scraped.read(reading("sql01", run("7", "Before")))
    scraped.read(reading("sql01", run("7", "After")))

    assert ["After"] == [labels["package_name"] for labels in scraped.series(DURATION)]


HOSTILE = st.text(st.characters(exclude_categories=()), max_size=300) | st.sampled_from(
    ["7", "7\x00", "7\x01", "\\", '"']
)


@st.composite
def any_reading(draw: st.DrawFn) -> Reading:
    """A source that shows anything."""
    source = draw(HOSTILE)
    runs = [
        run(
            draw(HOSTILE),
            draw(HOSTILE),
            source=source,
            status=draw(st.sampled_from(ExecutionStatus)),
            minutes=draw(st.floats(0, 1e6)),
            orphaned=draw(st.booleans()),
            user_name=draw(HOSTILE),
            figures=draw(st.none() | st.builds(Figures, threads=st.none() | st.integers(0, 2**70))),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    return reading(source, *runs, scope=draw(st.sampled_from(Scope)))


@settings(max_examples=60, deadline=None)
@given(st.lists(any_reading(), max_size=3), st.integers(0, 3))
def test_no_series_comes_twice_and_none_is_lost(readings: Sequence[Reading], budget: int) -> None:
    """
    Whatever the sources show: no series twice, and shown plus left out are the running ones.
    """
    scraped = Scraped(executions_per_source=budget)
    scraped.read(*readings)
    series = scraped.all_series()

    assert len(set(series)) == len(series)
    for labels in scraped.series(RUNNING):
        shown = [each for each in scraped.series(DURATION) if each["source"] == labels["source"]]
        assert scraped.value(RUNNING, **labels) == len(shown) + (
            scraped.value("ssis_executions_truncated", **labels) or 0
        )


@settings(max_examples=60, deadline=None)
@given(any_reading())
def test_a_second_scrape_says_the_same(one: Reading) -> None:
    """
    What is kept between scrapes changes nothing.
    """
    scraped = Scraped()
    scraped.read(one)
    first = scraped.all_series()
    scraped.read(one)

    assert first == scraped.all_series()


UNITS = re.compile(r"_(seconds|bytes)(_total)?$")
AVOIDED_UNITS = re.compile(r"_(ms|millis|milliseconds|minutes|hours|days|kb|mb|gb|kilobytes|megabytes|percent)(_|$)")


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
def test_names_follow_the_conventions(definition: Any) -> None:
    """
    Prefix, case, units, suffixes and label names are as Prometheus wants them, and HELP says something.
    """
    name = definition.name
    avoided = {"job", "instance", "type", "le", "quantile", "env", "service", "cluster", "owner", "stage", "zone"}

    assert re.fullmatch(r"ssis(_[a-z0-9]+)+", name)
    assert name.endswith("_total") == (definition.type == "counter")
    assert not re.search(r"_(count|sum|bucket|created|gsum|gcount)$", name)
    assert not AVOIDED_UNITS.search(name)
    assert ("seconds" in name or "bytes" in name) == bool(UNITS.search(name))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in definition.labels)
    assert not avoided & set(definition.labels)
    assert definition.labels[0] == "source"
    assert len(set(definition.labels)) == len(definition.labels)
    assert definition.documentation.endswith(".")
    assert definition.documentation.isascii()


def test_every_metric_comes_from_some_reading(scraped: Scraped) -> None:
    """
    The rich readings, which the golden files show, use each metric.
    """
    scraped.read(*rich_readings())

    assert {definition.name for definition in DEFINITIONS} == {name for name, _ in scraped.all_series()}


def test_a_start_that_two_instants_fit_is_marked(scraped: Scraped) -> None:
    """
    A run whose start fell into the hour that comes twice, unwatched, is marked; no other run is.
    """
    sure, unsure = run("1"), run("2")
    unsure = dataclasses.replace(unsure, facts=dataclasses.replace(unsure.facts, start_uncertain=True))
    scraped.read(reading("sql01", sure, unsure))

    assert ["2"] == scraped.ids("ssis_package_execution_start_uncertain")
