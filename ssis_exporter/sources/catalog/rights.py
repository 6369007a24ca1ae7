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


# Each text may be run again: what is there already is left as it is.


def grant_reading(user: str, database: str, *, has_logreader: bool) -> str:
    """T-SQL that lets a user see every run."""
    return _grant(database, _make_user(user), "ssis_logreader" if has_logreader else "ssis_admin", user)


def grant_stopping(user: str, database: str) -> str:
    """T-SQL that lets a user stop every run (`ssis_admin` may do more than that: deploy, run, configure)."""
    return _grant(database, _make_user(user), "ssis_admin", user)


def let_login_in(login: str, database: str) -> str:
    """T-SQL that lets a login of SQL Server into the database, and see every run."""
    # In a database that came from another server there is a user of that name, who belongs to nobody here.
    user = f"{_make_user(login)} ELSE ALTER USER {quoted(login)} WITH LOGIN = {quoted(login)};"
    return _grant(database, user, "ssis_logreader", login) + BEFORE_2016


def let_account_in(account: str, database: str, *, is_guess: bool) -> str:
    """T-SQL that lets an account of Windows into the database, and see every run."""
    text = _grant(database, _make_user(account), "ssis_logreader", account) + BEFORE_2016
    return f"-- {account} stands for the account as the server knows it\n{text}" if is_guess else text


BEFORE_2016 = "  -- before SQL Server 2016: ssis_admin"


def _make_user(name: str) -> str:
    # A login may come by a group, or by a role of the server, and have no user of its own. Without FOR LOGIN the user
    # is for the login of that name, or for the Windows account where only its group has a login.
    literal = name.replace("'", "''")
    return f"IF USER_ID(N'{literal}') IS NULL CREATE USER {quoted(name)};"


def _grant(database: str, make_user: str, role: str, user: str) -> str:
    return f"USE {quoted(database)};\n{make_user}\nALTER ROLE {role} ADD MEMBER {quoted(user)};"
