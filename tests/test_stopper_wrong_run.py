"""stopper: what was nominated, seen and allowed is the run that is asked, or none is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from ssis_exporter.errors import (
    SourceUnreachable,
    StopUnsupported,
)
from ssis_exporter.ledgerrows import Row
from ssis_exporter.model import (
    Execution,
    ExecutionKey,
    RefusalReason,
    StopMode,
    StopOutcome,
    StopReply,
)
from ssis_exporter.policy import Policy, Rule
from ssis_exporter.testing import FakeSource
from tests.stopping import CHANGES, ESCALATES, EVERYTHING, GRACE, Scene, play

# The wrong run.


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("restarted", [False, True], ids=["", "restarted"])
def test_another_run_under_the_same_name_is_not_stopped(
    tmp_path: Path, change: Callable[[Scene], None], *, restarted: bool
) -> None:
    """
    What was seen at the first look must be so at the second, after a grace and after a restart.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        [run] = scene.source.snapshot().executions
        scene.source._runs["1"] = replace(run, facts=replace(run.facts, process_id=42, machine="a"))
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        if restarted:
            await scene.stopper.close()
            change(scene)
            scene.storage.release()
            scene._make()
            await scene.stopper.start()
        else:
            change(scene)
        assert "refused" == await scene.outcome("1")
        assert scene.reason() in ("identity_changed", "ambiguous")
        # And when the alert comes again, it is still another run.
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert [] == scene.source.stop_requests + scene.source.forced

    play(tmp_path, work, rules=[GRACE])


def test_the_same_id_in_another_source_is_another_run(tmp_path: Path) -> None:
    """
    Only the source that was named is asked.
    """

    async def work(scene: Scene) -> None:
        for worker in scene.workers.values():
            worker.source.start("1")
        await scene.stopper.submit([scene.nominate("1", "b")])
        assert "stopped" == await scene.outcome("1", "b")
        assert [[], ["1"]] == [worker.source.stop_requests for worker in scene.workers.values()]

    play(tmp_path, work, sources=["a", "b"])


def test_a_source_that_answers_for_another_stops_nothing(tmp_path: Path) -> None:
    """
    The runs of a snapshot must be those of the source that was asked.
    """

    async def work(scene: Scene) -> None:
        scene.workers["local"].source = FakeSource("elsewhere", now=scene.time.now)
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


@pytest.mark.parametrize("label", ["1\n", "1\0", "", " 1", "1 ", "\udc80", "x" * 257, "\u202e1", "1\u2028"])
@pytest.mark.parametrize("which", ["instance_id", "source"])
def test_a_label_that_is_none_of_ours_names_no_run(tmp_path: Path, label: str, which: str) -> None:
    """
    A newline, a NUL, an outer space, half a character: refused at the door.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        key = ExecutionKey("local", label) if which == "instance_id" else ExecutionKey(label, "1")
        [decision] = await scene.stopper.submit([replace(scene.nominate("1"), key=key)])
        assert (StopOutcome.REFUSED, RefusalReason.INVALID_LABEL) == (decision.outcome, decision.reason)
        await scene.time.advance(60)
        assert [] == scene.source.stop_requests
        assert 1 == scene.value("ssis_stop_refusals_total", reason="invalid_label")

    play(tmp_path, work)


def test_what_the_alert_says_can_only_refuse(tmp_path: Path) -> None:
    """
    A wrong package name refuses; it never leads to the run that bears that name.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1", "Load")
        scene.source.start("2", "Payroll")
        await scene.stopper.submit([scene.nominate("1", package_name="Payroll")])
        assert "refused" == await scene.outcome("1")
        assert "package_differs" == scene.reason()
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


