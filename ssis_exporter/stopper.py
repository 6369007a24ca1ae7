"""One stop, from nomination to verified outcome; the same run is never stopped twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from ssis_exporter.hold import Hold
from ssis_exporter.ledger import Ledger
from ssis_exporter.model import Decision, ExecutionFacts, ExecutionKey, Nomination, StopMode
from ssis_exporter.policy import Breaker, Policy
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.stopview import Explanation, PastStop, PendingStop


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSettings:
    """What the section `stop` says, as far as the stopper is concerned. Replaced as a whole by a reload."""

    mode: StopMode = StopMode.DRY_RUN
    policy: Policy = Policy()
    breaker: Breaker = Breaker()
    max_runs_per_message: int = 10
    request_ttl: timedelta = timedelta(minutes=15)
    """How long a nomination may wait for its request, the grace included."""

    look_timeout: timedelta = timedelta(seconds=30)
    """How long one look, or one request to a source, is waited for."""

    retry_every: timedelta = timedelta(seconds=5)
    """How long after a look in vain the next one comes."""

    confirm_timeout: timedelta = timedelta(minutes=5)
    """How long after a request it is looked whether the run is gone."""


class Stopper:
    """
    Takes nominations and brings each to an outcome. Lives on one event loop and never blocks it.

    `worker` gives a source's worker as configured now, None for an unknown name. `typical` tells how long a package
    usually takes, None until it has a history. `silences` tells whether Alertmanager silences the alert of a
    nomination; whatever it raises means "nobody knows", and nothing is stopped during grace.
    """

    def __init__(
        self,
        settings: StopSettings,
        *,
        ledger: Ledger,
        hold: Hold,
        worker: Callable[[str], SourceWorker | None],
        metrics: StopMetrics,
        typical: Callable[[ExecutionFacts], timedelta | None] = lambda _facts: None,
        silences: Callable[[Nomination], Awaitable[bool]] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        local: tzinfo | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def settings(self) -> StopSettings:
        """The settings in force."""
        raise NotImplementedError

    @property
    def held(self) -> str | None:
        """Why all stopping is on hold; None when it is not. At most half a second old."""
        raise NotImplementedError

    async def start(self) -> None:
        """
        Takes up what the ledger has open. Never raises for a ledger that cannot be used: nothing is stopped then, and
        it is tried again from time to time. Raises `StorageInUse`.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Leaves everything as it is on disk, for the next start; may be called twice."""
        raise NotImplementedError

    def reconfigure(self, settings: StopSettings) -> None:
        """Puts new settings in force, also for what is pending and not yet requested."""
        raise NotImplementedError

    async def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
        """
        Takes the nominations of one message; returns what is known of each, in their order.

        What is not refused is on disk when this returns and comes to an outcome. Raises `StorageError`, and nothing
        was taken: the message has to come again.
        """
        raise NotImplementedError

    async def veto(self, key: ExecutionKey, reason: str, *, ended_at: datetime | None = None) -> bool:
        """
        Gives up a nomination that has not been requested yet; True when there was one.

        `ended_at` is when the alert was resolved: an alert that ended before the one that nominated began has no say.
        Raises `StorageError`.
        """
        raise NotImplementedError

    async def hold(self, reason: str) -> None:
        """Nothing is stopped from now on, also after a restart. Raises `StorageError` (and holds until a restart)."""
        raise NotImplementedError

    async def resume(self) -> None:
        """Ends the hold. Raises `StorageError`."""
        raise NotImplementedError

    async def acknowledge_damage(self) -> str:
        """Sets a damaged ledger aside and begins a new one; returns where the old one is. Raises `StorageError`."""
        raise NotImplementedError

    def pending(self) -> list[PendingStop]:
        """What is being worked on, oldest first."""
        raise NotImplementedError

    def last_outcomes(self, count: int = 20) -> list[PastStop]:
        """What became of the last nominations, newest first."""
        raise NotImplementedError

    async def explain(self, nomination: Nomination) -> Explanation:
        """What would be decided for this nomination now; looks, does nothing, writes nothing. Never raises."""
        raise NotImplementedError
