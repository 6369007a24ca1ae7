"""Remembers when runs began whose start could be read in two ways, over restarts, too."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import datetime

import msgspec

from ssis_exporter.model import Visibility
from ssis_exporter.sources.dts.localtime import Start, utc_start

log = logging.getLogger(__name__)


class Decided(msgspec.Struct, frozen=True, array_like=True):
    """When a run began, as far as what was seen decides it."""

    at: datetime
    certain: bool


class FirstSights:
    """
    What the looks of one source decided about starts.

    Most starts need no memory: the same ticks are the same instant at every look. What was decided by what was seen is
    kept over a restart; it is nothing but for the nights on which the clock is set back.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._decided: dict[str, Decided] = {}
        self._last_look: datetime | None = None
        self._seen_under: tuple[Visibility, int] | None = None
        self._complained = False

    def resume(self, decided: Mapping[str, Decided], open_ids: Collection[str]) -> None:
        """What an earlier life decided about the runs that were open then."""
        self._decided = {instance: decided[instance] for instance in open_ids if instance in decided}

    def look(self, visibility: Visibility, release: int) -> None:
        """A look begins. One under other rights, or at another release, does not tell what was not there before."""
        if (visibility, release) != self._seen_under:
            self._seen_under = visibility, release
            self._last_look = None

    def start(self, instance: str, ticks: int, *, seen_at: datetime, is_utc: bool) -> Start | None:
        """When a run that this look shows for the first time began; None where the API does not tell."""
        decided = self._decided.get(instance)
        if decided is not None:
            return Start(decided.at, certain=decided.certain, rests_on_sight=True)
        start = utc_start(ticks, seen_at=seen_at, not_there_at=self._last_look, is_utc=is_utc)
        if start is not None and start.rests_on_sight:
            self._decided[instance] = Decided(start.at, start.certain)
            if not start.certain and start.at == seen_at and not self._complained:
                self._complained = True
                log.warning(
                    "source %s: the API tells starts that this machine's clock and zone do not fit; "
                    "they are taken as just begun, see `ssis-exporter dts-probe`",
                    self._source,
                )
        return start

    def looked(self, now: datetime, running: Collection[str]) -> Mapping[str, Decided]:
        """A look was whole; what to keep of it."""
        self._last_look = now
        if self._decided:
            self._decided = {instance: decided for instance, decided in self._decided.items() if instance in running}
        return self._decided
