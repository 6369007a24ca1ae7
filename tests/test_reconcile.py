"""One run that `dts` and `dtexec` both see is one run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ssis_exporter.errors import SourceUnreachable
from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Reading,
    Scope,
    Snapshot,
    SourceInfo,
    Visibility,
)
from ssis_exporter.reconcile import LINGERS, Reconciler

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"

T0 = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    source: str,
    instance: str,
    at: float,
    *,
    name: str = "Load",
    user: str = "CORP\\etl",
    machine: str = "",
    uncertain: bool = False,
) -> Execution:
    """A run that began `at` seconds after T0."""
    facts = ExecutionFacts(
        key=ExecutionKey(source, instance),
        package_name=name,
        user_name=user,
        started_at=T0 + timedelta(seconds=at),
        start_uncertain=uncertain,
        machine=machine,
    )
    return Execution(facts=facts, status=ExecutionStatus.RUNNING)


def reading(source: str, *runs: Execution, at: float = 5000) -> Reading:
    """What a source of the kind that it is named after saw `at` seconds after T0."""
    seen = Snapshot(
        source=source, taken_at=T0 + timedelta(seconds=at), visibility=Visibility(Scope.ALL), executions=runs
    )
    return Reading(source=source, info=SourceInfo(kind=source), outcome=seen, took=timedelta())


def down(source: str) -> Reading:
    """A source that did not answer."""
    return Reading(
        source=source, info=SourceInfo(kind=source), outcome=SourceUnreachable(f"{source}: no"), took=timedelta()
    )


def shown(readings: list[Reading]) -> dict[str, set[str]]:
    """Source to instance ids, of those that answered."""
    return {
        r.source: {execution.key.instance_id for execution in r.outcome.executions}
        for r in readings
        if isinstance(r.outcome, Snapshot)
    }


def doubtful(readings: list[Reading]) -> int:
    """The runs counted as ambiguous."""
    return sum(r.outcome.ambiguous or 0 for r in readings if isinstance(r.outcome, Snapshot))


@pytest.fixture
def clock() -> Clock:
    """Starts at 0."""
    return Clock()


@pytest.fixture
def reconciler(clock: Clock) -> Reconciler:
    """One that has seen nothing."""
    return Reconciler(monotonic=clock)


def test_a_run_seen_twice_is_shown_by_dts(reconciler: Reconciler) -> None:
    """
    The process of a package that the API lists is not a second run, and has not ended either.
    """
    result = reconciler.reconcile([reading("dts", run("dts", "guid", 2)), reading("dtexec", run("dtexec", "1-1", 0))])

    assert {"dts": {"guid"}, "dtexec": set()} == shown(result)
    assert isinstance(result[1].outcome, Snapshot)
    assert frozenset({"1-1"}) == result[1].outcome.shown_elsewhere
    assert 0 == doubtful(result)


@pytest.mark.parametrize(
    "process",
    [
        run("dtexec", "1-1", 0, name="Other"),
        run("dtexec", "1-1", 0, user="CORP\\somebody"),
        run("dtexec", "1-1", 10),
        run("dtexec", "1-1", -400),
    ],
    ids=["name", "user", "started after", "started long before"],
)
def test_what_differs_is_another_run(reconciler: Reconciler, process: Execution) -> None:
    """
    Another name, another user, a start after the API's or more than five minutes before it: two runs.
    """
    result = reconciler.reconcile([reading("dts", run("dts", "guid", 2)), reading("dtexec", process)])

    assert {"dts": {"guid"}, "dtexec": {"1-1"}} == shown(result)
    assert 0 == doubtful(result)


def test_two_candidates_stay_and_are_counted(reconciler: Reconciler) -> None:
    """
    Where two processes may be the one behind a package, both stay and both are counted as ambiguous.
    """
    result = reconciler.reconcile(
        [reading("dts", run("dts", "guid", 5)), reading("dtexec", run("dtexec", "1-1", 0), run("dtexec", "2-2", 1))]
    )

    assert {"1-1", "2-2"} == shown(result)["dtexec"]
    assert 2 == doubtful(result)


def test_one_process_for_two_packages_stays(reconciler: Reconciler) -> None:
    """
    Where one process may be behind either of two packages, it stays and is counted.
    """
    result = reconciler.reconcile(
        [reading("dts", run("dts", "a", 5), run("dts", "b", 6)), reading("dtexec", run("dtexec", "1-1", 0))]
    )

    assert {"1-1"} == shown(result)["dtexec"]
    assert 1 == doubtful(result)


def test_dtexec_does_not_adopt_while_dts_is_down(reconciler: Reconciler) -> None:
    """
    A run that dts owns does not appear under dtexec because dts does not answer; a new one does.
    """
    one = run("dtexec", "1-1", 0)
    reconciler.reconcile([reading("dts", run("dts", "a", 1)), reading("dtexec", one)])
    while_down = reconciler.reconcile([down("dts"), reading("dtexec", one, run("dtexec", "2-2", 60))])
    up_again = reconciler.reconcile(
        [reading("dts", run("dts", "a", 1), run("dts", "b", 61)), reading("dtexec", one, run("dtexec", "2-2", 60))]
    )

    assert {"2-2"} == shown(while_down)["dtexec"]
    assert {"dts": {"a", "b"}, "dtexec": set()} == shown(up_again)


def test_a_process_that_outlives_its_package_comes_back(reconciler: Reconciler, clock: Clock) -> None:
    """
    A process whose package is no longer listed lingers unseen for a minute, then counts as a run again.
    """
    process = run("dtexec", "1-1", 0)
    for at in (10, 25):
        reconciler.reconcile([reading("dts", run("dts", "a", 1), at=at), reading("dtexec", process, at=at)])
    soon = reconciler.reconcile([reading("dts", at=40), reading("dtexec", process, at=40)])
    clock.now = LINGERS + 1
    later = reconciler.reconcile([reading("dts", at=105), reading("dtexec", process, at=105)])
    links = reconciler.links()

    assert set() == shown(soon)["dtexec"]
    assert {"1-1"} == shown(later)["dtexec"]
    assert (frozenset({process.key}), frozenset({ExecutionKey("dts", "a")})) == (links.returned, links.abandoned)


def test_a_package_that_ended_between_two_looks_owns_no_other_process(reconciler: Reconciler) -> None:
    """
    A package that is listed while its own process has just ended claims the only other one that fits. It is gone from
    the next look: the process is shown and in doubt, and where it lives on after that, the package's end counts.
    """
    other = run("dtexec", "2-2", 0)
    claimed = reconciler.reconcile([reading("dts", run("dts", "a", 1), at=10), reading("dtexec", other, at=10)])
    gone = reconciler.reconcile([reading("dts", at=25), reading("dtexec", other, at=25)])
    before = reconciler.links()
    reconciler.reconcile([reading("dts", at=40), reading("dtexec", other, at=40)])
    after = reconciler.links()
    owned = reconciler.reconcile([reading("dts", run("dts", "b", 2), at=55), reading("dtexec", other, at=55)])

    assert set() == shown(claimed)["dtexec"]
    assert {"2-2"} == shown(gone)["dtexec"]
    assert 1 == doubtful(gone)
    assert frozenset({other.key}) == before.elsewhere
    assert (frozenset({other.key}), frozenset(), frozenset()) == (after.returned, after.kept_alive, after.abandoned)
    assert {"dts": {"b"}, "dtexec": set()} == shown(owned)
    assert 0 == doubtful(owned)


def test_a_package_and_its_process_that_end_at_once_end_once(reconciler: Reconciler) -> None:
    """
    A short run whose package is told to have ended before its process is: the process's end is not a second one.
    """
    process = run("dtexec", "1-1", 0)
    reconciler.reconcile([reading("dts", run("dts", "a", 1), at=10), reading("dtexec", process, at=10)])
    ended = reading("dts", at=25).outcome
    assert isinstance(ended, Snapshot)
    reconciler.note("dts", ended)
    links = reconciler.links()

    assert frozenset({process.key}) == links.elsewhere
    assert frozenset() == links.returned


def test_a_package_whose_process_ended_while_dts_was_down_owns_no_other(reconciler: Reconciler) -> None:
    """
    What `dts` saw before it went down still names a package whose process has ended since: another process of that
    name is not its, and stays shown. Where `dts` answers again and still lists the package, it may have another.
    """
    own, other = run("dtexec", "1-1", 0), run("dtexec", "2-2", 1.5)
    reconciler.reconcile([reading("dts", run("dts", "a", 1), at=1), reading("dtexec", own, at=1)])
    for at in (15, 30):
        while_down = reconciler.reconcile([down("dts"), reading("dtexec", other, at=at)])
        assert {"2-2"} == shown(while_down)["dtexec"]
        assert ExecutionKey("dtexec", "2-2") not in reconciler.links().elsewhere
    still = reconciler.reconcile([reading("dts", run("dts", "a", 1), at=45), reading("dtexec", other, at=45)])
    owned = reconciler.reconcile([reading("dts", run("dts", "a", 1), at=60), reading("dtexec", other, at=60)])

    assert {"dts": {"a"}, "dtexec": set()} == shown(owned)
    assert shown(still)["dtexec"] <= {"2-2"}


def test_an_unknown_user_is_no_proof(reconciler: Reconciler) -> None:
    """
    A process whose user cannot be read may be the package's: it stays and is counted.
    """
    result = reconciler.reconcile(
        [reading("dts", run("dts", "a", 1)), reading("dtexec", run("dtexec", "1-1", 0, user=""))]
    )

    assert {"1-1"} == shown(result)["dtexec"]
    assert 1 == doubtful(result)


@pytest.mark.parametrize(
    ("machine", "shown_by_dts", "in_doubt"),
    [("SQL01", set(), 0), ("sql01.corp.example", set(), 0), ("sql02", {"a"}, 0), ("", {"a"}, 1)],
)
def test_a_catalog_run_that_dts_lists_is_the_catalogs(
    reconciler: Reconciler, machine: str, shown_by_dts: set[str], in_doubt: int
) -> None:
    """
    Should the API list what the catalog runs on this machine, the catalog owns it; another machine's run is another.
    """
    result = reconciler.reconcile(
        [
            reading("catalog", run("catalog", "7", 0, machine=machine)),
            reading("dts", run("dts", "a", 1, machine="SQL01")),
        ]
    )

    assert {"catalog": {"7"}, "dts": shown_by_dts} == shown(result)
    assert in_doubt == doubtful(result)


@pytest.mark.parametrize("user", ["", "etl", "etl@corp.example", "ETL"])
def test_an_account_in_another_spelling_is_no_proof(reconciler: Reconciler, user: str) -> None:
    """
    Where the spelling of an account leaves open whether it is the same, the run stays in both and is counted.
    """
    result = reconciler.reconcile(
        [reading("dts", run("dts", "a", 1)), reading("dtexec", run("dtexec", "1-1", 0, user=user))]
    )

    assert {"dts": {"a"}, "dtexec": {"1-1"}} == shown(result)
    assert 1 == doubtful(result)


def test_an_uncertain_start_finds_its_process(reconciler: Reconciler) -> None:
    """
    A run whose start may be an hour earlier than shown is still its process's run.
    """
    owner = run("dts", "a", 3601, uncertain=True)
    result = reconciler.reconcile([reading("dts", owner), reading("dtexec", run("dtexec", "1-1", 0))])

    assert {"dts": {"a"}, "dtexec": set()} == shown(result)


def test_a_look_that_came_too_late_for_its_scrape_counts(reconciler: Reconciler) -> None:
    """
    A run that `dts` told too late for one scrape, and that was gone by the next, is known to be the process's run.
    """
    process = run("dtexec", "1-1", 0)
    reconciler.reconcile([down("dts"), reading("dtexec", process)])
    late = reading("dts", run("dts", "a", 1)).outcome
    assert isinstance(late, Snapshot)
    reconciler.note("dts", late)

    assert frozenset({process.key}) == reconciler.links().elsewhere


def test_a_source_that_is_taken_out_owns_nothing(reconciler: Reconciler) -> None:
    """
    When the owner's source is no longer configured, its runs are those of the source that still sees them.
    """
    readings = [reading("dts", run("dts", "a", 1)), reading("dtexec", run("dtexec", "1-1", 0))]
    reconciler.reconcile(readings)
    reconciler.keep({"dtexec"})
    result = reconciler.reconcile(readings[1:])

    assert {"dtexec": {"1-1"}} == shown(result)
    assert frozenset({readings[1].outcome.executions[0].key}) == reconciler.links().returned  # type: ignore[union-attr]


def test_catalogs_alone_are_not_gone_through(reconciler: Reconciler) -> None:
    """
    Where nothing could be owned, hundreds of catalogs are not compared at each look of one of them.
    """

    class Untouched(tuple[Execution, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[Execution]:
            raise AssertionError("gone through")

    looks = [reading("catalog", run("catalog", "1", 0)), reading("dts")]
    assert isinstance(looks[0].outcome, Snapshot)
    alone = replace(looks[0], outcome=replace(looks[0].outcome, executions=Untouched(looks[0].outcome.executions)))

    assert reconciler.reconcile([alone])[0].outcome is alone.outcome
    with pytest.raises(AssertionError, match="gone through"):
        reconciler.reconcile([alone, looks[1]])


def test_scrapes_that_shared_a_look_share_the_answer(reconciler: Reconciler) -> None:
    """
    The same snapshots give the same answer objects, so that a page rendered once serves all who wait.
    """
    readings = [reading("dts", run("dts", "a", 1)), reading("dtexec", run("dtexec", "1-1", 0))]
    first = reconciler.reconcile(readings)
    second = reconciler.reconcile(readings)

    assert all(a.outcome is b.outcome for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_no_run_counts_twice_without_being_counted_as_ambiguous(seed: int) -> None:
    """
    Two hundred runs with random delays, equal names, and dts going down and up: what dtexec still shows beside dts is
    either not in dts at all, or counted as ambiguous.
    """
    rng = random.Random(seed)
    reconciler = Reconciler()
    starts = [(f"{n}", rng.uniform(0, 3000), rng.uniform(0.1, 30), rng.choice("ABCDE")) for n in range(200)]
    lives = {name: rng.uniform(20, 900) for name, *_ in starts}
    for now in range(0, 4000, 15):
        in_api = [
            run("dts", name, at + delay, name=package)
            for name, at, delay, package in starts
            if at + delay <= now < at + lives[name]
        ]
        processes = [
            run("dtexec", name, at, name=package) for name, at, _, package in starts if at <= now < at + lives[name]
        ]
        is_down = rng.random() < 0.2
        result = reconciler.reconcile(
            [down("dts") if is_down else reading("dts", *in_api, at=now), reading("dtexec", *processes, at=now)]
        )
        seen = shown(result)
        if not is_down:
            double = seen["dts"] & seen["dtexec"]
            assert len(double) <= doubtful(result)
        hidden = {p.key.instance_id for p in processes} - seen["dtexec"]
        known = {name for name, at, delay, _ in starts if at + delay <= now}
        assert hidden <= known


class Life:
    """Runs of few names that `dts` and `dtexec` both see, and looks at both in any order; `dts` is down at times."""

    def __init__(self, seed: int, reconciler: Reconciler) -> None:
        self.rng = random.Random(seed)
        self.reconciler = reconciler
        self.now = 0.0
        self.is_down = False
        self.begun = 0
        self.ends: dict[int, float] = {}
        """When each run ends, by number; those that run."""

        self.processes: dict[int, Execution] = {}
        self.packages: dict[int, Execution] = {}
        self.registers: dict[int, float] = {}

    def pass_time(self) -> None:
        """Runs begin, are told to the API sooner or later, and end."""
        self.now += self.rng.uniform(0.2, 0.6)
        self.ends = {number: at for number, at in self.ends.items() if at > self.now}
        for number in range(self.begun, min(self.begun + 4, 60)):
            self.begun += 1
            self.ends[number] = self.now + self.rng.uniform(1, 6)
            self.registers[number] = self.now + self.rng.choice([0, self.rng.uniform(0, 1.5)])
            name = f"Load {self.rng.randrange(15)}"
            self.processes[number] = run("dtexec", f"{number}", self.now + self.rng.uniform(0, 0.05), name=name)
        for number in self.ends.keys() - self.packages.keys():
            if self.registers[number] <= self.now:
                name = self.processes[number].facts.package_name
                self.packages[number] = run("dts", f"{number}", self.now + 0.06, name=name)
        if self.rng.random() < 0.15:
            self.is_down = not self.is_down

    def look(self) -> list[Reading]:
        """What a scrape makes of it; one of the sources is noted before."""
        at = [self.now + 0.07 + self.rng.uniform(0, 0.05) for _ in range(2)]
        registered = [self.packages[number] for number in self.ends if number in self.packages]
        of_dts = down("dts") if self.is_down else reading("dts", *registered, at=at[0])
        of_dtexec = reading("dtexec", *(self.processes[number] for number in self.ends), at=at[1])
        first = self.rng.choice([None, of_dts, of_dtexec])
        if first is not None and isinstance(first.outcome, Snapshot):
            self.reconciler.note(first.source, first.outcome)
        return self.reconciler.reconcile([of_dts, of_dtexec])


@pytest.mark.parametrize("seed", range(1000 if FULL else 40))
def test_whatever_the_order_every_run_is_shown(reconciler: Reconciler, seed: int) -> None:
    """
    While both sources answer each run is shown by one of them; the ones that both show are counted as ambiguous.
    """
    life = Life(seed, reconciler)
    while life.begun < 60 or life.ends:
        life.pass_time()
        seen = life.look()
        if not life.is_down:
            by_dts, by_dtexec = (shown(seen)[source] for source in ("dts", "dtexec"))
            assert {str(number) for number in life.ends} == by_dts | by_dtexec
            assert len(by_dts & by_dtexec) <= doubtful(seen)
