"""The page's section about stopping."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from ssis_exporter.model import ExecutionKey, RefusalReason, StopMode, StopOutcome
from ssis_exporter.stoppanel import render
from ssis_exporter.stopview import PastStop, PendingStop, Stage

NOW = datetime(2026, 11, 22, 22, 0, tzinfo=UTC)
EVIL = '"><script>alert(1)</script>\x1b[2J'


@dataclass
class FakeStops:
    """What a stopper would show."""

    mode: StopMode = StopMode.ARMED
    held: str | None = None
    breaker_is_open: bool = False
    open: list[PendingStop] = field(default_factory=list)
    past: list[PastStop] = field(default_factory=list)

    def pending(self) -> list[PendingStop]:
        return self.open

    def last_outcomes(self, count: int = 20) -> list[PastStop]:
        return self.past[:count]


@pytest.mark.parametrize(
    ("stops", "words"),
    [
        (None, "Off: nothing is stopped, because nothing is configured"),
        (FakeStops(StopMode.OFF), "Off: every request is refused"),
        (FakeStops(StopMode.DRY_RUN), "Dry run: what would be stopped is recorded, and nothing is stopped"),
        (FakeStops(StopMode.ARMED), "<strong>Armed</strong>"),
        (FakeStops(StopMode.ARMED, held="month end (CORP\\ops)"), "On hold: nothing is stopped.</span> month end"),
        (FakeStops(StopMode.ARMED, breaker_is_open=True), "The breaker is open: as many runs were stopped lately as"),
        (FakeStops(StopMode.DRY_RUN, breaker_is_open=True), "is open: as many runs would have been stopped lately as"),
    ],
)
def test_the_mode_is_said_in_words(stops: FakeStops | None, words: str) -> None:
    """
    Who looks knows at once whether something could be stopped now.
    """
    assert words in render(stops)


def test_pending_stops_and_outcomes_are_shown() -> None:
    """
    What is being worked on, and what became of the last twenty, with rule, reason and who asked.
    """
    key = ExecutionKey("sqlprod01", "41287")
    pending = PendingStop(key=key, stage=Stage.ALLOWED, nominated_at=NOW, package_name="Load", rule="rule 1")
    past = [
        PastStop(
            at=NOW - timedelta(minutes=number),
            key=ExecutionKey("sqlprod01", str(number)),
            outcome=StopOutcome.REFUSED,
            reason=RefusalReason.TOO_YOUNG,
            rule="rule 2",
            text="it has run for 3m",
            origin="operator ops",
        )
        for number in range(30)
    ]
    shown = render(FakeStops(open=[pending], past=past))

    assert "1 stop is being worked on" in shown
    assert ">41287<" in shown
    assert ">allowed<" in shown
    assert "The last 20 outcomes, newest first" in shown
    assert 20 == shown.count("too_young: it has run for 3m")
    assert 20 == shown.count(">operator ops<")


def test_it_has_no_button_and_no_name_escapes() -> None:
    """
    The page only shows; whatever a package, a rule or a reason is called, it stays text.
    """
    key = ExecutionKey(EVIL, EVIL)
    pending = PendingStop(key=key, stage=Stage.ASKED, nominated_at=NOW, package_name=EVIL, rule=EVIL, text=EVIL)
    past = PastStop(at=NOW, key=key, outcome=StopOutcome.FAILED, package_name=EVIL, rule=EVIL, text=EVIL, origin=EVIL)
    shown = render(FakeStops(held=EVIL, open=[pending], past=[past])).lower()

    assert "<script" not in shown
    assert "\x1b" not in shown
    for tag in ("<form", "<button", "<input", "<a "):
        assert tag not in shown
