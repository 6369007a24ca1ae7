"""How often a server that does not answer is tried."""

from __future__ import annotations

from collections.abc import Callable

TRIES_AT_ONCE = 3
"""So many failures in a row cost nothing: the first look after a short trouble must not be a look that was saved."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0
"""Seconds. Below any scrape interval, so that each scrape tries; only whoever asks more often is held back."""


class Patience:
    """
    Counts failures to connect; soon after several in a row, the last one's answer is given again without trying.

    A pause is cut by up to half at random, so that many sources that failed together do not come back together.
    """

    def __init__(self, *, monotonic: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._jitter = jitter
        self._failures = 0
        self._not_before = 0.0
        self._last: BaseException | None = None

    def check(self) -> None:
        """Raises the last failure again while its pause lasts."""
        if self._failures > TRIES_AT_ONCE and self._monotonic() < self._not_before and self._last is not None:
            raise self._last

    def failed(self, exc: BaseException) -> None:
        """A try to connect failed."""
        self._failures += 1
        # Without its traceback: it would keep the frames, and the socket in them.
        self._last = exc.with_traceback(None)
        beyond = max(self._failures - TRIES_AT_ONCE - 1, 0)
        pause = min(FIRST_PAUSE * 2 ** min(beyond, 10), LONGEST_PAUSE)
        self._not_before = self._monotonic() + pause * (1 - self._jitter() / 2)

    def succeeded(self) -> None:
        """Connected."""
        self._failures = 0
        self._last = None
