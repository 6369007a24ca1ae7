"""What a source remembers of the catalog between looks: the open runs, the newest ids, how far the first fill came."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from ssis_exporter.model import EndedExecution, ExecutionFacts, ExecutionStatus
from ssis_exporter.sources.catalog.queries import Changed, Origin, Zone
from ssis_exporter.sources.catalog.rights import Rights
from ssis_exporter.sources.catalog.rows import HAS_PROCESS, HAS_START, OPEN, Row, utc

LOOKBACK = 1000
"""Ids below the highest one in which a row may still appear: an id is drawn before its row is written."""

CREATED_IS_YOUNG = timedelta(minutes=10)
"""How long a run that waits in `created` is asked for at every look. A start usually follows within seconds."""

CLOCKS_DIFFER = timedelta(minutes=1)
"""How far the clocks of two servers between which a database fails over may be apart."""

FIRST_WIDTH = 10_000
"""Ids of the first piece of a fill."""

QUICK, SLOW = 0.05, 0.5
"""Seconds for one piece of a fill below which the next one is wider, above which it is narrower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookmark:
    """Where a later life of the exporter goes on reading ends."""

    origin: str
    highest: int
    began: int
    """The highest id at the very first look: runs that ended before it are the past, and are never reported."""

    same_since: datetime | None = None
    """By this machine's clock, since when the catalog has been this one; None where it never was another."""

    def __str__(self) -> str:
        since = "" if self.same_since is None else f" {self.same_since.astimezone(UTC).isoformat()}"
        return f"{self.highest} {self.began} {self.origin}{since}"

    @classmethod
    def parse(cls, text: str) -> Bookmark | None:
        """From its text; None for one that says nothing."""
        highest, _, rest = text.partition(" ")
        began, _, rest = rest.partition(" ")
        origin, _, since = rest.partition(" ")
        if not (highest.isdecimal() and began.isdecimal()):
            return None
        try:
            same_since = datetime.fromisoformat(since).astimezone(UTC) if since else None
        except ValueError:
            return None
        return cls(origin=origin, highest=int(highest), began=int(began), same_since=same_since)


@dataclass(slots=True)
class OpenRun:
    """A run that was open when it was last seen."""

    facts: ExecutionFacts
    status: ExecutionStatus
    state: int
    """`Row.state` as last seen: the server tells only what differs."""

    stopping_since: datetime | None = None
    on_worker: bool = False
    """Runs on a Scale Out worker, whose processes are not the engine's."""


