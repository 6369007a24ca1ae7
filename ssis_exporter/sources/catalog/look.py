"""One look at the catalog: asks for what is new and what changed, and believes an end only when it is committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ssis_exporter.errors import SourceAccessDenied, SourceUnreachable
from ssis_exporter.model import EndedExecution, Scope, Visibility
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.judging import Judging
from ssis_exporter.sources.catalog.memory import Memory, OpenRun
from ssis_exporter.sources.catalog.queries import FRESH_AT_ONCE, Answer, Changed, Place, Queries, Zone, in_pieces
from ssis_exporter.sources.catalog.rows import OPEN, Row, same_run
from ssis_exporter.sources.catalog.troubles import LOCK_TIMEOUT, ServerError

log = logging.getLogger(__name__)

FILL_BUDGET = 1.5
"""Seconds of a look that the first fill, or catching up after a long absence, may take; a piece is read in any case."""

MOST_LOCKS = 20
"""Locks met in one look before the rest of what seems to have ended is left for the next one."""

CREATED_EVERY = 60.0
"""Seconds between questions for runs that have been waiting in `created` for long."""


CLOCK_STEP = timedelta(seconds=5)
"""By how much a server's clock must have run ahead between two looks to have been set."""

MOST_STEPS = 20
"""Settings of the clock that are remembered."""


@dataclass(slots=True)
class Seen:
    """What a look found beside the open runs, which are in the memory."""

    now: datetime
    """By the server's clock."""
    visibility: Visibility
    ended: tuple[EndedExecution, ...] = ()


