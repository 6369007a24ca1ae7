"""How long a package usually takes: its newest runs, their median and 0.95 quantile."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta

MOST_SAMPLES = 200
OLDEST_SAMPLE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual for one package."""

    typical: timedelta
    """The median."""

    p95: timedelta
    samples: int
    """From how many runs."""


class Samples:
    """The newest durations of one package, by their ends: at most 200, none older than 90 days, 12 bytes each."""

    __slots__ = ("_baseline", "_durations", "_ends")

    def __init__(self) -> None:
        self._ends = array("I")
        self._durations = array("d")
        self._baseline: Baseline | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, ended_at: datetime, duration: timedelta, *, now: datetime) -> bool:
        """Takes one run in, at its place in time; False when it is too old to count."""
        end = int(ended_at.timestamp())
        if end < _oldest(now) or (len(self._ends) == MOST_SAMPLES and end < self._ends[0]):
            return False
        at = bisect_right(self._ends, end)
        self._ends.insert(at, end)
        self._durations.insert(at, duration.total_seconds())
        self.trim(now)
        self._baseline = None
        return True

    def trim(self, now: datetime) -> None:
        """Lets go of what is too much or too old."""
        keep_from = max(len(self._ends) - MOST_SAMPLES, bisect_right(self._ends, _oldest(now) - 1))
        if keep_from > 0:
            del self._ends[:keep_from]
            del self._durations[:keep_from]
            self._baseline = None

    def baseline(self) -> Baseline | None:
        """Median and 0.95 quantile (linear between the two nearest, as NumPy's default); None without samples."""
        if self._baseline is None and self._durations:
            ordered = sorted(self._durations)
            typical, p95 = _quantile(ordered, 0.5), _quantile(ordered, 0.95)
            self._baseline = Baseline(timedelta(seconds=typical), timedelta(seconds=p95), len(ordered))
        return self._baseline

    def to_bytes(self) -> bytes:
        """For the file."""
        return self._ends.tobytes() + self._durations.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Samples:
        """What `to_bytes` gave. Raises `ValueError` for anything else."""
        samples = cls()
        count, rest = divmod(len(data), samples._ends.itemsize + samples._durations.itemsize)
        if rest or count > MOST_SAMPLES:
            raise ValueError(f"{len(data)} bytes are no samples")
        middle = count * samples._ends.itemsize
        samples._ends.frombytes(data[:middle])
        samples._durations.frombytes(data[middle:])
        return samples


def _oldest(now: datetime) -> int:
    return int((now - OLDEST_SAMPLE).timestamp())


def _quantile(ordered: list[float], q: float) -> float:
    position = (len(ordered) - 1) * q
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