class Fill:
    """The first reading of all open runs, piece by piece, newest first."""

    def __init__(self, *, low: int, high: int) -> None:
        self._low = low
        self._below = high + 1
        self._width = FIRST_WIDTH

    @property
    def is_done(self) -> bool:
        """Whether every id was read."""
        return self._below <= self._low

    def next_piece(self) -> tuple[int, int]:
        """The ids to read next: from, and below."""
        return max(self._low, self._below - self._width), self._below

    def read(self, low: int, seconds: float) -> None:
        """A piece that began at `low` was read in so many seconds."""
        self._below = low
        if seconds < QUICK:
            self._width *= 4
        elif seconds > SLOW:
            self.narrow()

    def narrow(self) -> None:
        """A piece took long, or could not be read in time: the next one is half as wide."""
        self._width = max(self._width // 2, 500)


class Memory:
    """Belongs to one source's thread. No input or output."""

    def __init__(self, source: str, *, lookback: int = LOOKBACK) -> None:
        self._source = source
        self._lookback = lookback
        self.open: dict[int, OpenRun] = {}
        self.unsure: set[int] = set()
        """Ids whose rows were seen, but not committed when it mattered; to be read again."""
        self.highest = 0
        self.floor = 0
        """Up to it nothing new appears. It never goes down while the catalog is the same one."""
        self.origin: Origin | None = None
        self.last_origin = ""
        """The digest of the one that was read last, also by an earlier life; empty when there was none."""
        self.rights: Rights | None = None
        self.fill: Fill | None = None
        self.found_ended: list[EndedExecution] = []
        """Ends that no snapshot has told of yet."""
        self.is_behind = False
        """Whether there are newer rows than those that were read."""
        self.looked_at: datetime | None = None
        """The server's clock at the last look that came to its end and left nothing newer unread, or at the first."""
        self.ends_since: datetime | None = None
        """Since the catalog became another one: the last look at the one before. None while all ends are told."""
        self._given_before = 0
        """Ids up to it were given out before that, and perhaps again since."""
        self._untold: set[int] = set()
        """Those of them that had been seen and not been read for certain."""
        self._replaced: set[int] = set()
        """Those of them that were open then, or were not read for certain, and may be other runs now."""
        self._recent: set[int] = set()
        self._began = 0
        self._resumed: tuple[Bookmark, frozenset[int]] | None = None

    def resume(self, bookmark: Bookmark, open_ids: Iterable[int]) -> None:
        """Goes on where an earlier life ended, if the catalog is the same one still."""
        self._resumed = (bookmark, frozenset(open_ids))
        self.last_origin = bookmark.origin

    @property
    def is_incomplete(self) -> bool:
        """Whether the open runs are a lower bound. A row that is locked may be an open run, too."""
        return self.origin is None or self.fill is not None or self.is_behind or bool(self.unsure)

    @property
    def bookmark(self) -> Bookmark | None:
        """Where to go on; None while something below it has still to be told."""
        if self.origin is None or self.unsure or self.found_ended:
            return None
        return Bookmark(origin=self.origin.digest, highest=self.highest, began=self._began)

    @property
    def zone(self) -> Zone:
        """What the server must find between `floor` and `highest` when nothing appeared there."""
        return Zone(number=len(self._recent), total=sum(self._recent) - self.floor * len(self._recent))

    def start_over(self, *, origin: Origin, rights: Rights, highest: int, lowest: int) -> dict[int, OpenRun]:
        """Forgets all but where we are; returns what was open, for it has to be told which of it still is."""
        before = self.open
        self.open = {}
        self._untold, self._replaced = set(), self._replaced | self.unsure
        self.origin, self.rights, self.last_origin = origin, rights, origin.digest
        # After a failover newer runs came and went unseen. What ended before our last look is the past of another
        # catalog, which may have taken the place of ours.
        self._began = highest if self.looked_at is None else min(highest, self._given)
        self._read_again_below(self._began)
        self._recent = set()
        self.fill = Fill(low=max(lowest, 1), high=highest) if highest else None
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed[0].origin == origin.digest and resumed[0].highest <= highest:
            bookmark, open_ids = resumed
            self._began = bookmark.began
            # From below the bookmark: rows may have appeared there since. Ends told twice count once.
            self.highest = max(bookmark.highest - self._lookback, bookmark.began)
            self.unsure |= set(open_ids)
        self.floor = max(self.highest - self._lookback, 0)
        return before

    def found_end(self, row: Row, facts: ExecutionFacts | None, now: datetime) -> None:
        """A row that ended, to be told; `facts` are those of a run that was open before."""
        end = row.ended(facts or row.facts(self._source), now)
        if facts is not None or self._is_news(row, end):
            self.found_ended.append(end)

    def _is_news(self, row: Row, end: EndedExecution) -> bool:
        if self.ends_since is None:
            return True
        if row.execution_id in self._untold:
            return True
        if row.execution_id > self._given_before or row.execution_id in self._replaced:
            return end.ended_at >= self.ends_since - CLOCKS_DIFFER
        # Of all others the ends were told, but where a run that was created since has got an id once more.
        created = utc(row.created_time)
        return created is not None and created > self.ends_since

    def tell(self, now: datetime) -> tuple[EndedExecution, ...]:
        """A look came to its end: the ends to tell, once."""
        # One that was open is also found where the newest ids are read again.
        each_once = {(end.facts.key, end.facts.created_at): end for end in reversed(self.found_ended)}
        ended, self.found_ended = tuple(each_once.values())[::-1], []
        if self.looked_at is None or not self.is_behind:
            self.looked_at = now
        if not self.is_behind:
            self.ends_since = None
            self._untold, self._replaced = set(), set()
        return ended

    def go_back(self, *, highest: int) -> dict[int, OpenRun]:
        """The newest rows vanished (a start was rolled back); returns what was open, to be looked at again."""
        before, self.open = self.open, {}
        self._untold |= self.unsure
        self._read_again_below(highest)
        self._recent = {execution_id for execution_id in self._recent if execution_id <= self.highest}
        return before

    @property
    def _given(self) -> int:
        """The highest id that was read, also where some of them are being read again."""
        return self.highest if self.ends_since is None else max(self.highest, self._given_before)

    def _read_again_below(self, highest: int) -> None:
        """Some of the newest ids may be those of other runs by now; at the very first look nobody knows any."""
        self.ends_since, self._given_before = self.looked_at, highest
        self.highest = highest if self.looked_at is None else max(highest - self._lookback, 0)

    def asked(self, now: datetime, *, all_created: bool) -> list[tuple[int, int]]:
        """The open ids to ask for, each with the state we know."""
        return [
            (execution_id, run.state)
            for execution_id, run in self.open.items()
            if run.status is not ExecutionStatus.CREATED or all_created or _is_young(run.facts, now)
        ]

    def saw_zone(self, ids: Iterable[int]) -> list[int]:
        """The ids that are between floor and highest now; returns those that were not there before."""
        seen = set(ids)
        new = seen - self._recent
        self._recent = seen
        return sorted(new)

    def saw_fresh(self, rows: Sequence[Row]) -> None:
        """New rows, above the highest id so far."""
        for row in rows:
            self._recent.add(row.execution_id)
            self.highest = max(self.highest, row.execution_id)
        self.floor = max(self.floor, self.highest - self._lookback)
        self._recent = {execution_id for execution_id in self._recent if execution_id > self.floor}

    def keep(self, row: Row, now: datetime) -> None:
        """An open row: remembered, or brought up to date."""
        status = OPEN[row.status]
        known = self.open.get(row.execution_id)
        if known is None:
            self.open[row.execution_id] = OpenRun(
                facts=row.facts(self._source),
                status=status,
                state=row.state,
                stopping_since=now.astimezone(UTC) if status is ExecutionStatus.STOPPING else None,
                on_worker=row.worker_agent_id is not None,
            )
            return
        self.change(
            Changed(
                execution_id=row.execution_id,
                status=row.status,
                start_time=row.start_time,
                process_id=row.process_id,
                machine_name=row.machine_name,
            ),
            now,
        )

    def change(self, changed: Changed, now: datetime) -> None:
        """A known run that is still open, and whose row differs from what is known."""
        run = self.open[changed.execution_id]
        assert changed.status is not None
        status = OPEN[changed.status]
        if status is ExecutionStatus.STOPPING and run.stopping_since is None:
            run.stopping_since = now.astimezone(UTC)
        elif status is not ExecutionStatus.STOPPING:
            run.stopping_since = None
        run.status = status
        known = (HAS_PROCESS if changed.process_id is not None else 0) + (HAS_START if changed.start_time else 0)
        run.state = changed.status + known
        facts = run.facts
        started_at, process_id = utc(changed.start_time), changed.process_id
        machine = changed.machine_name or facts.machine
        if (started_at, process_id, machine) != (facts.started_at, facts.process_id, facts.machine):
            run.facts = replace(facts, started_at=started_at, process_id=process_id, machine=machine)

    def replaced(self, ids: Collection[int]) -> None:
        """
        Runs that were open before the memory started over, whose ids are other runs' now.

        Where nothing else tells of a restore, they are not new to us, and nobody else would look at them.
        """
        self.unsure |= set(ids)
        self._replaced |= set(ids)

    def restore(self, execution_id: int, run: OpenRun) -> None:
        """A run that was open before the memory started over and is the same one still."""
        self.open[execution_id] = run


def _is_young(facts: ExecutionFacts, now: datetime) -> bool:
    return facts.created_at is None or now - facts.created_at < CREATED_IS_YOUNG
