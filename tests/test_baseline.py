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
    st.tuples(st.integers(0, 100 * 24 * 3600), st.floats(0, 1e6, allow_nan=False)),
    max_size=450,
    unique_by=lambda run: (run[0], timedelta(seconds=run[1])),
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
    with pytest.raises(ValueError, match="no duration"):
        Samples.from_bytes(b"\xff" * 12)


def test_a_run_is_learned_from_once() -> None:
    """
    The same end twice is one sample; a time ahead of the clock counts as now.
    """
    samples = Samples()
    added = [
        samples.add(NOW - timedelta(days=1), timedelta(minutes=minutes), now=NOW) for minutes in (10, 20, 10, 20, 30)
    ]
    samples.add(datetime.max.replace(tzinfo=UTC), timedelta(minutes=40), now=NOW)

    assert [True, True, False, False, True] == added
    assert 4 == len(samples)
    assert samples.baseline() == Samples.from_bytes(samples.to_bytes()).baseline()


def test_all_of_another_are_taken_in() -> None:
    """
    Two halves of a history make the whole one.
    """
    whole, one, other = Samples(), Samples(), Samples()
    for number in range(300):
        for samples in (whole, one if number % 2 else other):
            samples.add(NOW - timedelta(hours=number), timedelta(seconds=number), now=NOW)
    one.merge(other, now=NOW)

    assert whole.to_bytes() == one.to_bytes()


def test_what_is_too_old_is_let_go() -> None:
    """
    Ninety days after a run nothing is learned from it any more.
    """
    samples = Samples()
    samples.add(NOW - timedelta(days=89), timedelta(minutes=10), now=NOW)
    samples.trim(NOW + timedelta(days=2))

    assert not samples.add(NOW - timedelta(days=91), timedelta(minutes=10), now=NOW)
    assert samples.baseline() is None
