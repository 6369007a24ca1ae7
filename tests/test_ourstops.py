"""Which runs ended because we asked: the same answer while the exporter runs and after a restart."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_exporter.ledger import Ledger
from ssis_exporter.ledgerrows import Row
from ssis_exporter.model import ExecutionKey, Nomination, RefusalReason, StopOutcome
from ssis_exporter.policy import Breaker
from ssis_exporter.storagefolder import Storage

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
BREAKER = Breaker(stops=100, window=timedelta(minutes=10))
KEY = ExecutionKey("local", "1")


async def go(ledger: Ledger, steps: tuple[str, ...]) -> list[bool]:
    """Goes these steps with one run; whether it counted as ours after each."""
    [(row, _)] = await ledger.nominate([Nomination(key=KEY)], NOW)
    assert row is not None
    ours = []
    for step in steps:
        row = await one_step(ledger, row, step)
        ours.append(KEY in ledger.ours)
    return ours


async def one_step(ledger: Ledger, row: Row, step: str) -> Row:
    """One step."""
    match step:
        case "reserve":
            moved = await ledger.reserve(row, "r", BREAKER, dry_run=False, at=NOW)
        case "request":
            moved = await ledger.request(row, "r", {}, BREAKER, NOW)
        case "not asked":
            moved = await ledger.not_asked(row, "", NOW)
        case "in vain":
            ledger.ours.in_vain(row.key)
            return row
        case "asked":
            moved = await ledger.asked(row, "", NOW)
        case "escalate":
            moved = await ledger.escalate(row, NOW)
        case "refused":
            reason = RefusalReason.IDENTITY_CHANGED
            moved = await ledger.settle(row, StopOutcome.REFUSED, reason=reason, at=NOW, final=True)
        case _:
            moved = await ledger.settle(row, StopOutcome(step), at=NOW, final=True)
    assert moved is not None
    return moved


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("reserve",), [False]),
        (("would_stop",), [False]),
        (("reserve", "request"), [False, True]),
        (("reserve", "request", "not asked"), [False, True, False]),
        (("reserve", "request", "failed"), [False, True, False]),
        (("reserve", "request", "refused"), [False, True, False]),
        (("reserve", "request", "in vain", "asked", "already_ended"), [False, True, False, False, False]),
        (("reserve", "request", "in vain", "asked", "escalate", "stopped"), [False, True, False, False, True, True]),
        (("reserve", "request", "asked", "stopped"), [False, True, True, True]),
        (("reserve", "request", "asked", "already_ended"), [False, True, True, False]),
        (("reserve", "request", "asked", "unconfirmed"), [False, True, True, True]),
        (("reserve", "request", "asked", "failed"), [False, True, True, True]),
        (("reserve", "request", "asked", "escalate", "row_stuck"), [False, True, True, True, True]),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_a_run_is_ours_from_the_request_on(tmp_path: Path, steps: tuple[str, ...], expected: list[bool]) -> None:
    """
    Before anything is asked, and until it is certain that nothing was; a restart knows the same.
    """

    async def first() -> list[bool]:
        storage = Storage(tmp_path)
        ledger = Ledger(storage)
        await ledger.open()
        try:
            return await go(ledger, steps)
        finally:
            await ledger.close()
            storage.release()

    async def second() -> bool:
        storage = Storage(tmp_path)
        ledger = Ledger(storage)
        try:
            await ledger.open()
            return KEY in ledger.ours
        finally:
            await ledger.close()
            storage.release()

    assert expected == asyncio.run(first())
    assert expected[-1] == asyncio.run(second())
