"""What the login may see and do, and how to say what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from ssis_exporter.model import Scope, Visibility


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """The roles that decide which rows of the catalog's views a login is shown (the filter of `catalog.executions`)."""

    login: str = ""
    sysadmin: bool = False
    ssis_admin: bool = False
    ssis_logreader: bool | None = None
    """None where this SSISDB has no such role (before 2016)."""

    @property
    def visibility(self) -> Visibility:
        """The scope; equal details mean equal rights."""
        roles = [
            name
            for name, has in (
                ("sysadmin", self.sysadmin),
                ("ssis_admin", self.ssis_admin),
                ("ssis_logreader", self.ssis_logreader),
            )
            if has
        ]
        if roles:
            return Visibility(Scope.ALL, f"{self.login} is in {', '.join(roles)}")
        # Without a role a login is shown what it started itself, and what it was granted READ on.
        return Visibility(Scope.OWN, f"{self.login} is in none of ssis_logreader, ssis_admin, sysadmin")

    @property
    def may_stop_all(self) -> bool:
        """Whether `catalog.stop_operation` is open to it for every run, as far as roles tell."""
        return self.sysadmin or self.ssis_admin


def quoted(name: str) -> str:
    """A name as T-SQL takes it."""
    return "[" + name.replace("]", "]]") + "]"


def grant_reading(login: str, database: str, *, has_logreader: bool) -> str:
    """T-SQL that lets a login see every run."""
    role = "ssis_logreader" if has_logreader else "ssis_admin"
    return _grant(login, database, role)


def grant_stopping(login: str, database: str) -> str:
    """T-SQL that lets a login stop every run (`ssis_admin` may do more than that: deploy, run, configure)."""
    return _grant(login, database, "ssis_admin")


def _grant(login: str, database: str, role: str) -> str:
    # A login may come by a group, or by a role of the server, and have no user of its own. Without FOR LOGIN the user
    # is for the login of that name, or for the Windows account where only its group has a login.
    return (
        f"USE {quoted(database)};\n"
        f"IF USER_ID(N'{_literal(login)}') IS NULL CREATE USER {quoted(login)};\n"
        f"ALTER ROLE {role} ADD MEMBER {quoted(login)};"
    )


def _literal(name: str) -> str:
    return name.replace("'", "''")
