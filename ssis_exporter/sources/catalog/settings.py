"""The keys of a `catalog` source, and where its server is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from ssis_exporter.sources.interface import SourceSettings

DEFAULT_PORT = 1433


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server as the configuration names it: by port, or by the name of its instance."""

    host: str
    port: int | None = None
    """None where the instance's name leads to it."""

    instance: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.instance:
            return f"{host}\\{self.instance}"
        return host if self.port in (None, DEFAULT_PORT) else f"{host}:{self.port}"


_HOST = r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?)"
_SERVER = re.compile(rf"{_HOST}(?::(?P<port>[0-9]{{1,5}})|\\(?P<instance>[A-Za-z_#][A-Za-z0-9_#$]{{0,15}}))?", re.ASCII)


def parse_server(text: str) -> ServerAddress:
    """
    `host`, `host:port` or `host\\INSTANCE`; `.` and `(local)` are this machine, as in every tool for SQL Server.

    Raises `ValueError` with one sentence.
    """
    words = text.strip()
    for here in ("(local)", "."):
        if words.casefold() == here or words.casefold().startswith((here + "\\", here + ":")):
            words = "localhost" + words[len(here) :]
    found = _SERVER.fullmatch(words)
    if found is None:
        comma = "; the port comes after a colon, not a comma" if "," in words else ""
        raise ValueError(f'"server" must be host, host:port or host\\INSTANCE, not {text[:80]!r}{comma}')
    port = DEFAULT_PORT if found["port"] is None else int(found["port"])
    if not 0 < port < 65536:
        raise ValueError(f'"server" names port {port}, which does not exist')
    host = found["host"].strip("[]")
    instance = found["instance"] or ""
    if instance.upper() == "MSSQLSERVER":
        # The default instance has no name of its own at the browser service.
        return ServerAddress(host, DEFAULT_PORT)
    return ServerAddress(host, None if instance else port, instance)


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A login of SQL Server (`exporter`) or of a domain (`CORP\\svc`, `svc@corp.example`) with its password."""

    user: str
    password_file: Path

    @property
    def is_windows(self) -> bool:
        """Whether it is an account of Windows, not one that only this SQL Server knows."""
        return "\\" in self.user or "@" in self.user


class CatalogSettings(SourceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of an entry under `sources:` with `kind: catalog`."""

    server: str
    """`host`, `host:port` or `host\\INSTANCE`."""

    database: str = "SSISDB"
    auth: Literal["windows", "kerberos"] | Credentials = "windows"
    """`windows` is this process's own account (on Windows), `kerberos` its ticket (elsewhere)."""

    encrypt: bool = True
    """`false` sends everything readable, the password included."""

    ca_file: Path | None = None
    """PEM file with the authorities to believe, instead of the system's own."""

    verify_host: bool = True
    """`false` takes the certificate of any host that an authority vouches for."""

    verify_certificate: bool = True
    """`false` takes any certificate: encrypted, but anyone in between can read it all."""

    performance_counters: bool = False
    """Reads `catalog.dm_execution_performance_counters` for the longest running executions."""

    def __post_init__(self) -> None:
        parse_server(self.server)
        if not self.database.strip() or len(self.database) > 128:
            raise ValueError('"database" must have 1 to 128 characters')
        for name, given in (
            ("ca_file", self.ca_file is not None),
            ("verify_host", not self.verify_host),
            ("verify_certificate", not self.verify_certificate),
        ):
            if given and not self.encrypt:
                raise ValueError(f'"{name}" has no meaning with encrypt: false')
        if self.ca_file is not None and not self.verify_certificate:
            raise ValueError('"ca_file" has no meaning with verify_certificate: false')

    @property
    def address(self) -> ServerAddress:
        """Where the server is."""
        return parse_server(self.server)
