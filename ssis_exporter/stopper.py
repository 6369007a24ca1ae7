"""Takes nominations, works on each until it has an outcome, and never stops the same run twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta, tzinfo

from ssis_exporter.door import at_the_door
from ssis_exporter.errors import StorageError, StorageInUse
from ssis_exporter.explaining import explain
from ssis_exporter.hold import Hold
from ssis_exporter.holding import Holding
from ssis_exporter.ledger import Ledger
from ssis_exporter.ledgerrows import Door, Row
from ssis_exporter.model import (
    Decision,
    ExecutionFacts,
    ExecutionKey,
    Nomination,
    StopMode,
)
from ssis_exporter.onestop import OneStop
from ssis_exporter.outcomes import LAST_OUTCOMES, Outcomes
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.stopsettings import StopSettings, Surroundings
from ssis_exporter.stopview import Explanation, PastStop, PendingStop
from ssis_exporter.wallclock import WallClock

__all__ = ["StopSettings", "Stopper"]

log = logging.getLogger(__name__)

GLANCE_SECONDS, IDLE_GLANCE_SECONDS = 0.5, 1.0
"""How often the file that puts all stopping on hold is looked for: while anything waits to be stopped, and else."""

TEND_SECONDS = 2.0
"""How often it is asked whether the ledger needs anything."""

PROBE_SECONDS = 10.0
"""How often a ledger that could not be used is tried again."""

MARK_SECONDS = 30.0
"""How often the age of the breaker's places is written down."""

IDLE_MARK_SECONDS = 3600.0
"""How often both clocks are written down when nothing happens: where a boot has no name, they tell it from the next."""

ASKING_SECONDS = 2.0
"""How long the end of the exporter waits for a source that is being asked."""


