"""One stop, from its row in the ledger to an outcome. The order is the safety."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ssis_exporter.durations import print_duration
from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    StopDenied,
    StopFailed,
    StopUnsupported,
    StorageError,
)
from ssis_exporter.ledger import RowMoved
from ssis_exporter.ledgerrows import Row
from ssis_exporter.looking import TooLate, act, in_time, look_afresh
from ssis_exporter.model import Execution, ExecutionStatus, RefusalReason, StopMode, StopOutcome
from ssis_exporter.policy import Allowed, Refused
from ssis_exporter.sighting import Another, Gone, Seen, Sighting, Unclear, sight
from ssis_exporter.sources.interface import StoppableSource
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopsettings import Surroundings
from ssis_exporter.stopview import Stage

log = logging.getLogger(__name__)

GLANCE_SECONDS = 0.5
"""How often a stop that waits in grace asks itself whether all stopping is on hold."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
"""Between two looks after a request; it doubles from the first to this."""

EVIDENCE_LIMIT = timedelta(seconds=10)
"""A run that could be stopped is not kept alive for the sake of the record."""


AFTER_THE_REQUEST = (Stage.ASKED, Stage.MAYBE_ASKED, Stage.ESCALATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An outcome that is to be written down."""

    outcome: StopOutcome
    reason: RefusalReason | None = None
    rule: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Go:
    """The run as a fresh look showed it, and the rule that allows to stop it."""

    run: Execution
    allowed: Allowed


class OneStop:
    """The work on one row. Begins wherever the row stands on disk, and may be left at any moment."""

    def __init__(self, row: Row, around: Surroundings) -> None:
        self.row = row
        self.waits_for = "a look at its source"
        """For a person."""

        self._around = around
        self._worker = around.worker(row.key.source)
        self._seen_under = row.seen_under
        self.is_asking = False
        """From before "requested" is written until the answer is: to be left alone for a moment at the end."""

        self._heard: str | None = None
        """What the source said to the request, once there was one in this process: there is never a second."""

        self._surely = False
        """Whether it is certain that the source heard it."""

        self._not_by_us = False
        """The source said that nothing was done; when the run is gone, it ended by itself."""

        self._source_failed = False

    async def bring_to_outcome(self) -> None:
        """Works until the row has an outcome on disk. Trouble with the ledger means waiting, never going on."""
        while self.row.is_open:
            self.is_asking = False
            try:
                await self._go_on()
            except RowMoved:
                await self._read_again()
            except StorageError as exc:
                self.waits_for = f"the ledger: {exc}"
                await self._around.wait(self._around.settings().retry_every.total_seconds())
                await self._read_again()
            except Exception as exc:
                log.exception("the stop of %s failed in a way nobody foresaw", self.row.key)
                await self._settle_after_a_bug(exc)

    async def _go_on(self) -> None:
        """From where the row stands to its outcome, or to a row that has to be gone through again."""
        around, ledger = self._around, self._around.ledger

        # After a restart: it was about to be asked, or was asked. Nothing is asked twice.
        if self.row.stage is Stage.REQUESTED:
            await self._find_out_whether_it_was_asked()
        if self.row.stage in AFTER_THE_REQUEST:
            await self._look_until_it_is_gone()
        if self.row.stage not in (Stage.NOMINATED, Stage.ALLOWED):
            return None

        # Look, fresh. Not there: already ended; could not look: not yet. Then the policy.
        found = await self._look_and_judge()
        if isinstance(found, End):
            return await self._settle(found)

        # A place in the breaker, over all sources and restarts.
        if not await self._reserve(found.allowed):
            return await self._settle(self._no_room(found.allowed))

        # Grace, then look and policy again.
        if found.allowed.grace > timedelta():
            vetoed = await self._wait_in_grace(found.allowed)
            if vetoed is not None:
                return await self._settle(vetoed)
            found = await self._look_and_judge()
            if isinstance(found, End):
                return await self._settle(found)

        # Dry run.
        if around.settings().mode is not StopMode.ARMED:
            text = f"{found.allowed.rule} allows it; nothing was stopped, because this is a dry run"
            return await self._settle(End(outcome=StopOutcome.WOULD_STOP, rule=found.allowed.rule, text=text))

        # Evidence, and the request on disk before it is made.
        evidence = await self._evidence(found.run)
        breaker = around.settings().breaker
        self.is_asking = True
        requested = await ledger.request(self.row, found.allowed.rule, evidence, breaker, around.now())
        if requested is None:
            return await self._settle(self._no_room(found.allowed))
        self.row = requested

        # Request the stop, then look until it is gone or time is up; the outcome.
        ended = await self._ask(found)
        if ended is not None:
            return await self._settle(ended)
        self.is_asking = False
        await around.places_changed()
        if self.row.stage in AFTER_THE_REQUEST:
            await self._look_until_it_is_gone()
        return None

    # Before the request.

    async def _look_and_judge(self) -> Go | End:
        """Looks until somebody can say what became of the run, and asks the policy about one that is there."""
        why = "it was not looked at"
        while True:
            ended = self._given_up(why)
            if ended is not None:
                return ended
            if self._worker is None or self._around.worker(self.row.key.source) is not self._worker:
                text = "its source was taken out of the configuration or changed since it was nominated"
                return End(outcome=StopOutcome.REFUSED, reason=RefusalReason.UNKNOWN_SOURCE, text=text)
            self.waits_for = "a look at its source"
            match await self._look():
                case Seen(run):
                    return self._given_up(why) or self._judge(run)
                case Gone(text):
                    return End(outcome=StopOutcome.ALREADY_ENDED, text=text)
                case Another(reason, text):
                    return End(outcome=StopOutcome.REFUSED, reason=reason, text=text)
                case Unclear(text):
                    why = text
                    self.waits_for = f"a look at its source: {text}"
            await self._around.wait(self._around.settings().retry_every.total_seconds())

    def _judge(self, run: Execution) -> Go | End:
        match self._around.judge(self.row.nominations, run):
            case Allowed() as allowed:
                return Go(run, allowed)
            case Refused(rule, reason, text):
                return End(outcome=StopOutcome.REFUSED, reason=reason, rule=rule, text=text)

    def _given_up(self, why: str) -> End | None:
        settings = self._around.settings()
        if (held := self._around.held()) is not None:
            return End(outcome=StopOutcome.VETOED, text=f"all stopping is on hold: {held}")
        if settings.mode is StopMode.OFF:
            return End(outcome=StopOutcome.REFUSED, reason=RefusalReason.OFF, text="stopping was turned off")
        if self._around.now() - self.row.nominated_at >= settings.request_ttl:
            text = f"after {print_duration(settings.request_ttl)} it was given up; at last: {why}"
            return End(outcome=StopOutcome.EXPIRED, text=text)
        return None

    async def _reserve(self, allowed: Allowed) -> bool:
        settings = self._around.settings()
        reserved = await self._around.ledger.reserve(
            self.row,
            allowed.rule,
            settings.breaker,
            dry_run=settings.mode is StopMode.DRY_RUN,
            at=self._around.now(),
        )
        if reserved is not None:
            self.row = reserved
        await self._around.places_changed()
        return reserved is not None

    def _no_room(self, allowed: Allowed) -> End:
        breaker = self._around.settings().breaker
        text = f"within {print_duration(breaker.window)} at most {breaker.stops} runs may be stopped"
        return End(outcome=StopOutcome.REFUSED, reason=RefusalReason.BREAKER_OPEN, rule=allowed.rule, text=text)

    async def _wait_in_grace(self, allowed: Allowed) -> End | None:
        """None when grace is over and nobody objected. A resolved alert ends the row itself, and this work with it."""
        around = self._around
        until = around.monotonic() + allowed.grace.total_seconds()
        self.waits_for = f"a veto, for {print_duration(allowed.grace)}"
        while True:
            ended = self._given_up(f"it was waiting for {self.waits_for}")
            if ended is not None:
                return ended
            left = until - around.monotonic()
            if left > 0:
                await around.wait(min(left, GLANCE_SECONDS))
                continue
            silenced = await self._silenced()
            if silenced is False:
                return None
            if silenced:
                return End(outcome=StopOutcome.VETOED, rule=allowed.rule, text="its alert is silenced in Alertmanager")
            self.waits_for = "Alertmanager, to ask for silences"
            await around.wait(around.settings().retry_every.total_seconds())

    async def _silenced(self) -> bool | None:
        """Whether any of its alerts is silenced; None when nobody knows."""
        silences = self._around.silences
        if silences is None:
            return False
        try:
            for nomination in self.row.nominations:
                if await in_time(silences(nomination), self._around.settings().look_timeout, self._around.wait):
                    return True
        except Exception as exc:  # noqa: BLE001 - whatever kept it from answering, nobody knows
            log.warning("Alertmanager could not be asked for silences: %s: %s", type(exc).__name__, exc)
            return None
        return False

    async def _evidence(self, run: Execution) -> Mapping[str, str]:
        assert self._worker is not None
        try:
            return await act(
                self._worker,
                lambda source: source.evidence(run),
                forbidden=lambda: None,
                limit=min(EVIDENCE_LIMIT, self._around.settings().look_timeout),
                wait=self._around.wait,
            )
        except Exception as exc:  # noqa: BLE001 - a stop does not fail for want of a record
            return {"error": f"{type(exc).__name__}: {exc}"}

    # The request.

    async def _ask(self, go: Go) -> End | None:
        """Asks, once. An end where nothing was done; otherwise the row says whether the source may have heard."""
        assert self._worker is not None
        self.waits_for = "the source to take the request"
        surely = True
        typical = self._around.typical(go.run.facts)
        try:
            reply = await act(
                self._worker,
                lambda source: source.request_stop(go.run),
                forbidden=lambda: self._forbidden(go.run, typical),
                limit=self._around.settings().look_timeout,
                wait=self._around.wait,
            )
        except TooLate as exc:
            self.row = await self._around.ledger.not_asked(self.row, str(exc), self._around.now())
            await self._around.wait(GLANCE_SECONDS)
            return None
        except Exception as exc:  # noqa: BLE001 - it was begun, and whatever it raised, it may have been heard
            self._heard = f"{type(exc).__name__}: {exc}"
            self._not_by_us = isinstance(exc, NoSuchExecution | IdentityUnknown | StopDenied | StopUnsupported)
            match exc:
                case IdentityUnknown():
                    reason = RefusalReason.IDENTITY_CHANGED
                    return End(outcome=StopOutcome.REFUSED, reason=reason, rule=go.allowed.rule, text=str(exc))
                case StopDenied():
                    return End(outcome=StopOutcome.FAILED, rule=go.allowed.rule, text=str(exc))
                case StopUnsupported() if go.allowed.escalate_after is None or not self._can_force():
                    return End(outcome=StopOutcome.FAILED, rule=go.allowed.rule, text=str(exc))
            self._source_failed = isinstance(exc, StopFailed | StopUnsupported)
            surely = self._source_failed
        else:
            self._heard = f"the source answered: {reply}"
            log.info("asked %s to stop %s for %s", self.row.key.source, self.row.key.instance_id, go.allowed.rule)
        self._surely = surely
        self.row = await self._around.ledger.asked(self.row, self._heard, self._around.now(), surely=surely)
        return None

    def _forbidden(self, run: Execution, typical: timedelta | None) -> str | None:
        """On the source's thread, in the moment before acting: hold, mode and rules as they are now."""
        held = self._around.held() or self._around.hold.reason()
        if held is not None:
            return f"all stopping is on hold: {held}"
        if self._around.settings().mode is not StopMode.ARMED:
            return "stopping is no longer armed"
        verdict = self._around.judge_knowing(typical, self.row.nominations, run)
        return verdict.text if isinstance(verdict, Refused) else None

    async def _find_out_whether_it_was_asked(self) -> None:
        """
        The exporter was ended between "requested" and the source's answer, so nobody knows whether it was asked.

        A source that shows who is being stopped decides: one that runs was not asked, and goes back to its look. From
        any other, such as a process, which does not show the signals it was sent, a run is never asked again.
        """
        ledger, now = self._around.ledger, self._around.now
        began = self._around.monotonic()
        while self._heard is None:
            match await self._look():
                case Seen(run) if self._tells_stopping() and run.status is ExecutionStatus.RUNNING:
                    self.row = await ledger.not_asked(self.row, "it runs and was never asked to stop", now())
                    return
                case Unclear(text) if self._is_within(self._around.settings().confirm_timeout, began):
                    self.waits_for = f"a look at its source: {text}"
                    await self._around.wait(self._around.settings().retry_every.total_seconds())
                case _:
                    self._heard = (
                        "the exporter was ended in the moment of asking; whether the request went out is not known"
                    )
        self.row = await ledger.asked(self.row, self._heard, now(), surely=self._surely)

    # After the request.

    async def _look_until_it_is_gone(self) -> None:
        """Looks until the run is gone or time is up; ends its host process in between only where a rule says so."""
        around = self._around
        began, pause = around.monotonic(), FIRST_PAUSE_SECONDS
        escalate_after: timedelta | None = None
        while True:
            self.waits_for = "its end"
            sighting = await self._look()
            if isinstance(sighting, Gone):
                return await self._settle_gone(sighting)
            limit = around.settings().confirm_timeout
            if self.row.stage is Stage.ASKED:
                if isinstance(sighting, Seen):
                    escalate_after = self._escalation(sighting.run)
                    if escalate_after is not None and not self._is_within(escalate_after, began):
                        await self._escalate(sighting.run)
                        began, pause = around.monotonic(), FIRST_PAUSE_SECONDS
                        continue
                limit += escalate_after or timedelta()
            if not self._is_within(limit, began):
                return await self._settle(self._not_gone(sighting))
            await around.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _escalation(self, run: Execution) -> timedelta | None:
        """After how long the host process may be ended, by the rules as they are now; None for never."""
        verdict = self._around.judge(self.row.nominations, _as_before_the_request(run))
        armed = self._around.settings().mode is StopMode.ARMED and self._around.held() is None
        if not isinstance(verdict, Allowed) or not self._can_force() or not armed:
            return None
        return verdict.escalate_after

    async def _escalate(self, run: Execution) -> None:
        worker = self._around.worker(self.row.key.source)
        assert worker is not None
        typical = self._around.typical(run.facts)
        self.row = await self._around.ledger.escalate(self.row, self._around.now())
        try:
            await act(
                worker,
                lambda source: source.force_stop(run),
                forbidden=lambda: self._forbidden(_as_before_the_request(run), typical),
                limit=self._around.settings().look_timeout,
                wait=self._around.wait,
            )
        except Exception as exc:  # noqa: BLE001 - as above
            self._heard = f"its host process was not ended: {type(exc).__name__}: {exc}"
            log.warning("%s: %s", self.row.key, self._heard)
        else:
            self._not_by_us = False
            self._heard = "its host process was ended"
            log.info("ended the host process of %s of %s", self.row.key.instance_id, self.row.key.source)

    def _not_gone(self, sighting: Sighting) -> End:
        heard = self._heard or self.row.text
        match sighting:
            case Seen(run) if run.orphaned:
                text = f"its host process is gone and its source still shows it as {run.status}"
                return End(outcome=StopOutcome.ROW_STUCK, rule=self.row.rule, text=text)
            case Seen(run):
                failed = self._source_failed or self.row.stage is Stage.ESCALATED
                outcome = StopOutcome.FAILED if failed else StopOutcome.UNCONFIRMED
                return End(outcome=outcome, rule=self.row.rule, text=f"it is still {run.status}; {heard}")
            case Another(_, text) | Unclear(text) | Gone(text):
                return End(outcome=StopOutcome.UNCONFIRMED, rule=self.row.rule, text=f"{text}; {heard}")

    async def _settle_gone(self, gone: Gone) -> None:
        outcome = StopOutcome.ALREADY_ENDED if self._not_by_us else StopOutcome.STOPPED
        await self._settle(End(outcome=outcome, rule=self.row.rule, text=gone.text))

    # Used throughout.

    async def _look(self) -> Sighting:
        """One fresh look at the run; the first one that shows it is remembered on disk."""
        worker = self._around.worker(self.row.key.source)
        if worker is None:
            return Unclear(f"no source {self.row.key.source} is configured")
        seen = await look_afresh(worker, self._around.settings().look_timeout, self._around.wait)
        sighting = sight(self.row.key, seen, before=self.row.facts, seen_under=self._seen_under)
        if isinstance(sighting, Seen):
            self._seen_under = sighting.visibility
            if self.row.facts is None or self.row.facts.started_at is None:
                facts, now = sighting.run.facts, self._around.now()
                self.row = await self._around.ledger.saw(self.row, facts, sighting.visibility, now)
        return sighting

    async def _settle(self, end: End) -> None:
        """Writes an outcome down. The row stays open where another nomination came that has to be judged, too."""
        asked = self.row.stage is Stage.REQUESTED or self.row.stage in AFTER_THE_REQUEST
        self.row = await self._around.ledger.settle(
            self.row,
            end.outcome,
            at=self._around.now(),
            reason=end.reason,
            rule=end.rule,
            text=end.text,
            final=asked,
        )
        if not self.row.is_open:
            self._around.settled(self.row)
        await self._around.places_changed()

    async def _settle_after_a_bug(self, exc: Exception) -> None:
        outcome = StopOutcome.UNCONFIRMED if self.row.final else StopOutcome.EXPIRED
        try:
            await self._settle(End(outcome=outcome, rule=self.row.rule, text=f"{type(exc).__name__}: {exc}"))
        except (RowMoved, StorageError):
            await self._around.wait(self._around.settings().retry_every.total_seconds())
            await self._read_again()

    async def _read_again(self) -> None:
        while True:
            try:
                row = await self._around.ledger.find(self.row.key)
            except StorageError as exc:
                self.waits_for = f"the ledger: {exc}"
                await self._around.wait(self._around.settings().retry_every.total_seconds())
                continue
            if row is None or row.episode != self.row.episode:
                # A new ledger, or a later nomination with work of its own: this one is over.
                self.row = dataclasses.replace(self.row, stage=Stage.CLOSED)
            else:
                self.row = row
            return

    def _is_within(self, span: timedelta, began: float) -> bool:
        return self._around.monotonic() - began < span.total_seconds()

    def _stoppable(self) -> StoppableSource | None:
        worker: SourceWorker | None = self._around.worker(self.row.key.source)
        source = worker.source if worker is not None else None
        return source if isinstance(source, StoppableSource) else None

    def _can_force(self) -> bool:
        source = self._stoppable()
        return source is not None and source.can_force_stop

    def _tells_stopping(self) -> bool:
        source = self._stoppable()
        return source is not None and source.tells_stopping


def _as_before_the_request(run: Execution) -> Execution:
    """A run that stops because it was asked to, as the policy judged it."""
    return dataclasses.replace(run, status=ExecutionStatus.RUNNING)
