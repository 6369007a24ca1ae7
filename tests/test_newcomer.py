"""A newcomer who follows docs/first-alert.md gets what it promises."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.newcomer import INSTALLS, PAGE, PORTS, run, told
from tests.real import need_program


def test_the_page_can_be_followed() -> None:
    """
    Every file that a command names is written before it; the ports that are replaced are those of the page.
    """
    page = PAGE.read_text(encoding="utf-8")
    files = [file for file, _ in told(page) if file]

    assert ["ssis_exporter.yml", "runaways.rules.yml", "prometheus.yml", "alertmanager.yml"] == files
    assert all(port in page for port in PORTS)
    assert 1 == sum(any(word in text for word in INSTALLS) for file, text in told(page) if not file)


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_newcomer_sees_an_alert_and_a_rehearsed_stop(tmp_path: Path) -> None:
    """
    Each command of the page works, in its order, up to the end; what it waits for comes.
    """
    for name, package in (
        ("prometheus", "prometheus"),
        ("promtool", "prometheus"),
        ("prometheus-alertmanager", "prometheus-alertmanager"),
        ("amtool", "prometheus-alertmanager"),
        ("curl", "curl"),
    ):
        need_program(name, package)
    done = run(tmp_path, Path(sys.executable).parent, seconds=240)

    assert 0 == done.returncode, done.stdout[-8000:]
    assert 'alertname="SSISRunawayPackage"' in done.stdout
    assert "would_stop" in done.stdout
