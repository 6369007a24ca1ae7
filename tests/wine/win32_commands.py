"""The installed command `ssis-exporter.exe` on Windows, also beside a managed API whose helper cannot start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssis_exporter.cli import exits
from tests.installed import SECONDS, Serving, run

assert sys.platform == "win32"

CONFIG = """
sources:
  - {name: made-up, kind: demo, seed: 7}
  - {name: ssis, kind: dts, helper: ['no such helper.exe']}
"""


UTF8 = {"PYTHONUTF8": "1"}
"""What goes into a pipe is written as Python writes files: here so that the test can read every name."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """One source that works, and one that cannot."""
    path = tmp_path / "Ünïcode 名前" / "ssis.yml"
    path.parent.mkdir()
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_every_test_can_be_found() -> None:
    """
    No module of tests needs, only to be imported, what Windows lacks.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", "tests"],
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )

    assert 0 == done.returncode, done.stdout[-4000:]


def test_check_says_what_is_wrong_in_one_sentence(config: Path) -> None:
    """
    `check` finds the source that works, names the other and why; no traceback.
    """
    done = run("check", "--config.file", config, env=UTF8)
    lines = [line.strip() for line in done.out.splitlines()]

    assert exits.FOUND == done.code
    assert f"ok       {config}" in lines
    assert re.match(r"ok       \d+ open executions", lines[lines.index("source made-up (demo)") + 1])
    assert lines[lines.index("source ssis (dts)") + 1].startswith(
        "problem  ssis: the helper cannot be started: [WinError 2] "
    )
    assert "" == done.err


def test_list_shows_the_source_that_works(config: Path) -> None:
    """
    `list` shows the runs of the one, and says of the other that it could not look.
    """
    done = run("list", "--json", "--config.file", config, env=UTF8)
    shown = json.loads(done.out)

    assert {"made-up"} == {one["source"] for one in shown["executions"]}
    assert {"made-up": None, "ssis": "missing"} == {one["name"]: one["reason"] for one in shown["sources"]}
    assert re.fullmatch(r"source ssis could not be read: the helper cannot be started: .*\n", done.err)


def test_serve_shows_the_source_that_works(config: Path) -> None:
    """
    The page has the runs of the one; the other is down with its reason, and nothing of its runs is claimed.
    """
    with Serving("--config.file", config) as serving:
        page = serving.get("/metrics").text
        health = serving.get("/-/healthy").status

    assert 200 == health
    assert 'ssis_up{source="made-up"} 1\n' in page
    assert 'ssis_up{source="ssis"} 0\n' in page
    assert re.search(r'^ssis_scrape_errors_total\{source="ssis",reason="missing"\} [1-9]', page, re.MULTILINE)
    assert re.search(r'^ssis_running_packages\{source="made-up"\} [1-9]', page, re.MULTILINE)
    assert 'ssis_running_packages{source="ssis"}' not in page
