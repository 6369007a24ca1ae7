"""The demo source: a made-up estate that behaves like a real one and is settled by its seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssis_exporter.errors import IdentityUnknown, NoSuchExecution, SourceBroken, SourceUnreachable, StopFailed
from ssis_exporter.model import (
    EndedExecution,
    Execution,
    ExecutionKey,
    ExecutionStatus,
    Result,
    Scope,
    Snapshot,
    StopReply,
)
from ssis_exporter.sources.demo import DemoSettings, DemoSource
from ssis_exporter.sources.demo.estate import Estate
from ssis_exporter.sources.demo.packages import HOUR, make_packages, package_name
from ssis_exporter.sources.kinds import load_kind
from ssis_exporter.testing import SourceContract

ORIGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = ORIGIN

    def __call__(self) -> datetime:
        return self.time

    def turn(self, seconds: float) -> None:
        """Time passes; a negative number sets the clock back."""
        self.time += timedelta(seconds=seconds)


def make_demo(clock: Clock, **keys: Any) -> DemoSource:
    """A demo source on a test's clock."""
    return DemoSource("demo", DemoSettings(**keys), now=clock)


def looks(source: DemoSource, clock: Clock, *, every: float, times: int) -> Iterator[Snapshot]:
    """One look now, and more as time passes."""
    yield source.snapshot()
    for _ in range(times):
        clock.turn(every)
        yield source.snapshot()


def running(seen: Snapshot) -> list[Execution]:
    """The runs that can be asked to stop."""
    return [run for run in seen.executions if run.status is ExecutionStatus.RUNNING and not run.orphaned]


class TestDemoSource(SourceContract):
    """The rules that every source keeps."""

    @pytest.fixture
    def source(self) -> DemoSource:
        """A demo on the real clock."""
        return DemoSource("demo")

    @pytest.fixture
    def broken_source(self) -> DemoSource:
        """A demo in the middle of its trouble."""
        clock = Clock()
        source = make_demo(clock, troubles=True)
        source.snapshot()
        clock.turn(51 * 60)
        return source


def test_kind_is_registered() -> None:
    """
    The configuration's word `demo` finds it.
    """
    assert load_kind("demo") is DemoSource


def test_page_is_not_empty_at_once() -> None:
    """
    The first look finds runs of every sort, some of them hours old, and nothing that has ended.
    """
    seen = make_demo(Clock()).snapshot()

    assert len(running(seen)) >= 5
    assert any(run.duration > timedelta(hours=4) for run in seen.executions)
    assert any(run.orphaned for run in seen.executions)
    assert {ExecutionStatus.RUNNING, ExecutionStatus.STOPPING, ExecutionStatus.PENDING} <= {
        run.status for run in seen.executions
    }
    assert () == seen.ended


@pytest.mark.parametrize("packages", [1, 2, 10, 40, 1000])
def test_runs_come_and_go_within_a_minute(packages: int) -> None:
    """
    At speed 1 somebody who watches for a minute sees a run begin and one end, in an estate of any size.
    """
    clock = Clock()
    source = make_demo(clock, packages=packages)
    seen = [{run.key for run in look.executions} for look in looks(source, clock, every=5, times=12)]

    assert any(after - before for before, after in pairwise(seen))
    assert any(before - after for before, after in pairwise(seen))


