"""stopper: what is refused at the door, by the rules or by the breaker, and what a dry run does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter import ledger
from ssis_exporter.control import explain_all
from ssis_exporter.errors import TooManyPending
from ssis_exporter.ledger import MOST_PENDING, read_events
from ssis_exporter.ledgersteps import MOST_BELIEFS
from ssis_exporter.model import (
    ExecutionKey,
    RefusalReason,
    StopMode,
    StopOutcome,
)
from ssis_exporter.policy import Action, Breaker, Match, Rule
from ssis_exporter.sources.interface import Source
from ssis_exporter.testing import FakeSource
from tests.stopping import EVERYTHING, GRACE, Scene, kinds, play

# The door.


def test_fifty_runs_in_one_message_stop_none(tmp_path: Path) -> None:
    """
    A rule that runs away must not become a mass stop.
    """

    async def work(scene: Scene) -> None:
        for number in range(50):
            scene.source.start(str(number))
        decisions = await scene.stopper.submit([scene.nominate(str(number)) for number in range(50)])
        assert {RefusalReason.TOO_MANY_RUNS} == {decision.reason for decision in decisions}
        await scene.time.advance(3600)
        assert [] == scene.source.stop_requests
        assert 50 == scene.value("ssis_stop_refusals_total", reason="too_many_runs")

    play(tmp_path, work)


@pytest.mark.parametrize(("runs", "most", "refused"), [(3, 3, False), (4, 3, True), (1, 1, False), (2, 1, True)])
def test_as_many_runs_as_may_be_are_not_too_many(tmp_path: Path, runs: int, most: int, *, refused: bool) -> None:
    """
    One more is, and `explain` says the same.
    """

    async def work(scene: Scene) -> None:
        message = [scene.nominate(str(number)) for number in range(runs)]
        for nomination in message:
            scene.source.start(nomination.key.instance_id)
        reasons = {one.reason for one in await explain_all(scene.stopper, message)}
        assert ({RefusalReason.TOO_MANY_RUNS} if refused else {None}) == reasons
        await scene.stopper.submit(message)
        await scene.time.run_until(lambda: not scene.stopper.pending())
        assert (0 if refused else runs) == len(scene.source.stop_requests)

    play(tmp_path, work, max_runs_per_message=most)


def test_many_alerts_for_few_runs_are_few_runs(tmp_path: Path) -> None:
    """
    Distinct runs are counted, not alerts.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")] * 50)
        assert "stopped" == await scene.outcome("1")
        assert ["1"] == scene.source.stop_requests

    play(tmp_path, work)


class _OnlyReadable(Source):
    kind = "readable"

    def snapshot(self) -> Any:
        raise AssertionError("nobody should look")


def test_what_cannot_be_stopped_is_refused_at_the_door(tmp_path: Path) -> None:
    """
    An unknown source, and one that stops nothing, are refused without a look; an unknown name is no label value.
    """

    async def work(scene: Scene) -> None:
        scene.workers["flat"] = type(scene.workers["local"])(_OnlyReadable("flat"))
        scene.stopper.reconfigure(scene.settings)
        decisions = await scene.stopper.submit([scene.nominate("1", "nowhere"), scene.nominate("1", "flat")])
        assert [RefusalReason.UNKNOWN_SOURCE, RefusalReason.CANNOT_STOP] == [one.reason for one in decisions]
        assert 1 == scene.value("ssis_stop_requests_total", source="", outcome="refused")

    play(tmp_path, work)


def test_off_is_off(tmp_path: Path) -> None:
    """
    Without a mode that stops, every nomination is refused, also one that is pending.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.settle()
        scene.stopper.reconfigure(replace(scene.settings, mode=StopMode.OFF))
        assert "refused" == await scene.outcome("1")
        [decision] = await scene.stopper.submit([scene.nominate("1")])
        assert RefusalReason.OFF == decision.reason
        assert 1 == scene.value("ssis_stop_mode", mode="off")
        assert [] == scene.source.stop_requests

    play(tmp_path, work, rules=[GRACE])


# Policy, breaker, dry run.


def test_a_refused_run_is_looked_at_again_when_the_alert_comes_again(tmp_path: Path) -> None:
    """
    Nothing is final before the request.
    """
    rule = replace(EVERYTHING, min_duration=timedelta(minutes=30))

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert "too_young" == scene.reason()
        await scene.time.advance(30 * 60)
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[rule])


def test_the_typical_duration_is_asked_for(tmp_path: Path) -> None:
    """
    An overrun is measured against the package's own history.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.time.advance(31 * 60)
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert "no_history" == scene.reason()
        scene.typical = timedelta(minutes=10)
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[replace(EVERYTHING, min_overrun=3.0)])


