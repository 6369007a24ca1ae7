"""One stop, from its row in the ledger to an outcome. The order is the safety."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ssis_exporter.acquaintance import never_there, was_there
from ssis_exporter.aftermath import Aftermath
from ssis_exporter.durations import print_duration
from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    NotAsked,
    SourceError,
    StopDenied,
    StopFailed,
    StopUnsupported,
    StorageError,
)
from ssis_exporter.ledgersteps import RowMoved
from ssis_exporter.looking import TooLate, act, in_time
from ssis_exporter.model import Execution, RefusalReason, StopMode, StopOutcome
from ssis_exporter.policy import Allowed, Refused
from ssis_exporter.sighting import Another, Gone, Seen, Unclear
from ssis_exporter.stopview import Stage
from ssis_exporter.stopwork import AFTER_THE_REQUEST, End

log = logging.getLogger(__name__)

GLANCE_SECONDS = 0.5
"""How often a stop that waits in grace asks itself whether all stopping is on hold."""

EVIDENCE_LIMIT = timedelta(seconds=10)
"""A run that could be stopped is not kept alive for the sake of the record."""


@dataclass(frozen=True, slots=True)
class Go:
    """The run as a fresh look showed it, and the rule that allows to stop it."""

    run: Execution
    allowed: Allowed
    looked: float
    """When the look began, on the monotonic clock."""


class OneStop(Aftermath):
    """The work on one row. Begins wherever the row stands on disk, and may be left at any moment."""

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

        # Grace, then look and policy again; the rest of it, where the rules demand a longer one by now.
        began, waited = around.monotonic(), timedelta()
        while found.allowed.grace > waited:
            vetoed = await self._wait_in_grace(found.allowed, began)
            if vetoed is not None:
                return await self._settle(vetoed)
            waited = found.allowed.grace
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
        ended = await self._ask(found, waited)
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
        why = self._why_not_asked
        while True:
            ended = self._given_up(why)
            if ended is not None:
                return ended
            if self._worker is None or self._around.worker(self.row.key.source) is not self._worker:
                text = "its source was taken out of the configuration or changed since it was nominated"
                return End(outcome=StopOutcome.REFUSED, reason=RefusalReason.UNKNOWN_SOURCE, text=text)
            self.waits_for = "a look at its source"
            began = self._around.monotonic()
            match await self._look():
                case Seen(run):
                    return self._given_up(why) or self._judge(run, began)
                case Gone() as gone:
                    found = await self._ended_or_never_there(gone)
                    if isinstance(found, End):
                        return found
                    why = found
                    self.waits_for = f"its source's record: {found}"
                case Another(reason, text):
                    return End(outcome=StopOutcome.REFUSED, reason=reason, text=text)
                case Unclear(text):
                    why = text
                    self.waits_for = f"a look at its source: {text}"
            await self._around.wait(self._around.settings().retry_every.total_seconds())

    async def _ended_or_never_there(self, gone: Gone) -> End | str:
        """The outcome of a run that is not there; why nobody can say, where its source's record cannot be read."""
        assert self._worker is not None
        match await was_there(self.row.key, gone, self.row, self._worker, self._around):
            case True:
                return End(outcome=StopOutcome.ALREADY_ENDED, text=gone.text)
            case False:
                return End(outcome=StopOutcome.REFUSED, reason=RefusalReason.NO_SUCH_RUN, text=never_there(gone))
            case SourceError() as exc:
                return str(exc)

    def _judge(self, run: Execution, looked: float) -> Go | End:
        match self._around.judge(self.row.nominations, run):
            case Allowed() as allowed:
                return Go(run, allowed, looked)
            case Refused(rule, reason, text):
                return End(outcome=StopOutcome.REFUSED, reason=reason, rule=rule, text=text)

    def _given_up(self, why: str) -> End | None:
        settings = self._around.settings()
        if (held := self._around.held()) is not None:
            return End(outcome=StopOutcome.VETOED, text=f"all stopping is on hold: {held}")
        if settings.mode is StopMode.OFF:
            return End(outcome=StopOutcome.REFUSED, reason=RefusalReason.OFF, text="stopping was turned off")
        # By both clocks: one on the wall that is set back must not keep an old nomination alive, nor a long downtime.
        [age] = self._around.ledger.ages([self.row.nominated_after])
        if max(age, self._around.now() - self.row.nominated_at) >= settings.request_ttl:
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

    async def _wait_in_grace(self, allowed: Allowed, began: float) -> End | None:
        """None when grace is over and nobody objected. A resolved alert ends the row itself, and this work with it."""
        around = self._around
        until = began + allowed.grace.total_seconds()
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

    async def _ask(self, go: Go, waited: timedelta) -> End | None:
        """Asks, once. An end where nothing was done; otherwise the row says whether the source may have heard."""
        assert self._worker is not None
        self.waits_for = "the source to take the request"
        surely = True
        typical = self._around.typical(go.run.facts)
        try:
            reply = await act(
                self._worker,
                lambda source: source.request_stop(go.run),
                forbidden=lambda: self._forbidden(go.run, typical, waited, go.looked),
                limit=self._around.settings().look_timeout,
                wait=self._around.wait,
            )
        except (TooLate, NotAsked) as exc:
            self._why_not_asked = str(exc)
            self.row = await self._around.ledger.not_asked(self.row, str(exc), self._around.now())
            retry = self._around.settings().retry_every.total_seconds()
            await self._around.wait(retry if isinstance(exc, NotAsked) else GLANCE_SECONDS)
            return None
        except Exception as exc:  # noqa: BLE001 - it was begun, and whatever it raised, it may have been heard
            self._heard = f"{type(exc).__name__}: {exc}"
            self._not_by_us = isinstance(exc, NoSuchExecution | IdentityUnknown | StopDenied | StopUnsupported)
            if self._not_by_us:
                self._around.ledger.ours.in_vain(self.row.key)
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
