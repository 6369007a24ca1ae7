"""Negotiation, the two text formats, compression."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    Summary,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, UnknownMetricFamily
from prometheus_client.openmetrics import exposition as library_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from ssis_exporter import exposition
from ssis_exporter.exposition import (
    CHUNK_LINES,
    OPENMETRICS,
    OPENMETRICS_0_0_1,
    TEXT,
    Format,
    accepts_gzip,
    compress,
    negotiate,
    render,
)
from ssis_exporter.families import Definition, Family

FORMATS = pytest.mark.parametrize("format_", [TEXT, OPENMETRICS], ids=["text", "openmetrics"])

OM = "application/openmetrics-text"
PROMETHEUS_2_42 = f"{OM};version=1.0.0,{OM};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_3_14 = (
    f"{OM};version=1.0.0;escaping=allow-utf-8;q=0.6,{OM};version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_14_PROTO = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"
    + PROMETHEUS_3_14
)
OM_UTF8 = Format(f"{OPENMETRICS.content_type}; escaping=allow-utf-8", is_openmetrics=True)
OM_UNDERSCORES = Format(f"{OPENMETRICS.content_type}; escaping=underscores", is_openmetrics=True)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        (PROMETHEUS_2_42, OPENMETRICS),
        (PROMETHEUS_3_14, OM_UTF8),
        (PROMETHEUS_3_14_PROTO, OM_UTF8),
        # Weights count, not only the order; 0 means no.
        (f"text/plain;version=0.0.4;q=1,{OM};version=1.0.0;q=0", TEXT),
        (f"text/plain;q=0.5,{OM};version=1.0.0;q=0.6", OPENMETRICS),
        (f"{OM};version=1.0.0;q=0.5,text/plain;q=0.6", TEXT),
        (f"{OM};version=1.0.0;q=0.000", TEXT),
        (f"{OM};version=1.0.0;q=0.5,{OM};version=0.0.1;q=0.5", OPENMETRICS),
        # Versions: none of OpenMetrics means 0.0.1, as in expfmt; one that nobody speaks is passed over.
        (OM, OPENMETRICS_0_0_1),
        (f"{OM};version=0.0.1", OPENMETRICS_0_0_1),
        (f"{OM};version=9.9.9", TEXT),
        (f"{OM};version=2.0.0,{OM};version=1.0.0;q=0.1", OPENMETRICS),
        (f"{OM};version=1.x", TEXT),
        (f"{OM};version=", OPENMETRICS_0_0_1),
        ("text/plain;version=1.0.0", TEXT),
        (f"text/plain;version=1.0.0,{OM};version=1.0.0;q=0.1", OPENMETRICS),
        # The scheme is told where it was asked for; "dots" would change our names, so it is not taken.
        (f"{OM};version=1.0.0;escaping=underscores", OM_UNDERSCORES),
        (f"{OM};version=1.0.0;escaping=dots", OM_UNDERSCORES),
        (f"{OM};version=1.0.0;escaping=\r\nX: y", OM_UNDERSCORES),
        # As people write it.
        (' Application/OpenMetrics-Text ; VERSION="1.0.0" ; q=1.000 , */*;q=0.1 ', OPENMETRICS),
    ],
)
def test_format_is_negotiated(accept: str | None, expected: Format) -> None:
    """
    By weight, then by order, the first format that is spoken here; text where there is none.
    """
    assert expected == negotiate(accept)


@pytest.mark.parametrize("weight", ["nan", "inf", "-1", "2", "1.5", "0x1", "1_0", "\u0661", "", "=", "abc", "1e1"])
def test_a_weight_that_is_none_drops_its_clause(weight: str) -> None:
    """
    Nonsense is never taken for a wish.
    """
    assert TEXT == negotiate(f"{OM};version=1.0.0;q={weight}")
    assert not accepts_gzip(f"gzip;q={weight}")


@given(st.text() | st.text(alphabet='aopenmtrics-/*;,=q.0123 "version').map(lambda text: f"{OM};{text}"))
def test_junk_falls_back(accept: str) -> None:
    """
    No header is an error: there is always a format, and its content type is one of few.
    """
    assert negotiate(accept).content_type.split(";")[0] in ("text/plain", OM)
    assert accepts_gzip(accept) in (True, False)


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("x-gzip", True),
        ("GZIP", True),
        ("gzip, deflate, br", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*", True),
        ("*;q=0", False),
        ("br, zstd", False),
        ("identity", False),
        ("identity;q=1, gzip;q=0.5", False),
        ("identity;q=0.5, gzip", True),
    ],
)
def test_gzip_is_negotiated(accept_encoding: str | None, expected: bool) -> None:
    """
    gzip where the client takes it and does not like the plain body better.
    """
    assert expected is accepts_gzip(accept_encoding)


class Page(Collector):
    """What the library's writers take for a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._families


