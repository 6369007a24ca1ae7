"""One run that two sources see is one run: who owns it, and what stays in doubt."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from ssis_exporter.model import Execution, ExecutionKey, Reading, Snapshot

WITHIN = timedelta(minutes=5)
"""How long after the start of a process (or of a catalog run) the managed API may register its package."""

ROUNDING = timedelta(seconds=1)
"""A COM date is rounded; a start this much too early is still "not before"."""

LINGERS = 60.0
"""How many seconds a process may outlive the end of its package before it counts as a run of its own again."""

OWNERS = (("catalog", "dts"), ("dts", "dtexec"))
"""Which kind owns what another kind sees too: the first one's run is shown, the other's is not."""


@dataclass(slots=True)
class _Claim:
    """A run that another source's run owns."""

    owner: ExecutionKey
    owner_gone_since: float | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """What the sources of this machine say of each other's runs."""

    elsewhere: frozenset[ExecutionKey]
    """Runs that another source owns: their end is that one's to count."""

    returned: frozenset[ExecutionKey]
    """Runs that were another's and count for themselves again."""

    kept_alive: frozenset[ExecutionKey]
    """Runs whose process another source saw alive: they have not ended."""

    abandoned: frozenset[ExecutionKey]
    """Runs that go on under another source's name: they did not end under theirs."""


class Reconciler:
    """
    Takes runs that another source owns out of a scrape's readings.

    Remembers who owns what for as long as the run lives, so that a source that is down for a while does not make its
    runs appear elsewhere. Not thread-safe; belongs to the event loop.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._claims: dict[ExecutionKey, _Claim] = {}
        self._lapsed: list[tuple[ExecutionKey, ExecutionKey]] = []
        self._last: tuple[tuple[object, ...], list[Reading]] = ((), [])

    def reconcile(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings of this machine's sources, each run once where it could be told, the rest counted."""
        outcomes = tuple(reading.outcome for reading in readings)
        # Scrapes that shared a look share its answer too. Kept objects cannot have been replaced by others.
        if len(outcomes) == len(self._last[0]) and all(a is b for a, b in zip(outcomes, self._last[0], strict=True)):
            return [replace(reading, outcome=was.outcome) for reading, was in zip(readings, self._last[1], strict=True)]
        result = list(readings)
        for owner_kind, other_kind in OWNERS:
            owners = [r for r in result if r.info.kind == owner_kind]
            others = [index for index, r in enumerate(result) if r.info.kind == other_kind]
            if owners and others:
                self._reconcile_kinds(owners, others, result)
        self._last = (outcomes, result)
        return result

    def links(self) -> Links:
        """Who owns what after the last scrape, for those who count ends."""
        lapsed, self._lapsed = self._lapsed, []
        return Links(
            elsewhere=frozenset(self._claims),
            returned=frozenset(other for other, _ in lapsed),
            kept_alive=frozenset(claim.owner for claim in self._claims.values()),
            abandoned=frozenset(owner for _, owner in lapsed),
        )

    def _reconcile_kinds(self, owners: Sequence[Reading], others: Sequence[int], result: list[Reading]) -> None:
        owning = [
            run for reading in owners if isinstance(reading.outcome, Snapshot) for run in reading.outcome.executions
        ]
        answered = {reading.source for reading in owners if isinstance(reading.outcome, Snapshot)}
        snapshots = {index: seen for index in others if isinstance(seen := result[index].outcome, Snapshot)}
        others_runs = [run for seen in snapshots.values() for run in seen.executions]
        self._age_claims(
            {run.key for run in owning}, answered, others_runs, {seen.source for seen in snapshots.values()}
        )
        doubtful = self._claim(owning, others_runs)
        for index, seen in snapshots.items():
            hidden = frozenset(run.key.instance_id for run in seen.executions if run.key in self._claims)
            new = replace(
                seen,
                executions=tuple(run for run in seen.executions if run.key not in self._claims)
                if hidden
                else seen.executions,
                shown_elsewhere=hidden,
                ambiguous=sum(run.key in doubtful for run in seen.executions),
            )
            result[index] = replace(result[index], outcome=new)

    def _age_claims(
        self, owning: set[ExecutionKey], answered: set[str], others: Iterable[Execution], looked: set[str]
    ) -> None:
        """Forgets claims on runs that ended, and on those whose owner ended long ago while they live on."""
        alive = {run.key for run in others}
        now = self._monotonic()
        for key, claim in list(self._claims.items()):
            if key.source not in looked:
                continue
            if key not in alive:
                del self._claims[key]
            elif claim.owner in owning or claim.owner.source not in answered:
                claim.owner_gone_since = None
            elif claim.owner_gone_since is None:
                claim.owner_gone_since = now
            elif now - claim.owner_gone_since > LINGERS:
                del self._claims[key]
                self._lapsed.append((key, claim.owner))

    def _claim(self, owning: Sequence[Execution], others: Sequence[Execution]) -> set[ExecutionKey]:
        """Claims what can be told; the keys of the others' runs that stay in doubt."""
        owners_that_have_one = {claim.owner for claim in self._claims.values()}
        free: dict[str, list[Execution]] = defaultdict(list)
        for other in others:
            if other.key not in self._claims:
                free[other.facts.package_name.casefold()].append(other)
        open_owners = [run for run in owning if run.key not in owners_that_have_one]
        while True:
            candidates = {run.key: _candidates(run, free[run.facts.package_name.casefold()]) for run in open_owners}
            # Two owners with one and the same candidate: nobody can say whose it is.
            only = Counter(found[0].key for found in candidates.values() if len(found) == 1)
            certain = {
                owner: found[0]
                for owner, found in candidates.items()
                if len(found) == 1 and only[found[0].key] == 1 and found[0].facts.user_name
            }
            if not certain:
                return {other.key for found in candidates.values() for other in found}
            for owner, other in certain.items():
                self._claims[other.key] = _Claim(owner)
                free[other.facts.package_name.casefold()].remove(other)
            open_owners = [run for run in open_owners if run.key not in certain]


def _candidates(owner: Execution, others: Iterable[Execution]) -> list[Execution]:
    """The runs that may be the owner's: same user as far as both tell, started not after it and not long before."""
    began = owner.facts.started_at
    if began is None:
        return []
    return [
        other
        for other in others
        if other.facts.started_at is not None
        and -ROUNDING <= began - other.facts.started_at <= WITHIN
        and _same_user(owner.facts.user_name, other.facts.user_name)
    ]


def _same_user(one: str, other: str) -> bool:
    return not one or not other or one.casefold() == other.casefold()
