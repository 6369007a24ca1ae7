"""Metric families to bytes: which format and compression a client takes, the two text formats, gzip."""

from __future__ import annotations

import logging
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client import exposition as library_text
from prometheus_client.openmetrics import exposition as library_openmetrics

from ssis_exporter.families import Definition, Family, escape, label_text
from ssis_exporter.labels import clean_label

_zlib: Any
try:
    from isal import isal_zlib as _zlib
except ImportError:  # the extra `fast` is not installed
    _zlib = zlib

log = logging.getLogger(__name__)

CHUNK_LINES = 2000
"""Lines encoded at a time: larger joins fall out of the processor's cache and cost twice as much."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format of the answer."""

    content_type: str
    is_openmetrics: bool = False


TEXT = Format("text/plain; version=0.0.4; charset=utf-8")
OPENMETRICS = Format("application/openmetrics-text; version=1.0.0; charset=utf-8", is_openmetrics=True)
OPENMETRICS_0_0_1 = Format("application/openmetrics-text; version=0.0.1; charset=utf-8", is_openmetrics=True)

# A weight as RFC 9110 12.4.2 writes it, with any number of digits. float() would take "nan", "1_0" and "inf".
_WEIGHT = re.compile(r"0(?:\.\d*)?|1(?:\.0*)?", re.ASCII)

# Names that every scheme leaves alone. The library refuses labels that begin with two underscores.
_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)

# Names of ours are legal everywhere, so these schemes leave them as they are. "dots" would double each underscore.
_ESCAPINGS = ("allow-utf-8", "underscores", "values")


