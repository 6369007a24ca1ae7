"""Random interleavings of everything that happens to a catalog, against a model: nothing is missed, nothing lingers."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from ssis_exporter.errors import SourceError
from ssis_exporter.model import Snapshot
from ssis_exporter.sources.catalog import CatalogSource, judging
from ssis_exporter.sources.catalog.memory import Bookmark
from tests.catalogs import Clock, Rig, make_estate, rig, statuses
from tests.tds.engine import SqlError

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
STEPS, SEEDS = (10_000, range(4)) if FULL else (500, range(4))

LOOKBACK = 60
LATEST = 25
"""How many ids younger than the newest a row may be when it is written."""

WORDS = {1: "created", 2: "running", 5: "pending", 8: "stopping"}
ENDS = (3, 4, 6, 7, 9)


class World:
    """Does things to the estate, and knows what a source must then say."""

    def __init__(self, made: Rig, clock: Clock, chance: random.Random) -> None:
        self.made = made
        self.clock = clock
        self.estate = made.estate
        self.ticks = itertools.count()
        self.source = self.new_life()
        self.chance = chance
        self.truth: dict[int, int] = {}
        """Status of every row, as committed."""
        self.shown: set[int] = set()
        """Open at the last look."""
        self.owed: set[int] = set()
        """Ends that a look has to tell."""
        self.allowed: set[int] = set()
        """Ends that it may tell: of runs that it need not have known."""
        self.counted: set[tuple[int, datetime | None]] = set()
        """Ends that were told, by id and creation: told again, they count once."""
        self.drawn: list[int] = []
        """Ids that were drawn and whose rows are not written yet."""
        self.locked: dict[int, int] = {}
        """Rows that another session changed and did not commit, with what it wrote."""
        self.looks = 0
        self.highest = 0
        """The highest id at the last look."""
        self.looked_at = clock.now
        self.anew = False
        """Whether the next look begins anew, and of older rows knows those only that were open, or are new."""
        self.known_up_to: int | None = None
        """In another life of the exporter: up to this id it knows those only that were open."""
        self.restarted = False
        """Whether the exporter began another life and has not looked in it yet."""
        self.unknown = False
        """Whether the catalog became another one before that: then the new life knows nothing."""

    def new_life(self) -> CatalogSource:
        """The exporter begins; its clock goes on by a millisecond each time it looks at it."""
        return self.made.source(lookback=LOOKBACK, monotonic=lambda: next(self.ticks) / 1000)

    def fail_now_and_then(self, text: str) -> None:
        """
        A question fails, also in the middle of a look: it gave way in a deadlock, its rows moved, or the next one, or
        the answer to this one, is cut off.
        """
        happens = self.chance.random()
        faults = self.made.server.faults
        if text.startswith("SET ") or happens > 0.03:
            return
        if happens > 0.02:
            faults.cut = 1
        elif happens > 0.01:
            faults.cut_midway = 1
        else:
            raise SqlError(self.chance.choice((601, 1205)), "told to fail")

    def open_rows(self) -> list[int]:
        return sorted(number for number, status in self.truth.items() if status in WORDS and number not in self.locked)

    # What happens.

    def start(self) -> None:
        status = self.chance.choice((1, 5, 2, 2))
        self.truth[self.estate.add(status=status)] = status

    def come_and_go(self) -> None:
        number = self.estate.add(status=self.chance.choice(ENDS))
        self.truth[number] = 7
        self.owed.add(number)

    def draw(self) -> None:
        self.drawn.append(self.estate.allocate())

    def write_late(self) -> None:
        if not self.drawn:
            return
        number = self.drawn.pop(self.chance.randrange(len(self.drawn)))
        status = self.chance.choice((1, 2, 5, 7))
        self.estate.add(number, status=status)
        self.truth[number] = status
        if status == 7:
            self.owed.add(number)

    def go_on(self) -> None:
        waiting = [number for number in self.open_rows() if self.truth[number] in (1, 5)]
        if not waiting:
            return
        number = self.chance.choice(waiting)
        if self.truth[number] == 1:
            self.estate.set(number, status=5)
            self.truth[number] = 5
        else:
            self.estate.begin(number, process_id=self.chance.choice((None, 77)))
            self.truth[number] = 2

    def get_process(self) -> None:
        running = [number for number in self.open_rows() if self.truth[number] == 2]
        if running:
            self.estate.set(self.chance.choice(running), process_id=88)

    def stop(self) -> None:
        running = [number for number in self.open_rows() if self.truth[number] == 2]
        if running:
            number = self.chance.choice(running)
            self.estate.set(number, status=8)
            self.truth[number] = 8

    def end(self) -> None:
        rows = self.open_rows()
        if rows:
            number = self.chance.choice(rows)
            self.truth[number] = self.chance.choice(ENDS)
            self.estate.end(number, self.truth[number])
            self.owed.add(number)

    def lock(self) -> None:
        rows = self.open_rows()
        if rows and not self.locked and not self.anew:
            number = self.chance.choice(rows)
            self.locked[number] = 4
            self.estate.hold_lock(number, status=4, end_time=self.estate.now())

    def unlock(self) -> None:
        for number, status in list(self.locked.items()):
            del self.locked[number]
            if self.chance.random() < 0.5:
                self.estate.roll_back(number)
            else:
                self.estate.commit(number)
                self.truth[number] = status
                self.owed.add(number)

    def roll_back_a_start(self) -> None:
        number = self.estate.add()
        self.truth[number] = 2
        if self.chance.random() < 0.5:
            self.look()
        self.estate.delete(number)
        del self.truth[number]

    def clean_up(self) -> None:
        old = [number for number, status in self.truth.items() if status not in WORDS and number not in self.owed]
        for number in old[: self.chance.randrange(1, 10)]:
            self.estate.delete(number)
            del self.truth[number]
            self.allowed.discard(number)

    def restore(self) -> None:
        if not self.truth or self.locked:
            return
        to = self.chance.choice(sorted(self.truth))
        self.made.server.restore(to)
        self.truth = {number: status for number, status in self.truth.items() if number <= to}
        self.drawn = []
        self.anew = True
        self.unknown = self.unknown or self.restarted
        self.owed &= set(self.truth)
        self.allowed &= set(self.truth)
        # Some of what had ended runs again: the backup was made before.
        for number in self.chance.sample(sorted(self.truth), min(3, len(self.truth))):
            self.counted = {one for one in self.counted if one[0] != number}
            self.estate.set(number, status=2, end_time=None, start_time=self.estate.now(), process_id=5)
            self.truth[number] = 2
            self.owed.discard(number)
            self.allowed.discard(number)

    def fail_over(self) -> None:
        if self.locked:
            return
        self.estate.server_name = self.chance.choice(("SQL01", "SQL02", "SQL03"))
        self.made.server.cut_all()
        self.anew = True
        self.unknown = self.unknown or self.restarted

    def cut(self) -> None:
        self.made.server.cut_all()

    def restart_exporter(self) -> None:
        """A new life goes on from the bookmark that was last given."""
        if self.locked:
            return
        seen = self.look()
        if not seen.bookmark:
            return
        self.source.close()
        self.source = self.new_life()
        self.source.resume(seen.bookmark, [run.key.instance_id for run in seen.executions])
        bookmark = Bookmark.parse(seen.bookmark)
        assert bookmark is not None
        # Ends of newer ones may be told again; of those that were rolled back and never told, too.
        self.allowed |= {number for number, status in self.truth.items() if status not in WORDS}
        self.known_up_to = max(bookmark.highest - LOOKBACK, bookmark.began)
        self.restarted = True

    def look(self) -> Snapshot:
        late = {number for number in self.owed if self.need_not_be_known(number)}
        self.allowed |= late
        self.owed -= late
        before = set() if self.anew or self.restarted else self.shown
        self.anew = self.restarted = self.unknown = False
        self.known_up_to = None
        self.looked_at = self.clock.now
        seen = self.snapshot()
        self.looks += 1
        self.highest = max(self.truth, default=0)
        marks = {(int(end.facts.key.instance_id), end.facts.created_at) for end in seen.ended} - self.counted
        self.counted |= marks
        told = {number for number, _ in marks}
        shown = statuses(seen)
        expected = {number: WORDS[status] for number, status in self.truth.items() if status in WORDS}
        # A locked row that was never shown is not certain; one that was shown stays as it was.
        assert {number: word for number, word in expected.items() if number not in self.locked} == {
            number: word for number, word in shown.items() if number not in self.locked
        }
        assert set(self.locked) & before <= set(shown) <= set(expected)
        assert self.owed <= told <= self.owed | self.allowed
        self.owed = set()
        self.shown = set(shown)
        return seen

    def need_not_be_known(self, number: int) -> bool:
        """Whether a run that ended may do so untold: one that was never shown, or in another life and catalog."""
        if self.unknown or number in self.shown:
            return self.unknown
        if self.known_up_to is not None:
            return number <= self.known_up_to
        if not self.anew or number > min(self.highest, max(self.truth, default=0)):
            return False
        row = self.estate.get(number)
        assert row is not None
        return datetime.fromisoformat(row["created_time"]) <= self.looked_at

    def snapshot(self) -> Snapshot:
        """Until it answers, and has read all: questions fail, and a restore takes more than one look."""
        ended = []
        for _ in range(200):
            try:
                seen = self.source.snapshot()
            except SourceError:
                continue
            ended += seen.ended
            # A locked row that is not known yet keeps an answer incomplete.
            has_read_all = not seen.incomplete or (bool(self.locked) and not self.source._looker.memory.is_behind)
            if has_read_all:
                return Snapshot(
                    source=seen.source,
                    taken_at=seen.taken_at,
                    visibility=seen.visibility,
                    executions=seen.executions,
                    ended=tuple(ended),
                    bookmark=seen.bookmark,
                )
        raise AssertionError("it never answers again")

    def write_what_is_old(self) -> None:
        """A drawn id that is too old by now was given up."""
        self.drawn = [number for number in self.drawn if self.estate.next_id - number < LATEST]


class Everything(set[int]):
    """All operations there may ever be."""

    def __contains__(self, _: object) -> bool:
        return True


@pytest.mark.parametrize("sees", ["all", "granted"])
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_missed_and_nothing_lingers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, sees: str
) -> None:
    """
    Starts, ends, stops, ids that commit out of order, rolled back starts and ends, retention, restores, failovers,
    cut connections, questions that fail, restarts of the exporter: each look shows exactly what is open and tells each
    end. Also to a login that was granted each run, for which new ones are not looked for every time.
    """
    chance = random.Random(seed)
    clock = Clock()
    monkeypatch.setattr(judging, "IS_QUICK", 0.0)
    monkeypatch.setattr(judging, "SHARE", 0.4)
    with rig(tmp_path, make_estate(clock=clock)) as made:
        if sees == "granted":
            account = made.estate.accounts["exporter"]
            account.roles, account.readable = set(), Everything()
        world = World(made, clock, chance)
        made.server.before_each = world.fail_now_and_then
        world.look()
        often: list[Callable[[], object]] = [
            world.start, world.start, world.start, world.go_on, world.go_on, world.get_process, world.stop, world.end,
            world.end, world.end, world.come_and_go, world.draw, world.write_late, world.lock, world.unlock,
            world.roll_back_a_start, world.look, world.look, world.look, world.look,
        ]  # fmt: skip
        seldom = [world.clean_up, world.cut, world.restore, world.fail_over, world.restart_exporter]
        for step in range(STEPS):
            happens = chance.choice(seldom if chance.random() < 0.04 else often)
            # So little that no run is older than what is asked for at every look.
            clock.pass_time(seconds=0.05)
            try:
                happens()
            except AssertionError as exc:
                raise AssertionError(f"seed {seed}, step {step}, {happens.__name__}: {exc}") from exc
            world.write_what_is_old()
        world.unlock()
        world.look()

    assert world.looks > STEPS // 10
    assert [] == [scan for one in made.server.exchanges for scan in one.scans]
