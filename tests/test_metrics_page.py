"""docs/metrics.md is made from the code, and names every metric there is."""

from __future__ import annotations

from docs.make_metrics import PAGE, page, sections
from tests.exported import exported_metrics


def test_the_page_is_what_is_generated() -> None:
    """
    After a change of a metric: python docs/make_metrics.py
    """
    assert page() == PAGE.read_text(encoding="utf-8")


def test_the_page_names_every_metric() -> None:
    """
    What is found in the code by its text is what the page has, labels included; a histogram stands there once.
    """
    listed = {}
    for rows in sections().values():
        for name, kind, labels, _ in rows:
            parts = {"_bucket": {"le"}, "_sum": set(), "_count": set()} if kind == "histogram" else {"": set()}
            listed.update({name + suffix: frozenset(labels) | more for suffix, more in parts.items()})

    assert exported_metrics() == listed
