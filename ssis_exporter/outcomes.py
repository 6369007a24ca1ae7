"""What became of nominations: each is counted and logged, and the last ones are kept for the page."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

from ssis_exporter.ledger import Ledger
from ssis_exporter.ledgerrows import Door, Row
from ssis_exporter.model import Decision, StopOutcome
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.stopview import PastStop

log = logging.getLogger(__name__)

LAST_OUTCOMES = 100
"""How many are kept for the page."""


class Outcomes:
    """Told of each outcome once it is on disk."""

    def __init__(self, ledger: Ledger, metrics: StopMetrics, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._now = now
        self._last: deque[PastStop] = deque(maxlen=LAST_OUTCOMES)

    def last(self, count: int) -> list[PastStop]:
        """The last ones, newest first."""
        return list(self._last)[:count]

    def begin_with(self, last: Iterable[PastStop]) -> None:
        """What the ledger knows of before, newest first; not counted."""
        self._last.clear()
        self._last.extend(last)

    def settled(self, row: Row) -> None:
        """A row came to its outcome."""
        assert row.outcome is not None
        key = row.key
        self._metrics.count(key.source, row.outcome, row.reason)
        if row.outcome is StopOutcome.STOPPED and row.placed_after is not None:
            # Its place was taken in the moment of the request.
            [took] = self._ledger.ages([row.placed_after])
            self._metrics.took(took)
        self._last.appendleft(
            PastStop(
                at=self._now(),
                key=key,
                outcome=row.outcome,
                package_name=row.facts.package_name if row.facts is not None else "",
                reason=row.reason,
                rule=row.rule,
                text=row.text,
                origin=row.nominations[0].origin if row.nominations else "",
            )
        )
        log.info("%s of %s: %s; %s", key.instance_id, key.source, row.outcome, row.text)

    def refused(self, door: Door) -> Decision:
        """A nomination was refused at the door."""
        key, outcome = door.nomination.key, StopOutcome.REFUSED
        self._metrics.count(key.source, outcome, door.reason)
        self._last.appendleft(
            PastStop(
                at=self._now(),
                key=key,
                outcome=outcome,
                reason=door.reason,
                text=door.text,
                origin=door.nomination.origin,
            )
        )
        log.info("refused to stop %s of %s: %s", key.instance_id, key.source, door.text)
        return Decision(key=key, outcome=outcome, reason=door.reason, text=door.text)
