"""sighting: what one look says of a run, and what shows that it is another one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ssis_exporter.model import ExecutionFacts, ExecutionKey
from ssis_exporter.sighting import what_changed

FACTS = ExecutionFacts(
    key=ExecutionKey("sql01", "7"),
    package_name="Load",
    folder="Finance",
    project="Nightly",
    package_id="p",
    user_name="svc",
    machine="etl01",
    process_id=42,
    started_at=datetime(2026, 11, 22, 20, 0, tzinfo=UTC),
)


@pytest.mark.parametrize("moved", [timedelta(seconds=1.001), timedelta(seconds=-1.001), timedelta(days=365)])
def test_a_start_that_moved_shows_another_run(moved: timedelta) -> None:
    """
    Also when nothing else tells them apart.
    """
    assert FACTS.started_at is not None
    changed = what_changed(FACTS, replace(FACTS, started_at=FACTS.started_at + moved))

    assert changed is not None
    assert changed.startswith("it began at 2026-11-22T20:00:00+00:00 and now at ")


@pytest.mark.parametrize("moved", [timedelta(), timedelta(seconds=1), timedelta(seconds=-1)])
def test_a_start_within_the_tolerance_is_the_same(moved: timedelta) -> None:
    """
    The time of boot is known in whole seconds.
    """
    assert FACTS.started_at is not None

    assert what_changed(FACTS, replace(FACTS, started_at=FACTS.started_at + moved)) is None


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("package_name", "Payroll"),
        ("package_name", "load"),
        ("package_name", ""),
        ("folder", "HR"),
        ("folder", ""),
        ("project", "Daily"),
        ("package_id", "q"),
        ("package_id", ""),
        ("user_name", "other"),
        ("user_name", ""),
        ("machine", "etl02"),
        ("process_id", 43),
        ("process_id", None),
        ("started_at", None),
    ],
)
def test_nothing_known_may_differ(name: str, other: Any) -> None:
    """
    Nor may what was known be unknown now.
    """
    changed = what_changed(FACTS, replace(FACTS, **{name: other}))

    assert changed is not None


@pytest.mark.parametrize("name", ["package_id", "user_name", "machine", "process_id", "started_at"])
def test_what_was_not_known_may_be_known_now(name: str) -> None:
    """
    A run that had not begun has no process yet.
    """
    unknown = None if name in ("process_id", "started_at") else ""

    assert what_changed(replace(FACTS, **{name: unknown}), FACTS) is None