def test_fifty_messages_at_once_are_three_stops(tmp_path: Path) -> None:
    """
    The breaker holds over all messages and sources and over restarts, until its window has passed.
    """

    async def work(scene: Scene) -> None:
        sources = [worker.source for worker in scene.workers.values()]

        def requests() -> int:
            return sum(len(source.stop_requests) for source in sources)

        for number in range(25):
            for source in sources:
                source.start(str(number))
        messages = [[scene.nominate(str(number), name)] for number in range(25) for name in scene.workers]
        await asyncio.gather(*(scene.stopper.submit(message) for message in messages))
        await scene.time.run_until(lambda: not scene.stopper.pending())
        assert 3 == requests()
        assert 47 == scene.value("ssis_stop_refusals_total", reason="breaker_open")
        assert 1 == scene.value("ssis_stop_breaker_open")

        await scene.restart()
        assert 1 == scene.value("ssis_stop_breaker_open")
        left = [message for message in messages if message[0].key not in _gone(sources, messages)]
        for message in left[:10]:
            await scene.stopper.submit(message)
        await scene.time.run_until(lambda: not scene.stopper.pending())
        assert 3 == requests()

        await scene.time.advance(10 * 60)
        assert 0 == scene.value("ssis_stop_breaker_open")
        for message in left[:10]:
            await scene.stopper.submit(message)
        await scene.time.run_until(lambda: not scene.stopper.pending())
        assert 6 == requests()

    play(tmp_path, work, sources=["a", "b"])


def _gone(sources: list[FakeSource], messages: list[Any]) -> set[ExecutionKey]:
    there = {run.key for source in sources for run in source.snapshot().executions}
    return {message[0].key for message in messages} - there


def test_no_more_than_so_many_are_worked_on(tmp_path: Path) -> None:
    """
    With nobody to look, nominations wait: the one too many is not taken, nor anything of its message; those that are
    known are answered; once there is room again, it is taken.
    """

    async def work(scene: Scene) -> None:
        scene.workers["local"].hangs = True
        for number in range(MOST_PENDING - 1):
            await scene.stopper.submit([scene.nominate(str(number))])
        with pytest.raises(TooManyPending, match="199 runs are being worked on, and no more than 200 may be"):
            await scene.stopper.submit([scene.nominate("a"), scene.nominate("b")])
        await scene.stopper.submit([scene.nominate("a")])
        with pytest.raises(TooManyPending, match="200 runs are being worked on"):
            await scene.stopper.submit([scene.nominate("b")])
        [again] = await scene.stopper.submit([scene.nominate("a")])
        assert again.repeated
        assert MOST_PENDING == scene.value("ssis_stop_pending", source="local")
        await scene.restart()
        assert MOST_PENDING == scene.value("ssis_stop_pending", source="local")
        with pytest.raises(TooManyPending):
            await scene.stopper.submit([scene.nominate("b")])
        scene.workers["local"].go_on()
        await scene.time.run_until(lambda: not scene.stopper.pending())
        scene.source.start("b")
        await scene.stopper.submit([scene.nominate("b")])
        assert "stopped" == await scene.outcome("b")

    play(tmp_path, work)

    ours = [str(event.kind) for event in read_events(tmp_path) if event.key.instance_id == "b"]
    assert ["nominated", "seen", "allowed", "requested", "asked", "outcome"] == ours


