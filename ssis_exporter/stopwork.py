"""What all of the work on one nomination needs: to look, to write down, and what is known so far."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from datetime import timedelta

from ssis_exporter.errors import (
    StorageError,
)
from ssis_exporter.ledgerrows import Row
from ssis_exporter.ledgersteps import RowMoved
from ssis_exporter.looking import look_afresh
from ssis_exporter.model import Execution, RefusalReason, StopMode, StopOutcome
from ssis_exporter.policy import Refused
from ssis_exporter.sighting import Seen, Sighting, Unclear, sight
from ssis_exporter.sources.interface import StoppableSource
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopsettings import Surroundings
from ssis_exporter.stopview import Stage

log = logging.getLogger(__name__)

LATEST_AFTER_A_LOOK = 3
"""Times the longest look: what is done because of a look is done so soon after it, or not."""

AFTER_THE_REQUEST = (Stage.ASKED, Stage.MAYBE_ASKED, Stage.ESCALATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An outcome that is to be written down."""

    outcome: StopOutcome
    reason: RefusalReason | None = None
    rule: str = ""
    text: str = ""


class StopWork:
    """One row of the ledger and its surroundings."""

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

        self._why_not_asked = "it was not looked at"
        """What kept it from being asked, for when nothing else is known."""

        self._surely = False
        """Whether it is certain that the source heard it."""

        self._not_by_us = False
        """The source said that nothing was done; when the run is gone, it ended by itself."""

        self._source_failed = False

    async def _look(self) -> Sighting:
        """One fresh look at the run; the first one that shows it is remembered on disk."""
        worker = self._around.worker(self.row.key.source)
        if worker is None:
            return Unclear(f"no source {self.row.key.source} is configured")
        if self._worker is not None and worker is not self._worker:
            # The name may mean another server now, where neither its presence nor its absence says anything.
            return Unclear(f"source {self.row.key.source} was changed since this run was looked for")
        seen = await look_afresh(worker, self._around.settings().look_timeout, self._around.wait)
        sighting = sight(
            self.row.key,
            seen,
            before=self.row.facts,
            seen_under=self._seen_under,
            named_at=self.row.requested_at or self.row.nominated_at,
        )
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

    def _forbidden(self, run: Execution, typical: timedelta | None, waited: timedelta, looked: float) -> str | None:
        """
        On the source's thread, in the moment before acting: hold, mode and rules as they are now.

        `waited` is the grace that is over, `looked` when the run was seen.
        """
        if not self._is_within(LATEST_AFTER_A_LOOK * self._around.settings().look_timeout, looked):
            # The disk hung between them, and nobody was heard: no alert that was resolved could be written down either.
            return "the ledger took so long that the look before it no longer counts"
        held = self._around.held() or self._around.hold.reason()
        if held is not None:
            return f"all stopping is on hold: {held}"
        if self._around.settings().mode is not StopMode.ARMED:
            return "stopping is no longer armed"
        verdict = self._around.judge_knowing(typical, self.row.nominations, run)
        if isinstance(verdict, Refused):
            return verdict.text
        return f"{verdict.rule} gives it a longer grace by now" if verdict.grace > waited else None