def ours(families: Iterable[Metric], format_: Format, registry: CollectorRegistry | None = None) -> str:
    """The page by our writer."""
    return b"".join(render(families, registry, format_)).decode()


def librarys(families: Iterable[Metric], format_: Format) -> str:
    """The page by the library's writer."""
    writer = library_openmetrics.generate_latest if format_.is_openmetrics else generate_latest
    page: bytes = writer(Page(families))
    return page.decode()


Read = list[tuple[str, str, str, str, list[tuple[str, dict[str, str], float | str]]]]


def read(page: str, format_: Format) -> Read:
    """What the library's parser makes of a page, in values that compare."""
    parse = parse_openmetrics if format_.is_openmetrics else parse_text
    return [
        (
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [
                (sample.name, sample.labels, "NaN" if math.isnan(sample.value) else float(sample.value))
                for sample in family.samples
            ],
        )
        for family in cast("Iterator[Metric]", parse(page))
    ]


VALUES = st.floats() | st.integers(-(2**70), 2**70) | st.booleans()
COUNTS = st.floats(min_value=0, allow_infinity=False) | st.integers(0, 2**70)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    ["", "\\", '"', "\n", "\\n", '\\"', "}", "{", ",", "#", " # ", 'a="b"', "NaN", "\r", "\u2028", "x" * 300, "\ud800"]
)
HELPS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20).map(
    lambda text: text.replace('"', "'").strip() or "x"
)


@st.composite
def families_of_ours(draw: st.DrawFn) -> list[Family]:
    """Up to three families with hostile label values, any value, and no series twice."""
    families = []
    for number in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["gauge", "counter"]))
        name = f"ssis_{'abc'[number]}{draw(st.sampled_from(['', '_seconds', '_bytes']))}"
        labels = ("source", "package_name", "x_1")[: draw(st.integers(0, 3))]
        if kind == "counter":
            definition = Definition(f"{name}_total", draw(HELPS), labels, "counter")
        else:
            definition = Definition(name, draw(HELPS), labels)
        family = Family(definition)
        for _ in range(draw(st.integers(0, 4))):
            family.add([draw(TEXTS) for _ in labels], draw(COUNTS if kind == "counter" else VALUES))
            if family.texts[-1] in family.texts[:-1]:
                family.texts.pop()
                family.values.pop()
        families.append(family)
    return families


@FORMATS
@settings(max_examples=150, deadline=None)
@given(families=families_of_ours())
def test_our_writer_says_what_the_librarys_says(format_: Format, families: Sequence[Family]) -> None:
    """
    After parsing with the library's own parser there is no difference, whatever the labels and values.
    """
    assert read(librarys(families, format_), format_) == read(ours(families, format_), format_)


@FORMATS
def test_special_values_are_spelled_as_go_reads_them(format_: Format) -> None:
    """
    NaN, +Inf and -Inf; integers stay integers, truth values become 1 and 0.
    """
    family = Family(Definition("ssis_x", "Help.", ("n",)))
    for number, value in enumerate((math.nan, math.inf, -math.inf, 1, 1.0, True, False, 1e300, 2**63, -0.5)):
        family.add((str(number),), value)
    lines = [line.split()[1] for line in ours([family], format_).splitlines() if not line.startswith("#")]

    assert ["NaN", "+Inf", "-Inf", "1", "1.0", "1", "0", "1e+300", "9223372036854775808", "-0.5"] == lines


