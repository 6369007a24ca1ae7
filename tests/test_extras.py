"""Optional dependencies."""

from __future__ import annotations

import json

import pytest

from ssis_exporter.errors import ConfigError, MissingExtra
from ssis_exporter.extras import need


def test_what_is_installed_is_imported() -> None:
    """
    The module itself comes back.
    """
    assert json is need("json", extra="fast", what="anything")


def test_what_is_missing_is_one_sentence() -> None:
    """
    It says what needs it, and the command that installs it.
    """
    with pytest.raises(MissingExtra) as caught:
        need("no_such_module_anywhere", extra="catalog", what="a source of kind catalog")

    assert (
        "a source of kind catalog needs no_such_module_anywhere, which is not installed; "
        "run: pip install 'ssis-exporter[catalog]'"
    ) == str(caught.value)
    assert isinstance(caught.value, ConfigError)
