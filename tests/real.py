"""What tests need of the machine: a real program, or a skip that says why (a failure where everything must be real)."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest

REQUIRE_REAL = os.environ.get("SSIS_EXPORTER_REQUIRE_REAL") == "1"


def cannot_run(reason: str) -> NoReturn:
    """Skips with the reason, which fails (`conftest.py`) where `SSIS_EXPORTER_REQUIRE_REAL=1` is set."""
    pytest.skip(reason)


def need_program(name: str, package: str) -> str:
    """The path of a program of the distribution, for tests that run it."""
    path = shutil.which(name)
    if path is None:
        cannot_run(f"the program {name} is missing (Debian package {package})")
    return path


def need_module(name: str) -> None:
    """For tests of an optional dependency."""
    if importlib.util.find_spec(name) is None:
        cannot_run(f"the Python module {name} is missing")


def need_memory_of(pid: int) -> None:
    """For tests that search the memory of a process which they started."""
    try:
        with open(f"/proc/{pid}/mem", "rb"):
            pass
    except OSError as exc:
        cannot_run(f"the memory of a child may not be read here (kernel.yama.ptrace_scope 2 and 3 forbid it): {exc}")


def need_root(what: str) -> None:
    """For tests of rights, which only root can give away; a skip everywhere else."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip(f"only root may do this: {what}")
