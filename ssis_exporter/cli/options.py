"""Flags that several commands share, named as other exporters name them."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ssis_exporter import logs
from ssis_exporter.addresses import METRICS_PORT, Address, parse_address
from ssis_exporter.config import Config, default_config, load_config
from ssis_exporter.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, readable=False)
"""Whether it can be read is told by who reads it, in one sentence as for all other troubles of a file."""


def address(text: str) -> Address:
    """Reads `HOST:PORT`; what is no address is a usage error."""
    try:
        return parse_address(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def seconds(text: str) -> float:
    """A number of seconds, finite and not negative."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 3600:
        raise click.BadParameter(f"{str(text)[:40]!r} is no number of seconds from 0 to 3600")
    return found


def web_path(text: str) -> str:
    """Where the metrics are: `/metrics`. Other pages of the exporter keep their place."""
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or set(text) & set(" ?#%\\"):
        raise click.BadParameter(f"{text[:80]!r} is no path; write it like /metrics")
    if text == "/" or text.startswith(("/-/", "/api/", "/probe", "/sd")):
        raise click.BadParameter(f"{text[:80]!r} is another page of the exporter; write it like /metrics")
    return text


def state_directory() -> Path:
    """Where this platform keeps what a service must not lose; systemd's `StateDirectory=` when it is set."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "ssis_exporter"
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/ssis_exporter")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "ssis_exporter"


def config_option(command: F) -> F:
    """`--config.file`."""
    return click.option(
        "--config.file",
        "config_file",
        type=FILE,
        help="Configuration file; without one, the packages that run on this machine outside a catalog are read.",
    )(command)


def storage_option(command: F) -> F:
    """`--storage.path`."""
    return click.option(
        "--storage.path",
        "storage_path",
        type=FILE,
        help="Folder for what must survive a restart.  [default: the platform's state directory]",
    )(command)


def log_options(level: str) -> Callable[[F], F]:
    """`--log.level` with this default, `--log.format`, `--log.file`."""
    return _all(
        click.option(
            "--log.level",
            "log_level",
            type=click.Choice(logs.LEVELS),
            default=level,
            show_default=True,
            help="Log only what is at least this severe.",
        ),
        click.option(
            "--log.format",
            "log_format",
            type=click.Choice(logs.FORMATS),
            default="logfmt",
            show_default=True,
            help="How a line is written.",
        ),
        click.option(
            "--log.file",
            "log_file",
            type=FILE,
            help="Append to this file.  [default: stderr]",
        ),
    )


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one, shown in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def start_logging(level: str, format: str, file: Path | None) -> None:  # noqa: A002
    """Sends the log where the flags say. Raises `ConfigError` for a file that cannot be written."""
    try:
        logs.configure(level=level, format=format, file=file)
    except OSError as exc:
        raise ConfigError(f"--log.file {file} cannot be written: {exc.strerror}") from exc


def log_warnings(command: Callable[..., int]) -> Callable[..., int]:
    """For commands that end by themselves: `log_options`, and the log goes where they say before the command begins."""

    @functools.wraps(command)
    def logged(*, log_level: str, log_format: str, log_file: Path | None, **given: Any) -> int:
        start_logging(log_level, log_format, log_file)
        return command(**given)

    return log_options("warn")(logged)


def load(config_file: Path | None) -> Config:
    """The configuration that the flag names, or the built-in one. Raises `ConfigError`."""
    return load_config(config_file) if config_file is not None else default_config()


def web_config_option(command: F) -> F:
    """`--web.config.file`."""
    return click.option(
        "--web.config.file",
        "web_config_file",
        type=FILE,
        help="TLS, users and headers, in the format of Prometheus's exporter-toolkit.",
    )(command)


def listen_option(default: str) -> Callable[[F], F]:
    """`--web.listen-address`, repeatable."""
    return click.option(
        "--web.listen-address",
        "listen_addresses",
        type=address,
        multiple=True,
        default=[default],
        show_default=True,
        help="Where to listen; repeatable.",
    )


DEFAULT_ADDRESS = f":{METRICS_PORT}"


web_options = _all(
    click.option(
        "--web.telemetry-path",
        "telemetry_path",
        type=web_path,
        default="/metrics",
        show_default=True,
        help="Path of the metrics.",
    ),
    web_config_option,
    click.option(
        "--web.max-requests",
        "max_requests",
        type=click.IntRange(min=0),
        default=40,
        show_default=True,
        help="Scrapes at the same time; 503 beyond. 0 for no limit.",
    ),
    click.option(
        "--web.disable-exporter-metrics",
        "disable_exporter_metrics",
        is_flag=True,
        help="Leave out the metrics about the exporter's own process (process_*, python_*).",
    ),
    click.option("--web.enable-lifecycle", "enable_lifecycle", is_flag=True, help="Allow POST /-/reload."),
    click.option(
        "--scrape.timeout-margin",
        "timeout_margin",
        type=seconds,
        default=0.5,
        show_default=True,
        help="How long before Prometheus's own timeout to answer with what is there, in seconds.",
    ),
)
"""How the metrics are served."""
