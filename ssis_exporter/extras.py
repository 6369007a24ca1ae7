"""Optional dependencies: import one, or say in one sentence what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from ssis_exporter.errors import MissingExtra


def need(module: str, *, extra: str, what: str) -> ModuleType:
    """
    Imports a module of the extra; `what` begins the sentence ("basic_auth_users").

    Raises `MissingExtra` where it is not installed or is itself broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingExtra(what=what, extra=extra, module=module) from exc
