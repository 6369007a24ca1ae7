"""What `ssis-exporter check` says about a catalog: what the login sees, whether it could stop, what to grant."""

from __future__ import annotations

from collections.abc import Iterator

from ssis_exporter.errors import SourceError
from ssis_exporter.model import Finding, FindingLevel, Scope
from ssis_exporter.sources.catalog.queries import Place
from ssis_exporter.sources.catalog.rights import grant_reading, grant_stopping, let_account_in, let_login_in
from ssis_exporter.sources.catalog.session import CatalogSession
from ssis_exporter.sources.catalog.settings import CatalogSettings, Credentials
from ssis_exporter.sources.catalog.troubles import ServerError

NOT_LET_IN = {229, 916, 4060}
"""Errors of a login that the server knows and the database does not let in. 4060 may also be a missing database."""


def findings(settings: CatalogSettings, session: CatalogSession, place: Place, open_runs: str) -> Iterator[Finding]:
    """One sentence each, with T-SQL to copy where a right is missing. `open_runs` is empty where nobody can tell."""
    shown = f"; {open_runs} open executions" if open_runs else ""
    yield Finding(
        level=FindingLevel.OK,
        text=f"{settings.address} answers (SQL Server {session.version}), logged in as {session.server.login}{shown}",
    )
    yield from _encryption(settings)
    yield _reading(settings, session, place)
    yield _stopping(settings, session, place)


def trouble(settings: CatalogSettings, exc: SourceError) -> Finding:
    """Why nothing could be read, with T-SQL to copy where the database does not let the login in."""
    cause, remedy = exc.__cause__, ""
    if isinstance(cause, ServerError) and NOT_LET_IN & set(cause.numbers):
        remedy = _let_in(settings)
    return Finding(level=FindingLevel.PROBLEM, text=str(exc), remedy=remedy)


def _let_in(settings: CatalogSettings) -> str:
    auth = settings.auth
    if not isinstance(auth, Credentials):
        return let_account_in("DOMAIN\\account", settings.database, is_guess=True)
    if not auth.is_windows:
        return let_login_in(auth.user, settings.database)
    if "\\" in auth.user:
        return let_account_in(auth.user, settings.database, is_guess=False)
    # The server knows no account by its principal name.
    return let_account_in("DOMAIN\\" + auth.user.partition("@")[0], settings.database, is_guess=True)


def _encryption(settings: CatalogSettings) -> Iterator[Finding]:
    if not settings.encrypt:
        text = "encrypt is false: what is sent, the password included, can be read on the way"
        yield Finding(level=FindingLevel.WARNING, text=text, remedy="encrypt: true, and ca_file if need be")
    elif not settings.verify_certificate:
        text = "verify_certificate is false: whoever stands in between can read and change everything"
        yield Finding(
            level=FindingLevel.WARNING, text=text, remedy="ca_file: the server's certificate, or its authority"
        )
    elif not settings.verify_host:
        text = "verify_host is false: any server with a certificate of a known authority is believed"
        yield Finding(level=FindingLevel.WARNING, text=text)


def _reading(settings: CatalogSettings, session: CatalogSession, place: Place) -> Finding:
    rights = place.rights
    if rights.visibility.scope is Scope.ALL:
        return Finding(level=FindingLevel.OK, text=f"it sees all executions: {rights.visibility.detail}")
    has_logreader = rights.ssis_logreader is not None
    return Finding(
        level=FindingLevel.PROBLEM,
        text="it sees only executions that it started itself or was granted, and nobody can tell that from an idle"
        f" server: {rights.visibility.detail}"
        + ("" if has_logreader else "; before 2016 only ssis_admin sees all, and may do far more than see"),
        remedy=grant_reading(session.server.user, settings.database, has_logreader=has_logreader),
    )


def _stopping(settings: CatalogSettings, session: CatalogSession, place: Place) -> Finding:
    if session.server.cannot_stop:
        return Finding(
            level=FindingLevel.WARNING,
            text="it cannot stop: catalog.stop_operation refuses logins of SQL Server (error 27123), sa included",
            remedy="auth: windows, kerberos, or a domain account: {user: CORP\\svc, password_file: ...}",
        )
    if place.rights.may_stop_all:
        return Finding(level=FindingLevel.OK, text="it may stop every execution")
    return Finding(
        level=FindingLevel.WARNING,
        text="it may stop only executions that it started itself; enough for an exporter that does not stop",
        remedy=grant_stopping(session.server.user, settings.database),
    )
