"""What the stop machinery tells Prometheus: all its names and HELP texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily

from ssis_exporter.model import RefusalReason, StopMode, StopOutcome

HELD = "held"
"""Shown as the mode while all stopping is on hold."""

MODES = (*(str(mode) for mode in StopMode), HELD)


class StopState(Protocol):
    """What is read at each scrape."""

    @property
    def held(self) -> str | None:
        """Why nothing is stopped, None when that is not so."""

    @property
    def mode(self) -> StopMode:
        """The configured mode."""

    @property
    def breaker_is_open(self) -> bool:
        """Whether no further run may be stopped now."""

    def pending_by_source(self) -> Mapping[str, int]:
        """How many nominations of each source are being worked on."""


class StopMetrics:
    """
    Registered once, also where nothing is ever stopped: the mode is then `off`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._state: StopState | None = None
        self._sources: tuple[str, ...] = ()
        self._requests = Counter(
            "ssis_stop_requests_total",
            "Nominations that came to an outcome since the start, by source and outcome, from the ledger.",
            ["source", "outcome"],
            registry=registry,
        )
        self._refusals = Counter(
            "ssis_stop_refusals_total",
            "Nominations that were refused since the start, by reason, from the ledger.",
            ["reason"],
            registry=registry,
        )
        self._duration = Histogram(
            "ssis_stop_duration_seconds",
            "From the request to stop until a look showed that the run was gone.",
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 1800),
            registry=registry,
        )
        for reason in RefusalReason:
            self._refusals.labels(reason)
        registry.register(self)

    def watch(self, state: StopState) -> None:
        """From now on the gauges show this."""
        self._state = state

    def know(self, sources: Iterable[str]) -> None:
        """The configured sources: each counter of theirs starts at 0."""
        self._sources = tuple(sources)
        for source in self._sources:
            for outcome in StopOutcome:
                self._requests.labels(source, outcome)

    def count(self, source: str, outcome: StopOutcome, reason: RefusalReason | None) -> None:
        """One nomination came to its outcome. A source that is not configured counts under the empty name."""
        self._requests.labels(source if source in self._sources else "", outcome).inc()
        if outcome is StopOutcome.REFUSED and reason is not None:
            self._refusals.labels(reason).inc()

    def took(self, span: timedelta) -> None:
        """A run was stopped, so long after the request."""
        self._duration.observe(span.total_seconds())

    def describe(self) -> Iterable[Metric]:
        """The gauges, without values."""
        return self._gauges()

    def collect(self) -> Iterable[Metric]:
        """The gauges as they are now."""
        pending, modes, breaker = self._gauges()
        state = self._state
        counts = dict.fromkeys(self._sources, 0) | dict(state.pending_by_source() if state is not None else {})
        for source, count in counts.items():
            pending.add_metric([source], count)
        now = StopMode.OFF if state is None else state.mode if state.held is None else HELD
        for mode in MODES:
            modes.add_metric([mode], float(mode == now))
        breaker.add_metric([], float(state is not None and state.breaker_is_open))
        return pending, modes, breaker

    def _gauges(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                "ssis_stop_pending",
                "Nominations that are being worked on and have not come to an outcome.",
                labels=["source"],
            ),
            GaugeMetricFamily(
                "ssis_stop_mode",
                "1 for what happens to nominations now (off, dry-run, armed, held), 0 for the others.",
                labels=["mode"],
            ),
            GaugeMetricFamily(
                "ssis_stop_breaker_open",
                "Whether as many runs were stopped within the window as may be, so that further ones are refused.",
            ),
        )