def test_what_is_known_is_answered_however_much_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Another version may have let more in: its nominations are repeated without trouble.
    """

    async def work(scene: Scene) -> None:
        scene.workers["local"].hangs = True
        for number in "123":
            await scene.stopper.submit([scene.nominate(number)])
        monkeypatch.setattr(ledger, "MOST_PENDING", 2)
        [again] = await scene.stopper.submit([scene.nominate("3")])
        assert again.repeated

    play(tmp_path, work)


def test_one_run_is_not_nominated_in_ever_new_words(tmp_path: Path) -> None:
    """
    All that alerts say of a pending run is kept and judged, so there is an end to that, too; what was said is heard.
    """

    async def work(scene: Scene) -> None:
        scene.workers["local"].hangs = True
        for number in range(MOST_BELIEFS):
            await scene.stopper.submit([scene.nominate("1", package_name=str(number))])
        for _ in range(3):
            await scene.stopper.submit([scene.nominate("1", package_name="7")])
        with pytest.raises(TooManyPending, match="1 of local is being worked on for 16 alerts"):
            await scene.stopper.submit([scene.nominate("1", package_name="another")])
        await scene.stopper.submit([scene.nominate("2", package_name="another")])

    play(tmp_path, work)

    nominated = [event for event in read_events(tmp_path) if event.kind == "nominated"]
    assert MOST_BELIEFS == sum(event.key.instance_id == "1" for event in nominated)


def test_what_waits_in_grace_takes_a_place(tmp_path: Path) -> None:
    """
    Pending stops count, and a vetoed one gives its place back.
    """

    async def work(scene: Scene) -> None:
        for number in "12":
            scene.source.start(number)
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(1)
        assert 1 == scene.value("ssis_stop_breaker_open")
        await scene.stopper.submit([scene.nominate("2")])
        assert "refused" == await scene.outcome("2")
        assert "breaker_open" == scene.reason()
        assert await scene.stopper.veto(ExecutionKey("local", "1"), "resolved")
        assert 0 == scene.value("ssis_stop_breaker_open")
        await scene.stopper.submit([scene.nominate("2")])
        assert "stopped" == await scene.outcome("2")

    play(tmp_path, work, rules=[GRACE], breaker=Breaker(stops=1))


def test_a_dry_run_stops_nothing_and_takes_places(tmp_path: Path) -> None:
    """
    It comes as far as the request, and the breaker opens as it would.
    """

    async def work(scene: Scene) -> None:
        for number in range(5):
            scene.source.start(str(number))
            await scene.stopper.submit([scene.nominate(str(number))])
        await scene.time.settle()
        found = [str(one.outcome) for one in reversed(scene.stopper.last_outcomes())]
        assert ["would_stop"] * 3 + ["refused"] * 2 == found
        for _ in range(3):
            await scene.stopper.submit([scene.nominate("0")])
            assert "would_stop" == await scene.outcome("0")
        assert [] == scene.source.stop_requests
        assert 1 == scene.value("ssis_stop_mode", mode="dry-run")

    play(tmp_path, work, mode=StopMode.DRY_RUN)

    assert "requested" not in kinds(tmp_path)


def test_a_dry_run_decides_first_as_an_armed_one_does(tmp_path: Path) -> None:
    """
    Over the same estate and messages, the first decision per run is the same.
    """
    rules = [
        Rule(match=Match(package_name="Payroll*"), action=Action.NEVER),
        replace(EVERYTHING, match=Match(package_name="Slow*"), grace=timedelta(minutes=1)),
        replace(EVERYTHING, match=Match(folder="Finance"), min_duration=timedelta(minutes=3)),
    ]
    names = [f"{('Payroll', 'Slow', 'Load', 'Other')[number % 4]}{number}" for number in range(40)]

    async def work(scene: Scene) -> None:
        for number, name in enumerate(names):
            scene.source.start(name, name, folder="HR" if number % 8 == 3 else "Finance")
        for minute in range(30):
            for name in names[minute::7]:
                await scene.stopper.submit([scene.nominate(name)])
            await scene.time.advance(60)
        await scene.time.run_until(lambda: not scene.stopper.pending())

    def first_decisions(mode: StopMode) -> dict[str, tuple[str, str | None]]:
        play(tmp_path / mode, work, rules=rules, mode=mode)
        first: dict[str, tuple[str, str | None]] = {}
        for event in read_events(tmp_path / mode):
            if event.outcome is not None:
                outcome = "would_stop" if event.outcome is StopOutcome.STOPPED else str(event.outcome)
                first.setdefault(event.key.instance_id, (outcome, event.reason))
        return first

    dry = first_decisions(StopMode.DRY_RUN)

    assert set(names) == dry.keys()
    assert {"would_stop", "refused"} == {outcome for outcome, _ in dry.values()}
    assert dry == first_decisions(StopMode.ARMED)


def test_arming_takes_effect_with_the_next_message(tmp_path: Path) -> None:
    """
    A run that a dry run would have stopped is stopped when the alert comes again after arming.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "would_stop" == await scene.outcome("1")
        scene.stopper.reconfigure(replace(scene.settings, mode=StopMode.ARMED))
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, mode=StopMode.DRY_RUN)