def test_ten_hours_show_everything_that_can_happen() -> None:
    """
    Within ten simulated hours runs wait, overrun, stick, lose their host, and end with every result but our own.
    """
    clock = Clock()
    results: dict[ExecutionKey, Result] = {}
    statuses: Counter[ExecutionStatus] = Counter()
    orphans: set[ExecutionKey] = set()
    lengths: list[timedelta] = []
    for look in looks(make_demo(clock), clock, every=60, times=600):
        statuses.update(run.status for run in look.executions)
        orphans.update(run.key for run in look.executions if run.orphaned)
        results.update((ended.facts.key, ended.result) for ended in look.ended)
        lengths += [ended.duration for ended in look.ended]

    assert set(Result) - {Result.STOPPED_BY_EXPORTER} == set(results.values())
    assert set(ExecutionStatus) == set(statuses)
    assert len(orphans) >= 3
    assert min(lengths) < timedelta(seconds=20)
    assert max(lengths) > timedelta(hours=2)
    assert Counter(results.values())[Result.SUCCEEDED] > 0.8 * len(results)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 5),
    speed=st.sampled_from([0.5, 1.0, 60.0, 3600.0]),
    steps=st.lists(
        st.tuples(st.floats(-300, 24_000), st.sampled_from(["look", "stop", "force"]), st.integers(0, 99)), max_size=25
    ),
)
def test_whatever_happens_the_times_agree(seed: int, speed: float, steps: list[tuple[float, str, int]]) -> None:
    """
    At every speed and after any stops: no time in the future, no negative or shrinking figure, no key used twice.
    """
    clock = Clock()
    source = make_demo(clock, seed=seed, speed=speed, packages=12)
    source.snapshot()
    before: dict[ExecutionKey, Execution] = {}
    gone: dict[ExecutionKey, EndedExecution] = {}
    for seconds, action, choice in steps:
        # Of the estate's own time: at speed 3600 a few of the clock's minutes would be weeks of work for it.
        clock.turn(seconds / speed)
        seen = source.snapshot()
        now = {run.key: run for run in seen.executions}
        assert len(now) == len(seen.executions)
        assert not now.keys() & gone.keys()
        for run in seen.executions:
            check_times(run, seen.taken_at)
            if run.key in before:
                check_growth(before[run.key], run)
        for ended in seen.ended:
            assert ended.facts.key not in now
            assert gone.setdefault(ended.facts.key, ended) == ended
            assert timedelta() <= ended.duration
            assert ORIGIN <= ended.ended_at <= seen.taken_at
        assert before.keys() - now.keys() <= gone.keys()
        before = now
        able = running(seen)
        if able and action != "look":
            run = able[choice % len(able)]
            stop = source.request_stop if action == "stop" else source.force_stop
            assert stop(run) is StopReply.ACCEPTED


def check_times(run: Execution, taken_at: datetime) -> None:
    """One run's times agree with each other and with the clock."""
    facts = run.facts
    assert facts.created_at is not None
    assert facts.created_at <= taken_at
    assert (facts.started_at is None) == (run.status in (ExecutionStatus.CREATED, ExecutionStatus.PENDING))
    if facts.started_at is not None:
        assert facts.created_at <= facts.started_at <= taken_at
        assert run.duration == taken_at - facts.started_at
    if run.stopping_since is not None:
        assert facts.started_at is not None
        assert facts.started_at <= run.stopping_since <= taken_at
    assert (run.stopping_since is not None) == (run.status is ExecutionStatus.STOPPING)
    assert (run.figures is None) == (facts.started_at is None or run.orphaned)


def check_growth(before: Execution, after: Execution) -> None:
    """Nothing that was counted falls, and what does not change stays the same object."""
    assert before.duration <= after.duration
    if before.facts.started_at is not None:
        assert before.facts is after.facts
    assert not (before.orphaned and not after.orphaned)
    for old, new in ((before.figures, after.figures), (before.data_flow, after.data_flow)):
        if old is None or new is None:
            continue
        for name in old.__slots__:
            assert getattr(old, name) <= getattr(new, name), name


@settings(max_examples=30, deadline=None)
@given(moments=st.lists(st.floats(0, 20_000), max_size=20))
def test_how_often_somebody_looks_changes_nothing(moments: list[float]) -> None:
    """
    Equal seed and simulated time make equal estates, whoever looked when.
    """
    watched, unwatched = Estate(seed=3, packages=20), Estate(seed=3, packages=20)
    ended = [run for moment in [*sorted(moments), 20_000.0] for run in watched.advance(moment)]

    assert [life(run) for run in unwatched.advance(20_000.0)] == [life(run) for run in ended]
    assert {number: life(run) for number, run in unwatched.open.items()} == {
        number: life(run) for number, run in watched.open.items()
    }


def life(run: Any) -> tuple[Any, ...]:
    """All that can be told of a run of the engine."""
    return (run.number, run.package, run.plan, run.ends, run.result, run.asked_to_stop, run.host_lost)


