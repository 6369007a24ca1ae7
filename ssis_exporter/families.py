"""Metric families whose labels are text that is ready to be written; samples are made only for who asks for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from prometheus_client import Metric
from prometheus_client.samples import Sample

from ssis_exporter.labels import LONGEST, clean_label

UNITS = ("seconds", "bytes")
"""The base units our names end in; OpenMetrics is told them in `# UNIT`."""

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r'\\([\\n"])')


def escape(value: str) -> str:
    """A label value as both text formats write it between the quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def label_text(names: Sequence[str], values: Sequence[str], *, longest: int = LONGEST) -> str:
    """`name="value",...` of one series, each value cleaned and escaped; what stands between the braces."""
    pairs = zip(names, values, strict=True)
    return ",".join([f'{name}="{escape(clean_label(value, longest=longest))}"' for name, value in pairs])


@dataclass(frozen=True, eq=False)
class Definition:
    """Name, HELP and labels of one metric."""

    name: str
    """As users write it: a counter's with `_total`."""

    documentation: str
    labels: tuple[str, ...] = ()
    type: Literal["gauge", "counter"] = "gauge"

    @cached_property
    def family_name(self) -> str:
        """The name without a counter's suffix, as OpenMetrics and the library's data model have it."""
        return self.name.removesuffix("_total") if self.type == "counter" else self.name

    @cached_property
    def unit(self) -> str:
        """The base unit that the name ends in, or nothing."""
        last = self.family_name.rpartition("_")[2]
        return last if last in UNITS else ""


class Family(Metric):
    """
    One metric and its series, each a label text and a number; whoever adds them keeps the texts distinct.

    A `Metric` that any consumer of prometheus_client can read; `samples` are made anew each time they are asked for.
    """

    def __init__(self, definition: Definition) -> None:
        # Metric's own constructor is left out: it checks names that are constants here and keeps a list of samples.
        self.definition = definition
        self.name = definition.family_name
        self.documentation = definition.documentation
        self.type = definition.type
        self.unit = definition.unit
        self.texts: list[str] = []
        self.values: list[float] = []

    def add(self, labels: Sequence[str], value: float) -> None:
        """Adds one series by its label values, in the definition's order."""
        # A truth value is an int, and would be written as a word.
        number = int(value) if isinstance(value, bool) else value
        self.texts.append(series_text(self.definition.labels, tuple(labels)))
        self.values.append(number)

    def extend(self, texts: Iterable[str], values: Iterable[float]) -> None:
        """Adds many series by their ready label texts."""
        self.texts.extend(texts)
        self.values.extend(values)

    @property
    def samples(self) -> list[Sample]:  # type: ignore[override]  # the library has a plain attribute here
        """The series as the library's values."""
        name = self.definition.name
        return [Sample(name, _read_labels(text), value) for text, value in zip(self.texts, self.values, strict=True)]


@lru_cache(maxsize=1024)
def series_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """`label_text`, kept: the few series that are not of runs have the same labels at every scrape."""
    return label_text(names, values)


@lru_cache(maxsize=1024)
def last_label_texts(names: tuple[str, ...], first: str, last: tuple[str, ...]) -> tuple[str, ...]:
    """The same for the series of a closed set, such as statuses: the first label is one, the last one differs."""
    return tuple(label_text(names, (first, each)) for each in last)


def _read_labels(text: str) -> dict[str, str]:
    return {name: _ESCAPE.sub(_unescape, value) for name, value in _LABEL.findall(text)}


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
