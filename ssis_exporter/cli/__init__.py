"""The command line: flags, exit codes, and the only place where parts are wired together."""

from __future__ import annotations

import difflib
import importlib
import io
import logging
import os
import platform
import sys
from typing import Any

import click

from ssis_exporter import __version__
from ssis_exporter.cli import exits
from ssis_exporter.errors import ListenError, SourceError, SsisExporterError, StorageError, TooManyPending

log = logging.getLogger(__name__)

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("ssis_exporter.cli.serve", "Run the exporter."),
    "list": ("ssis_exporter.cli.list", "Show the packages that are running."),
    "check": ("ssis_exporter.cli.check", "Check the configuration and every source."),
    "demo": ("ssis_exporter.cli.demo", "Run the exporter on a made-up estate."),
    "stop": ("ssis_exporter.cli.stop", "Stop one run, if a rule allows it."),
    "hold": ("ssis_exporter.cli.hold", "Put all stopping on hold."),
    "resume": ("ssis_exporter.cli.resume", "End the hold."),
    "explain": ("ssis_exporter.cli.explain", "Say what would become of an Alertmanager message."),
    "audit": ("ssis_exporter.cli.audit", "Show the ledger of stops."),
    "healthcheck": ("ssis_exporter.cli.healthcheck", "Ask a running exporter whether it is well."),
    "dts-probe": ("ssis_exporter.cli.dts_probe", "Show what the managed API answers on this machine."),
}
"""Command to the module whose `command` it is, and one line of help. The module is imported when it is asked for."""


class Commands(click.Group):
    """Imports a command only when it is used, so that `--help` and the small commands are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of `COMMANDS`."""
        del ctx
        # Not `list(...)`: once the command `list` was imported, its module hides the built-in name in this file.
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As ever; a slip gets the likely command with its refusal, as options do."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            likely = difflib.get_close_matches(args[0].lower(), COMMANDS, n=1)
            if likely:
                ctx.fail(f"{exc.message} Did you mean '{likely[0]}'?")
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing any command."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def version_line() -> str:
    """Name, version, and what it runs on."""
    where = f"{sys.platform}/{platform.machine()}"
    return f"ssis_exporter, version {__version__} (python {platform.python_version()}, {where})"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message=version_line())
def cli() -> None:
    """Prometheus exporter and careful stop webhook for SQL Server Integration Services."""


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits; whatever goes wrong is one sentence on stderr and an exit code of `exits`."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown with escapes instead of ending the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    try:
        # Not `cli.main`: it answers a closed pipe with 1, and on Windows expands what looks like a pattern.
        given = sys.argv[1:] if arguments is None else [*arguments]
        with cli.make_context("ssis-exporter", given) as context:
            result: Any = cli.invoke(context)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.Abort:
        return exits.INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return exits.USAGE
    except SsisExporterError as exc:
        return complain(str(exc), exit_code_of(exc))
    except BrokenPipeError:
        # `list | head`: whoever reads has seen enough. Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as exc:
        log.debug("where it failed", exc_info=exc)
        hint = "run again with --log.level debug for where it failed, and please report it"
        return complain(f"unforeseen failure: {type(exc).__name__}: {exc}; {hint}", exits.UNFORESEEN)
    return result if isinstance(result, int) else exits.OK


def exit_code_of(exc: SsisExporterError) -> int:
    """The exit code for an error that ends a command."""
    match exc:
        case ListenError():
            return exits.LISTEN
        case StorageError():
            return exits.STORAGE
        case SourceError() | TooManyPending():
            return exits.FOUND
        case _:
            return exits.USAGE


def complain(sentence: str, code: int) -> int:
    """One sentence on stderr; returns the code."""
    click.echo(f"ssis-exporter: {' '.join(sentence.split())}", err=True)
    return code
