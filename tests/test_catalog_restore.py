"""Rows that come late, are rolled back or restored, and later lives of the exporter: no end missed or made up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ssis_exporter.errors import SourceTimeout
from ssis_exporter.model import Result
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog import look as look_module
from tests.catalogs import Clock, Rig, complete, ids, told
from tests.tds.engine import SqlError

pytest_plugins = ("tests.catalogfixtures",)


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


@pytest.mark.parametrize("status", [2, 7])
def test_an_id_that_commits_late_is_seen_although_it_could_not_be_read_at_once(made: Rig, status: int) -> None:
    """
    The look that noticed it broke off before its row was read: the next one has it, or its end.
    """
    source = made.source()
    late, other = made.estate.allocate(), made.estate.allocate()
    made.estate.add(other)
    source.snapshot()
    made.estate.add(late, status=status)

    def fail_by_id(text: str) -> None:
        if "CROSS APPLY" in text:
            raise SqlError(1205, "deadlocked")

    made.server.before_each = fail_by_id
    with pytest.raises(SourceTimeout):
        source.snapshot()
    made.server.before_each = None
    seen = source.snapshot()

    assert ({late, other} if status == 2 else {other}) == ids(seen)
    assert ([] if status == 2 else [late]) == told(seen)
    assert not seen.incomplete


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


def test_a_row_that_vanishes_among_others_leaves_nothing(made: Rig) -> None:
    """
    Somebody deleted it: it has no end that could be told, and does not linger.
    """
    vanishes, stays = made.estate.add(), made.estate.add()
    source = made.source()
    assert {vanishes, stays} == ids(source.snapshot())
    made.estate.delete(vanishes)

    seen = source.snapshot()

    assert ({stays}, [], False) == (ids(seen), told(seen), seen.incomplete)


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


def look_that_is_cut_off(made: Rig, source: CatalogSource) -> None:
    """It fails half-way through reading anew."""

    def fail_once(text: str) -> None:
        if text.startswith("SELECT e.execution_id FROM"):
            made.server.before_each = None
            made.server.faults.errors = [(1205, 1)]

    made.server.before_each = fail_once
    with pytest.raises(SourceTimeout):
        source.snapshot()


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
    look_that_is_cut_off(made, source)

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
    look_that_is_cut_off(made, source)
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
    for nonsense in ("", "x", "1 2", "-1 3 abc", "1 2 abc yesterday"):
        other = made.source()
        other.resume(nonsense, ["x", "-3"])
        assert {first} == ids(other.snapshot())


@pytest.mark.parametrize(("hours", "hours_known"), [(-1, -1), (1, 0)])
def test_since_when_a_catalog_has_been_this_one_is_handed_on(
    made: Rig, clock: Clock, hours: int, hours_known: int
) -> None:
    """
    From life to life; a moment that lies ahead counts as now, for it was noted by a clock that was wrong.
    """
    made.estate.add()
    words = made.source().snapshot().bookmark.split()
    changed_at = clock() + timedelta(hours=hours)
    later = made.source(now=clock)
    later.resume(" ".join([*words[:3], changed_at.isoformat()]), ["1"])

    seen = later.snapshot()

    known = clock() + timedelta(hours=hours_known)
    assert (known, f"{' '.join(words)} {known.isoformat()}") == (seen.same_since, seen.bookmark)
