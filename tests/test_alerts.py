"""The alert rules: promtool's own checks and tests, and that they use nothing which is not exported."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.exported import exported_metrics
from tests.promql import selectors
from tests.real import need_program

ROOT = Path(__file__).parent.parent
RULE_FILES = sorted((ROOT / "alerts").glob("*.rules.yml"))
TEST_FILES = sorted((ROOT / "alerts" / "tests").glob("*.test.yml"))

# What Prometheus itself puts on every series, or scrapes for every target.
TARGET_LABELS = {"job", "instance"}
PROMETHEUS_METRICS = {"up": frozenset[str](), "ALERTS": frozenset({"alertname", "alertstate"})}


def known_metrics() -> dict[str, frozenset[str]]:
    """Every metric that a rule may use, with its labels."""
    return {**exported_metrics(), **PROMETHEUS_METRICS}


def alerts() -> list[Any]:
    """Every alert of every rule file."""
    found = []
    for path in RULE_FILES:
        for group in YAML(typ="safe").load(path)["groups"]:
            found += [pytest.param(rule, id=rule["alert"]) for rule in group["rules"] if "alert" in rule]
    return found


def promtool_cases() -> list[tuple[str, bool]]:
    """Every alert that the promtool tests ask for, and whether it is expected to fire."""
    cases = []
    for path in TEST_FILES:
        for test in YAML(typ="safe").load(path)["tests"]:
            cases += [(case["alertname"], bool(case.get("exp_alerts"))) for case in test["alert_rule_test"]]
    return cases


@pytest.mark.real
@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_promtool_finds_nothing_to_say(path: Path) -> None:
    """
    promtool's check with every lint is clean.
    """
    promtool = need_program("promtool", "prometheus")
    command = [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.real
@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.name)
def test_rules_fire_when_they_should(path: Path) -> None:
    """
    The rules' own tests pass in promtool.
    """
    promtool = need_program("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False, timeout=60
    )

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("rule", alerts())
def test_alert_fires_and_stays_silent(rule: dict[str, Any]) -> None:
    """
    Each alert has a case in which it fires and one in which it does not.
    """
    assert {True, False} == {fires for name, fires in promtool_cases() if name == rule["alert"]}


@pytest.mark.parametrize("rule", alerts())
def test_alert_is_of_the_mould(rule: dict[str, Any]) -> None:
    """
    Each alert has a name that begins with SSIS, one of three severities, a summary, a description and its runbook.
    """
    assert re.fullmatch(r"SSIS([A-Z][a-z0-9]+)+", rule["alert"])
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert {"summary", "description", "runbook_url"} <= set(rule["annotations"])
    summary = rule["annotations"]["summary"]
    assert summary[0].isupper()
    assert summary.endswith(".")
    assert "{{" not in summary, "one text for all alerts that are grouped together"
    runbook = rule["annotations"]["runbook_url"]
    assert f"docs/runbooks/{rule['alert']}.md" == runbook
    text = (ROOT / runbook).read_text(encoding="utf-8")
    assert text.startswith(f"# {rule['alert']}\n")


def test_the_code_was_read() -> None:
    """
    The metrics that rules are held against were found with their labels, wherever they stand.
    """
    known = known_metrics()

    assert {"source"} == known["ssis_up"]
    assert {"source", "reason"} == known["ssis_scrape_errors_total"]
    assert {"source", "scope"} == known["ssis_visibility"]
    assert "instance_id" in known["ssis_package_execution_duration_seconds"]
    assert {"listener"} == known["ssis_exporter_certificate_expiry_timestamp_seconds"]


def test_runbooks_belong_to_alerts() -> None:
    """
    No runbook is left of an alert that is gone.
    """
    names = {parameter.values[0]["alert"] for parameter in alerts()}

    assert names == {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}


@pytest.mark.parametrize("rule", alerts())
def test_alert_uses_only_what_is_exported(rule: dict[str, Any]) -> None:
    """
    Every metric, and every label in a matcher, an aggregation or a template, is one that we export.
    """
    exported = known_metrics()
    expression = re.sub(r"#.*", "", rule["expr"])
    used = set(re.findall(r"\b(?:ssis_\w+|up\b|ALERTS\b)", expression))
    assert used
    assert used <= exported.keys()
    labels = TARGET_LABELS.union(*(exported[name] for name in used))
    for selector in selectors(expression):
        own = exported.get(selector.metric, labels) | TARGET_LABELS
        assert {name for name, _, _ in selector.matchers} <= own, selector.metric
    for grouping in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expression):
        assert {name.strip() for name in grouping.split(",") if name.strip()} <= labels
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels


@pytest.mark.parametrize("rule", alerts())
def test_alert_is_in_the_readme(rule: dict[str, Any]) -> None:
    """
    The README names each alert.
    """
    assert f"`{rule['alert']}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_each_alert_has_one_rule() -> None:
    """
    No name stands twice, in whichever files: people would be told twice.
    """
    names = [parameter.values[0]["alert"] for parameter in alerts()]

    assert sorted(set(names)) == sorted(names)


def test_recorded_series_are_recorded() -> None:
    """
    Every recorded series that a rule uses is one that a rule records.
    """
    rules = [rule for path in RULE_FILES for group in YAML(typ="safe").load(path)["groups"] for rule in group["rules"]]
    used = {name for rule in rules for name in re.findall(r"\bssis:[\w:]+", rule["expr"])}

    assert used == {rule["record"] for rule in rules if "record" in rule}


@pytest.mark.parametrize("rule", alerts())
def test_an_alert_that_drives_a_stop_does_not_linger(rule: dict[str, Any]) -> None:
    """
    keep_firing_for would go on asking for a stop after the run has ended; such an alert keeps the run's own labels.
    """
    if rule["labels"].get("ssis_action") != "stop":
        return

    assert "keep_firing_for" not in rule
    assert not re.search(r"\b(?:sum|max|min|avg|count)\b", rule["expr"])
