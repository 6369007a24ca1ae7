"""A dry run over the demo estate decides what an armed one decides."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.ledger import read_events
from ssis_exporter.ledgerrows import EventKind
from ssis_exporter.model import ExecutionKey, ExecutionStatus, StopMode, StopOutcome
from ssis_exporter.policy import Action, Match, Rule
from ssis_exporter.sources.demo import DemoSettings, DemoSource
from tests.stopping import InlineWorker, Scene

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
HOURS = 48 if FULL else 12
SEEDS = range(1, 11) if FULL else (1,)

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

RULES = (
    Rule(match=Match(folder="Interfaces"), action=Action.NEVER),
    Rule(match=Match(package_name="Load*"), action=Action.STOP, min_duration=timedelta(minutes=20)),
    Rule(
        match=Match(package_name="*"),
        action=Action.STOP,
        min_duration=timedelta(hours=1),
        grace=timedelta(minutes=2),
        escalate_after=timedelta(minutes=15),
    ),
)


AGES = tuple(timedelta(minutes=minutes) for minutes in (0, 15, 45, 90))
"""A run is nominated when it is so old; which of these, its number tells."""


async def play(folder: Path, mode: StopMode, seed: int) -> dict[ExecutionKey, str]:
    """The first decision about each run of some hours. Each is nominated once."""
    scene = Scene(folder, rules=RULES, mode=mode, sources=(), max_runs_per_message=1000)
    source = DemoSource("demo", DemoSettings(seed=seed, packages=60), now=scene.time.now)
    workers: dict[str, Any] = scene.workers
    workers["demo"] = InlineWorker(source)
    scene.time.shortest_wait = 5.0
    nominated: set[str] = set()
    async with scene:
        for _ in range(HOURS * 12):
            runs = [run for run in source.snapshot().executions if run.status is ExecutionStatus.RUNNING]
            for run in sorted(runs, key=lambda one: one.key.instance_id):
                instance_id = run.key.instance_id
                if instance_id not in nominated and run.duration >= AGES[int(instance_id) % len(AGES)]:
                    nominated.add(instance_id)
                    await scene.stopper.submit([scene.nominate(instance_id, "demo")])
            await scene.time.advance(300)
    return first_decisions(folder)


def first_decisions(folder: Path) -> dict[ExecutionKey, str]:
    """Per run: the refusal and its reason, or the rule by which it is stopped, or would be."""
    found: dict[ExecutionKey, str] = {}
    for event in read_events(folder):
        if event.kind is EventKind.REQUESTED or event.outcome is StopOutcome.WOULD_STOP:
            found.setdefault(event.key, f"stop by {event.rule}")
        elif event.outcome is not None:
            found.setdefault(event.key, f"{event.outcome} {event.reason or ''}".strip())
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(1800)
def test_a_dry_run_decides_as_an_armed_one(seed: int) -> None:
    """
    With the same seed each run gets the same first decision, by the same rule and for the same reason.
    """
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        dry = asyncio.run(play(Path(folder, "dry"), StopMode.DRY_RUN, seed))
        armed = asyncio.run(play(Path(folder, "armed"), StopMode.ARMED, seed))
    kinds = Counter(dry.values())
    print(f"{len(dry)} runs: {dict(kinds)}")

    assert dry == armed
    # What is compared is worth it.
    assert {"stop by rule 2", "stop by rule 3", "refused never", "refused too_young"} <= set(kinds)