def test_openmetrics_has_units_and_an_end() -> None:
    """
    OpenMetrics names a counter without its suffix, tells the unit and ends with one `# EOF`.
    """
    counter = Family(Definition("ssis_cpu_seconds_total", 'Say "no".', ("source",), "counter"))
    counter.add(("sql01",), 2)

    expected = """\
# HELP ssis_cpu_seconds Say \\"no\\".
# TYPE ssis_cpu_seconds counter
# UNIT ssis_cpu_seconds seconds
ssis_cpu_seconds_total{source="sql01"} 2
# EOF
"""
    assert expected == ours([counter], OPENMETRICS)


def test_text_names_a_counter_with_its_suffix() -> None:
    """
    Text 0.0.4 knows no unit and no end.
    """
    counter = Family(Definition("ssis_cpu_seconds_total", 'Say "no".\n\\', ("source",), "counter"))
    counter.add(("sql01",), 2)

    expected = """\
# HELP ssis_cpu_seconds_total Say "no".\\n\\\\
# TYPE ssis_cpu_seconds_total counter
ssis_cpu_seconds_total{source="sql01"} 2
"""
    assert expected == ours([counter], TEXT)


@st.composite
def foreign_families(draw: st.DrawFn) -> list[Metric]:
    """Up to three families of the library's, of any kind that a collector may bring, with labels it can write."""
    texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["\\", '"', "\n", "\r", "x" * 300])
    kinds = [GaugeMetricFamily, CounterMetricFamily, UnknownMetricFamily]
    names = ["a_label", "b", "c:d", "é"]
    made: list[Metric] = []
    for number in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(kinds))
        labels = draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
        name = f"{draw(st.sampled_from(['own', 'ö']))}_{number}"
        unit = draw(st.sampled_from(["", "seconds"]))
        family = kind(name, draw(HELPS), labels=labels, unit=unit)
        rows: set[tuple[str, ...]] = set()
        for _ in range(draw(st.integers(0, 3))):
            row = tuple(draw(texts) for _ in labels)
            if row not in rows:
                rows.add(row)
                moment = draw(st.none() | st.integers(1, 2**40))
                family.add_metric(list(row), draw(COUNTS if kind is CounterMetricFamily else VALUES), timestamp=moment)
        made.append(family)
    return made


@FORMATS
@settings(max_examples=150, deadline=None)
@given(families=foreign_families())
def test_foreign_families_read_as_the_library_writes_them(format_: Format, families: Sequence[Metric]) -> None:
    """
    Whoever writes them, after parsing there is no difference.
    """
    try:
        expected = read(librarys(families, format_), format_)
    except ValueError:
        # What the library's own parser does not take back is no page to compare with.
        return

    assert expected == read(ours(families, format_), format_)


def instruments() -> CollectorRegistry:
    """A registry with one of each of the library's instruments, and some hostile values."""
    registry = CollectorRegistry()
    Gauge("own_gauge", "A gauge", ["a"], registry=registry).labels('x\\"\n').set(math.inf)
    Counter("own_events", "A counter", registry=registry).inc(3)
    Histogram("own_duration_seconds", "A histogram", buckets=(1, 2), registry=registry).observe(1.5)
    Summary("own_size_bytes", "A summary", registry=registry).observe(2)
    Info("own_build", "An info", registry=registry).info({"version": "1"})
    return registry


@FORMATS
def test_foreign_families_are_written_by_the_library(format_: Format) -> None:
    """
    The registry's families come after ours, as the library writes them, with one end.
    """
    family = Family(Definition("ssis_up", "Help.", ("source",)))
    family.add(("sql01",), 1)
    registry = instruments()
    foreign = list(registry.collect())
    page = ours([family], format_, registry)

    assert read(librarys([family, *foreign], format_), format_) == read(page, format_)
    assert int(format_.is_openmetrics) == page.count("# EOF\n")


