"""The page's section about stopping: the mode, what is pending, what became of the last ones. It has no button."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, assert_never

from ssis_exporter.landing import count, section, table, text, when
from ssis_exporter.model import StopMode, StopOutcome
from ssis_exporter.stopview import PastStop, PendingStop

SHOWN = 20
"""How many outcomes are shown."""


class Stops(Protocol):
    """The part of the stopper that is shown. Read on another thread."""

    @property
    def mode(self) -> StopMode:
        """The configured mode."""

    @property
    def held(self) -> str | None:
        """Why nothing is stopped; None when that is not so."""

    @property
    def breaker_is_open(self) -> bool:
        """Whether no further run may be stopped now."""

    def pending(self) -> list[PendingStop]:
        """What is being worked on."""

    def last_outcomes(self, count: int = 20) -> list[PastStop]:
        """What became of the last ones, newest first."""


def render(stops: Stops | None) -> str:
    """The section; without a stopper it says that nothing is stopped."""
    if stops is None:
        return section("stops", "Stopping", "<p>Off: nothing is stopped, because nothing is configured.</p>\n")
    content = f"<p>{_mode(stops)}</p>\n"
    if stops.breaker_is_open:
        stopped = "would have been stopped" if stops.mode is StopMode.DRY_RUN else "were stopped"
        content += f'<p class="warn">The breaker is open: as many runs {stopped} lately as may be.</p>\n'
    pending = stops.pending()
    if pending:
        content += table(
            count(len(pending), "stop is being worked on", "stops are being worked on"),
            ("Package", "Source", "Instance id", "Step", "Waits for", "Rule", "Since (UTC)"),
            map(_pending, pending),
        )
    return section("stops", "Stopping", content + _outcomes(stops.last_outcomes(SHOWN)))


def _mode(stops: Stops) -> str:
    match stops.mode:
        case StopMode.OFF:
            return "Off: every request is refused."
        case StopMode.DRY_RUN:
            said = "Dry run: what would be stopped is recorded, and nothing is stopped."
        case StopMode.ARMED:
            said = "<strong>Armed</strong>: a run that an alert nominates is stopped where a rule allows it."
        case _:
            assert_never(stops.mode)
    held = stops.held
    if held is None:
        return said
    return f'<span class="warn">On hold: nothing is stopped.</span> {text(held)}. (Otherwise: {said})'


def _pending(stop: PendingStop) -> tuple[str, ...]:
    return (
        text(stop.package_name),
        text(stop.key.source),
        text(stop.key.instance_id),
        text(stop.stage),
        text(stop.text),
        text(stop.rule),
        when(stop.nominated_at),
    )


def _outcomes(past: Sequence[PastStop]) -> str:
    if not past:
        return "<p>Nothing was nominated yet.</p>\n"
    columns = ("When (UTC)", "Outcome", "Package", "Source", "Instance id", "Rule", "Why", "Asked by")
    caption = "The last outcome" if len(past) == 1 else f"The last {len(past)} outcomes, newest first"
    return table(caption, columns, map(_past, past))


def _past(stop: PastStop) -> tuple[str, ...]:
    why = f"{stop.reason}: {stop.text}" if stop.reason else stop.text
    return (
        when(stop.at),
        _outcome(stop.outcome),
        text(stop.package_name),
        text(stop.key.source),
        text(stop.key.instance_id),
        text(stop.rule),
        text(why),
        text(stop.origin),
    )


def _outcome(outcome: StopOutcome) -> str:
    if outcome in (StopOutcome.UNCONFIRMED, StopOutcome.FAILED, StopOutcome.ROW_STUCK):
        return f'<span class="bad">{outcome}</span>'
    return str(outcome)
