"""One run of the demo estate: its whole life is planned when it is created; only a stop changes it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from ssis_exporter.model import ExecutionStatus, Result
from ssis_exporter.sources.demo.packages import HOUR, MINUTE, Habit, Package

NEVER = math.inf
_MEGABYTE = 1 << 20
_BUFFER_BYTES = 10 * _MEGABYTE  # SSIS's DefaultBufferSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does when nobody interferes; moments are simulated seconds since the estate's origin."""

    created: float
    pending: float
    started: float
    ends: float
    result: Result
    asked_to_stop: float = NEVER
    """When somebody in the estate asks it to stop."""

    host_lost: float = NEVER
    """When its host process is gone while the record goes on saying that it runs."""

    stop_takes: float
    """How long it takes from being asked to stop to its end."""

    sticks: bool
    """A request to stop doesn't end it soon: it stays `stopping` for that long, past its planned end."""

    row_stays: float
    """How long its record goes on after its host was ended by force; 0 for most."""

    cores: float
    threads: int
    memory: int
    bytes_read: float
    """Per simulated second, as the next two."""

    bytes_written: float
    rows: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run has used up to a moment; no figure ever falls."""

    cpu_seconds: float
    resident_bytes: int
    read_bytes: int
    written_bytes: int
    threads: int
    rows_read: int
    rows_written: int
    buffers_in_use: int
    buffers_spooled: int
    buffer_memory_bytes: int


class Run:
    """One run; what it is at a moment follows from its plan and from the requests that reached it."""

    __slots__ = ("asked_to_stop", "ends", "host_lost", "number", "package", "plan", "result")

    def __init__(self, number: int, package: Package, plan: Plan) -> None:
        self.number = number
        self.package = package
        self.plan = plan
        self.ends = plan.ends
        self.result = plan.result
        self.asked_to_stop = plan.asked_to_stop
        self.host_lost = plan.host_lost

    def status(self, at: float) -> ExecutionStatus:
        """Where it stands at a moment between its creation and its end."""
        if at >= self.asked_to_stop:
            return ExecutionStatus.STOPPING
        if at >= self.plan.started:
            return ExecutionStatus.RUNNING
        if at >= self.plan.pending:
            return ExecutionStatus.PENDING
        return ExecutionStatus.CREATED

    def is_orphaned(self, at: float) -> bool:
        """Whether its host is gone and its record isn't."""
        return at >= self.host_lost

    def ask_to_stop(self, at: float) -> None:
        """Somebody asks; it ends a moment later, or sticks."""
        self.asked_to_stop = at
        gone = at + self.plan.stop_takes
        self.ends = gone if self.plan.sticks else min(gone, self.plan.ends)
        self.result = Result.CANCELED

    def end_host(self, at: float) -> None:
        """Its host process is ended; its record goes at once, or stays behind for a while."""
        self.host_lost = at
        self.ends = at + self.plan.row_stays
        self.result = Result.ENDED_UNEXPECTEDLY

    def usage(self, at: float) -> Usage:
        """What it has used until then."""
        plan = self.plan
        age = max(at - plan.started, 0.0)
        # A wave that never stands still or goes back: work comes in bouts.
        work = age + 8.0 * (1.0 - math.cos(age / 10.0))
        warm = 1.0 - math.exp(-age / 45.0)
        # What takes far longer than usual leaks.
        beyond = max(age / self.package.usual - 1.5, 0.0)
        memory = plan.memory * (0.25 + 0.75 * warm + 0.2 * beyond)
        buffers = int(2 + plan.threads * warm)
        return Usage(
            cpu_seconds=plan.cores * (age + 4.0 * (1.0 - math.cos(age / 10.0))),
            resident_bytes=int(memory),
            read_bytes=int(plan.bytes_read * work),
            written_bytes=int(plan.bytes_written * work),
            threads=int(6 + plan.threads * warm),
            rows_read=int(plan.rows * work),
            rows_written=int(plan.rows * work * 0.92),
            buffers_in_use=buffers,
            buffers_spooled=int(beyond * 3),
            buffer_memory_bytes=buffers * _BUFFER_BYTES,
        )


def plan_run(package: Package, created: float, numbers: random.Random) -> Plan:
    """
    Plans the next run of a package.

    Every plan takes its numbers from the package's own stream, whatever became of the runs before it: stopping a run
    changes no other run.
    """
    draw = numbers.random
    wrong = draw() < 0.35
    habit = package.habit if wrong else Habit.STEADY
    pending = created + 0.2 + draw()
    waits = 0.2 + 1.5 * draw() * draw()
    if habit is Habit.QUEUEING:
        waits = numbers.uniform(2, 15) * MINUTE
    started = pending + waits
    length = package.usual * (0.75 + 0.5 * (draw() + draw()) / 2)
    result, share = _result(habit, draw())
    length *= share
    asked_to_stop = host_lost = NEVER
    ends = started + length
    after = 0.2 + 0.8 * draw()
    lasts = numbers.uniform(15, 60) * MINUTE
    if habit is Habit.RUNAWAY:
        ends = started + package.usual * numbers.uniform(3, 6 if package.usual > HOUR else 25)
    elif habit is Habit.STICKY:
        asked_to_stop = started + length * after
        ends, result = asked_to_stop + lasts, Result.CANCELED
    elif habit is Habit.ORPHANING:
        host_lost = started + length * after
        ends, result = host_lost + lasts, Result.ENDED_UNEXPECTEDLY
    sticks = draw() < 0.1
    seconds = 1.0 + 5.0 * draw()
    row_stays = lasts if draw() < 0.25 else 0.0
    size = draw()
    return Plan(
        created=created,
        pending=pending,
        started=started,
        ends=ends,
        result=result,
        asked_to_stop=asked_to_stop,
        host_lost=host_lost,
        stop_takes=lasts if sticks else seconds,
        sticks=sticks,
        row_stays=row_stays,
        cores=0.1 + 1.4 * draw(),
        threads=4 + int(20 * size),
        memory=int((80 + 900 * size) * _MEGABYTE),
        bytes_read=(0.2 + 30 * draw()) * _MEGABYTE,
        bytes_written=(0.1 + 12 * draw()) * _MEGABYTE,
        rows=500 + 40_000 * size,
    )


def _result(habit: Habit, chance: float) -> tuple[Result, float]:
    """How a run ends that nobody stops, and at which share of its length."""
    if habit is Habit.FAILING or chance < 0.02:
        return Result.FAILED, 0.1 + 0.8 * chance
    if chance < 0.03:
        return Result.CANCELED, 0.6
    if chance < 0.04:
        return Result.COMPLETED, 1.0
    if chance < 0.05:
        return Result.ENDED_UNEXPECTEDLY, 0.5
    if chance < 0.055:
        return Result.UNKNOWN, 1.0
    return Result.SUCCEEDED, 1.0