class ServerClock:
    """Notices when the server's clock is set forward between two looks, by this machine's clock that nobody can set."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.set_forward: tuple[tuple[datetime, timedelta], ...] = ()
        self._before: tuple[datetime, float] | None = None

    def shown(self, now: datetime, *, asked_at: float, told_at: float) -> None:
        """It showed `now` at some moment between these two."""
        if self._before is not None:
            before, then = self._before
            by = now - before - timedelta(seconds=told_at - then)
            if by >= CLOCK_STEP:
                log.warning(
                    "source %s: the server's clock was set forward by %s, or this machine slept", self._source, by
                )
                self.set_forward = (*self.set_forward, (now - by, by))[-MOST_STEPS:]
        self._before = (now, asked_at)


class Looker:
    """Looks, and keeps the memory true. Belongs to one source's thread."""

    def __init__(self, source: str, memory: Memory, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self.memory = memory
        self._monotonic = monotonic
        self._created_asked_at: float | None = None
        self._judging = Judging(source, monotonic=monotonic)
        self._was_silent = False
        """Whether the look before ended with its time."""
        self._now = datetime.now(UTC)
        """The server's clock as last seen; only to tell who is young."""
        self._set_aside: dict[int, OpenRun] = {}
        self.became_another_at: float | None = None
        """When the catalog was found to be another one than before, by this machine's clock that nobody can set."""
        self._clock = ServerClock(source)

    @property
    def set_forward(self) -> tuple[tuple[datetime, timedelta], ...]:
        """See `Snapshot.set_forward`."""
        return self._clock.set_forward

    def look(self, queries: Queries, deadline: Deadline) -> Seen:
        """
        Brings the memory up to date.

        Raises `SourceAccessDenied` when the right to see all was lost, and whatever the connection raises. The memory
        is true after that as well: what was not read is as it was.
        """
        self._set_aside = {}
        self._judging.look_begins()
        began = self._monotonic()
        try:
            seen = self._look(queries, deadline)
        except BaseException as exc:
            if self._set_aside:
                # Began anew and did not come to its end: the next look begins anew again, and knows all that was open.
                self.memory.open = self._set_aside | self.memory.open
                self.memory.origin = None
            self._was_silent = isinstance(exc, TimeoutError)
            reason = self._judging.silent() if self._was_silent else None
            if reason is not None:
                raise reason from exc
            raise
        self._was_silent = False
        self._clock.shown(seen.now, asked_at=began, told_at=self._monotonic())
        return seen

    def _look(self, queries: Queries, deadline: Deadline) -> Seen:
        memory = self.memory
        if memory.origin is None or self._was_silent:
            # A small question, which tells a server that is silent from one that has too much to judge.
            here = queries.place_alone(memory.highest, deadline)
            self._check_rights(here)
            self._judging.answers(here.rights)
        if memory.origin is None:
            self._judging.check_due()
            place = queries.place(deadline)
            self._check_rights(place)
            self._start_over(queries, place, deadline)
        expected, answer, changed = self._ask(queries, deadline)
        self._check_rights(answer.before)
        if self._is_other_world(answer.before):
            self._start_over(queries, queries.place(deadline), deadline)
            expected, answer, changed = self._ask(queries, deadline)
        elif answer.before.highest < memory.highest:
            self._go_back(queries, answer.before, deadline)
            expected, answer, changed = self._ask(queries, deadline)
        now = self._now = answer.before.now.astimezone(UTC)
        gone = self._take_changes(changed, now)
        vanished = self._settle(queries, gone, now, deadline)
        # Late ones first: new ones move the place up to which a late one is expected.
        something_appeared = answer.zone is not None and answer.zone != expected
        more, absent = self._take_late(queries, now, deadline, something_appeared=something_appeared)
        more |= self._take_fresh(queries, answer.fresh, now, deadline)
        more |= self._fill(queries, now, deadline)
        memory.is_behind |= answer.zone is None
        # To a login that sees only its own, the highest id was told as it was before the new ones.
        more |= bool(answer.fresh) and not self._sees_all
        last = self._place(queries, answer, deadline) if more or gone else answer.after
        if self._is_other_world(last):
            memory.origin = None
            self._check_rights(last)
            raise SourceUnreachable("the database or the rights of the login changed during the look")
        # Only now: with the right to see them, rows that are not there are gone.
        for execution_id in vanished:
            memory.open.pop(execution_id, None)
        memory.unsure -= absent
        return Seen(now=now, visibility=last.rights.visibility, ended=memory.tell(now))

    def _ask(self, queries: Queries, deadline: Deadline) -> tuple[Zone, Answer, list[Changed]]:
        """The usual round trip; one more for each further 800 open runs."""
        memory = self.memory
        expected = memory.zone
        now = self._monotonic()
        due = self._created_asked_at is None or now - self._created_asked_at >= CREATED_EVERY
        pieces = in_pieces(memory.asked(self._now, all_created=due)) or [[]]
        if self._judging.is_due:
            answer = queries.look(memory.highest, memory.floor, pieces[0], deadline, sees_all=self._sees_all)
            self._judging.done(answer.before.rights, now)
        else:
            answer = queries.look_at_known(memory.highest, pieces[0], deadline)
        changed = answer.changed
        for piece in pieces[1:]:
            changed = changed + queries.changed(piece, deadline)
        if due:
            self._created_asked_at = now
        return expected, answer, changed

    @property
    def _sees_all(self) -> bool:
        rights = self.memory.rights
        return rights is not None and rights.visibility.scope is Scope.ALL

    def _place(self, queries: Queries, answer: Answer, deadline: Deadline) -> Place:
        if answer.zone is None or not self._sees_all:
            return queries.place_alone(self.memory.highest, deadline)
        return queries.place(deadline)

    def _check_rights(self, place: Place) -> None:
        before, now = self.memory.rights, place.rights
        if before is None or before.visibility.scope is not Scope.ALL or now.visibility.scope is Scope.ALL:
            return
        raise SourceAccessDenied(
            f"the right to see all runs is lost: {before.visibility.detail} before, and {now.visibility.detail} now;"
            " give the role back, or restart the exporter to go on with what is left"
        )

    def _is_other_world(self, place: Place) -> bool:
        memory = self.memory
        assert memory.rights is not None
        one, other = memory.rights.visibility, place.rights.visibility
        same_sight = one.scope is Scope.ALL is other.scope or one == other
        return memory.origin != place.origin or place.highest < memory.floor or not same_sight

    def _start_over(self, queries: Queries, place: Place, deadline: Deadline) -> None:
        memory = self.memory
        sees_all = place.rights.visibility.scope is Scope.ALL
        # The lowest of its own is as hard to find for a login that sees no others; the fill finds it piece by piece.
        lowest = queries.lowest(deadline) if sees_all else 1
        went_back = memory.origin is not None and place.highest < memory.floor
        if went_back or memory.last_origin not in ("", place.origin.digest):
            self.became_another_at = self._monotonic()
            self._clock = ServerClock(self._source)
        if memory.origin is not None:
            log.info("source %s: the catalog is another one or was restored; reading it anew", self._source)
        if not sees_all:
            log.warning(
                "source %s: %s, so it sees only runs that it started or was granted; ssis-exporter check prints what to"
                " grant",
                self._source,
                place.rights.visibility.detail,
            )
        before = memory.start_over(origin=place.origin, rights=place.rights, highest=place.highest, lowest=lowest)
        self._set_aside = before | self._set_aside
        memory.saw_zone(queries.ids_between(memory.floor, memory.highest, deadline))
        self._take_survivors(queries, before, place.now, deadline)
        self._created_asked_at = None
        self._judging.forget()

    def _go_back(self, queries: Queries, place: Place, deadline: Deadline) -> None:
        """Ids above the highest one vanished: rows that were rolled back, or a restore that nothing else tells of."""
        before = self.memory.go_back(highest=place.highest)
        self._set_aside = before | self._set_aside
        self._take_survivors(queries, before, place.now, deadline)
        self._judging.forget()

    def _take_survivors(self, queries: Queries, before: dict[int, OpenRun], now: datetime, deadline: Deadline) -> None:
        """The runs that were open before and are the same ones still: they were not gone for a moment."""
        others: set[int] = set()
        for row in queries.by_id(before, deadline, committed=False):
            run = before[row.execution_id]
            if same_run(run.facts, row.facts(self._source)):
                # Also one that seems to have ended: the look that follows settles it.
                self.memory.restore(row.execution_id, run)
                if row.is_open:
                    self.memory.keep(row, now)
            else:
                others.add(row.execution_id)
        self.memory.replaced(others)

    def _take_changes(self, changed: list[Changed], now: datetime) -> list[int]:
        """Known runs: what they are now. Returns those that seem to have ended."""
        gone: list[int] = []
        for one in changed:
            if one.status in OPEN:
                self.memory.change(one, now)
            else:
                gone.append(one.execution_id)
        return gone

    def _settle(self, queries: Queries, gone: list[int], now: datetime, deadline: Deadline) -> list[int]:
        """Known runs that seem to have ended, by their committed rows. Returns those that have none."""
        rows, locked = self._committed(queries, gone, deadline)
        for row in rows:
            if row.is_open:
                self.memory.keep(row, now)
            else:
                run = self.memory.open.pop(row.execution_id)
                self.memory.found_end(row, run.facts, now)
        there = {row.execution_id for row in rows} | locked
        return [execution_id for execution_id in gone if execution_id not in there]

    def _take_fresh(self, queries: Queries, rows: list[Row], now: datetime, deadline: Deadline) -> bool:
        """Runs that are newer than all we knew. Returns whether more was asked."""
        more = False
        until = self._monotonic() + min(FILL_BUDGET, deadline.left / 3)
        self.memory.is_behind = False
        while rows:
            more = more or not all(row.is_open for row in rows)
            self._take_new(queries, rows, now, deadline)
            self.memory.saw_fresh(rows)
            if len(rows) < FRESH_AT_ONCE:
                break
            if self._monotonic() > until:
                self.memory.is_behind = True
                break
            rows, more = queries.fresh(self.memory.highest, deadline), True
        return more

    def _take_late(
        self, queries: Queries, now: datetime, deadline: Deadline, *, something_appeared: bool
    ) -> tuple[bool, set[int]]:
        """
        Runs whose rows came after those of higher ids, and those that could not be read for certain before.

        Returns whether more was asked, and the ids that have no row.
        """
        memory = self.memory
        if something_appeared:
            # Until they are read: the zone will not tell of them once more.
            memory.unsure |= set(memory.saw_zone(queries.ids_between(memory.floor, memory.highest, deadline)))
        late = set(memory.unsure)
        rows = queries.by_id(late, deadline, committed=False)
        self._take_new(queries, rows, now, deadline)
        return bool(late) or something_appeared, late - {row.execution_id for row in rows}

    def _take_new(self, queries: Queries, rows: Iterable[Row], now: datetime, deadline: Deadline) -> None:
        doubtful: list[int] = []
        for row in rows:
            self.memory.unsure.discard(row.execution_id)
            if row.is_open:
                self.memory.keep(row, now)
            else:
                doubtful.append(row.execution_id)
        if not doubtful:
            return
        self.memory.unsure |= set(doubtful)
        committed, locked = self._committed(queries, doubtful, deadline)
        self.memory.unsure -= set(doubtful) - locked
        for row in committed:
            if row.is_open:
                self.memory.keep(row, now)
            else:
                self.memory.found_end(row, None, now)

    def _committed(self, queries: Queries, ids: list[int], deadline: Deadline) -> tuple[list[Row], set[int]]:
        """These rows as they are for certain, and the ids of those that somebody holds locked."""
        rows: list[Row] = []
        locked: set[int] = set()
        waiting = [ids] if ids else []
        locks_met = 0
        while waiting:
            piece = waiting.pop()
            try:
                rows += queries.by_id(piece, deadline, committed=True)
            except ServerError as exc:
                if exc.number != LOCK_TIMEOUT:
                    raise
                locks_met += 1
                if len(piece) == 1 or locks_met > MOST_LOCKS:
                    locked |= set(piece)
                else:
                    # The others must not wait for the one that is locked.
                    waiting += [piece[: len(piece) // 2], piece[len(piece) // 2 :]]
        if locked:
            log.debug("source %s: %d rows that seem to have ended are locked", self._source, len(locked))
        return rows, locked

    def _fill(self, queries: Queries, now: datetime, deadline: Deadline) -> bool:
        """
        Goes on with the first fill. Returns whether it asked.

        It takes no locks, so of the runs that nobody knew yet one could be passed over: one whose end was written but
        not committed in the moment of the fill, and is rolled back later. SSIS commits each end by itself.
        """
        memory = self.memory
        began = self._monotonic()
        budget = min(FILL_BUDGET, deadline.left / 3)
        asked = False
        while memory.fill is not None and (not asked or self._monotonic() - began < budget):
            low, high = memory.fill.next_piece()
            at = self._monotonic()
            try:
                rows = queries.open_between(low, high, deadline)
            except TimeoutError:
                # Otherwise the same piece would be too wide for ever.
                memory.fill.narrow()
                raise
            for row in rows:
                if row.execution_id not in memory.open:
                    memory.keep(row, now)
            memory.fill.read(low, self._monotonic() - at)
            asked = True
            if memory.fill.is_done:
                memory.fill = None
        return asked