class Stopper:
    """
    Takes nominations and brings each to an outcome. Lives on one event loop and never blocks it.

    `worker` gives a source's worker as configured now, None for an unknown name; `source_names` those names. `typical`
    tells how long a package usually takes, None until it has a history, and `was_seen` whether a run of this name is
    remembered: what is not there and never was has not ended. `silences` tells whether Alertmanager
    silences the alert of a nomination; whatever it raises means "nobody knows", and nothing is stopped after a grace.
    """

    def __init__(
        self,
        settings: StopSettings,
        *,
        ledger: Ledger,
        hold: Hold,
        worker: Callable[[str], SourceWorker | None],
        metrics: StopMetrics,
        source_names: Callable[[], Iterable[str]] = lambda: (),
        typical: Callable[[ExecutionFacts], timedelta | None] = lambda _facts: None,
        was_seen: Callable[[ExecutionKey], bool] = lambda _key: False,
        silences: Callable[[Nomination], Awaitable[bool]] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        local: tzinfo | None = None,
        executor: Executor | None = None,
        takes_up: bool = True,
    ) -> None:
        """`takes_up` False leaves what the ledger has open to the next `serve`: for a command about one run."""
        self._settings = settings
        self._takes_up = takes_up
        self._ledger = ledger
        self._holding = Holding(hold, executor)
        self._metrics = metrics
        self._outcomes = Outcomes(ledger, metrics, now)
        self._source_names = source_names
        self._work: dict[ExecutionKey, tuple[OneStop, asyncio.Task[None]]] = {}
        self._places: list[float] = []
        self._taken_up = False
        self._taking_up = asyncio.Lock()
        self._watching: list[asyncio.Task[None]] = []
        self._closing = False
        self._around = Surroundings(
            settings=lambda: self._settings,
            ledger=ledger,
            hold=hold,
            held=lambda: self.held,
            worker=worker,
            typical=typical,
            was_seen=was_seen,
            silences=silences,
            now=now,
            monotonic=monotonic,
            clock=WallClock(now=now, monotonic=monotonic),
            wait=wait,
            local=local,
            settled=self._outcomes.settled,
            places_changed=self._read_places,
        )

    # What the page and the metrics show.

    @property
    def settings(self) -> StopSettings:
        """The settings in force."""
        return self._settings

    @property
    def mode(self) -> StopMode:
        """The configured mode; see `held`, too."""
        return self._settings.mode

    @property
    def held(self) -> str | None:
        """
        Why all stopping is on hold; None when it is not.

        As it was a second ago at most, half a second while anything waits to be stopped.
        """
        return self._holding.reason

    @property
    def breaker_is_open(self) -> bool:
        """Whether as many runs were stopped within the window as may be."""
        return not self._settings.breaker.has_room(self._ledger.ages(self._places))

    def pending(self) -> list[PendingStop]:
        """What is being worked on, oldest first."""
        # A copy, because the page is made on another thread.
        rows = sorted((stop.row.nominated_at, stop.row.id, stop) for stop, _ in list(self._work.values()))
        return [_pending(stop) for _, _, stop in rows if stop.row.is_open]

    def pending_by_source(self) -> Mapping[str, int]:
        """How many nominations of each source are being worked on."""
        return Counter(stop.row.key.source for stop, _ in list(self._work.values()) if stop.row.is_open)

    def last_outcomes(self, count: int = 20) -> list[PastStop]:
        """What became of the last nominations, newest first."""
        return self._outcomes.last(count)

    # Life.

    async def start(self) -> None:
        """
        Takes up what the ledger has open. Never raises for a ledger that cannot be used: nothing is stopped then, and
        it is tried again from time to time. Raises `StorageInUse`.
        """
        self._metrics.watch(self)
        self._metrics.know(self._source_names())
        await self._holding.glance()
        try:
            await self._take_up()
        except StorageInUse:
            raise
        except StorageError as exc:
            log.error("nothing is stopped: %s", exc)  # noqa: TRY400 - an operator's case, not a bug
        loop = asyncio.get_running_loop()
        self._watching = [loop.create_task(self._watch()), loop.create_task(self._tend_ledger())]

    async def close(self) -> None:
        """Leaves everything as it is on disk, for the next start; may be called twice."""
        self._closing = True
        # A request that is on its way is waited for: a restart could not know whether it arrived.
        began = asyncio.get_running_loop().time()
        while any(stop.is_asking for stop, _ in self._work.values()):
            if asyncio.get_running_loop().time() - began > ASKING_SECONDS:
                break
            await asyncio.sleep(0.01)
        tasks = [*self._watching, *(task for _, task in self._work.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._ledger.close()

    def reconfigure(self, settings: StopSettings) -> None:
        """Puts new settings in force, also for what is pending and not yet requested."""
        if settings.mode is not self._settings.mode:
            log.warning("stopping is now: %s (it was: %s)", settings.mode, self._settings.mode)
        self._settings = settings
        self._metrics.know(self._source_names())

    # What comes from outside.

    async def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
        """
        Takes the nominations of one message; returns what is known of each, in their order.

        What is not refused is on disk when this returns and comes to an outcome. Raises `StorageError` and
        `TooManyPending`, and nothing was taken: the message has to come again.
        """
        if not nominations:
            return []
        await self._take_up()
        if self._closing:
            raise StorageError("the exporter is ending")
        await self._holding.glance()
        asked = self._at_the_door(nominations)
        taken = await self._ledger.nominate(asked, self._around.now())
        decisions = []
        for one, (row, is_known) in zip(asked, taken, strict=True):
            if row is None:
                assert isinstance(one, Door)
                decisions.append(self._outcomes.refused(one))
            else:
                self._begin(row)
                decisions.append(_decision(row, repeated=is_known))
        return decisions

    async def veto(self, key: ExecutionKey, reason: str, *, ended_at: datetime | None = None) -> bool:
        """
        Gives up a nomination that has not been requested yet; True when there was one.

        `ended_at` is when the alert was resolved: an alert that ended before the one that nominated began has no say.
        Raises `StorageError`.
        """
        row = await self._ledger.veto(key, reason, ended_at=ended_at, at=self._around.now())
        if row is None:
            return False
        self._outcomes.settled(row)
        if key in self._work:
            stop, task = self._work[key]
            if stop.row.episode == row.episode:
                task.cancel()
        await self._read_places()
        return True

    async def hold(self, reason: str) -> None:
        """
        Nothing is stopped from now on, also after a restart.

        Raises `StorageError` when that could not be written down; it then holds until `resume` or a restart.
        """
        await self._holding.begin(reason)

    async def resume(self) -> str | None:
        """Ends the hold; returns what it was. Raises `StorageError`, and it goes on."""
        return await self._holding.end()

    async def acknowledge_damage(self) -> str:
        """Sets a damaged ledger aside and begins a new one; returns where the old one is. Raises `StorageError`."""
        kept = await self._ledger.acknowledge_damage()
        for _, task in list(self._work.values()):
            task.cancel()
        self._taken_up = False
        await self._take_up()
        log.warning("the damaged ledger was set aside as %s; stops it knew of are forgotten", kept)
        return str(kept or "")

    async def explain(self, nomination: Nomination) -> Explanation:
        """What would be decided for this nomination now; looks, does nothing, writes nothing. Never raises."""
        [door] = self._at_the_door([nomination])
        return await explain(door, self._around, self._places)

    def _at_the_door(self, nominations: Sequence[Nomination]) -> list[Nomination | Door]:
        return at_the_door(nominations, self._settings, worker=self._around.worker, held=self.held)

    # The work.

    async def _take_up(self) -> None:
        """Opens the ledger and goes on with every row that has no outcome. Harmless when that was done."""
        async with self._taking_up:
            await self._ledger.open()
            if self._taken_up:
                return
            self._around.clock.recall(*await self._ledger.remembered_clock())
            await self._ledger.mark()
            rows = await self._ledger.open_rows()
            self._outcomes.begin_with(await self._ledger.last_outcomes(LAST_OUTCOMES))
            await self._read_places()
            self._taken_up = True
            if not self._takes_up:
                return
            for row in rows:
                self._begin(row)
            if rows:
                log.info("%d nominations of an earlier start are taken up again", len(rows))

    def _begin(self, row: Row) -> None:
        if not row.is_open or self._closing:
            return
        if row.key in self._work:
            stop, task = self._work[row.key]
            if stop.row.episode == row.episode and not task.done():
                # It reads its nominations again at every step, and before it settles anything.
                return
            task.cancel()
        stop = OneStop(row, self._around)
        task = asyncio.get_running_loop().create_task(stop.bring_to_outcome())
        self._work[row.key] = (stop, task)
        task.add_done_callback(lambda done: self._done(row.key, done))

    def _done(self, key: ExecutionKey, task: asyncio.Task[None]) -> None:
        if key in self._work and self._work[key][1] is task:
            del self._work[key]
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("the work on %s ended in a way nobody foresaw", key, exc_info=exc)

    async def _read_places(self) -> None:
        with contextlib.suppress(StorageError):
            self._places = await self._ledger.places(self._settings.breaker.window)

    async def _watch(self) -> None:
        """Looks for the file that holds, and at the clock."""
        while True:
            await self._around.wait(GLANCE_SECONDS if self._work else IDLE_GLANCE_SECONDS)
            self._around.clock.look()
            await self._holding.glance()

    async def _tend_ledger(self) -> None:
        """Tries a ledger that could not be used, and keeps the age of the breaker's places. May wait for the disk."""
        tried = marked = self._around.monotonic()
        counted = False
        while True:
            await self._around.wait(TEND_SECONDS)
            if self._ledger.trouble is not None and self._around.monotonic() - tried >= PROBE_SECONDS:
                tried = self._around.monotonic()
                with contextlib.suppress(StorageError):
                    await self._take_up()
                    await self._ledger.probe()
            # While places count their age is kept, and once more when none does: after a crash they count no longer.
            counts = self._settings.breaker.taken(self._ledger.ages(self._places)) > 0
            is_due = self._around.monotonic() - marked >= (MARK_SECONDS if counts else IDLE_MARK_SECONDS)
            if self._ledger.trouble is None and (is_due or (counted and not counts)):
                marked = self._around.monotonic()
                with contextlib.suppress(StorageError):
                    await self._ledger.mark()
            counted = counts


def _decision(row: Row, *, repeated: bool) -> Decision:
    return Decision(
        key=row.key,
        outcome=row.outcome,
        reason=row.reason,
        rule=row.rule,
        text=row.text or ("it is being worked on" if row.is_open else ""),
        repeated=repeated,
    )


def _pending(stop: OneStop) -> PendingStop:
    row = stop.row
    return PendingStop(
        key=row.key,
        stage=row.stage,
        nominated_at=row.nominated_at,
        package_name=row.facts.package_name if row.facts is not None else "",
        rule=row.rule,
        text=f"waits for {stop.waits_for}",
    )
