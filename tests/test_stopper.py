"""stopper: the order is the safety; exactly the nominated run is asked to stop, once, and its end is proved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    SourceUnreachable,
    StopDenied,
    StopFailed,
    StopUnsupported,
    StorageError,
    StorageInUse,
)
from ssis_exporter.ledger import read_events
from ssis_exporter.model import (
    EndedExecution,
    Execution,
    ExecutionKey,
    ExecutionStatus,
    RefusalReason,
    Result,
    Scope,
    StopMode,
    StopOutcome,
    StopReply,
    Visibility,
)
from ssis_exporter.policy import Action, Breaker, Match, Policy, Rule
from ssis_exporter.sources.interface import Source
from ssis_exporter.stopper import StopSettings
from ssis_exporter.testing import FakeSource
from tests.stopping import EVERYTHING, Scene

GRACE = replace(EVERYTHING, grace=timedelta(minutes=2))
ESCALATES = replace(EVERYTHING, escalate_after=timedelta(minutes=15))


def play(folder: Path, work: Callable[[Scene], Awaitable[None]], **scene: Any) -> None:
    """Runs a test with a stopper that is started and closed."""

    async def main() -> None:
        async with Scene(folder, **scene) as made:
            await work(made)

    asyncio.run(main())


def kinds(folder: Path) -> list[str]:
    return [str(event.kind) for event in read_events(folder)]


# The way of one stop.


def test_exactly_the_nominated_run_is_stopped(tmp_path: Path) -> None:
    """
    One of three is asked, once, and the outcome comes after a look that does not show it any more.
    """

    async def work(scene: Scene) -> None:
        for number in "123":
            scene.source.start(number)
        [decision] = await scene.stopper.submit([scene.nominate("2")])
        assert (None, False) == (decision.outcome, decision.repeated)
        assert "stopped" == await scene.outcome("2")
        assert ["2"] == scene.source.stop_requests
        assert {"1", "3"} == {run.key.instance_id for run in scene.source.snapshot().executions}
        assert 1 == scene.value("ssis_stop_requests_total", source="local", outcome="stopped")
        assert 1 == scene.value("ssis_stop_duration_seconds_count")
        assert 0 == scene.value("ssis_stop_pending", source="local")

    play(tmp_path, work)

    assert ["nominated", "seen", "allowed", "requested", "asked", "outcome"] == kinds(tmp_path)


def test_a_run_that_is_over_is_not_asked(tmp_path: Path) -> None:
    """
    Not there, and full sight proves it: already ended.
    """

    async def work(scene: Scene) -> None:
        await scene.stopper.submit([scene.nominate("1")])
        assert "already_ended" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


def test_the_same_run_is_asked_once(tmp_path: Path) -> None:
    """
    From the request on, every further nomination returns the outcome, also after a restart.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.obeys = False
        decisions = await scene.stopper.submit([scene.nominate("1"), scene.nominate("1")])
        assert [False, True] == [decision.repeated for decision in decisions]
        assert "unconfirmed" == await scene.outcome("1")
        for _ in range(3):
            [again] = await scene.stopper.submit([scene.nominate("1")])
            assert (StopOutcome.UNCONFIRMED, True) == (again.outcome, again.repeated)
            await scene.restart()
        assert ["1"] == scene.source.stop_requests

    play(tmp_path, work)