def test_equal_seeds_make_equal_snapshots() -> None:
    """
    Two demos with one seed and one clock show the same, value for value; another seed shows something else.
    """
    clock = Clock()
    one, same, other = (make_demo(clock, seed=seed) for seed in (7, 7, 8))
    for source in (one, same, other):
        source.snapshot()
    clock.turn(3600)

    assert one.snapshot() == same.snapshot()
    assert one.snapshot() != other.snapshot()


@settings(max_examples=20, deadline=None)
@given(
    stops=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 50), st.booleans()), min_size=1, max_size=10),
)
def test_stopping_one_run_changes_no_other(stops: list[tuple[int, int, bool]]) -> None:
    """
    With the same seed, every run that was not stopped itself lives the same life in a dry and in an armed estate.
    """
    dry, armed = Estate(seed=1, packages=20), Estate(seed=1, packages=20)
    touched: set[int] = set()
    lives: dict[str, dict[int, Any]] = {"dry": {}, "armed": {}}
    for minute in range(601):
        for name, estate in (("dry", dry), ("armed", armed)):
            lives[name].update((run.number, life(run)) for run in estate.advance(minute * 60.0))
        for at, choice, force in stops:
            able = [r for r in armed.open.values() if r.status(armed.now) is ExecutionStatus.RUNNING]
            if at == minute and able:
                run = able[choice % len(able)]
                touched.add(run.number)
                (armed.end_host if force else armed.ask_to_stop)(run)
    for name, estate in (("dry", dry), ("armed", armed)):
        lives[name].update((run.number, life(run)) for run in estate.open.values())

    assert lives["dry"].keys() == lives["armed"].keys()
    assert {n: seen for n, seen in lives["dry"].items() if n not in touched} == {
        n: seen for n, seen in lives["armed"].items() if n not in touched
    }


def test_a_run_asked_to_stop_ends_as_canceled() -> None:
    """
    It is `stopping` for a moment, then gone, and counted as canceled; asking again asks nothing.
    """
    clock = Clock()
    source = make_demo(clock)
    obeyed = []
    for run in running(source.snapshot()):
        assert source.request_stop(run) is StopReply.ACCEPTED
        assert source.request_stop(run) is StopReply.ALREADY_STOPPING
        obeyed.append(run.key)
    assert {ExecutionStatus.STOPPING} == {run.status for run in source.snapshot().executions if run.key in obeyed}
    clock.turn(10)
    seen = source.snapshot()
    ended = {ended.facts.key: ended.result for ended in seen.ended}

    assert set(ended) & set(obeyed)
    assert {Result.CANCELED} == {ended[key] for key in obeyed if key in ended}


def test_some_runs_stick_and_force_ends_them() -> None:
    """
    One in ten stays `stopping` when asked; ending its host ends it, or leaves its record behind for a while.
    """
    clock = Clock()
    source = make_demo(clock, packages=300)
    asked = {run.key for run in running(source.snapshot()) if source.request_stop(run)}
    clock.turn(30)
    stuck = [run for run in source.snapshot().executions if run.key in asked]
    for run in stuck:
        assert run.status is ExecutionStatus.STOPPING
        assert source.force_stop(run) is StopReply.ACCEPTED
    clock.turn(1)
    left = [run for run in source.snapshot().executions if run.key in asked]
    for run in left:
        with pytest.raises(StopFailed, match="has no process"):
            source.force_stop(run)

    assert 0.02 < len(stuck) / len(asked) < 0.25
    assert 0 < len(left) < len(stuck)
    assert all(run.orphaned for run in left)
    clock.turn(2 * HOUR)
    assert not {run.key for run in source.snapshot().executions} & asked


def test_forged_identities_are_refused() -> None:
    """
    The right instance id with other facts names no run that could be stopped; nor does an id that is no number.
    """
    clock = Clock()
    source = make_demo(clock)
    run = running(source.snapshot())[0]
    for change in ({"package_name": "Other"}, {"folder": "Other"}, {"started_at": ORIGIN}, {"process_id": 1}):
        for stop in (source.request_stop, source.force_stop):
            with pytest.raises(IdentityUnknown):
                stop(altered(run, **change))
    for instance_id in ("", "x", "-1", " " + run.key.instance_id, "٣", "1" * 5000):
        with pytest.raises((NoSuchExecution, IdentityUnknown)):
            source.request_stop(altered(run, key=ExecutionKey("demo", instance_id)))
    with pytest.raises(IdentityUnknown):
        source.request_stop(altered(run, key=ExecutionKey("elsewhere", run.key.instance_id)))

    assert ExecutionStatus.RUNNING == {r.key: r.status for r in source.snapshot().executions}[run.key]


