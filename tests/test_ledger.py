"""ledger: one row per run, events that are never changed, and of two steps at once one wins."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from ssis_exporter.errors import StorageError, StorageInUse
from ssis_exporter.ledger import Ledger, acknowledge_damage, read_events
from ssis_exporter.ledgerclock import LedgerClock
from ssis_exporter.ledgerrows import Door, Row
from ssis_exporter.ledgersteps import RowMoved
from ssis_exporter.model import (
    ExecutionFacts,
    ExecutionKey,
    Nomination,
    RefusalReason,
    Scope,
    StopOutcome,
    Visibility,
)
from ssis_exporter.policy import Breaker
from ssis_exporter.stopview import Stage
from ssis_exporter.storagefolder import Storage
from tests.stopping import InlineExecutor, Time

T = TypeVar("T")

NOW = datetime(2026, 11, 22, 22, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
BREAKER = Breaker(stops=2, window=timedelta(minutes=10))


def nomination(instance_id: str = "1", package_name: str | None = None) -> Nomination:
    return Nomination(
        key=ExecutionKey("local", instance_id), package_name=package_name, asked_since=NOW, labels={"a": "b"}
    )


def with_ledger(folder: Path, work: Callable[[Ledger], Awaitable[T]], time: Time | None = None) -> T:
    moved = time or Time()

    async def main() -> T:
        storage = Storage(folder)
        clock = LedgerClock(now=moved.now, monotonic=moved.monotonic)
        ledger = Ledger(storage, executor=InlineExecutor(), clock=clock)
        try:
            return await work(ledger)
        finally:
            await ledger.close()
            storage.release()

    return asyncio.run(main())


async def nominated(ledger: Ledger, instance_id: str = "1") -> Row:
    [(row, _)] = await ledger.nominate([nomination(instance_id)], NOW)
    assert row is not None
    return row


async def requested(ledger: Ledger, instance_id: str = "1", at: datetime = NOW) -> Row:
    row = await ledger.reserve(await nominated(ledger, instance_id), "rule 1", BREAKER, dry_run=False, at=at)
    assert row is not None
    row = await ledger.request(row, "rule 1", {"task": "Load"}, BREAKER, at)
    assert row is not None
    return row


def test_a_row_goes_its_way_and_every_step_is_an_event(tmp_path: Path) -> None:
    """
    From the nomination to the outcome, each step is kept with what was known.
    """

    async def work(ledger: Ledger) -> None:
        row = await nominated(ledger)
        facts = ExecutionFacts(key=row.key, package_name="Lo\udc80ad", started_at=NOW)
        row = await ledger.saw(row, facts, Visibility(Scope.ALL), NOW)
        assert facts == row.facts
        assert Visibility(Scope.ALL) == row.seen_under
        reserved = await ledger.reserve(row, "rule 1", BREAKER, dry_run=False, at=NOW)
        assert reserved is not None
        row = await ledger.request(reserved, "rule 1", {"task": "Load \udc80"}, BREAKER, NOW) or reserved
        row = await ledger.asked(row, "accepted", NOW)
        row = await ledger.settle(row, StopOutcome.STOPPED, at=LATER, rule="rule 1", text="gone", final=True)
        assert (Stage.CLOSED, StopOutcome.STOPPED, True, NOW) == (row.stage, row.outcome, row.final, row.placed_at)

    with_ledger(tmp_path, work)
    events = list(read_events(tmp_path))

    assert ["nominated", "seen", "allowed", "requested", "asked", "outcome"] == [event.kind for event in events]
    assert {"a": "b"} == events[0].details["nomination"]["labels"]
    assert {"task": "Load \udc80"} == events[3].details["evidence"]
    assert [LATER] == [event.at for event in read_events(tmp_path, LATER)]


def test_events_are_never_changed_or_removed(tmp_path: Path) -> None:
    """
    The file itself refuses.
    """
    with_ledger(tmp_path, nominated)
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")

    for statement in ("UPDATE events SET text = 'x'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="an event of the ledger is never"):
            connection.execute(statement)
    connection.close()


def test_one_row_per_run(tmp_path: Path) -> None:
    """
    The same run nominated twice, in one message or two, is one row; the same id in another source another.
    """

    async def work(ledger: Ledger) -> None:
        first = await ledger.nominate([nomination(), nomination()], NOW)
        again = await ledger.nominate([nomination()], LATER)
        other = await ledger.nominate([Nomination(key=ExecutionKey("other", "1"))], NOW)
        assert [False, True, True, False] == [known for _, known in (*first, *again, *other)]
        rows = await ledger.open_rows()
        assert ["local", "other"] == [row.key.source for row in rows]
        assert 1 == len(rows[0].nominations)

    with_ledger(tmp_path, work)


def test_an_outcome_that_is_not_final_opens_again(tmp_path: Path) -> None:
    """
    Refused is looked at again when the alert comes again; stopped stays stopped.
    """

    async def work(ledger: Ledger) -> None:
        row = await nominated(ledger)
        await ledger.settle(row, StopOutcome.REFUSED, at=NOW, reason=RefusalReason.TOO_YOUNG)
        [(again, known)] = await ledger.nominate([nomination()], LATER)
        assert again is not None
        assert (False, 2, Stage.NOMINATED, LATER, None) == (
            known,
            again.episode,
            again.stage,
            again.nominated_at,
            again.outcome,
        )
        await ledger.settle(again, StopOutcome.STOPPED, at=NOW, final=True)
        [(final, known)] = await ledger.nominate([nomination()], LATER)
        assert final is not None
        assert (True, StopOutcome.STOPPED) == (known, final.outcome)
        [(same, known)] = await ledger.nominate(
            [Door(nomination=nomination(), reason=RefusalReason.HELD, unless_known=True)], LATER
        )
        assert same is not None
        assert (True, StopOutcome.STOPPED) == (known, same.outcome)

    with_ledger(tmp_path, work)


def test_a_refusal_at_the_door_is_written_down(tmp_path: Path) -> None:
    """
    Also what is never looked at stands in the audit, whatever its labels hold.
    """
    door = Door(nomination=nomination("1\0\n\udc80"), reason=RefusalReason.INVALID_LABEL, text="no")

    async def work(ledger: Ledger) -> None:
        assert [(None, False)] == await ledger.nominate([door], NOW)
        [last] = await ledger.last_outcomes(5)
        assert (StopOutcome.REFUSED, RefusalReason.INVALID_LABEL) == (last.outcome, last.reason)
        assert [] == await ledger.open_rows()

    with_ledger(tmp_path, work)


def test_of_two_steps_one_wins(tmp_path: Path) -> None:
    """
    A step from where the row no longer is changes nothing.
    """

    async def work(ledger: Ledger) -> None:
        row = await nominated(ledger)
        assert await ledger.veto(row.key, "resolved", ended_at=None, at=NOW)
        with pytest.raises(RowMoved):
            await ledger.reserve(row, "rule 1", BREAKER, dry_run=False, at=NOW)
        await nominated(ledger)
        with pytest.raises(RowMoved):
            await ledger.settle(row, StopOutcome.REFUSED, at=NOW)

    with_ledger(tmp_path, work)


def test_nothing_is_vetoed_once_it_is_requested(tmp_path: Path) -> None:
    """
    From then on the source may have been asked.
    """

    async def work(ledger: Ledger) -> None:
        row = await requested(ledger)
        assert await ledger.veto(row.key, "resolved", ended_at=None, at=NOW) is None

    with_ledger(tmp_path, work)


def test_an_alert_that_ended_before_has_no_veto(tmp_path: Path) -> None:
    """
    Alertmanager repeats what was resolved long ago.
    """

    async def work(ledger: Ledger) -> None:
        row = await nominated(ledger)
        earlier = NOW - timedelta(microseconds=1)
        assert await ledger.veto(row.key, "resolved", ended_at=earlier, at=NOW) is None
        assert await ledger.veto(row.key, "resolved", ended_at=NOW, at=NOW) is not None
        assert await ledger.veto(ExecutionKey("local", "none"), "resolved", ended_at=NOW, at=NOW) is None

    with_ledger(tmp_path, work)


@pytest.mark.parametrize("other", [NOW + timedelta(hours=1), None, NOW.replace(tzinfo=None)])
def test_an_alert_that_ended_between_two_vetoes_both(tmp_path: Path, other: datetime | None) -> None:
    """
    Only what began after it for certain is not meant; where that is said of one of several, all are given up.
    """

    async def work(ledger: Ledger) -> None:
        row = await nominated(ledger)
        await ledger.nominate([replace(nomination(), asked_since=other)], NOW)
        assert await ledger.veto(row.key, "resolved", ended_at=NOW, at=NOW) is not None

    with_ledger(tmp_path, work)


def test_another_nomination_that_came_meanwhile_is_not_settled_unheard(tmp_path: Path) -> None:
    """
    A row that got a nomination with other beliefs comes back open instead of refused.
    """

    async def work(ledger: Ledger) -> None:
        row = await nominated(ledger)
        [(_, known)] = await ledger.nominate([nomination(package_name="Load")], NOW)
        assert known
        row = await ledger.settle(row, StopOutcome.REFUSED, at=NOW, reason=RefusalReason.PACKAGE_DIFFERS)
        assert row.is_open
        assert [None, "Load"] == [one.package_name for one in row.nominations]
        row = await ledger.settle(row, StopOutcome.REFUSED, at=NOW, reason=RefusalReason.PACKAGE_DIFFERS)
        assert not row.is_open

    with_ledger(tmp_path, work)


def test_places_of_the_breaker(tmp_path: Path) -> None:
    """
    What was requested and what waits in grace takes a place; a place in grace is free again with its outcome.
    """
    time = Time()

    async def work(ledger: Ledger) -> None:
        await requested(ledger, "1")
        waiting = await ledger.reserve(await nominated(ledger, "2"), "rule 1", BREAKER, dry_run=False, at=NOW)
        assert waiting is not None
        third = await nominated(ledger, "3")
        assert await ledger.reserve(third, "rule 1", BREAKER, dry_run=False, at=LATER) is None
        await ledger.settle(waiting, StopOutcome.VETOED, at=LATER)
        assert await ledger.reserve(third, "rule 1", BREAKER, dry_run=False, at=LATER) is not None
        fourth = await nominated(ledger, "4")
        assert await ledger.reserve(fourth, "rule 1", BREAKER, dry_run=False, at=LATER) is None
        time.seconds = BREAKER.window.total_seconds()
        assert await ledger.reserve(fourth, "rule 1", BREAKER, dry_run=False, at=LATER) is not None

    with_ledger(tmp_path, work, time)


def test_each_step_keeps_how_much_time_has_passed(tmp_path: Path) -> None:
    """
    After a crash and a reboot a place is as old as it was at the last step before.
    """
    time = Time()

    async def work(ledger: Ledger) -> None:
        await requested(ledger, "1")
        time.seconds += 300
        await nominated(ledger, "2")
        await ledger.database.close()

    async def later(ledger: Ledger) -> None:
        [place] = await ledger.places(BREAKER.window)
        assert [timedelta(seconds=300)] == ledger.ages([place])

    with_ledger(tmp_path, work, time)
    time.booted_at = time.seconds
    with_ledger(tmp_path, later, time)


def test_a_dry_run_takes_one_place_per_run(tmp_path: Path) -> None:
    """
    A run that would have been stopped takes its place once, as the stopped run would have.
    """

    async def work(ledger: Ledger) -> None:
        for moment in (NOW, LATER, NOW + timedelta(hours=1)):
            row = await ledger.reserve(await nominated(ledger), "rule 1", BREAKER, dry_run=True, at=moment)
            assert row is not None
            row = await ledger.settle(row, StopOutcome.WOULD_STOP, at=moment)
            assert NOW == row.placed_at

    with_ledger(tmp_path, work)


def test_no_request_without_room_whatever_was_reserved(tmp_path: Path) -> None:
    """
    A place that a dry run took long ago is none for a request.
    """
    time = Time()

    async def work(ledger: Ledger) -> None:
        dry = await ledger.reserve(await nominated(ledger, "1"), "rule 1", BREAKER, dry_run=True, at=NOW)
        assert dry is not None
        await ledger.settle(dry, StopOutcome.WOULD_STOP, at=NOW)
        hour = NOW + timedelta(hours=1)
        time.seconds = 3600
        await requested(ledger, "2", at=hour)
        await requested(ledger, "3", at=hour)
        again = await ledger.reserve(await nominated(ledger, "1"), "rule 1", BREAKER, dry_run=True, at=hour)
        assert again is not None
        assert await ledger.request(again, "rule 1", {}, BREAKER, hour) is None

    with_ledger(tmp_path, work, time)


def test_the_place_of_a_dry_run_is_none_for_a_stop(tmp_path: Path) -> None:
    """
    Armed meanwhile: without room the run does not even wait in grace.
    """

    async def work(ledger: Ledger) -> None:
        for number in "12":
            row = await ledger.reserve(await nominated(ledger, number), "rule 1", BREAKER, dry_run=True, at=NOW)
            assert row is not None
            await ledger.settle(row, StopOutcome.WOULD_STOP, at=NOW)
        await requested(ledger, "1")
        wide = Breaker(stops=3, window=BREAKER.window)
        row = await ledger.reserve(await nominated(ledger, "3"), "rule 1", wide, dry_run=False, at=NOW)
        assert row is not None
        again = await nominated(ledger, "2")
        assert await ledger.reserve(again, "rule 1", BREAKER, dry_run=False, at=NOW) is None
        assert await ledger.reserve(again, "rule 1", BREAKER, dry_run=True, at=NOW) is not None

    with_ledger(tmp_path, work)


def test_a_sound_ledger_is_not_set_aside(tmp_path: Path) -> None:
    """
    Whom it forgot could be asked once more, and the breaker would be empty.
    """

    async def work(ledger: Ledger) -> None:
        row = await requested(ledger)
        with pytest.raises(StorageError, match="is not damaged, so it was not set aside"):
            await ledger.acknowledge_damage()
        assert row == await ledger.find(row.key)

    with_ledger(tmp_path, work)


def test_nothing_is_written_for_a_veto_that_meets_nothing(tmp_path: Path) -> None:
    """
    A message may resolve a thousand alerts whose runs were never nominated: each would wait for the disk.
    """

    async def work(ledger: Ledger) -> None:
        await nominated(ledger)
        before = (tmp_path / "ledger.sqlite-wal").stat().st_size
        for number in range(20):
            assert await ledger.veto(ExecutionKey("local", f"other {number}"), "", ended_at=None, at=NOW) is None
        assert before == (tmp_path / "ledger.sqlite-wal").stat().st_size

    with_ledger(tmp_path, work)


def test_acknowledging_needs_that_no_exporter_runs(tmp_path: Path) -> None:
    """
    The command sets a file aside only when nobody works with it.
    """

    async def work(ledger: Ledger) -> None:
        await nominated(ledger)
        with pytest.raises(StorageInUse):
            acknowledge_damage(tmp_path, NOW)

    with_ledger(tmp_path, work)
    with pytest.raises(StorageError, match="is not damaged, so it was not set aside"):
        acknowledge_damage(tmp_path, NOW)
    (tmp_path / "ledger.sqlite").write_bytes(b"")
    kept = acknowledge_damage(tmp_path, NOW)

    assert "ledger.sqlite.damaged-20261122T220000000000Z" == (kept.name if kept is not None else None)
    assert acknowledge_damage(tmp_path, NOW) is None
