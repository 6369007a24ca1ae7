"""A connection to the catalog that knows what is at the other end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.driver import Connection
from ssis_exporter.sources.catalog.queries import SETTINGS, Queries
from ssis_exporter.sources.catalog.rows import Columns

AZURE_DATABASE, AZURE_MANAGED = "5", "8"
"""Engine editions whose catalog has another idea of logins (and the first, no view of recovery forks)."""

_SERVER = (
    "SELECT CAST(SERVERPROPERTY(N'ProductVersion') AS nvarchar(128)) AS product,"
    " CAST(SERVERPROPERTY(N'ProcessID') AS nvarchar(128)) AS process_id,"
    " CAST(SERVERPROPERTY(N'ComputerNamePhysicalNetBIOS') AS nvarchar(128)) AS computer,"
    " CAST(SERVERPROPERTY(N'MachineName') AS nvarchar(128)) AS machine,"
    " CAST(SERVERPROPERTY(N'EngineEdition') AS nvarchar(128)) AS edition,"
    " CAST(CONNECTIONPROPERTY(N'auth_scheme') AS nvarchar(128)) AS auth_scheme, ORIGINAL_LOGIN() AS login_name,"
    " USER_NAME() AS user_name"
)

_COLUMNS = "SELECT c.name FROM sys.columns AS c WHERE c.object_id = OBJECT_ID(N'catalog.executions')"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What does not change while a connection lives."""

    product: str
    """The engine's version, as `16.0.4085.2`."""
    engine_process: int | None
    """The process of the database engine: the parent of every ISServerExec that it starts."""
    computer: str
    """The machine that the engine runs on now."""
    machine: str
    """The name that rows carry as `machine_name`: in a failover cluster the virtual one."""
    edition: str
    """Of the engine, as a number."""
    auth_scheme: str
    """`SQL`, `NTLM`, `KERBEROS`."""
    login: str
    user: str
    """Who the login is in the database, which need not be of its name."""

    @property
    def cannot_stop(self) -> bool:
        """Whether `catalog.stop_operation` refuses it whatever its rights: error 27123, for logins of SQL Server."""
        return self.auth_scheme == "SQL" and self.edition not in (AZURE_DATABASE, AZURE_MANAGED)


class CatalogSession:
    """An open connection with its queries made for this server's columns."""

    def __init__(self, settings: Any, tls: Any, deadline: Deadline) -> None:
        self.connection = Connection(settings, tls, deadline)
        try:
            self.connection.batch(SETTINGS, deadline)
            facts, columns = self.connection.query(f"{_SERVER}; {_COLUMNS}", [], deadline)
            self.server = _server(facts[0])
            self.queries = Queries(
                self.connection,
                Columns([values[0] for values in columns]),
                shows_fork=self.server.edition != AZURE_DATABASE,
            )
        except BaseException:
            self.connection.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.connection.is_open

    @property
    def version(self) -> str:
        """The engine's version."""
        return self.server.product

    def close(self) -> None:
        """May be called twice."""
        self.connection.close()


def _server(values: tuple[Any, ...]) -> ServerFacts:
    product, process_id, computer, machine, edition, scheme, login, user = values
    number = str(process_id or "")
    return ServerFacts(
        product=str(product or ""),
        engine_process=int(number) if number.isdecimal() else None,
        computer=str(computer or ""),
        machine=str(machine or ""),
        edition=str(edition or ""),
        auth_scheme=str(scheme or "").upper(),
        login=str(login or ""),
        # A user that is not the login's alone is granted nothing.
        user=str(user or "") if str(user or "") not in ("", "dbo", "guest") else str(login or ""),
    )