def test_the_message_is_answered_while_the_source_hangs(tmp_path: Path) -> None:
    """
    Nominated, on disk, is enough for an answer.
    """

    async def work(scene: Scene) -> None:
        scene.workers["local"].hangs = True
        [decision] = await scene.stopper.submit([scene.nominate("1")])
        assert decision.outcome is None
        assert 0 == scene.time.seconds
        assert 1 == scene.value("ssis_stop_pending", source="local")
        [pending] = scene.stopper.pending()
        assert "waits for a look at its source" == pending.text

    play(tmp_path, work)

    assert ["nominated"] == kinds(tmp_path)


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (NoSuchExecution("it ended"), "unconfirmed", None),
        (IdentityUnknown("which?"), "refused", RefusalReason.IDENTITY_CHANGED),
        (StopDenied("grant it"), "failed", None),
        (StopUnsupported("no such way"), "failed", None),
        (StopFailed("it said no"), "failed", None),
        (SourceUnreachable("gone"), "unconfirmed", None),
        (ZeroDivisionError("a bug"), "unconfirmed", None),
    ],
)
def test_what_the_source_says_to_the_request(
    tmp_path: Path, error: Exception, outcome: str, reason: RefusalReason | None
) -> None:
    """
    Each answer has its outcome, and none leads to a second request.
    """

    async def work(scene: Scene) -> None:
        asked = []

        def request_stop(execution: Execution) -> StopReply:
            asked.append(execution.key)
            raise error

        scene.source.request_stop = request_stop  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert outcome == await scene.outcome("1")
        assert reason == scene.stopper.last_outcomes()[0].reason
        [again] = await scene.stopper.submit([scene.nominate("1")])
        assert outcome == again.outcome
        assert [ExecutionKey("local", "1")] == asked

    play(tmp_path, work)


def test_a_run_that_ends_in_the_moment_of_asking_ended_by_itself(tmp_path: Path) -> None:
    """
    The source says that there is no such run, and the look after agrees.
    """

    async def work(scene: Scene) -> None:
        def request_stop(_: Execution) -> StopReply:
            scene.source.end("1")
            raise NoSuchExecution("it ended")

        scene.source.request_stop = request_stop  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "already_ended" == await scene.outcome("1")

    play(tmp_path, work)


# Could not look.


def test_a_source_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    """
    Nothing is asked, nothing is called ended; it waits, and expires.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.fail_with = SourceUnreachable("local: nobody answers")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(14 * 60)
        assert 1 == len(scene.stopper.pending())
        assert "expired" == await scene.outcome("1")
        assert 15 * 60 <= scene.time.seconds < 16 * 60
        assert [] == scene.source.stop_requests
        assert "local: nobody answers" in scene.stopper.last_outcomes()[0].text

    play(tmp_path, work)


def test_a_source_that_comes_back_is_looked_at_again(tmp_path: Path) -> None:
    """
    Before its time is up, a nomination goes on.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.fail_with = SourceUnreachable("nobody answers")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        scene.source.fail_with = None
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work)


def test_a_source_that_hangs_stops_nothing_later(tmp_path: Path) -> None:
    """
    When a hanging source answers after the nomination expired, nothing is asked of it any more.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.workers["local"].hangs = True
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")
        scene.workers["local"].go_on()
        await scene.time.advance(3600)
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


def test_an_answer_after_its_time_is_too_late(tmp_path: Path) -> None:
    """
    A look that began in time and was answered after the nomination expired stops nothing.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.workers["local"].hangs = True
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(15 * 60)
        assert 1 == len(scene.stopper.pending())
        scene.workers["local"].go_on()
        assert "expired" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


@pytest.mark.parametrize("scope", [Scope.NONE, Scope.UNKNOWN, Scope.OWN, Scope.PARTIAL])
def test_a_run_that_vanished_with_the_right_to_see_it_has_not_ended(tmp_path: Path, scope: Scope) -> None:
    """
    Not there and not proved: it waits, and expires.
    """

    async def work(scene: Scene) -> None:
        scene.source.visibility = Visibility(scope, "less")
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")
        assert 0 == scene.value("ssis_stop_requests_total", source="local", outcome="already_ended")

    play(tmp_path, work)


