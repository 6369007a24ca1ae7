"""The demo estate as a machine without a clock: simulated time goes in, what is open and what ended comes out."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

from ssis_exporter.model import Result
from ssis_exporter.sources.demo.packages import HOUR, MINUTE, Habit, Package, make_packages, stream
from ssis_exporter.sources.demo.runs import NEVER, Plan, Run, plan_run

PAST_RUNS = 20
"""How many runs of each package ended before the estate's origin, for who wants to know what is usual."""

_ENDS = 0
_IS_CREATED = 1


class Estate:
    """
    Packages that run, as of a simulated moment (seconds since the estate's origin).

    What happens depends only on the seed, the number of packages and the stops asked for; never on how often or when
    somebody looks. Time only goes forward. A stop changes the run that it names and nothing else: when the next run of
    the package begins follows from the plan of the run before it, whether or not that one was stopped.
    """

    def __init__(self, *, seed: int, packages: int) -> None:
        self.packages = make_packages(seed, packages)
        self.open: dict[int, Run] = {}
        """The open runs by their number."""
        self.now = -NEVER
        self._made = 0
        self._streams: list[random.Random] = []
        self._slots: list[float] = []
        self._opened: set[int] = set()
        self._seed = seed
        # (moment, package, what, number of the run): no two are equal, so the order is the same everywhere.
        self._events: list[tuple[float, int, int, int]] = []
        for package in self.packages:
            numbers = stream(seed, "runs", package.index)
            self._streams.append(numbers)
            self._slots.append(_first_slot(package, numbers))
            self._events.append((self._slots[-1], package.index, _IS_CREATED, 0))
        heapq.heapify(self._events)

    def advance(self, to: float) -> list[Run]:
        """Lets time pass; gives the runs that ended on the way, in that order. A moment in the past changes nothing."""
        ended = []
        while self._events and self._events[0][0] <= to:
            moment, index, what, number = heapq.heappop(self._events)
            if what == _IS_CREATED:
                self._create(index, moment)
            elif number in self.open and self.open[number].ends == moment:
                ended.append(self.open.pop(number))
        self.now = max(self.now, to)
        return ended

    def ask_to_stop(self, run: Run) -> None:
        """Asks an open run to stop, now."""
        run.ask_to_stop(self.now)
        self._schedule_end(run)

    def end_host(self, run: Run) -> None:
        """Ends the host process of an open run, now."""
        run.end_host(self.now)
        self._schedule_end(run)

    def past(self, index: int) -> list[Run]:
        """The last runs of one package that ended before the estate began, newest first, numbered below 0."""
        package = self.packages[index]
        # Streams of their own: whether anybody asks for the past changes nothing.
        first = _first_slot(package, stream(self._seed, "runs", index))
        numbers = stream(self._seed, "past", index)
        runs = []
        for turn in range(1, PAST_RUNS + 1):
            plan = well(package, plan_run(package, first - turn * package.period, numbers))
            length = package.usual * (0.8 + 0.4 * numbers.random())
            # Numbers grow with time in the estate, so those of the past go down from -1.
            number = -1 - index * PAST_RUNS - turn
            runs.append(Run(number, package, replace(plan, ends=plan.started + length)))
        return runs

    def has_made(self, number: int) -> bool:
        """Whether there is or was a run of this number."""
        return 0 <= number < self._made or -1 - len(self.packages) * PAST_RUNS <= number < -1

    def _create(self, index: int, moment: float) -> None:
        package = self.packages[index]
        numbers = self._streams[index]
        plan = plan_run(package, moment, numbers)
        if index < len(_OPENING) and index not in self._opened:
            self._opened.add(index)
            plan = _opening(package, plan)
        run = Run(self._made, package, plan)
        self._made += 1
        self.open[run.number] = run
        self._schedule_end(run)
        # Like a job of SQL Server Agent: a start that falls into the run before it is left out.
        slot = self._slots[index] + package.period
        missed = plan.ends - slot
        if missed > 0:
            slot += package.period * (missed // package.period + 1)
        self._slots[index] = slot
        heapq.heappush(self._events, (slot + 2.0 * numbers.random(), index, _IS_CREATED, 0))

    def _schedule_end(self, run: Run) -> None:
        heapq.heappush(self._events, (run.ends, run.package.index, _ENDS, run.number))


# How long before the origin the first packages began, in times their usual duration: whoever opens the page finds a
# runaway, one that sticks and one that lost its host, and does not have to wait for them.
_OPENING = (0.3, 2.2, 5.0, 1.2, 1.2, 0.2, 0.3, 0.5)


def _first_slot(package: Package, numbers: random.Random) -> float:
    if package.index < len(_OPENING):
        return -_OPENING[package.index] * package.usual - 4.0
    return -package.period * numbers.random()


def well(package: Package, plan: Plan) -> Plan:
    """The same run, when nothing goes wrong with it."""
    return replace(
        plan,
        pending=plan.created + 1.0,
        started=plan.created + 2.0,
        ends=plan.created + 2.0 + package.usual,
        result=Result.SUCCEEDED,
        asked_to_stop=NEVER,
        host_lost=NEVER,
    )


def _opening(package: Package, plan: Plan) -> Plan:
    """The run that a package of the first few is in when the estate is first looked at."""
    run = well(package, plan)
    match package.habit:
        case Habit.RUNAWAY:
            return replace(run, ends=run.started + package.usual * (4.0 if package.usual > HOUR else 15.0))
        case Habit.STICKY:
            stuck = run.started + package.usual
            return replace(run, asked_to_stop=stuck, ends=stuck + 25 * MINUTE, result=Result.CANCELED)
        case Habit.ORPHANING:
            lost = run.started + package.usual
            return replace(run, host_lost=lost, ends=lost + 30 * MINUTE, result=Result.ENDED_UNEXPECTEDLY)
        case Habit.QUEUEING:
            return replace(run, started=8 * MINUTE, ends=8 * MINUTE + package.usual)
        case Habit.STEADY | Habit.FAILING:
            return run