def altered(run: Execution, **changes: Any) -> Execution:
    """The same run, with other facts."""
    return replace(run, facts=replace(run.facts, **changes))


def test_a_run_seen_before_it_began_is_the_same_run() -> None:
    """
    Who saw it pending may have it stopped once it runs; while it is pending it has no process to stop.
    """
    clock = Clock()
    source = make_demo(clock)
    pending = next(run for run in source.snapshot().executions if run.status is ExecutionStatus.PENDING)
    with pytest.raises(StopFailed, match="has no process yet"):
        source.request_stop(pending)
    with pytest.raises(StopFailed, match="has no process"):
        source.force_stop(pending)
    clock.turn(8 * 60 + 1)

    assert source.request_stop(pending) is StopReply.ACCEPTED


def test_an_orphan_cannot_be_asked() -> None:
    """
    A record whose host is gone has nobody to ask.
    """
    source = make_demo(Clock())
    orphan = next(run for run in source.snapshot().executions if run.orphaned)

    with pytest.raises(StopFailed, match="was not found"):
        source.request_stop(orphan)


def test_a_second_demo_uses_no_id_of_the_first() -> None:
    """
    A restart with the same seed names no run as the first demo did, so a ledger kept between them stays right.
    """
    clock = Clock()
    first = make_demo(clock, packages=300)
    ids = {run.key.instance_id for look in looks(first, clock, every=60, times=30) for run in look.executions}
    second = make_demo(clock, packages=300)
    again = {run.key.instance_id for look in looks(second, clock, every=60, times=30) for run in look.executions}

    assert ids
    assert not ids & again


def test_the_record_knows_what_ever_ran() -> None:
    """
    What ended, also before the demo began, is known; an id that was never given is not; an open one is for a look.
    """
    clock = Clock()
    source = make_demo(clock)
    ids = [run.key.instance_id for seen in looks(source, clock, every=600, times=30) for run in seen.executions]
    past, _ = source.past("")
    known = {run.key.instance_id for run in source.snapshot().executions}

    assert all(source.has_record_of(instance_id) for instance_id in ids if instance_id not in known)
    assert all(source.has_record_of(run.facts.key.instance_id) for run in past)
    newest = max(map(int, known))
    for instance_id in (str(newest + 100_000), "1", "0", "", "x", "-1", "9" * 5000):
        assert not source.has_record_of(instance_id)
    with pytest.raises(SourceBroken, match="is open, and no look has shown it yet"):
        source.has_record_of(min(known))


def test_speed_makes_life_shorter() -> None:
    """
    At speed 60 the same runs last a sixtieth of the time, by the clock, with a sixtieth of the CPU time and all rows.
    """
    slow_clock, fast_clock = Clock(), Clock()
    slow, fast = make_demo(slow_clock), make_demo(fast_clock, speed=60)
    slow.snapshot()
    fast.snapshot()
    slow_clock.turn(3600)
    fast_clock.turn(60)
    real, quick = slow.snapshot(), fast.snapshot()

    assert [run.key for run in real.executions] == [run.key for run in quick.executions]
    for one, other in zip(real.executions, quick.executions, strict=True):
        assert math.isclose(one.duration.total_seconds(), 60 * other.duration.total_seconds(), abs_tol=1e-3)
        if one.figures is not None and other.figures is not None:
            assert one.figures.cpu_time is not None
            assert other.figures.cpu_time is not None
            assert math.isclose(
                one.figures.cpu_time.total_seconds(), 60 * other.figures.cpu_time.total_seconds(), abs_tol=1e-3
            )
            assert one.data_flow == other.data_flow


