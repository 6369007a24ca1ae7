"""Sums over a run's processes: they never fall and count nothing twice."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.sources.dtexec.meter import Meter
from ssis_exporter.sources.dtexec.processes import Usage

ROOT = (1, 10)
CHILD = (2, 20)


def usage(cpu: float, reaped: float = 0, *, io: int | None = 0, start: int = 10) -> Usage:
    """What one process uses."""
    return Usage(start, cpu, reaped, 1000, 2, io, io)


def test_sums_over_all_processes() -> None:
    """
    Each figure is the sum of all processes of the run.
    """
    figures = Meter().add(ROOT, {ROOT: usage(1, 2, io=5), CHILD: usage(3, io=7)})

    assert timedelta(seconds=6) == figures.cpu_time
    assert (2000, 12, 12, 4) == (figures.resident_bytes, figures.read_bytes, figures.written_bytes, figures.threads)


def seconds(meter: Meter, *looks: dict[tuple[int, int], Usage]) -> list[float]:
    """The processor time at each look."""
    times = [meter.add(ROOT, look).cpu_time for look in looks]
    return [time.total_seconds() for time in times if time is not None]


def test_child_that_was_waited_for_counts_once() -> None:
    """
    Its time moves to its parent.
    """
    assert [5, 6, 6] == seconds(Meter(), {ROOT: usage(1), CHILD: usage(4)}, {ROOT: usage(1, 5)}, {ROOT: usage(1, 5)})


def test_child_that_was_read_a_moment_before_its_parent_took_over_counts_once() -> None:
    """
    Gone at one look, taken over at the next: the sum waits, and counts it once.
    """
    assert [5, 5, 5, 6] == seconds(
        Meter(), {ROOT: usage(1), CHILD: usage(4)}, {ROOT: usage(1)}, {ROOT: usage(1, 4)}, {ROOT: usage(2, 4)}
    )


def test_child_that_nobody_waited_for_is_remembered() -> None:
    """
    Where the system forgets its time, we do not.
    """
    assert [5, 5, 5, 7] == seconds(
        Meter(), {ROOT: usage(1), CHILD: usage(4)}, {ROOT: usage(1)}, {ROOT: usage(1)}, {ROOT: usage(3)}
    )


def test_pid_that_was_used_again_is_another_process() -> None:
    """
    A new child with the pid of one that ended does not hide the old one's time.
    """
    again = {ROOT: usage(1), (2, 30): usage(0.5, start=30)}

    assert [5, 5, 5.5] == seconds(Meter(), {ROOT: usage(1), CHILD: usage(4)}, again, again)


def test_bytes_that_may_not_be_read_are_unknown() -> None:
    """
    Unknown is not 0, and a child's unknown bytes do not hide the others.
    """
    meter = Meter()

    assert meter.add(ROOT, {ROOT: usage(1, io=None)}).read_bytes is None
    assert 5 == meter.add(ROOT, {ROOT: usage(1, io=5), CHILD: usage(1, io=None)}).read_bytes
    assert meter.add(ROOT, {ROOT: usage(1, io=None)}).read_bytes is None
    assert 5 == meter.add(ROOT, {ROOT: usage(1, io=4)}).read_bytes


FAMILIES = st.lists(
    st.dictionaries(
        st.sampled_from([(2, 1), (3, 1), (2, 2)]),
        st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100) | st.none()),
    )
)


@given(FAMILIES)
def test_counters_never_fall(looks: list[dict[tuple[int, int], tuple[int, int, int | None]]]) -> None:
    """
    Whatever children come, go and tell.
    """
    meter = Meter()
    times: list[timedelta] = []
    read: list[int] = []
    for look in looks:
        below = {member: Usage(member[1], cpu, reaped, 0, 1, io, io) for member, (cpu, reaped, io) in look.items()}
        figures = meter.add(ROOT, {ROOT: usage(1), **below})
        assert figures.cpu_time is not None
        assert figures.read_bytes is not None
        times.append(figures.cpu_time)
        read.append(figures.read_bytes)

    assert sorted(times) == times
    assert sorted(read) == read
