"""What the configuration says of stopping, as the stopper takes it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ssis_exporter.cli.stopping import stop_settings
from ssis_exporter.config import load_config
from ssis_exporter.model import StopMode


@pytest.mark.parametrize(
    ("limits", "waits"),
    [(("10s",), 30), (("1s", "2s"), 30), (("10s", "45s"), 135)],
)
def test_a_look_before_a_stop_waits_for_the_slowest_source(
    tmp_path: Path, limits: tuple[str, ...], waits: float
) -> None:
    """
    A source that may take a minute to answer is given that minute: otherwise each of its nominations would expire.
    """
    entries = [f"{{name: s{number}, kind: dtexec, time_limit: {limit}}}" for number, limit in enumerate(limits)]
    path = tmp_path / "ssis.yml"
    path.write_text(f"sources: [{', '.join(entries)}]\nstop: {{request_ttl: 20m, confirm_timeout: 45m}}\n")
    config = load_config(path)
    settings = stop_settings(config.stop, config.sources)

    assert timedelta(seconds=waits) == settings.look_timeout
    assert (timedelta(minutes=20), timedelta(minutes=45)) == (settings.request_ttl, settings.confirm_timeout)


def test_without_a_section_everything_is_refused() -> None:
    """
    Off, whatever else the defaults are.
    """
    assert StopMode.OFF is stop_settings(None).mode
