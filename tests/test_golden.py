"""The full exposition stays as it is, is well formed, and is what promtool and the README know."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ssis_exporter import selfmetrics, sourcemetrics
from ssis_exporter.exposition import TEXT
from tests import golden
from tests.real import need_program

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("name", golden.FILES)
def test_the_exposition_is_stable(name: str) -> None:
    """
    Names, labels, HELP and their order change only on purpose (`python -m tests.golden` writes the files anew).
    """
    expected = (golden.FOLDER / name).read_bytes().decode()

    assert expected == golden.page(golden.FILES[name])


def families(name: str) -> list[Metric]:
    """A golden file as the library's parser reads it."""
    parse = parse_openmetrics if golden.FILES[name].is_openmetrics else parse_text
    return list(cast("Iterator[Metric]", parse(golden.page(golden.FILES[name]))))


@pytest.mark.parametrize("name", golden.FILES)
def test_no_series_comes_twice(name: str) -> None:
    """
    Each series and each family is there once.
    """
    series = [
        (sample.name, tuple(sorted(sample.labels.items()))) for family in families(name) for sample in family.samples
    ]
    names = [family.name for family in families(name)]

    assert len(set(series)) == len(series)
    assert len(set(names)) == len(names)


def test_both_formats_say_the_same() -> None:
    """
    The two files differ in form only.
    """
    text, openmetrics = (
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families(name)
            for sample in family.samples
        }
        for name in golden.FILES
    )

    assert text == openmetrics


def test_no_counter_brings_a_created_series() -> None:
    """
    Only series that somebody asks for are exposed.
    """
    assert not re.search(r"^\S+_created", golden.page(TEXT), re.MULTILINE)


@pytest.mark.real
def test_promtool_has_nothing_to_say() -> None:
    """
    The real promtool finds no fault with names, types, units and HELP texts.
    """
    promtool = need_program("promtool", "prometheus")
    page = (golden.FOLDER / "metrics.txt").read_bytes()
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60)

    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "name",
    [
        *(each.name for each in sourcemetrics.DEFINITIONS),
        *(each.name for each in selfmetrics.DEFINITIONS),
        sourcemetrics.SCRAPE_ERRORS.name,
    ],
)
def test_every_metric_is_in_the_readme(name: str) -> None:
    """
    Whoever meets a metric finds it in the README under its whole name.
    """
    assert f"`{name}`" in README.read_text(encoding="utf-8")
