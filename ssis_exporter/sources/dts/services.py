"""Which releases of the SSIS service are here, and which names of this machine the managed API takes."""

from __future__ import annotations

import logging
import platform
import socket
import sys

from ssis_exporter.errors import ConfigError

log = logging.getLogger(__name__)

KNOWN_RELEASES = (170, 160, 150, 140, 130, 120, 110)
"""SQL Server 2025 down to 2012. Older assemblies are of CLR 2 and cannot be loaded."""


def running_releases() -> list[int]:
    """
    The releases whose service `MsDtsServer<n>` runs, highest first, of those that can be read.

    The service must run for packages to be listed (SQL Server documentation, Integration Services Service). Empty
    where there are none, and on systems without such services.
    """
    found: list[int] = []
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415

        for release in KNOWN_RELEASES:
            try:
                if psutil.win_service_get(f"MsDtsServer{release}").status() == psutil.STATUS_RUNNING:
                    found.append(release)
            except psutil.NoSuchProcess:
                continue
            except (psutil.Error, OSError) as exc:
                log.debug("the service of release %d cannot be asked: %s", release, exc)
    return found


def is_installed(release: int) -> bool:
    """Whether the service `MsDtsServer<n>` is here, running or not; where nothing tells, it is taken to be."""
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415

        try:
            psutil.win_service_get(f"MsDtsServer{release}").status()
        except psutil.NoSuchProcess:
            return False
        except (psutil.Error, OSError) as exc:
            log.debug("the service of release %d cannot be asked: %s", release, exc)
    return True


def machine_names() -> set[str]:
    """This machine's own names, in lower case."""
    full = socket.gethostname().lower()
    return {name for name in (full, full.partition(".")[0], platform.node().lower()) if name}


def checked_server(source: str, server: str) -> str:
    """
    The name to give the API, or `ConfigError`.

    `GetRunningPackages` takes a machine, never an instance, and refuses `(local)` (SQL Server documentation, Managing
    Running Packages Programmatically); it reads the machine it runs on.
    """
    right = f"use '.', 'localhost' or this machine's name ({', '.join(sorted(machine_names()))})"
    if server in {".", "localhost"} or server.lower() in machine_names():
        return server
    if server.lower() == "(local)":
        raise ConfigError(f"source {source}: server '(local)' is refused by the managed API; {right}")
    if "\\" in server:
        raise ConfigError(
            f"source {source}: server {server!r} names an instance, but the SSIS service has none; {right}"
        )
    raise ConfigError(f"source {source}: server {server!r} is another machine, and the API reads only its own; {right}")