def negotiate(accept: str | None) -> Format:
    """
    The format to answer with, from the header `Accept`; text 0.0.4 where nothing that is asked for can be served.

    As the reference, prometheus/common's `expfmt`, does it: by weight, then by order, the first clause that we can
    serve. Versions that nobody speaks are passed over; a weight of 0, or one that is no weight, drops its clause.
    """
    clauses = sorted(_weighted(accept or ""), key=lambda clause: -clause[0])
    for _, media_type, parameters in clauses:
        served = _serve(media_type, parameters)
        if served is not None:
            return served
    return TEXT


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether the client takes gzip and does not like the plain body better, from the header `Accept-Encoding`."""
    weights: dict[str, float] = {}
    for weight, coding, _ in _weighted(accept_encoding or "", keep_refused=True):
        weights.setdefault("gzip" if coding == "x-gzip" else coding, weight)
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weighted(header: str, *, keep_refused: bool = False) -> Iterator[tuple[float, str, dict[str, str]]]:
    """Each clause of a header as its weight, its word in lower case and its other parameters."""
    for clause in header.split(","):
        word, *rest = clause.split(";")
        parameters: dict[str, str] = {}
        for item in rest:
            name, _, value = item.partition("=")
            parameters.setdefault(name.strip().lower(), value.strip().strip('"'))
        weight = parameters.pop("q", "1")
        number = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
        if number > 0 or keep_refused:
            yield number, word.strip().lower(), parameters


def _serve(media_type: str, parameters: dict[str, str]) -> Format | None:
    version = parameters.get("version", "")
    if media_type in ("text/*", "*/*") or (media_type == "text/plain" and version in ("", "0.0.4")):
        return TEXT
    if media_type != "application/openmetrics-text":
        return None
    if version == "1.0.0":
        escaping = parameters.get("escaping")
        if escaping is None:
            return OPENMETRICS
        scheme = escaping if escaping in _ESCAPINGS else "underscores"
        return Format(f"{OPENMETRICS.content_type}; escaping={scheme}", is_openmetrics=True)
    # expfmt: no version means the first one.
    return OPENMETRICS_0_0_1 if version in ("", "0.0.1") else None


def render(families: Iterable[Metric], registry: CollectorRegistry | None, format: Format) -> Iterator[bytes]:  # noqa: A002
    """
    The page in chunks: our families, and plain gauges and counters, by the fast writer, all others by the library's.

    A family that comes a second time, and a foreign one that the library cannot write, are left out and logged: one
    of them would make the whole page unreadable.
    """
    written: set[str] = set()
    lines: list[str] = []
    own_head = _own_openmetrics_head if format.is_openmetrics else _own_text_head
    for family in chain(families, _of_the_registry(registry)):
        if family.name in written:
            log.error("the metric family %s came twice; the second is left out", family.name)
            continue
        written.add(family.name)
        if not isinstance(family, Family):
            plain = _plain(family, format)
            lines += plain if plain is not None else [_by_library(family, format)]
            continue
        name = family.definition.name
        lines.append(own_head(family.definition))
        texts, values = family.texts, family.values
        # Nearly every family is one part, which nothing is copied for.
        for part_texts, part_values in ((texts, values),) if len(values) <= CHUNK_LINES else _parts(texts, values):
            _add_series(lines, name, part_texts, part_values)
            if len(lines) >= CHUNK_LINES:
                yield "".join(lines).encode()
                lines.clear()
    if format.is_openmetrics:
        lines.append("# EOF\n")
    if lines:
        yield "".join(lines).encode()


def compress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """
    The chunks as one gzip stream, the same bytes for the same input (no time, no file name).

    Level 1, by ISA-L where it is installed: level 9 costs seven to thirty times as much and saves a third.
    """
    gzip = _zlib.compressobj(1, zlib.DEFLATED, 31)
    for chunk in chunks:
        if packed := gzip.compress(chunk):
            yield packed
    yield gzip.flush()


def _of_the_registry(registry: CollectorRegistry | None) -> Iterator[Metric]:
    if registry is None:
        return
    try:
        yield from registry.collect()
    except Exception:
        log.exception("a collector of the exporter's own metrics failed; those after it are left out")


@lru_cache(maxsize=512)
def _own_text_head(definition: Definition) -> str:
    return _text_head(definition.name, definition.documentation, definition.type)


@lru_cache(maxsize=512)
def _own_openmetrics_head(definition: Definition) -> str:
    return _openmetrics_head(definition.family_name, definition.documentation, definition.type, definition.unit)


@lru_cache(maxsize=512)
def _text_head(name: str, documentation: str, kind: str) -> str:
    documentation = documentation.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"


@lru_cache(maxsize=512)
def _openmetrics_head(name: str, documentation: str, kind: str, unit: str) -> str:
    unit_line = f"# UNIT {name} {unit}\n" if unit else ""
    return f"# HELP {name} {escape(documentation)}\n# TYPE {name} {kind}\n{unit_line}"


def _parts(texts: Sequence[str], values: Sequence[float]) -> Iterator[tuple[Sequence[str], Sequence[float]]]:
    """What is encoded at a time."""
    starts = range(0, len(values), CHUNK_LINES)
    return ((texts[first : first + CHUNK_LINES], values[first : first + CHUNK_LINES]) for first in starts)


def _add_series(lines: list[str], name: str, texts: Sequence[str], values: Sequence[float]) -> None:
    # One sum in C tells whether any of them needs a spelling of its own (a sum beyond the largest float does no harm).
    if not math.isfinite(sum(values)):
        lines += [
            f"{name}{{{text}}} {_spell(value)}\n" if text else f"{name} {_spell(value)}\n"
            for text, value in zip(texts, values, strict=True)
        ]
    # A page of few runs has many families of one line or ten: a loop begins faster than a comprehension.
    elif texts and texts[0]:
        for text, value in zip(texts, values):  # noqa: B905 - asking for it costs as much as a line
            lines.append(f"{name}{{{text}}} {value!r}\n")
    else:
        for value in values:
            lines.append(f"{name} {value!r}\n")


def _spell(value: float) -> str:
    if math.isfinite(value):
        return str(value)
    if math.isnan(value):
        return "NaN"
    return "+Inf" if value > 0 else "-Inf"


def _plain(family: Metric, format: Format) -> list[str] | None:  # noqa: A002
    """A foreign gauge or counter; None for what only the library knows how to write."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    if family.type not in ("gauge", "counter") or not _NAME.fullmatch(name):
        return None
    texts: list[str] = []
    values: list[float] = []
    for sample in family.samples:
        # What a sample has beyond name, labels and value: timestamp, exemplar, native histogram.
        if sample.name != name or any(sample[3:]):
            return None
        text = _plain_labels(tuple(sample.labels), tuple(sample.labels.values()))
        if text is None:
            return None
        texts.append(text)
        values.append(float(sample.value))
    lines = [
        _openmetrics_head(family.name, family.documentation, family.type, family.unit)
        if format.is_openmetrics
        else _text_head(name, family.documentation, family.type)
    ]
    if texts:
        _add_series(lines, name, texts, values)
    return lines


@lru_cache(maxsize=1024)
def _plain_labels(names: tuple[str, ...], values: tuple[str, ...]) -> str | None:
    # A value that cleaning would change may be equal to another one afterwards, so it is left to the library.
    is_plain = all(map(_NAME.fullmatch, names)) and all(isinstance(it, str) and it == clean_label(it) for it in values)
    return label_text(names, values) if is_plain else None


class _One:
    """What the library's writers take for a registry: one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _by_library(family: Metric, format: Format) -> str:  # noqa: A002
    writer = library_openmetrics.generate_latest if format.is_openmetrics else library_text.generate_latest
    try:
        page: bytes = writer(_One(family))
        return page.decode().removesuffix("# EOF\n")
    except Exception:
        log.exception("the metric family %s cannot be written and is left out", family.name)
        return ""
