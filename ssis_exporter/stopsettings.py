"""What the section `stop` says, as far as stopping itself is concerned, and what a stop needs of its surroundings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo

from ssis_exporter.hold import Hold
from ssis_exporter.ledger import Ledger
from ssis_exporter.ledgerrows import Row
from ssis_exporter.model import Execution, ExecutionFacts, ExecutionKey, Nomination, StopMode
from ssis_exporter.policy import Allowed, Breaker, Policy, Refused, Verdict
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.wallclock import WallClock


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSettings:
    """Replaced as a whole by a reload."""

    mode: StopMode = StopMode.DRY_RUN
    policy: Policy = field(default_factory=Policy)
    breaker: Breaker = field(default_factory=Breaker)
    max_runs_per_message: int = 10
    request_ttl: timedelta = timedelta(minutes=15)
    """How long a nomination may wait for its request, the grace included."""

    look_timeout: timedelta = timedelta(seconds=30)
    """How long one look, or one request to a source, is waited for."""

    retry_every: timedelta = timedelta(seconds=5)
    """How long after a look in vain the next one comes."""

    confirm_timeout: timedelta = timedelta(minutes=5)
    """How long after a request it is looked whether the run is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All that a stop reaches: the outside world comes in by here, so that tests can give another one."""

    settings: Callable[[], StopSettings]
    ledger: Ledger
    hold: Hold
    held: Callable[[], str | None]
    """Why nothing may be stopped, as known without reading the file."""

    worker: Callable[[str], SourceWorker | None]
    typical: Callable[[ExecutionFacts], timedelta | None]
    was_seen: Callable[[ExecutionKey], bool]
    """Whether the exporter remembers a run of this name, open or ended."""

    silences: Callable[[Nomination], Awaitable[bool]] | None
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    clock: WallClock
    """What rules about hours and ages rest on."""

    wait: Callable[[float], Awaitable[None]]
    local: tzinfo | None
    settled: Callable[[Row], None]
    """Told each outcome once it is on disk."""

    places_changed: Callable[[], Awaitable[None]]
    """Told when the breaker may have another state."""

    def judge(self, nominations: Sequence[Nomination], run: Execution) -> Verdict:
        """What the policy says of a run that was just seen: allowed if it is for any of its nominations."""
        return self.judge_knowing(self.typical(run.facts), nominations, run)

    def judge_knowing(self, typical: timedelta | None, nominations: Sequence[Nomination], run: Execution) -> Verdict:
        """
        The same, with the typical duration as it was looked up before; on any thread.

        A clock that was set makes no run older, and no hour right that was not.
        """
        policy, readings = self.settings().policy, self.clock.readings()
        began = run.facts.started_at
        if began is not None:
            run = replace(run, duration=max(run.duration - self.clock.set_forward_since(began), timedelta()))
        verdicts = [
            _strictest([policy.decide(nomination, run, now, typical=typical, local=self.local) for now in readings])
            for nomination in nominations
        ]
        return next((verdict for verdict in verdicts if isinstance(verdict, Allowed)), verdicts[-1])


def _strictest(verdicts: Sequence[Verdict]) -> Verdict:
    return next((verdict for verdict in verdicts if isinstance(verdict, Refused)), verdicts[0])
