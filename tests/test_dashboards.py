"""The dashboards: generated, of dashboard-linter's mould, asking for nothing that is not exported."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dashboards.generate import made
from tests.exported import exported_metrics
from tests.promql import expanded, labels, metrics, selectors
from tests.real import need_program

FOLDER = Path(__file__).parent.parent / "dashboards"
FILES = sorted(FOLDER.glob("ssis-*.json"))

# Every unit that our panels use, as Grafana's list of value formats writes them.
UNITS = {"short", "none", "s", "bytes", "Bps", "percentunit", "bool_yes_no", "dtdurations"}
UNITS |= {"dateTimeAsIso", "dateTimeFromNow"}

# What Prometheus itself puts on every series, or stores for every target.
TARGET_LABELS = {"job", "instance"}
OF_A_SCRAPE = {"up", "scrape_samples_scraped", "scrape_duration_seconds"}

VALUES = {"job": ".+", "instance": ".+", "source": ".+", "folder": ".*", "package": "LoadJournal"}


def load(path: Path) -> dict[str, Any]:
    """One dashboard."""
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its panels, those in collapsed rows included, without the rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


ALL_PANELS = [
    pytest.param(panel, id=f"{path.stem}-{panel['title']}".replace(" ", "_"))
    for path in FILES
    for panel in panels(load(path))
]
EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{parameter.id}-{target['refId']}")
    for parameter in ALL_PANELS
    for target in parameter.values[0]["targets"]  # type: ignore[index,call-overload]
]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
each_panel = pytest.mark.parametrize("panel", ALL_PANELS)
each_expression = pytest.mark.parametrize("expression", EXPRESSIONS)


def test_committed_is_what_is_generated() -> None:
    """
    The files are what `python -m dashboards.generate` writes; there are no others.
    """
    assert made() == {path.name: path.read_text(encoding="utf-8") for path in FILES}


@each_file
def test_dashboard_as_grafana_takes_it(path: Path) -> None:
    """
    Classic JSON of schema 39, not editable, without an id of its own, refreshed, found by its tag and its uid.
    """
    dashboard = load(path)

    assert 39 == dashboard["schemaVersion"]
    assert dashboard["editable"] is False
    assert dashboard["id"] is None
    assert path.stem == dashboard["uid"]
    assert len(dashboard["uid"]) <= 40
    assert ["ssis"] == dashboard["tags"]
    assert {"from": "now-6h", "to": "now"} == dashboard["time"]
    assert "1m" == dashboard["refresh"]
    assert 1 == dashboard["graphTooltip"]
    assert dashboard["title"]
    assert "__inputs" not in dashboard


@each_file
def test_variables(path: Path) -> None:
    """
    `datasource` first, then `job` and `instance` as every dashboard has them, each read again when the time changes.
    """
    listed = load(path)["templating"]["list"]
    datasource, *queries = listed
    by_name = {each["name"]: each for each in queries}

    assert ("datasource", "datasource", "Data source", "prometheus") == (
        datasource["name"], datasource["type"], datasource["label"], datasource["query"]
    )  # fmt: skip
    assert ["job", "instance"] == [each["name"] for each in queries[:2]]
    for name in ("job", "instance"):
        one = by_name[name]
        assert ("query", name.capitalize(), True, True, ".+") == (
            one["type"], one["label"], one["multi"], one["includeAll"], one["allValue"]
        )  # fmt: skip
    for one in queries:
        assert 2 == one["refresh"]
        assert "${datasource}" == one["datasource"]["uid"]
        assert re.fullmatch(r"label_values\(.+, \w+\)", one["definition"])
        assert one["definition"] == one["query"]["query"]


@each_file
def test_panels_do_not_overlap(path: Path) -> None:
    """
    Each panel has an id of its own and a place of its own, within the width of 24.
    """
    dashboard = load(path)
    taken: set[tuple[int, int]] = set()
    for panel in [*panels(dashboard), *(each for each in dashboard["panels"] if each["type"] == "row")]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells
    numbers = [panel["id"] for panel in [*panels(dashboard), *dashboard["panels"]] if panel["type"] != "row"]
    rows = [panel["id"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert len({*numbers, *rows}) == len(list(panels(dashboard))) + len(rows)


@each_panel
def test_panel_of_the_mould(panel: dict[str, Any]) -> None:
    """
    panel-datasource, -title-description, -units, -no-targets: as dashboard-linter demands them.
    """
    assert "${datasource}" == panel["datasource"]["uid"]
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["targets"]
    assert {"${datasource}"} == {target["datasource"]["uid"] for target in panel["targets"]}
    units = [panel["fieldConfig"]["defaults"]["unit"]]
    for override in panel["fieldConfig"]["overrides"]:
        units += [each["value"] for each in override["properties"] if each["id"] == "unit"]
    assert set(units) <= UNITS


@each_panel
def test_columns_have_names_that_exist(panel: dict[str, Any]) -> None:
    """
    What a table sorts by, links and formats is one of its columns.
    """
    if panel["type"] != "table":
        return
    organize = panel["transformations"][1]["options"]
    shown = set(organize["renameByName"].values())
    several = len(panel["targets"]) > 1

    assert {each["displayName"] for each in panel["options"]["sortBy"]} <= shown
    assert {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]} <= shown
    values = {f"Value #{target['refId']}" for target in panel["targets"]} if several else {"Value"}
    mentioned = {name for name in [*organize["renameByName"], *organize["excludeByName"]] if name.startswith("Value")}
    assert values == mentioned
    grouped = set().union(*(labels(target["expr"]) for target in panel["targets"]))
    assert {name for name in organize["renameByName"] if not name.startswith("Value")} <= grouped


@each_expression
def test_every_selector_can_be_narrowed(expression: str) -> None:
    """
    target-job, target-instance: every selector has both variables, and no metric stands without braces.
    """
    found = selectors(expression)

    assert metrics(expression) == {selector.metric for selector in found}
    for selector in found:
        assert ("job", "=~", "$job") in selector.matchers
        assert ("instance", "=~", "$instance") in selector.matchers


@each_expression
def test_counters_are_seen_as_rates(expression: str) -> None:
    """
    target-counter-agg, target-rate-interval: `_total` only in rate, irate or increase, over `$__rate_interval`.

    `increase` may be over `$__range`, for a number that stands for all the time shown; so the linter has it, too.
    """
    for selector in selectors(expression):
        if selector.metric.endswith(("_total", "_bucket")):
            assert selector.function in {"rate", "irate", "increase"}
        if selector.function in {"rate", "irate"}:
            assert "$__rate_interval" == selector.range
        if selector.function == "increase":
            assert selector.range in {"$__rate_interval", "$__range"}


@each_expression
def test_panel_uses_only_what_is_exported(expression: str) -> None:
    """
    Every metric, and every label of it in a matcher or a grouping, is one that we export.
    """
    exported = exported_metrics()
    used = metrics(expression) - OF_A_SCRAPE
    assert used <= exported.keys()
    every = TARGET_LABELS.union(*(exported[name] for name in used))
    assert labels(expression) <= every
    for selector in selectors(expression):
        own = exported.get(selector.metric, frozenset()) | TARGET_LABELS
        assert {name for name, _, _ in selector.matchers} <= own


@pytest.mark.real
@each_file
def test_promtool_takes_every_expression(path: Path, tmp_path: Path) -> None:
    """
    target-promql: every query, annotation and variable parses once its variables are replaced.
    """
    promtool = need_program("promtool", "prometheus")
    dashboard = load(path)
    asked = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    asked += [each["expr"] for each in dashboard["annotations"]["list"]]
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            asked.append(re.sub(r"label_values\((.+), \w+\)", r"\1", each["definition"]))
    rules = [{"record": f"r:{number}", "expr": expanded(one, VALUES)} for number, one in enumerate(asked)]
    file = tmp_path / "rules.yml"
    YAML(typ="safe").dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
    )

    assert 0 == done.returncode, done.stdout + done.stderr


def test_links_lead_to_dashboards_that_are_there() -> None:
    """
    A link to another dashboard names one of ours and variables that it has.
    """
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    targets = set(re.findall(r"/d/([a-z-]+)", text))
    variables = {each["name"] for each in load(FOLDER / "ssis-package.json")["templating"]["list"]}

    assert {"ssis-package"} == targets
    assert set(re.findall(r"&var-(\w+)=", text)) <= variables


def test_provisioning_files() -> None:
    """
    Grafana's files say where the dashboards lie and which data source there is.
    """
    provider = YAML(typ="safe").load(FOLDER / "provisioning" / "dashboards" / "ssis.yml")
    source = YAML(typ="safe").load(FOLDER / "provisioning" / "datasources" / "prometheus.yml")

    assert (1, "file", False) == (
        provider["apiVersion"], provider["providers"][0]["type"], provider["providers"][0]["allowUiUpdates"]
    )  # fmt: skip
    assert (1, "prometheus", True) == (
        source["apiVersion"], source["datasources"][0]["type"], source["datasources"][0]["isDefault"]
    )  # fmt: skip
