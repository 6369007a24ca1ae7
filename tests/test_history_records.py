"""The packages of some sources, without going through those of all."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from ssis_exporter.history import TIDY_SECONDS, History
from ssis_exporter.model import Execution, ExecutionFacts, ExecutionKey, ExecutionStatus, Snapshot
from tests.test_history import ALL, T0, WAIT, history_in


def look(source: str, *packages: str, minute: int) -> Snapshot:
    """One run of each package."""
    runs = [ExecutionFacts(key=ExecutionKey(source, name), package_name=name, started_at=T0) for name in packages]
    return Snapshot(
        source=source,
        taken_at=T0 + timedelta(minutes=minute),
        visibility=ALL,
        executions=tuple(Execution(facts=facts, status=ExecutionStatus.RUNNING) for facts in runs),
    )


def names(history: History, *sources: str) -> list[str]:
    """What is known of these sources."""
    return sorted(record.key.name for record in history.records(sources))


def test_ever_new_names_fill_no_memory(tmp_path: Path) -> None:
    """
    Anybody may start processes that look like packages; those seen last stay, without waiting for the hour.
    """

    async def life() -> None:
        async with history_in(tmp_path, monotonic=lambda: 0.0) as history:
            history.most_packages = 8
            for minute in range(20):
                history.observe(look("one", f"A{minute}", f"B{minute}", f"C{minute}", minute=minute))
                await history.settle(WAIT)
                assert len(names(history, "one")) <= 10
            assert {"A19", "B19", "C19"} <= set(names(history, "one"))

    asyncio.run(life())


def test_packages_of_a_source_are_those_that_it_has(tmp_path: Path) -> None:
    """
    From the first sight on, after some were let go, and after a restart.
    """
    moment = [0.0]

    async def first() -> None:
        async with history_in(tmp_path, monotonic=lambda: moment[0]) as history:
            history.observe(look("one", "A", minute=0))
            history.observe(look("two", "X", minute=0))
            await history.settle(WAIT)
            assert (["A"], ["X"], []) == (names(history, "one"), names(history, "two"), names(history, "three"))
            assert ["A", "X"] == names(history, "two", "one")
            history.most_packages = 1
            moment[0] += 2 * TIDY_SECONDS
            history.observe(look("one", "A", "B", minute=1))
            await history.settle(WAIT)
            assert (["B"], ["X"]) == (names(history, "one"), names(history, "two"))

    async def again() -> None:
        async with history_in(tmp_path) as history:
            assert (["B"], ["X"]) == (names(history, "one"), names(history, "two"))
            assert ["B", "X"] == sorted(record.key.name for record in history.records())

    asyncio.run(first())
    asyncio.run(again())
