"""What is usual for a package: newest samples, their median and 0.95 quantile."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.baseline import MOST_SAMPLES, OLDEST_SAMPLE, Samples

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)

RUNS = st.lists(
    st.tuples(st.integers(0, 100 * 24 * 3600), st.floats(0, 1e6, allow_nan=False)), min_size=0, max_size=450
)


@given(RUNS)
def test_quantiles_equal_the_reference(runs: list[tuple[int, float]]) -> None:
    """
    Median and 0.95 quantile are those of the statistics module over the newest 200 samples of 90 days.
    """
    samples = Samples()
    for ago, duration in runs:
        samples.add(NOW - timedelta(seconds=ago), timedelta(seconds=duration), now=NOW)
    kept = sorted((run for run in runs if run[0] <= OLDEST_SAMPLE.total_seconds()), key=lambda run: run[0])
    ages = [ago for ago, _ in kept]
    baseline = samples.baseline()
    if len(kept) > MOST_SAMPLES and ages[MOST_SAMPLES - 1] == ages[MOST_SAMPLES]:
        return  # which of two that ended in the same second is the 200th, nobody can say
    durations = [round(duration, 6) for _, duration in kept[:MOST_SAMPLES]]

    if len(durations) < 2:
        assert (baseline.samples if baseline else 0) == len(durations)
        return
    assert baseline is not None
    assert len(durations) == baseline.samples
    assert statistics.median(durations) == pytest.approx(baseline.typical.total_seconds(), abs=1e-5)
    p95 = statistics.quantiles(durations, n=20, method="inclusive")[18]
    assert p95 == pytest.approx(baseline.p95.total_seconds(), abs=1e-5)


@given(RUNS)
def test_samples_survive_the_file(runs: list[tuple[int, float]]) -> None:
    """
    What was written is read back, and what nobody wrote is refused.
    """
    samples = Samples()
    for ago, duration in runs:
        samples.add(NOW - timedelta(seconds=ago), timedelta(seconds=duration), now=NOW)
    data = samples.to_bytes()

    assert samples.baseline() == Samples.from_bytes(data).baseline()
    assert len(data) <= MOST_SAMPLES * 12
    with pytest.raises(ValueError, match="are no samples"):
        Samples.from_bytes(data + b"x")


def test_what_is_too_old_is_let_go() -> None:
    """
    Ninety days after a run nothing is learned from it any more.
    """
    samples = Samples()
    samples.add(NOW - timedelta(days=89), timedelta(minutes=10), now=NOW)
    samples.trim(NOW + timedelta(days=2))

    assert not samples.add(NOW - timedelta(days=91), timedelta(minutes=10), now=NOW)
    assert samples.baseline() is None
