"""What can be said of a configuration before anything is looked at: the files it names, the parts it makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssis_exporter.config import Config
from ssis_exporter.model import Finding, FindingLevel
from ssis_exporter.sources.interface import Source, StoppableSource
from ssis_exporter.stopconfig import StopConfig
from ssis_exporter.webconfig import WebConfig


def make_sources(config: Config) -> list[Source]:
    """The sources, which have opened nothing yet. Raises `ConfigError` or `MissingExtra`."""
    return [source.build() for source in config.sources]


def check_files(config: Config) -> None:
    """Reads the files that sources read anew while they work. Raises `ConfigError`."""
    for source in config.sources:
        source.check_files()


def check_web(path: Path | None) -> None:
    """Reads the web configuration and its certificates. Raises `ConfigError` or `MissingExtra`."""
    if path is not None:
        WebConfig(path).close()


def check_stop(stop: StopConfig, sources: Sequence[Source]) -> list[Finding]:
    """What is worth saying of the section `stop`. Raises `ConfigError` for a token or certificate that is unusable."""
    # Only where stopping is configured: the webhook's parts take memory and time.
    from ssis_exporter.credentials import Tokens  # noqa: PLC0415
    from ssis_exporter.webhook import make_tls  # noqa: PLC0415

    Tokens(stop.token_files)
    if stop.tls is not None:
        make_tls(stop.tls).load()
    found = [Finding(level=FindingLevel.OK, text=f"{stop.mode}; the webhook listens on {stop.listen_address}")]
    if not stop.has_credential:
        text = "every account of this machine may nominate runs, because there is no token and no client certificate"
        remedy = "stop:\n  token_files: [stop.token]   # openssl rand -hex 32 > stop.token; chmod 600 stop.token"
        found.append(Finding(level=FindingLevel.WARNING, text=text, remedy=remedy))
    if not any(rule.action == "stop" for rule in stop.rules):
        found.append(Finding(level=FindingLevel.WARNING, text="no rule has action stop, so every request is refused"))
    mute = [source.name for source in sources if not isinstance(source, StoppableSource)]
    if mute:
        found.append(Finding(level=FindingLevel.WARNING, text=f"runs of {', '.join(mute)} cannot be stopped"))
    return found
