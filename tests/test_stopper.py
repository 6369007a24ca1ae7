"""stopper: the order is the safety; exactly the nominated run is asked to stop, once, and its end is proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    SourceTimeout,
    SourceUnreachable,
    StopDenied,
    StopFailed,
    StopUnsupported,
)
from ssis_exporter.model import (
    EndedExecution,
    Execution,
    ExecutionKey,
    ExecutionStatus,
    RefusalReason,
    Result,
    Scope,
    Snapshot,
    StopOutcome,
    StopReply,
    Visibility,
)
from ssis_exporter.sources.interface import RecordingSource
from ssis_exporter.testing import FakeSource
from tests.stopping import ESCALATES, Scene, kinds, play

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


def test_a_run_that_nobody_ever_saw_has_not_ended(tmp_path: Path) -> None:
    """
    An id that no look and no record has ever shown is refused; one that this ledger saw has ended.
    """

    async def work(scene: Scene) -> None:
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert "no_such_run" == scene.reason()
        assert "there is no such run" in scene.stopper.last_outcomes(1)[0].text
        scene.source.start("1", status=ExecutionStatus.PENDING)
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        scene.source.end("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "already_ended" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work, remembers=False)


class Recording(FakeSource, RecordingSource):
    """Keeps a record of what ended, which a test may make unreadable."""

    fail_record_with: Exception | None = None

    def past(self, cursor: str) -> tuple[Sequence[EndedExecution], str | None]:
        """Nothing of it is told."""
        del cursor
        return [], None

    def has_record_of(self, instance_id: str) -> bool:
        """The run "1" ended long ago."""
        if self.fail_record_with is not None:
            raise self.fail_record_with
        return instance_id == "1"


@pytest.mark.parametrize("error", [SourceUnreachable("nobody answers"), ZeroDivisionError("a bug")])
def test_a_record_tells_what_ended(tmp_path: Path, error: Exception) -> None:
    """
    It is asked for the one run; while it cannot be read nobody can say, and the nomination waits.
    """

    async def work(scene: Scene) -> None:
        source = Recording("local", now=scene.time.now)
        scene.workers["local"].source = source
        for instance_id, outcome in (("1", "already_ended"), ("2", "refused")):
            await scene.stopper.submit([scene.nominate(instance_id)])
            assert outcome == await scene.outcome(instance_id)
        source.fail_record_with = error
        await scene.stopper.submit([scene.nominate("1")])
        assert (await scene.stopper.explain(scene.nominate("1"))).outcome is None
        await scene.time.advance(60)
        [pending] = scene.stopper.pending()
        assert "waits for its source's record: " in pending.text
        source.fail_record_with = None
        assert "already_ended" == await scene.outcome("1")
        source.fail_record_with = error
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")

    play(tmp_path, work, remembers=False)


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


@pytest.mark.parametrize("error", [SourceTimeout("it hangs"), SourceUnreachable("it is gone"), RuntimeError("a bug")])
def test_what_may_not_have_been_asked_is_not_ended_either(tmp_path: Path, error: Exception) -> None:
    """
    Nobody knows whether the request arrived: the run had no chance to end by itself, so its process is left alone.
    """

    async def work(scene: Scene) -> None:
        def request_stop(_: Execution) -> StopReply:
            raise error

        scene.source.request_stop = request_stop  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "unconfirmed" == await scene.outcome("1")
        await scene.time.advance(3600)
        assert [] == scene.source.forced

    play(tmp_path, work, rules=[ESCALATES], confirm_timeout=timedelta(minutes=30))


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


def test_evidence_that_does_not_come_delays_no_stop_for_long(tmp_path: Path) -> None:
    """
    The source hangs right after the look: ten seconds later the way goes on, without a record.
    """

    async def work(scene: Scene) -> None:
        look = scene.source.snapshot

        def last_look() -> Snapshot:
            scene.workers["local"].hangs = True
            scene.source.snapshot = look  # type: ignore[method-assign]
            return look()

        scene.source.snapshot = last_look  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(9)
        assert "requested" not in kinds(tmp_path)
        await scene.time.advance(2)
        assert "requested" == kinds(tmp_path)[-1]
        scene.workers["local"].go_on()
        assert "stopped" == await scene.outcome("1")

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

    play(tmp_path, work, remembers=False)


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