@FORMATS
def test_ours_can_be_read_by_any_consumer(format_: Format) -> None:
    """
    On the library's registry our families are written by the library, by name too.
    """
    family = Family(Definition("ssis_a_total", "Help.", ("source",), "counter"))
    family.add(('sq"l\\01\n\r',), 7)
    registry = CollectorRegistry()
    registry.register(Page([family]))

    assert 7 == registry.get_sample_value("ssis_a_total", {"source": 'sq"l\\01\n\ufffd'})
    assert read(ours([family], format_), format_) == read(librarys(registry.collect(), format_), format_)


@FORMATS
def test_a_family_that_comes_twice_is_written_once(format_: Format, caplog: pytest.LogCaptureFixture) -> None:
    """
    One name, one family: a second one would make the page unreadable.
    """
    family = Family(Definition("ssis_up", "Help.", ("source",)))
    family.add(("sql01",), 1)
    with caplog.at_level(logging.ERROR):
        page = ours([family, family], format_)

    assert ours([family], format_) == page
    assert "came twice" in caplog.text


@FORMATS
def test_a_foreign_family_that_cannot_be_written_is_left_out(format_: Format, caplog: pytest.LogCaptureFixture) -> None:
    """
    One bad value of somebody else's does not take the page away.
    """
    bad = GaugeMetricFamily("bad", "Help.", labels=["a"])
    bad.add_metric(["\ud800"], 1)
    worse = GaugeMetricFamily("worse", "Help.", labels=["a"])
    worse.add_metric([cast("str", None)], 1)
    good = GaugeMetricFamily("good", "Help.", value=1)
    with caplog.at_level(logging.ERROR):
        page = ours([bad, worse, good], format_)

    assert librarys([good], format_) == page
    assert "bad cannot be written" in caplog.text


class Failing(Collector):
    """A collector that fails in the middle."""

    def collect(self) -> Iterable[Metric]:
        """One family, then an error."""
        yield GaugeMetricFamily("before", "Help.", value=1)
        raise RuntimeError("no")


@FORMATS
def test_a_failing_collector_does_not_take_the_page_away(format_: Format, caplog: pytest.LogCaptureFixture) -> None:
    """
    Our families, and what came before the failure, are there; the page ends as it must.
    """
    family = Family(Definition("ssis_up", "Help.", ("source",)))
    family.add(("sql01",), 1)
    registry = CollectorRegistry()
    registry.register(Failing())
    with caplog.at_level(logging.ERROR):
        page = ours([family], format_, registry)

    assert ["ssis_up", "before"] == [name for name, *_ in read(page, format_)]
    assert "failed" in caplog.text


@FORMATS
def test_large_pages_come_in_chunks(format_: Format) -> None:
    """
    Many series are encoded a few thousand lines at a time, and are all there.
    """
    family = Family(Definition("ssis_x", "Help.", ("n",)))
    family.extend([f'n="{number}"' for number in range(3 * CHUNK_LINES + 1)], range(3 * CHUNK_LINES + 1))
    chunks = list(render([family], None, format_))

    assert len(chunks) >= 3
    assert max(chunk.count(b"\n") for chunk in chunks) <= 2 * CHUNK_LINES
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert list(range(3 * CHUNK_LINES + 1)) == [
        int(line.split(b" ")[1]) for line in b"".join(chunks).splitlines() if not line.startswith(b"#")
    ]


@FORMATS
def test_an_empty_page_can_be_read(format_: Format) -> None:
    """
    No family at all is a valid answer.
    """
    assert [] == read(ours([], format_), format_)


@pytest.mark.parametrize("module", ["isal", "zlib"])
def test_gzip_round_trip_is_deterministic(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The same page gives the same bytes, with either library.
    """
    if module == "zlib":
        monkeypatch.setattr(exposition, "_zlib", zlib)
    chunks = [b"ssis_up 1\n" * 1000, b"", b"x" * 70000]
    packed = b"".join(compress(chunks))

    assert b"".join(chunks) == gzip.decompress(packed)
    assert packed == b"".join(compress(chunks))
    assert len(packed) < len(b"".join(chunks)) / 10


def test_nothing_compressed_is_a_stream_too() -> None:
    """
    An empty body is an empty stream.
    """
    assert b"" == gzip.decompress(b"".join(compress([])))
