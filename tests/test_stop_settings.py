"""What the configuration says of stopping, as the stopper takes it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ssis_exporter.cli.stopping import stop_settings
from ssis_exporter.config import load_config
from ssis_exporter.model import StopMode
from ssis_exporter.policy import Action, Breaker, Match, Policy, Rule
from ssis_exporter.stopsettings import StopSettings


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


def test_what_is_configured_is_what_the_stopper_gets(tmp_path: Path) -> None:
    """
    Every key that decides on a stop arrives, none of them at its default.
    """
    path = tmp_path / "ssis.yml"
    path.write_text(
        "sources: [{name: a, kind: dtexec}]\n"
        "stop:\n"
        "  mode: armed\n"
        "  max_runs_per_message: 7\n"
        "  request_ttl: 20m\n"
        "  confirm_timeout: 45m\n"
        "  breaker: {stops: 9, window: 3h}\n"
        "  rules: [{match: {folder: HR}, action: never}, {match: {source: a}, action: stop, grace: 2m}]\n"
    )
    config = load_config(path)
    rules = (
        Rule(match=Match(folder="HR"), action=Action.NEVER),
        Rule(match=Match(source="a"), action=Action.STOP, grace=timedelta(minutes=2)),
    )

    expected = StopSettings(
        mode=StopMode.ARMED,
        policy=Policy(rules),
        breaker=Breaker(stops=9, window=timedelta(hours=3)),
        max_runs_per_message=7,
        request_ttl=timedelta(minutes=20),
        confirm_timeout=timedelta(minutes=45),
    )
    assert expected == stop_settings(config.stop, config.sources)


def test_without_a_section_everything_is_refused() -> None:
    """
    Off, whatever else the defaults are.
    """
    assert StopMode.OFF is stop_settings(None).mode
