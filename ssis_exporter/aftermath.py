"""After the request: was it made, is the run gone, and, only where a rule says so, the end of its host process."""

from __future__ import annotations

import dataclasses
import logging
from datetime import timedelta

from ssis_exporter.looking import act
from ssis_exporter.model import Execution, ExecutionStatus, StopMode, StopOutcome
from ssis_exporter.policy import Allowed
from ssis_exporter.sighting import Another, Gone, Seen, Sighting, Unclear
from ssis_exporter.stopview import Stage
from ssis_exporter.stopwork import End, StopWork

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
"""Between two looks after a request; it doubles from the first to this."""


class Aftermath(StopWork):
    """From the moment of asking to the outcome; also where a restart finds a row there."""

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
        # Grace is the time to object to the request, which is over.
        waited = timedelta.max
        looked = self._around.monotonic()
        self.row = await self._around.ledger.escalate(self.row, self._around.now())
        try:
            await act(
                worker,
                lambda source: source.force_stop(run),
                forbidden=lambda: self._forbidden(_as_before_the_request(run), typical, waited, looked),
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


def _as_before_the_request(run: Execution) -> Execution:
    """A run that stops because it was asked to, as the policy judged it."""
    return dataclasses.replace(run, status=ExecutionStatus.RUNNING)
