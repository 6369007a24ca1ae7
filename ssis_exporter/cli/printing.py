"""What the commands about stopping print, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from ssis_exporter.labels import clean_line
from ssis_exporter.ledgerrows import Event
from ssis_exporter.stopview import Explanation


def explanation_lines(explanation: Explanation) -> Iterator[str]:
    """What would be decided, by which rule, why, and the facts it rests on."""
    yield f"run:      {clean_line(explanation.key.instance_id)} of {clean_line(explanation.key.source)}"
    yield f"decision: {verdict(explanation)}"
    if explanation.rule:
        yield f"rule:     {clean_line(explanation.rule)}"
    if explanation.text:
        yield f"why:      {clean_line(explanation.text)}"
    for name, value in explanation.facts.items():
        yield f"  {clean_line(name)}: {clean_line(value)}"


def verdict(explanation: Explanation) -> str:
    """The decision in a few words."""
    if explanation.would_be_asked_to_stop:
        return "it would be asked to stop"
    if explanation.outcome is None:
        return "nobody can say now"
    return f"{explanation.outcome} ({explanation.reason})" if explanation.reason else str(explanation.outcome)


def event_line(event: Event) -> str:
    """One step of a stop."""
    what = str(event.outcome or event.kind)
    why = f" ({event.reason})" if event.reason else ""
    rule = f" by {clean_line(event.rule)}" if event.rule else ""
    text = f": {clean_line(event.text)}" if event.text else ""
    return f"{event.at:%H:%M:%S} {what}{why}{rule}{text}"
