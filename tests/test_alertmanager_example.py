"""The example for Alertmanager: taken by the real one, and it sends each alert where it says."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ssis_exporter.model import RefusalReason, StopOutcome
from tests.real import need_program
from tests.stack import Alertmanager

EXAMPLE = Path(__file__).parent.parent / "alerts" / "alertmanager.example.yml"


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The distribution's amtool."""
    program = need_program("amtool", "prometheus-alertmanager")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)


def example() -> Any:
    """The example as data."""
    return YAML(typ="safe").load(EXAMPLE)


@pytest.mark.real
def test_amtool_takes_it() -> None:
    """
    `amtool check-config` finds nothing wrong.
    """
    done = amtool("check-config", str(EXAMPLE))

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (("alertname=SSISRunawayPackage", "ssis_action=stop", "source=sql01", "instance_id=1"), "ssis-stop,people"),
        (("alertname=SSISPackageRunsTooLong", "source=sql01", "instance_id=1"), "people"),
        (("alertname=SSISRunawayPackage", "ssis_action=restart"), "people"),
        (("alertname=SSISRunawayPackage", "ssis_action=Stop"), "people"),
    ],
)
def test_alerts_go_where_they_should(labels: tuple[str, ...], receivers: str) -> None:
    """
    Only what carries ssis_action="stop" goes to the exporter, and people hear of everything.
    """
    done = amtool("config", "routes", "test", f"--config.file={EXAMPLE}", f"--verify.receivers={receivers}", *labels)

    assert 0 == done.returncode, done.stdout + done.stderr


def test_it_keeps_what_makes_stopping_safe() -> None:
    """
    One alert per message, at once, nothing left out, resolved ones too, a credential from a file, no redirects.
    """
    route = example()["route"]["routes"][0]
    [hook] = next(one for one in example()["receivers"] if one["name"] == "ssis-stop")["webhook_configs"]

    assert ["..."] == route["group_by"]
    assert "0s" == route["group_wait"]
    assert True is route["continue"]
    assert hook["url"].startswith("https://")
    assert hook["url"].endswith("/webhook/alertmanager")
    assert (True, 0) == (hook["send_resolved"], hook["max_alerts"])
    assert "credentials_file" in hook["http_config"]["authorization"]
    assert "ca_file" in hook["http_config"]["tls_config"]
    assert False is hook["http_config"]["follow_redirects"]


@pytest.mark.real
def test_a_real_alertmanager_starts_with_it(tmp_path: Path) -> None:
    """
    It starts with the example as it stands, but for the files that belong to a real machine.
    """
    text = EXAMPLE.read_text(encoding="utf-8")
    for name in ("ssis-stop.token", "corp-ca.pem"):
        (tmp_path / name).write_text("")
        text = text.replace(f"/etc/alertmanager/{name}", str(tmp_path / name))
    text = text.replace(f"ca_file: {tmp_path / 'corp-ca.pem'}", "insecure_skip_verify: true")
    with Alertmanager(tmp_path / "alertmanager", text):
        pass


@pytest.mark.parametrize("reason", RefusalReason)
def test_the_runbook_knows_every_reason_of_a_refusal(reason: RefusalReason) -> None:
    """
    Whoever is told of a refusal finds what to do about its reason.
    """
    runbook = EXAMPLE.parent.parent / "docs" / "runbooks" / "SSISStopRefused.md"

    assert f"`{reason}`" in runbook.read_text(encoding="utf-8")


@pytest.mark.parametrize("outcome", StopOutcome)
def test_the_documentation_knows_every_outcome(outcome: StopOutcome) -> None:
    """
    Each outcome is explained.
    """
    page = EXAMPLE.parent.parent / "docs" / "stopping.md"

    assert f"`{outcome}`" in page.read_text(encoding="utf-8")