def test_the_end_of_a_stopped_run_needs_the_sight_that_showed_it(tmp_path: Path) -> None:
    """
    The right to see is lost between the request and the next look: unconfirmed, not stopped.
    """

    async def work(scene: Scene, then: Visibility, outcome: str, number: str) -> None:
        scene.source.visibility = Visibility(Scope.OWN, "mine")
        scene.source.start(number)
        scene.source.request_stop = _and_then(  # type: ignore[method-assign]
            scene.source, lambda: setattr(scene.source, "visibility", then)
        )
        await scene.stopper.submit([scene.nominate(number)])
        assert outcome == await scene.outcome(number)

    async def both(scene: Scene) -> None:
        await work(scene, Visibility(Scope.NONE), "unconfirmed", "1")
        await work(scene, Visibility(Scope.OWN, "mine"), "stopped", "2")
        await work(scene, Visibility(Scope.OWN, "other"), "unconfirmed", "3")

    play(tmp_path, both)


def _and_then(source: FakeSource, more: Callable[[], None]) -> Callable[[Execution], StopReply]:
    request = type(source).request_stop

    def request_stop(execution: Execution) -> StopReply:
        reply = request(source, execution)
        more()
        return reply

    return request_stop


def test_the_sources_own_record_proves_an_end(tmp_path: Path) -> None:
    """
    A run that the source records as ended is over, whatever else can be seen.
    """

    async def work(scene: Scene) -> None:
        run = scene.source.start("1")
        scene.source.end("1")
        scene.source.visibility = Visibility(Scope.OWN)
        now = scene.time.now()
        scene.source.ended = [
            EndedExecution(facts=run.facts, result=Result.SUCCEEDED, ended_at=now, duration=timedelta())
        ]
        await scene.stopper.submit([scene.nominate("1")])
        assert "already_ended" == await scene.outcome("1")

    play(tmp_path, work)


def test_a_source_that_has_not_read_everything_proves_no_end(tmp_path: Path) -> None:
    """
    During the first fill a run may be missing that is there.
    """

    async def work(scene: Scene) -> None:
        look = scene.source.snapshot
        scene.source.snapshot = lambda: replace(look(), incomplete=True)  # type: ignore[method-assign]
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")

    play(tmp_path, work)


# The wrong run.


def _started_again(scene: Scene) -> None:
    scene.source.end("1")
    scene.time.seconds += 60
    scene.source.start("1")


def _start_moved(scene: Scene) -> None:
    [run] = scene.source.snapshot().executions
    assert run.facts.started_at is not None
    scene.source.start("1", started_at=run.facts.started_at + timedelta(seconds=2))


def _renamed(scene: Scene) -> None:
    [run] = scene.source.snapshot().executions
    scene.source.start("1", "Payroll", started_at=run.facts.started_at)


def _in_another_folder(scene: Scene) -> None:
    [run] = scene.source.snapshot().executions
    scene.source.start("1", folder="HR", started_at=run.facts.started_at)


def _other_process(scene: Scene) -> None:
    [run] = scene.source.snapshot().executions
    changed = replace(run, facts=replace(run.facts, process_id=4711, machine="b"))
    scene.source._runs["1"] = changed


def _start_unknown(scene: Scene) -> None:
    [run] = scene.source.snapshot().executions
    scene.source._runs["1"] = replace(run, facts=replace(run.facts, started_at=None))


def _twice(scene: Scene) -> None:
    [run] = scene.source.snapshot().executions
    scene.source._runs["copy"] = run


CHANGES = [_started_again, _start_moved, _renamed, _in_another_folder, _other_process, _start_unknown, _twice]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
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


# Grace, veto, silence, hold.