def test_the_past_tells_what_is_usual() -> None:
    """
    Each package has a record of runs before the estate began, in small pieces; none of them is ever open.
    """
    clock = Clock()
    source = make_demo(clock, packages=120)
    cursor: str | None = ""
    pieces = []
    while cursor is not None:
        piece, cursor = source.past(cursor)
        pieces.append(piece)
    seen = source.snapshot()
    past = [ended for piece in pieces for ended in piece]
    usual = {package.name: package.usual for package in make_packages(1, 120)}

    assert 3 == len(pieces)
    assert {20} == set(Counter(ended.facts.package_name for ended in past).values())
    assert len(past) == len({ended.facts.key for ended in past})
    assert not {ended.facts.key for ended in past} & {run.key for run in seen.executions}
    for ended in past:
        assert ended.facts.started_at is not None
        assert ended.facts.started_at < ended.ended_at < ORIGIN
        assert ended.result is Result.SUCCEEDED
        assert 0.8 <= ended.duration.total_seconds() / usual[ended.facts.package_name] <= 1.2


def test_asking_for_the_past_changes_nothing() -> None:
    """
    The same runs follow, whether anybody asked for the past or not.
    """
    asked, unasked = Estate(seed=1, packages=20), Estate(seed=1, packages=20)
    for index in range(20):
        asked.past(index)

    assert [life(run) for run in asked.advance(10_000)] == [life(run) for run in unasked.advance(10_000)]


def test_what_ended_is_told_again_for_a_while() -> None:
    """
    A look whose answer nobody got costs no ended run; after five minutes it is not told any more.
    """
    clock = Clock()
    source = make_demo(clock)
    source.snapshot()
    clock.turn(60)
    lost = {ended.facts.key for ended in source.snapshot().ended}
    clock.turn(60)
    again = {ended.facts.key for ended in source.snapshot().ended}
    clock.turn(600)
    source.snapshot()
    later = {ended.facts.key for ended in source.snapshot().ended}

    assert lost
    assert lost <= again
    assert not lost & later


def test_troubles_hide_runs_and_lose_no_end() -> None:
    """
    With `troubles` the source is unreachable for a time, sees only some runs for a time, and tells every end later.
    """
    clock, quiet_clock = Clock(), Clock()
    source, quiet = make_demo(clock, troubles=True), make_demo(quiet_clock)
    told: set[ExecutionKey] = set()
    expected: set[ExecutionKey] = set()
    scopes: Counter[Scope] = Counter()
    silent = 0
    for _ in range(360):
        clock.turn(20)
        quiet_clock.turn(20)
        expected |= {ended.facts.key for ended in quiet.snapshot().ended}
        try:
            seen = source.snapshot()
        except SourceUnreachable:
            silent += 1
            continue
        scopes[seen.visibility.scope] += 1
        told |= {ended.facts.key for ended in seen.ended}

    assert 15 == silent
    assert 15 == scopes[Scope.OWN]
    assert len(expected) > 100
    assert expected == told


def test_a_clock_that_is_set_back_makes_nothing_younger() -> None:
    """
    The estate waits until the clock has caught up.
    """
    clock = Clock()
    source = make_demo(clock)
    before = source.snapshot()
    clock.turn(-3600)

    assert before.executions == source.snapshot().executions


def test_host_processes_are_those_of_the_runs() -> None:
    """
    Each catalog-like run that has its host shows it, once, with its own process id.
    """
    seen = make_demo(Clock(), packages=200).snapshot()
    assert seen.host_processes is not None
    hosts = {process.process_id for process in seen.host_processes if process.program == "ISServerExec"}
    of_runs = {
        run.facts.process_id
        for run in seen.executions
        if run.facts.host == "ISServerExec" and run.status.is_active and not run.orphaned
    }

    assert hosts
    assert of_runs == hosts


def test_packages_have_names_of_their_own() -> None:
    """
    No two packages of a project share a name, and a larger estate begins like a smaller one.
    """
    packages = make_packages(1, 3000)

    assert 3000 == len({(p.folder, p.project, p.name) for p in packages})
    assert 3000 == len({p.package_id for p in packages})
    assert packages[:10] == make_packages(1, 10)
    assert "LoadJournal" == package_name(0)


@pytest.mark.parametrize(
    "keys",
    [{"speed": 0}, {"speed": -1}, {"speed": math.nan}, {"packages": 0}, {"packages": 1.5}, {"colour": "red"}],
    ids=str,
)
def test_wrong_settings_are_refused(keys: dict[str, Any]) -> None:
    """
    Settings that make no estate are refused by their type.
    """
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(keys, DemoSettings)
