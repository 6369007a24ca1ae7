"""`/probe` and `/sd`: each source as a Prometheus target of its own."""

from __future__ import annotations

import json
import threading

import pytest

from ssis_exporter.errors import SourceUnreachable
from tests.test_web import HURRIED, site


def test_a_probe_shows_one_source_and_nothing_of_the_others() -> None:
    """
    A probe looks at the one source, and its page has neither other sources nor the exporter's own metrics.
    """
    with site("sql01", "sql02") as served:
        served.sources["sql01"].start("7")
        found = served.samples(path="/probe?source=sql01")

    assert 1 == found["ssis_up{source=sql01}"]
    assert 1 == found["ssis_running_packages{source=sql01}"]
    assert all("source=sql01" in name for name in found)
    assert 0 == served.sources["sql02"].calls


def test_a_probe_counts_its_errors() -> None:
    """
    A source that fails is `ssis_up` 0 on its probe, with the reason counted, and still 200.
    """
    with site("sql01") as served:
        served.sources["sql01"].fail_with = SourceUnreachable("sql01: nobody answers")
        served.samples(path="/probe?source=sql01")
        found = served.samples(path="/probe?source=sql01")

    assert 0 == found["ssis_up{source=sql01}"]
    assert 2 == found["ssis_scrape_errors_total{reason=unreachable,source=sql01}"]
    assert 0 == found["ssis_scrape_errors_total{reason=timeout,source=sql01}"]


def test_one_that_hangs_does_not_hold_up_the_probe_of_another() -> None:
    """
    A server that does not answer is late on its own target only.
    """
    with site("dead", "live") as served:
        served.sources["dead"].gate.clear()
        waiting = threading.Thread(target=served.get, args=("/probe?source=dead",))
        waiting.start()
        served.sources["dead"].began.acquire()
        found = served.samples(HURRIED, path="/probe?source=live")
        served.sources["dead"].gate.set()
        waiting.join()

    assert 1 == found["ssis_up{source=live}"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "give one source as ?source=NAME; known are sql01"),
        ("?source=nobody", "there is no source nobody; known are sql01"),
        ("?source=sql01&source=sql01", "give one source as ?source=NAME"),
        ("?target=10.0.0.1:1433", "give one source as ?source=NAME"),
    ],
)
def test_only_configured_names_are_probed(query: str, says: str) -> None:
    """
    A name that is not configured is 400 with the names that are; an address is never taken from the request.
    """
    with site("sql01") as served:
        answer = served.get("/probe" + query)

    assert 400 == answer.status
    assert says in answer.text


def test_discovery_names_every_source_as_a_target() -> None:
    """
    `/sd` is Prometheus's HTTP service discovery: this exporter, as it was reached, once per source.
    """
    with site("sql01", "sql02") as served:
        answer = served.get("/sd")

    groups = json.loads(answer.text)
    assert ["sql01", "sql02"] == [group["labels"]["__param_source"] for group in groups]
    assert {"/probe"} == {group["labels"]["__metrics_path__"] for group in groups}
    assert ["sql01", "sql02"] == [group["labels"]["instance"] for group in groups]
    assert "application/json" == answer.headers["content-type"]
