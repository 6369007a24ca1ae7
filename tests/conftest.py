"""Where everything must be real, nothing is left out: a skip or an expected failure, for any reason, fails the run."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest

from tests.real import REQUIRE_REAL

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """For a test, its marks and its fixtures."""
    return _nothing_left_out((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """For a whole file."""
    return _nothing_left_out((yield))


def _nothing_left_out(report: R) -> R:
    if REQUIRE_REAL and report.skipped:
        # pytest counts what bears `wasxfail` as no failure, whatever its outcome.
        expected = report.__dict__.pop("wasxfail", "")
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else expected
        report.outcome = "failed"
        report.longrepr = f"SSIS_EXPORTER_REQUIRE_REAL=1, but it was left out: {reason}"
    return report
