"""How long a package usually takes: its newest runs, their median and 0.95 quantile."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MOST_SAMPLES = 200
OLDEST_SAMPLE = timedelta(days=90)

LONGEST_SECONDS = 1e10
"""No run takes three hundred years."""


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as a time in UTC. Windows' own reckoning, by `fromtimestamp`, knows few years."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual for one package."""

    typical: timedelta
    """The median."""

    p95: timedelta
    samples: int
    """From how many runs."""


class Samples:
    """
    The newest durations of one package, by their ends: at most 200, none older than 90 days, 12 bytes each.

    One thread changes it; any may ask for the baseline meanwhile.
    """

    __slots__ = ("_cached", "_durations", "_ends", "_version")

    def __init__(self) -> None:
        self._ends = array("I")
        self._durations = array("d")
        self._version = 0
        self._cached: tuple[int, Baseline | None] = (0, None)

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, ended_at: datetime, duration: timedelta, *, now: datetime) -> bool:
        """Takes one run in, at its place in time; False when it is too old to count, or is known already."""
        # A server whose clock is ahead, or a time that nobody can mean, must not stay the newest for ever.
        end = min(int(ended_at.timestamp()), int(now.timestamp()))
        seconds = min(max(duration.total_seconds(), 0.0), LONGEST_SECONDS - 1)
        if end < _oldest(now) or (len(self._ends) == MOST_SAMPLES and end < self._ends[0]):
            return False
        at = bisect_right(self._ends, end)
        # The same end comes twice where a piece of the past was read again after a crash.
        same = at
        while same > 0 and self._ends[same - 1] == end:
            same -= 1
            if self._durations[same] == seconds:
                return False
        self._ends.insert(at, end)
        self._durations.insert(at, seconds)
        self.trim(now)
        self._version += 1
        return True

    def trim(self, now: datetime) -> None:
        """Lets go of what is too much or too old."""
        keep_from = max(len(self._ends) - MOST_SAMPLES, bisect_right(self._ends, _oldest(now) - 1))
        if keep_from > 0:
            del self._ends[:keep_from]
            del self._durations[:keep_from]
            self._version += 1

    def merge(self, other: Samples, *, now: datetime) -> None:
        """Takes all of another's in."""
        for end, seconds in zip(other._ends, other._durations, strict=True):
            self.add(moment(end), timedelta(seconds=seconds), now=now)

    def baseline(self) -> Baseline | None:
        """Median and 0.95 quantile (linear between the two nearest, as NumPy's default); None without samples."""
        version = self._version
        known, found = self._cached
        if known != version:
            found = _baseline(sorted(self._durations))
            # What changed meanwhile has another version, and is computed when it is asked for again.
            self._cached = (version, found)
        return found

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
        if not all(0 <= seconds < LONGEST_SECONDS for seconds in samples._durations):
            raise ValueError("a duration is no duration")
        samples._version = 1
        return samples


def _oldest(now: datetime) -> int:
    return int((now - OLDEST_SAMPLE).timestamp())


def _baseline(ordered: list[float]) -> Baseline | None:
    if not ordered:
        return None
    typical, p95 = _quantile(ordered, 0.5), _quantile(ordered, 0.95)
    return Baseline(timedelta(seconds=typical), timedelta(seconds=p95), len(ordered))


def _quantile(ordered: list[float], q: float) -> float:
    position = (len(ordered) - 1) * q
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
