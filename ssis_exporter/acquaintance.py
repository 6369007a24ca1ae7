"""Was a run that is not there ever there? What has ended is told apart from a name that nobody ever bore."""

from __future__ import annotations

from ssis_exporter.errors import SourceError
from ssis_exporter.ledgerrows import Row
from ssis_exporter.looking import ask
from ssis_exporter.model import ExecutionKey
from ssis_exporter.sighting import Gone
from ssis_exporter.sources.interface import RecordingSource, Source
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopsettings import Surroundings


def never_there(gone: Gone) -> str:
    """The sentence for a name that nobody ever bore."""
    return f"there is no such run: {gone.text}; no look and no record has ever shown one of this name"


async def was_there(
    key: ExecutionKey, gone: Gone, row: Row | None, worker: SourceWorker, around: Surroundings
) -> bool | SourceError:
    """
    Whether an earlier look or the source's own record has shown the run; the error where the record cannot be read.

    The record is asked last, for this one run.
    """
    if gone.recorded or (row is not None and row.facts is not None) or around.was_seen(key):
        return True

    def has_record(source: Source) -> bool:
        return isinstance(source, RecordingSource) and source.has_record_of(key.instance_id)

    return await ask(worker, has_record, around.settings().look_timeout, around.wait)
