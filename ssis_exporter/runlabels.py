"""The label texts of runs, made once for each run for as long as it is there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ssis_exporter.families import label_text
from ssis_exporter.labels import LONGEST_PATH, clean_line
from ssis_exporter.model import Execution, ExecutionFacts

RUN_LABELS = ("source", "package_name", "instance_id")
IDENTITY_LABELS = ("source", "folder", "project", "package_name", "package_id", "instance_id", "user_name")
INFO_LABELS = ("machine", "process_id", "description", "environment", "caller", "host")
"""What the info metric has beside `RUN_LABELS`."""


@dataclass(frozen=True, slots=True)
class RunLabels:
    """One run's label texts, and its start as a number."""

    facts: ExecutionFacts
    """What they were made from."""

    instance_id: str
    """The run's id, cleaned. A key is one line: by it a stop is asked for, typed and told of."""

    run: str
    identity: str
    info: str
    started: float | None


class RunLabelCache:
    """
    Makes label texts and keeps those of the runs that each source showed last.

    A source hands out the same facts object at every look, so nothing but the object itself is compared.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, RunLabels]] = {}
        self._keep_user_names = True

    def of(self, source: str, runs: Sequence[Execution], *, keep_user_names: bool) -> list[tuple[RunLabels, Execution]]:
        """
        The runs with their labels, each cleaned instance id once.

        Ids that differ only in what cleaning replaces would make one series twice. The run that truly has the id
        keeps it, since the label is what a stop is asked for by; the others are left out.
        """
        if keep_user_names != self._keep_user_names:
            self._kept, self._keep_user_names = {}, keep_user_names
        before = self._kept.get(source, {})
        now: dict[str, RunLabels] = {}
        shown: dict[str, tuple[RunLabels, Execution]] = {}
        for run in runs:
            raw = run.facts.key.instance_id
            labels = before.get(raw)
            if labels is None or labels.facts is not run.facts:
                labels = _make(source, run.facts, keep_user_names=keep_user_names)
            now[raw] = labels
            if labels.instance_id not in shown or raw == labels.instance_id:
                shown[labels.instance_id] = (labels, run)
        self._kept[source] = now
        return list(shown.values())

    def drop(self, source: str) -> None:
        """Forgets the runs of a source that could not be read."""
        self._kept.pop(source, None)

    def keep_only(self, sources: Collection[str]) -> None:
        """Forgets all other sources."""
        for gone in self._kept.keys() - set(sources):
            self.drop(gone)


def _make(source: str, facts: ExecutionFacts, *, keep_user_names: bool) -> RunLabels:
    package_name, instance_id = facts.package_name, clean_line(facts.key.instance_id)
    user_name = facts.user_name if keep_user_names else ""
    identity = (source, facts.folder, facts.project, package_name, facts.package_id, instance_id, user_name)
    process_id = "" if facts.process_id is None else str(facts.process_id)
    info = (facts.machine, process_id, facts.description, facts.environment, facts.caller, facts.host)
    run = label_text(RUN_LABELS, (source, package_name, instance_id))
    return RunLabels(
        facts=facts,
        instance_id=instance_id,
        run=run,
        identity=label_text(IDENTITY_LABELS, identity),
        info=f"{run},{label_text(INFO_LABELS, info, longest=LONGEST_PATH)}",
        started=None if facts.started_at is None else facts.started_at.timestamp(),
    )
