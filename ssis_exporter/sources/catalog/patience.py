"""How often a server that does not answer is tried."""

from __future__ import annotations

from collections.abc import Callable

TRIES_AT_ONCE = 3
"""So many failures in a row are followed by a try at once."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0
"""Seconds. Below any scrape interval, so that each scrape tries; only whoever asks more often has to wait."""


class Patience:
    """
    Counts failures to connect; after several in a row, tries are at least a pause apart.

    Who asks within it waits, and is told how the server is then: an answer from before could be wrong by now. A pause
    is cut by up to half at random, so that many sources that failed together do not come back together.
    """

    def __init__(self, *, monotonic: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._jitter = jitter
        self._failures = 0
        self._began = 0.0
        self._not_before = 0.0

    def wait(self) -> float:
        """Seconds until the next try, which begins then."""
        now = self._monotonic()
        wait = max(self._not_before - now, 0.0) if self._failures > TRIES_AT_ONCE else 0.0
        self._began = now + wait
        return wait

    def failed(self) -> None:
        """The try was in vain."""
        self._failures += 1
        beyond = max(self._failures - TRIES_AT_ONCE - 1, 0)
        pause = min(FIRST_PAUSE * 2 ** min(beyond, 10), LONGEST_PAUSE)
        # From its begin: a server that kept silent until the time was over was waited for long enough.
        self._not_before = self._began + pause * (1 - self._jitter() / 2)

    def succeeded(self) -> None:
        """Connected."""
        self._failures = 0
