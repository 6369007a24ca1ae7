"""One run that two sources see is one run: who owns it, and what stays in doubt."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ssis_exporter.model import Execution, ExecutionKey, Reading, Snapshot

WITHIN = timedelta(minutes=5)
"""How long after the start of a process (or of a catalog run) the managed API may register its package."""

ROUNDING = timedelta(seconds=1)
"""A COM date is rounded; a start this much too early is still "not before"."""

EARLIER = timedelta(hours=1)
"""How much earlier a run may have begun whose start is marked as uncertain: by the hour that comes twice in autumn."""

APART = timedelta(seconds=2)
"""How far the looks of one scrape may be apart."""

LINGERS = 60.0
"""How many seconds a process may outlive the end of its package before it counts as a run of its own again."""

OWNERS = (("catalog", "dts"), ("dts", "dtexec"))
"""Which kind owns what another kind sees too: the first one's run is shown, the other's is not."""


@dataclass(slots=True)
class _Claim:
    """A run that another source's run owns."""

    owner: ExecutionKey
    made_at: datetime
    """When the later of the two looks was taken that it rests on."""

    is_proven: bool = False
    """
    Whether the owner was still there at a look after those.

    If not, it may have ended between the two: its own process was not among the candidates then, and the one that was
    claimed is another run's.
    """

    owner_gone_since: float | None = None
    owner_gone_at: datetime | None = None
    """When the look was taken that did not show the owner any more."""

    @property
    def is_in_doubt(self) -> bool:
        """Whether the run may be another's than the owner's, which is gone."""
        return self.owner_gone_at is not None and not self.is_proven


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

    Remembers who owns what for as long as the run lives, and the last look of each source, so that a source that is
    down or late for a while does not make its runs appear elsewhere. Not thread-safe; belongs to the event loop.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._claims: dict[ExecutionKey, _Claim] = {}
        self._spent: dict[ExecutionKey, datetime] = {}
        """
        Owners of which a run that was or may have been theirs was not there any more at this look.

        They have probably ended with it, and only an older look still shows them: until a later one does, nothing that
        is left over is theirs.
        """

        self._lapsed: list[tuple[ExecutionKey, ExecutionKey]] = []
        self._looks: dict[str, tuple[str, Snapshot]] = {}
        """Of each source its kind and what it saw last."""

        self._fitting: dict[str, dict[ExecutionKey, set[ExecutionKey]]] = {}
        """By kind: of each owner without a run, the runs of this kind that may be its."""

        self._released: set[ExecutionKey] = set()
        """Runs whose owner was gone before it was proven; in doubt until another owns them."""

        self._last: tuple[tuple[object, ...], list[Reading]] = ((), [])

    def note(self, kind: str, seen: Snapshot) -> None:
        """Takes in what a source saw, also when no scrape waited for it: a run may be gone by the next scrape."""
        known = self._looks.get(seen.source)
        if known is not None and known[1] is seen:
            return
        self._looks[seen.source] = (kind, seen)
        for owner_kind, other_kind in OWNERS:
            if kind in (owner_kind, other_kind):
                self._relate(owner_kind, other_kind, seen.source)

    def reconcile(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings of this machine's sources, each run once where it could be told, the rest counted."""
        outcomes = tuple(reading.outcome for reading in readings)
        # Scrapes that shared a look share its answer too. Kept objects cannot have been replaced by others.
        if len(outcomes) == len(self._last[0]) and all(a is b for a, b in zip(outcomes, self._last[0], strict=True)):
            return [replace(reading, outcome=was.outcome) for reading, was in zip(readings, self._last[1], strict=True)]
        for reading in readings:
            if isinstance(reading.outcome, Snapshot):
                self.note(reading.info.kind, reading.outcome)
        result = [self._without_others_runs(reading) for reading in readings]
        self._last = (outcomes, result)
        return result

    def links(self) -> Links:
        """Who owns what after the last look, for those who count ends."""
        lapsed, self._lapsed = self._lapsed, []
        return Links(
            elsewhere=frozenset(self._claims),
            returned=frozenset(other for other, _ in lapsed) | self._released,
            kept_alive=frozenset(claim.owner for claim in self._claims.values()),
            abandoned=frozenset(owner for _, owner in lapsed),
        )

    def keep(self, sources: Collection[str]) -> None:
        """Forgets what other sources than these saw and owned: they are not configured any more."""
        self._looks = {name: look for name, look in self._looks.items() if name in sources}
        self._released = {key for key in self._released if key.source in sources}
        self._spent = {owner: at for owner, at in self._spent.items() if owner.source in sources}
        for key, claim in list(self._claims.items()):
            if key.source not in sources:
                del self._claims[key]
            elif claim.owner.source not in sources:
                self._lapse(key)
        self._last = ((), [])

    def _without_others_runs(self, reading: Reading) -> Reading:
        seen = reading.outcome
        kinds = {kind for kind, _ in self._looks.values()}
        owners = {owner for owner, other in OWNERS if other == reading.info.kind}
        if not isinstance(seen, Snapshot) or not owners & kinds:
            return reading
        owned = {key for key, claim in self._claims.items() if not claim.is_in_doubt}
        fitting = self._fitting.get(reading.info.kind, {}).values()
        doubtful = set().union(*fitting) | self._released | (self._claims.keys() - owned)
        shown = tuple(run for run in seen.executions if run.key not in owned)
        hidden = frozenset(run.key.instance_id for run in seen.executions if run.key in owned)
        new = replace(
            seen,
            executions=shown if hidden else seen.executions,
            shown_elsewhere=hidden,
            ambiguous=sum(run.key in doubtful for run in seen.executions),
        )
        return replace(reading, outcome=new)

    def _relate(self, owner_kind: str, other_kind: str, looked: str) -> None:
        if not any(kind == other_kind for kind, _ in self._looks.values()):
            # Nothing that could be owned. Hundreds of catalogs must not be gone through for it at each look.
            self._fitting.pop(other_kind, None)
            return
        owning, others = self._runs(owner_kind), self._runs(other_kind)
        there = {run.key for run in owning}, {run.key for run in others}
        self._age_spent(other_kind, *there, looked)
        self._age_claims(other_kind, *there, looked)
        # Only a catalog may be another machine's; the two others see the one that the exporter runs on.
        fits = _catalog_candidates if owner_kind == "catalog" else _candidates
        # One that began after the others were looked at last: its own process was not among them.
        since = min((seen.taken_at for kind, seen in self._looks.values() if kind == other_kind), default=None)
        owning = [run for run in owning if run.key not in self._claims and _began_by(run, since)]
        self._fitting[other_kind] = self._claim(owning, others, fits)
        self._released -= self._claims.keys()

    def _runs(self, kind: str) -> list[Execution]:
        return [run for its_kind, seen in self._looks.values() if its_kind == kind for run in seen.executions]

    def _age_spent(self, other_kind: str, owning: set[ExecutionKey], others: set[ExecutionKey], looked: str) -> None:
        """Who is spent from this look on, and who is not any more."""
        looked_at = self._looks[looked][1].taken_at
        if self._looks[looked][0] != other_kind:
            for owner, gone_at in list(self._spent.items()):
                if owner.source == looked and (owner not in owning or looked_at >= gone_at + APART):
                    del self._spent[owner]
            return
        for owner, fitting in self._fitting.get(other_kind, {}).items():
            if any(key.source == looked and key not in others for key in fitting):
                self._spent[owner] = looked_at

    def _age_claims(self, other_kind: str, owning: set[ExecutionKey], others: set[ExecutionKey], looked: str) -> None:
        """Forgets claims on runs that ended, and on those whose owner ended long ago while they live on."""
        now = self._monotonic()
        looked_at = self._looks[looked][1].taken_at
        self._released -= {key for key in self._released if key.source == looked and key not in others}
        for key, claim in list(self._claims.items()):
            if self._looks[key.source][0] != other_kind:
                continue
            if key.source == looked:
                if key not in others:
                    del self._claims[key]
                    self._spent[claim.owner] = looked_at
                elif claim.is_in_doubt and claim.owner_gone_at is not None and looked_at > claim.owner_gone_at:
                    # It lives on after its owner, so it was never the owner's.
                    del self._claims[key]
                    self._released.add(key)
            elif claim.owner.source != looked:
                continue
            elif claim.owner in owning:
                claim.owner_gone_since = claim.owner_gone_at = None
                claim.is_proven |= looked_at >= claim.made_at + APART
            elif claim.owner_gone_since is None:
                claim.owner_gone_since, claim.owner_gone_at = now, looked_at
            elif claim.is_proven and now - claim.owner_gone_since > LINGERS:
                self._lapse(key)

    def _lapse(self, key: ExecutionKey) -> None:
        self._lapsed.append((key, self._claims.pop(key).owner))

    def _claim(
        self, owning: Sequence[Execution], others: Sequence[Execution], fits: _Fits
    ) -> dict[ExecutionKey, set[ExecutionKey]]:
        """Claims what can be told; of each owner that is left the runs that may be its."""
        owners_that_have_one = {claim.owner for claim in self._claims.values()}
        free: dict[str, list[Execution]] = defaultdict(list)
        for other in others:
            if other.key not in self._claims or self._claims[other.key].is_in_doubt:
                free[other.facts.package_name.casefold()].append(other)
        open_owners = [run for run in owning if run.key not in owners_that_have_one]
        while True:
            candidates = {run.key: fits(run, free[run.facts.package_name.casefold()]) for run in open_owners}
            # Two owners with one and the same candidate: nobody can say whose it is.
            only = Counter(found[0].other.key for found in candidates.values() if len(found) == 1)
            certain = {
                owner: found[0].other
                for owner, found in candidates.items()
                if len(found) == 1 and only[found[0].other.key] == 1 and found[0].is_proven and owner not in self._spent
            }
            if not certain:
                return {
                    owner: {candidate.other.key for candidate in found} for owner, found in candidates.items() if found
                }
            for owner, other in certain.items():
                looks = (self._looks[key.source][1].taken_at for key in (owner, other.key))
                self._claims[other.key] = _Claim(owner, made_at=max(looks))
                free[other.facts.package_name.casefold()].remove(other)
            open_owners = [run for run in open_owners if run.key not in certain]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A run that may be the owner's."""

    other: Execution
    is_proven: bool
    """Whether what must be equal is known on both sides."""


_Fits = Callable[[Execution, Iterable[Execution]], list[_Candidate]]


def _began_by(run: Execution, moment: datetime | None) -> bool:
    began = run.facts.started_at
    return began is not None and moment is not None and began <= moment


def _candidates(owner: Execution, others: Iterable[Execution]) -> list[_Candidate]:
    """The runs that may be the owner's: same user as far as both tell, started not after it and not long before."""
    began = owner.facts.started_at
    if began is None:
        return []
    within = WITHIN + EARLIER if owner.facts.start_uncertain else WITHIN
    found = []
    for other in others:
        if other.facts.started_at is None:
            continue
        later_end = ROUNDING + EARLIER if other.facts.start_uncertain else ROUNDING
        if not -later_end <= began - other.facts.started_at <= within:
            continue
        same = _same_user(owner.facts.user_name, other.facts.user_name)
        if same is not False:
            found.append(_Candidate(other, is_proven=same is True))
    return found


def _catalog_candidates(owner: Execution, others: Iterable[Execution]) -> list[_Candidate]:
    """As `_candidates`, and on the same machine as far as both tell."""
    found = []
    for candidate in _candidates(owner, others):
        same = _same_machine(owner.facts.machine, candidate.other.facts.machine)
        if same is not False:
            found.append(_Candidate(candidate.other, is_proven=candidate.is_proven and same is True))
    return found


def _same_user(one: str, other: str) -> bool | None:
    """Whether two names are one account's; None where they do not tell: `etl`, `CORP\\etl`, `etl@corp.example`."""
    if not one or not other:
        return None
    if one.casefold() == other.casefold():
        return True
    (domain, account), (other_domain, other_account) = _account(one), _account(other)
    if account != other_account or ("\\" in one and "\\" in other and domain != other_domain):
        return False
    return None


def _account(name: str) -> tuple[str, str]:
    domain, slash, account = name.casefold().rpartition("\\")
    if not slash:
        account, _, domain = account.partition("@")
    return domain, account


def _same_machine(one: str, other: str) -> bool | None:
    """Whether two names are one machine's, by their first part as NetBIOS cuts it; None where one is not known."""
    if not one or not other:
        return None
    return one.casefold().partition(".")[0][:15] == other.casefold().partition(".")[0][:15]
