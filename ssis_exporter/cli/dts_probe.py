"""`ssis-exporter dts-probe`: what the managed API really answers on this machine."""

from __future__ import annotations

import json
import platform
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import click

from ssis_exporter import __version__
from ssis_exporter.cli import exits, options
from ssis_exporter.errors import SourceError
from ssis_exporter.sources.dts import DtsSource
from ssis_exporter.sources.dts.managed import MICROSOFT_TOKEN
from ssis_exporter.sources.dts.services import KNOWN_RELEASES, running_releases
from ssis_exporter.sources.dts.source import DEFAULT_RUNTIME, DtsSettings


@click.command("dts-probe")
@click.option(
    "--release",
    type=click.Choice([str(release) for release in KNOWN_RELEASES]),
    help="Release to ask: 160 is SQL Server 2022.  [default: the highest service that runs]",
)
@click.option("--server", default=".", show_default=True, help="This machine, as the API takes it.")
@click.option("--time-limit", type=options.seconds, default=30.0, show_default=True, help="Seconds one call may take.")
@click.option("--runtime", type=click.Choice(["netfx", "mono"]), default=DEFAULT_RUNTIME, hidden=True)
@click.option("--public-key-token", default=MICROSOFT_TOKEN, hidden=True)
def command(release: str | None, server: str, time_limit: float, runtime: str, public_key_token: str) -> int:
    """
    Print raw values, types, assembly and timings of the managed API as JSON.

    Run it once on a server where packages run. Nothing is stopped and nothing is written. Package names, descriptions
    and accounts are in the output: read it before you send it to anyone.
    """
    settings = DtsSettings(
        server=server,
        release=None if release is None else int(release),
        time_limit=timedelta(seconds=time_limit),
        runtime="mono" if runtime == "mono" else "netfx",
        public_key_token=public_key_token,
    )
    source = DtsSource.from_settings("probe", settings)
    report: dict[str, Any] = {
        "exporter": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "services_running": running_releases(),
    }
    try:
        report |= _ask(source)
    except SourceError as exc:
        report["error"] = str(exc)
        # One property that fails spoils a listing; the raw values tell which one it is.
        with suppress(SourceError):
            report |= source.probe()
    finally:
        source.close()
    click.echo(json.dumps(report, indent=2))
    return exits.FOUND if "error" in report else exits.OK


def _ask(source: DtsSource) -> dict[str, Any]:
    began = time.monotonic()
    seen = source.first_snapshot()
    ready = time.monotonic()
    source.snapshot()
    listed = time.monotonic()
    probed = source.probe()
    return {
        "visibility": seen.visibility.scope.value,
        "visibility_rests_on": seen.visibility.detail,
        "start_and_first_listing_seconds": round(ready - began, 4),
        "second_listing_seconds": round(listed - ready, 4),
        "probe_seconds": round(time.monotonic() - listed, 4),
        **probed,
    }