def test_a_resolved_alert_vetoes(tmp_path: Path) -> None:
    """
    During grace it ends the stop at once; the alert may fire again.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(119)
        assert await scene.stopper.veto(ExecutionKey("local", "1"), "resolved", ended_at=scene.time.now())
        assert "vetoed" == await scene.outcome("1")
        await scene.time.advance(600)
        assert [] == scene.source.stop_requests
        assert not await scene.stopper.veto(ExecutionKey("local", "1"), "resolved")
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[GRACE])


def test_after_grace_it_is_looked_and_judged_again(tmp_path: Path) -> None:
    """
    Rules that changed meanwhile, and an end meanwhile, count.
    """

    async def work(scene: Scene) -> None:
        for number in "12":
            scene.source.start(number)
            await scene.stopper.submit([scene.nominate(number)])
        await scene.time.advance(60)
        scene.source.end("1")
        scene.stopper.reconfigure(replace(scene.settings, policy=Policy()))
        assert ["already_ended", "refused"] == [await scene.outcome("1"), await scene.outcome("2")]
        assert "no_rule" == scene.reason()
        assert [] == scene.source.stop_requests

    play(tmp_path, work, rules=[GRACE])


@pytest.mark.parametrize("silenced", [True, False])
def test_a_silence_vetoes(tmp_path: Path, *, silenced: bool) -> None:
    """
    Alertmanager is asked at the end of grace.
    """

    async def silences(_: object) -> bool:
        return silenced

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert ("vetoed" if silenced else "stopped") == await scene.outcome("1")
        assert scene.time.seconds >= 120

    play(tmp_path, work, rules=[GRACE], silences=silences)


def test_an_alertmanager_that_does_not_answer_means_no_stop(tmp_path: Path) -> None:
    """
    Nobody knows whether it is silenced: it waits, and expires; also when it hangs.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    async def unreachable(_: object) -> bool:
        raise OSError("connection refused")

    async def hangs(_: object) -> bool:
        await asyncio.Event().wait()
        return False

    play(tmp_path / "unreachable", work, rules=[GRACE], silences=unreachable)
    play(tmp_path / "hangs", work, rules=[GRACE], silences=hangs)


def test_hold_vetoes_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    """
    Within a second nothing is stopped any more, also after a restart, until it is resumed.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        await scene.stopper.hold("month end")
        await scene.time.advance(1)
        assert [] == scene.stopper.pending()
        assert "vetoed" == await scene.outcome("1")
        assert 1 == scene.value("ssis_stop_mode", mode="held")
        assert 0 == scene.value("ssis_stop_mode", mode="armed")
        await scene.restart()
        assert "month end" == scene.stopper.held
        [decision] = await scene.stopper.submit([scene.nominate("1")])
        assert RefusalReason.HELD == decision.reason
        await scene.stopper.resume()
        assert scene.stopper.held is None
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[GRACE])


def test_the_file_alone_holds(tmp_path: Path) -> None:
    """
    An operator can put it there and take it away without the service.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        (tmp_path / "hold").write_text("by hand\n")
        await scene.time.advance(1)
        assert "by hand" == scene.stopper.held
        assert [] == scene.stopper.pending()
        (tmp_path / "hold").unlink()
        await scene.time.advance(1)
        assert scene.stopper.held is None

    play(tmp_path, work, rules=[GRACE])


def test_a_hold_in_the_last_moment_counts(tmp_path: Path) -> None:
    """
    The file is looked for once more on the source's own thread, after "requested" is on disk.
    """

    async def work(scene: Scene) -> None:
        def evidence(_: Execution) -> dict[str, str]:
            (tmp_path / "hold").write_text("now!")
            return {}

        scene.source.evidence = evidence  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "vetoed" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work)

    assert "not_asked" in kinds(tmp_path)


def test_a_request_that_waits_in_line_for_too_long_is_never_made(tmp_path: Path) -> None:
    """
    A source that hangs after the look is not asked when it comes back.
    """

    async def work(scene: Scene) -> None:
        def evidence(_: Execution) -> dict[str, str]:
            scene.workers["local"].hangs = True
            return {}

        scene.source.evidence = evidence  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(45)
        assert [] == scene.source.stop_requests
        assert "expired" == await scene.outcome("1")
        scene.workers["local"].go_on()
        await scene.time.advance(600)
        assert [] == scene.source.stop_requests

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


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
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