def test_a_second_alert_with_the_right_beliefs_is_heard(tmp_path: Path) -> None:
    """
    Two alerts for one run are each judged; one stop comes of it.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1", "Load")
        scene.workers["local"].hangs = True
        await scene.stopper.submit([scene.nominate("1", package_name="Payroll")])
        [second] = await scene.stopper.submit([scene.nominate("1", package_name="Load")])
        assert second.repeated
        scene.workers["local"].go_on()
        assert "stopped" == await scene.outcome("1")
        assert ["1"] == scene.source.stop_requests

    play(tmp_path, work)


def test_a_source_that_was_changed_since_is_another(tmp_path: Path) -> None:
    """
    After a reload the same name may mean another server: what was nominated before is refused.
    """

    async def work(scene: Scene) -> None:
        scene.source.fail_with = SourceUnreachable("nobody answers")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.settle()
        other = FakeSource("local", now=scene.time.now)
        other.start("1")
        scene.workers["local"] = type(scene.workers["local"])(other)
        assert "refused" == await scene.outcome("1")
        assert "unknown_source" == scene.reason()
        assert [] == other.stop_requests

    play(tmp_path, work)


# Escalation.


def _stubborn(scene: Scene) -> None:
    scene.source.obeys = False
    scene.source.start("1")


def test_without_escalation_nothing_is_ended_by_force(tmp_path: Path) -> None:
    """
    A run that does not end stays unconfirmed.
    """

    async def work(scene: Scene) -> None:
        _stubborn(scene)
        await scene.stopper.submit([scene.nominate("1")])
        assert "unconfirmed" == await scene.outcome("1")
        assert [] == scene.source.forced

    play(tmp_path, work)


def test_escalation_ends_the_host_process_once(tmp_path: Path) -> None:
    """
    Where the rule says so, after its time, and only then.
    """

    async def work(scene: Scene) -> None:
        _stubborn(scene)
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(15 * 60 - 10)
        assert [] == scene.source.forced
        assert "stopped" == await scene.outcome("1")
        assert (["1"], ["1"]) == (scene.source.stop_requests, scene.source.forced)
        assert 15 * 60 <= scene.time.seconds < 15 * 60 + 30

    play(tmp_path, work, rules=[ESCALATES])


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_escalation_needs_the_same_run(tmp_path: Path, change: Callable[[Scene], None]) -> None:
    """
    The identity is compared again before the process is ended.
    """

    async def work(scene: Scene) -> None:
        _stubborn(scene)
        [run] = scene.source.snapshot().executions
        scene.source._runs["1"] = replace(run, facts=replace(run.facts, process_id=42, machine="a"))
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        change(scene)
        assert "unconfirmed" == await scene.outcome("1")
        assert [] == scene.source.forced

    play(tmp_path, work, rules=[ESCALATES])


def test_escalation_respects_a_hold_and_the_rules_of_the_moment(tmp_path: Path) -> None:
    """
    On hold, in a dry run, or when no rule says so any more, nothing is ended.
    """

    async def held(scene: Scene) -> None:
        await scene.stopper.hold("stop it")

    async def disarmed(scene: Scene) -> None:
        scene.stopper.reconfigure(replace(scene.settings, mode=StopMode.DRY_RUN))

    async def without_rule(scene: Scene) -> None:
        scene.stopper.reconfigure(replace(scene.settings, policy=Policy((EVERYTHING,))))

    for number, change in enumerate((held, disarmed, without_rule)):

        async def work(scene: Scene, change: Callable[[Scene], Awaitable[None]] = change) -> None:
            _stubborn(scene)
            await scene.stopper.submit([scene.nominate("1")])
            await scene.time.advance(60)
            await change(scene)
            assert "unconfirmed" == await scene.outcome("1")
            assert [] == scene.source.forced

        play(tmp_path / str(number), work, rules=[ESCALATES])


def test_escalation_respects_a_hold_in_the_last_moment(tmp_path: Path) -> None:
    """
    The file is looked for once more on the source's own thread, after "escalated" is on disk.
    """

    async def work(scene: Scene) -> None:
        _stubborn(scene)
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        escalate = scene.ledger.escalate

        async def held_meanwhile(row: Row, at: datetime) -> Row:
            escalated = await escalate(row, at)
            (tmp_path / "hold").write_text("now!")
            return escalated

        scene.ledger.escalate = held_meanwhile  # type: ignore[method-assign]
        assert "failed" == await scene.outcome("1")
        assert [] == scene.source.forced
        assert "on hold" in scene.stopper.last_outcomes(1)[0].text

    play(tmp_path, work, rules=[ESCALATES])


@pytest.mark.parametrize("rule", [EVERYTHING, ESCALATES], ids=["", "escalates"])
def test_another_source_proves_no_end_and_is_not_escalated(tmp_path: Path, rule: Rule) -> None:
    """
    After a reload the same name may mean another server: that the run is not there says nothing of the one asked.
    """

    async def work(scene: Scene) -> None:
        _stubborn(scene)
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(10)
        assert ["1"] == scene.source.stop_requests
        other = FakeSource("local", now=scene.time.now)
        scene.workers["local"] = type(scene.workers["local"])(other)
        assert "unconfirmed" == await scene.outcome("1")
        assert [] == other.forced

    play(tmp_path, work, rules=[rule])


@pytest.mark.parametrize("orphaned", [False, True])
def test_a_host_that_was_ended_in_vain(tmp_path: Path, *, orphaned: bool) -> None:
    """
    A row that stays behind its process is stuck; a process that stays is a failure.
    """

    async def work(scene: Scene) -> None:
        def force_stop(execution: Execution) -> StopReply:
            scene.source._runs["1"] = replace(execution, orphaned=orphaned)
            return StopReply.ACCEPTED

        _stubborn(scene)
        scene.source.force_stop = force_stop  # type: ignore[method-assign]
        await scene.stopper.submit([scene.nominate("1")])
        assert ("row_stuck" if orphaned else "failed") == await scene.outcome("1")

    play(tmp_path, work, rules=[ESCALATES])


def test_a_source_that_can_only_end_processes(tmp_path: Path) -> None:
    """
    Where a run cannot be asked, it is ended only if the rule says so.
    """

    async def work(scene: Scene) -> None:
        def request_stop(_: Execution) -> StopReply:
            raise StopUnsupported("only a kill exists")

        scene.source.request_stop = request_stop  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")
        assert ["1"] == scene.source.forced

    play(tmp_path, work, rules=[ESCALATES])
