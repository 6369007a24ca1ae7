"""stopper: restarts and a ledger that fails lose nothing and stop nothing twice; what is shown of it all."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.errors import (
    SourceUnreachable,
    StorageError,
    StorageInUse,
)
from ssis_exporter.model import (
    Execution,
    ExecutionStatus,
    RefusalReason,
    StopOutcome,
    StopReply,
)
from ssis_exporter.policy import Action, Breaker, Match, Rule
from ssis_exporter.stopper import StopSettings
from ssis_exporter.testing import FakeSource
from tests.stopping import BEGIN, EVERYTHING, GRACE, Scene, kinds, play

# After a restart.


def test_what_is_open_is_taken_up_again(tmp_path: Path) -> None:
    """
    Nothing accepted is lost, whatever the source did meanwhile.
    """

    async def work(scene: Scene) -> None:
        for number in "12":
            scene.source.start(number)
        scene.workers["local"].hangs = True
        await scene.stopper.submit([scene.nominate("1"), scene.nominate("2")])
        await scene.stopper.close()
        scene.storage.release()
        scene.workers["local"] = type(scene.workers["local"])(scene.source)
        scene.source.end("2")
        scene._make()
        await scene.stopper.start()
        assert ["stopped", "already_ended"] == [await scene.outcome("1"), await scene.outcome("2")]

    play(tmp_path, work)


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_a_crash_in_the_moment_of_asking(tmp_path: Path, *, tells: bool, asked: bool) -> None:
    """
    A source that shows who is being stopped decides whether it was asked; from another a run is never asked again.
    """

    class Telling(FakeSource):
        tells_stopping = tells

    async def work(scene: Scene) -> None:
        source = Telling("local", now=scene.time.now)
        source.obeys = False
        scene.workers["local"].source = source
        run = source.start("1")
        [(row, _)] = await scene.ledger.nominate([scene.nominate("1")], scene.time.now())
        assert row is not None
        row = await scene.ledger.saw(row, run.facts, source.visibility, scene.time.now())
        row = await scene.ledger.reserve(row, "rule 1", Breaker(), dry_run=False, at=scene.time.now()) or row
        await scene.ledger.request(row, "rule 1", {}, Breaker(), scene.time.now())
        if asked:
            source.request_stop(run)
        source.obeys = True
        await scene.restart()
        expected = "stopped" if tells and not asked else "unconfirmed"
        assert expected == await scene.outcome("1")
        assert (["1"] if tells or asked else []) == source.stop_requests

    play(tmp_path, work)


def test_a_second_exporter_on_the_same_folder_does_not_start(tmp_path: Path) -> None:
    """
    Two of them could stop twice.
    """

    async def work(scene: Scene) -> None:
        other = Scene(tmp_path)
        with pytest.raises(StorageInUse):
            await other.stopper.start()
        await other.stopper.close()

    play(tmp_path, work)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows takes no file away that is open")
def test_a_second_exporter_after_the_lock_was_taken_away(tmp_path: Path) -> None:
    """
    Only the later one stops: the first takes nothing more, and what it had open is not asked by both.
    """

    async def work(first: Scene) -> None:
        first.source.start("1", started_at=BEGIN)
        await first.stopper.submit([first.nominate("1")])
        await first.time.advance(1)
        (tmp_path / "lock").unlink()
        async with Scene(tmp_path, rules=[GRACE]) as other:
            other.source.start("1", started_at=BEGIN)
            with pytest.raises(StorageInUse):
                await first.stopper.submit([first.nominate("2")])
            await first.time.advance(600)
            assert "stopped" == await other.outcome("1")
        assert [] == first.source.stop_requests
        assert ["1"] == other.source.stop_requests

    play(tmp_path, work, rules=[GRACE])


# Trouble with the ledger.


def test_a_ledger_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """
    The message is refused as a whole, the metric says why, and when it can be written again it goes on by itself.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        database = scene.ledger.database
        pages = await database.read(lambda one: one.execute("PRAGMA page_count").fetchone()[0])
        await database.read(lambda one: one.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        message = [scene.nominate("1", labels={"long": "x" * 100_000})]
        with pytest.raises(StorageError):
            await scene.stopper.submit(message)
        await scene.time.advance(5)
        assert 0 == scene.value("ssis_storage_up")
        assert 1 == scene.value("ssis_storage_errors_total", reason="full")
        assert [] == scene.source.stop_requests
        await database.read(lambda one: one.execute("PRAGMA max_page_count = 100000").fetchone())
        await scene.time.advance(15)
        assert 1 == scene.value("ssis_storage_up")
        await scene.stopper.submit(message)
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work)


def test_a_ledger_that_fails_before_the_request_stops_nothing(tmp_path: Path) -> None:
    """
    "Requested" must be on disk before the source is asked.
    """

    async def work(scene: Scene) -> None:
        failing = True
        request = scene.ledger.request

        async def fails(*arguments: Any) -> Any:
            if failing:
                raise StorageError("no")
            return await request(*arguments)

        scene.ledger.request = fails  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        assert [] == scene.source.stop_requests
        failing = False
        assert "stopped" == await scene.outcome("1")
        assert ["1"] == scene.source.stop_requests

    play(tmp_path, work)


