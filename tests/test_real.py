"""What keeps a test from being left out unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEFT_OUT = {
    "a mark": "@pytest.mark.skipif(True, reason='why not')\ndef test_it(): pass",
    "a call": "def test_it(): pytest.skip('why not')",
    "a fixture": "@pytest.fixture\ndef it(): pytest.skip('why not')\ndef test_it(it): pass",
    "a file": "pytest.skip('why not', allow_module_level=True)",
    "a missing program": "from tests.real import need_program\ndef test_it(): need_program('why not', 'none')",
    "an expected failure": "@pytest.mark.xfail(reason='why not')\ndef test_it(): raise ValueError",
}


@pytest.mark.parametrize("left_out", LEFT_OUT.values(), ids=LEFT_OUT)
@pytest.mark.parametrize(
    ("everything", "is_red"), [("1", True), ("", False)], ids=["everything must be real", "otherwise"]
)
def test_what_is_left_out_fails_where_everything_must_be_real(
    tmp_path: Path, left_out: str, everything: str, *, is_red: bool
) -> None:
    """
    With `SSIS_EXPORTER_REQUIRE_REAL=1` a run with anything left out is red, and says what and why; otherwise it passes.
    """
    (tmp_path / "test_one.py").write_text(f"import pytest\n{left_out}\n")
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rsxE", "-p", "tests.conftest", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"SSIS_EXPORTER_REQUIRE_REAL": everything},
        capture_output=True,
        text=True,
        check=False,
    )

    assert is_red == (done.returncode != 0)
    assert "why not" in done.stdout
    assert is_red == ("but it was left out" in done.stdout)
