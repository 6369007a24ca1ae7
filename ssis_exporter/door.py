"""The door: what can be told of the nominations of one message without looking at any run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ssis_exporter.ledgerrows import Door
from ssis_exporter.model import Nomination, RefusalReason, StopMode
from ssis_exporter.sources.interface import StoppableSource
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopsettings import StopSettings

LONGEST_NAME = 256
"""Of a label value of ours; a longer one was not read from us."""


def at_the_door(
    nominations: Sequence[Nomination],
    settings: StopSettings,
    *,
    worker: Callable[[str], SourceWorker | None],
    held: str | None,
) -> list[Nomination | Door]:
    """Each nomination of one message, or why it is refused, in their order. `held` is why all stopping is on hold."""
    runs = len({nomination.key for nomination in nominations})
    most = settings.max_runs_per_message
    if runs > most:
        text = f"the message names {runs} runs, and at most {most} may be stopped by one"
        return [Door(nomination=one, reason=RefusalReason.TOO_MANY_RUNS, text=text) for one in nominations]
    return [_refusal(one, settings, worker(one.key.source), held) or one for one in nominations]


def _refusal(
    nomination: Nomination, settings: StopSettings, worker: SourceWorker | None, held: str | None
) -> Door | None:
    key = nomination.key
    if not (_is_plain(key.source) and _is_plain(key.instance_id)):
        text = "source and instance_id must be as our own metrics show them"
        return Door(nomination=nomination, reason=RefusalReason.INVALID_LABEL, text=text)
    if worker is None:
        text = f"no source {key.source!r} is configured here"
        return Door(nomination=nomination, reason=RefusalReason.UNKNOWN_SOURCE, text=text)
    if not isinstance(worker.source, StoppableSource):
        text = f"a source of kind {worker.source.kind} cannot stop anything"
        return Door(nomination=nomination, reason=RefusalReason.CANNOT_STOP, text=text)
    if settings.mode is StopMode.OFF:
        text = "stopping is turned off"
        return Door(nomination=nomination, reason=RefusalReason.OFF, text=text, unless_known=True)
    if held is not None:
        text = f"all stopping is on hold: {held}"
        return Door(nomination=nomination, reason=RefusalReason.HELD, text=text, unless_known=True)
    return None


def _is_plain(name: str) -> bool:
    return 0 < len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()