def test_a_ledger_that_fails_after_the_request_asks_no_second_time(tmp_path: Path) -> None:
    """
    What this process knows counts, also where the file could not be told.
    """

    class Telling(FakeSource):
        tells_stopping = True

    async def work(scene: Scene) -> None:
        failures = [StorageError("no"), StorageError("no")]
        asked = scene.ledger.asked

        async def fails(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return await asked(*arguments)

        source = Telling("local", now=scene.time.now)
        scene.workers["local"].source = source
        requests = []

        def request_stop(execution: Execution) -> StopReply:
            requests.append(execution.key)
            return StopReply.ACCEPTED

        source.request_stop = request_stop  # type: ignore[method-assign]
        scene.ledger.asked = fails  # type: ignore[method-assign]
        source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "unconfirmed" == await scene.outcome("1")
        assert 1 == len(requests)

    play(tmp_path, work)


def test_a_damaged_ledger_stops_nothing_until_it_is_acknowledged(tmp_path: Path) -> None:
    """
    Metrics go on; after the operator acknowledged, a new ledger begins.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.close()
        scene.storage.release()
        (tmp_path / "ledger.sqlite").write_bytes(bytes(8192))
        scene._make()
        await scene.stopper.start()
        with pytest.raises(StorageError):
            await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        assert 1 == scene.value("ssis_storage_damaged_total")
        assert 0 == scene.value("ssis_storage_up")
        kept = await scene.stopper.acknowledge_damage()
        assert bytes(8192) == Path(kept).read_bytes()  # noqa: ASYNC240 - a test may wait for its disk
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work)


def test_a_bug_comes_to_an_outcome_too(tmp_path: Path) -> None:
    """
    An error that nobody foresaw stops nothing and does not leave the nomination open for ever.
    """

    async def work(scene: Scene) -> None:
        scene.typical = "not a duration"  # type: ignore[assignment]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work, rules=[replace(EVERYTHING, min_overrun=2.0)])


# What is shown.


def test_explaining_does_nothing(tmp_path: Path) -> None:
    """
    The first decision, with rule, reason and facts, and not a line in the ledger.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.start("2", "Payroll")
        armed = await scene.stopper.explain(scene.nominate("1"))
        never = await scene.stopper.explain(scene.nominate("2"))
        gone = await scene.stopper.explain(scene.nominate("3"))
        unknown = await scene.stopper.explain(scene.nominate("1", "nowhere"))
        scene.source.fail_with = SourceUnreachable("local: nobody answers")
        unclear = await scene.stopper.explain(scene.nominate("1"))
        assert (None, True, "rule 1") == (armed.outcome, armed.would_be_asked_to_stop, armed.rule)
        assert ("Load", "0 of 3 within 10m") == (armed.facts["package_name"], armed.facts["breaker"])
        assert (StopOutcome.REFUSED, RefusalReason.NEVER, "rule 2") == (never.outcome, never.reason, never.rule)
        assert "Payroll" == never.facts["package_name"]
        assert StopOutcome.ALREADY_ENDED == gone.outcome
        assert RefusalReason.UNKNOWN_SOURCE == unknown.reason
        assert unclear.outcome is None
        assert "local: nobody answers" in unclear.text
        assert [] == scene.source.stop_requests

    rules = [EVERYTHING, Rule(match=Match(package_name="Payroll"), action=Action.NEVER)]
    play(tmp_path, work, rules=rules)

    assert [] == kinds(tmp_path)


def test_explaining_agrees_with_what_is_then_done(tmp_path: Path) -> None:
    """
    The breaker, an earlier outcome and a dry run count as they would.
    """

    async def work(scene: Scene) -> None:
        for number in "12":
            scene.source.start(number)
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")
        assert StopOutcome.STOPPED == (await scene.stopper.explain(scene.nominate("1"))).outcome
        assert RefusalReason.BREAKER_OPEN == (await scene.stopper.explain(scene.nominate("2"))).reason
        scene.stopper.reconfigure(StopSettings(policy=scene.settings.policy, breaker=Breaker(stops=2)))
        assert StopOutcome.WOULD_STOP == (await scene.stopper.explain(scene.nominate("2"))).outcome

    play(tmp_path, work, breaker=Breaker(stops=1))


def test_every_known_label_value_starts_at_zero(tmp_path: Path) -> None:
    """
    A counter that begins with its first event would hide it from rate().
    """

    async def work(scene: Scene) -> None:
        for outcome in StopOutcome:
            assert 0 == scene.value("ssis_stop_requests_total", source="local", outcome=outcome)
        for reason in RefusalReason:
            assert 0 == scene.value("ssis_stop_refusals_total", reason=reason)
        assert [0, 0, 1, 0] == [
            scene.value("ssis_stop_mode", mode=mode) for mode in ("off", "dry-run", "armed", "held")
        ]
        assert 0 == scene.value("ssis_stop_pending", source="local")
        assert 0 == scene.value("ssis_stop_breaker_open")
        assert 0 == scene.value("ssis_storage_damaged_total")

    play(tmp_path, work)


def test_the_last_outcomes_survive_a_restart(tmp_path: Path) -> None:
    """
    The page shows them from the ledger.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")
        before = scene.stopper.last_outcomes()
        await scene.restart()
        assert before == scene.stopper.last_outcomes()
        assert ("Load", "alertmanager test") == (before[0].package_name, before[0].origin)

    play(tmp_path, work)


def test_a_status_of_somebody_elses_stop_is_respected(tmp_path: Path) -> None:
    """
    A run that somebody else is stopping is not asked again.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1", status=ExecutionStatus.STOPPING)
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert "already_stopping" == scene.reason()

    play(tmp_path, work)
