"""Who logs in: a login of SQL Server, a domain account with its password, this process's account, a Kerberos ticket."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from ssis_exporter.errors import ConfigError, SourceLoginFailed
from ssis_exporter.extras import need
from ssis_exporter.secretfile import Secret, read_secret
from ssis_exporter.sources.catalog.settings import CatalogSettings, Credentials


@dataclass(frozen=True, slots=True)
class Identity:
    """What the driver is given for one login."""

    user: str = ""
    password: str = ""
    exchange: Any = None
    """The driver's kind of authentication for a Windows identity; None for a login of SQL Server."""

    def __repr__(self) -> str:
        return f"Identity({self.user!r}, <secret>)"


def check_identity(settings: CatalogSettings) -> None:
    """Raises `ConfigError` or `MissingExtra` for what cannot work on this machine."""
    if settings.auth == "windows" and sys.platform != "win32":
        raise ConfigError(
            '"auth" is windows, which is this process\'s own account on Windows;'
            " here use kerberos, or {user: ..., password_file: ...}"
        )
    if not isinstance(settings.auth, Credentials) or settings.auth.is_windows:
        need("spnego", extra="catalog", what="auth by a Windows identity")
    if settings.auth == "kerberos" and sys.platform != "win32":
        need("gssapi", extra="kerberos", what="auth: kerberos")


def check_password(settings: CatalogSettings) -> None:
    """Raises `ConfigError` for a password file that cannot be used."""
    if isinstance(settings.auth, Credentials):
        _read(settings.auth)


def make_identity(settings: CatalogSettings, *, port: int) -> Identity:
    """
    The identity for one login; the password is read from its file each time, so that a new one is taken at once.

    Raises `SourceLoginFailed` where there is nothing to log in with.
    """
    auth = settings.auth
    if isinstance(auth, Credentials) and not auth.is_windows:
        return Identity(auth.user, _password(auth))
    try:
        if isinstance(auth, Credentials):
            return Identity(auth.user, exchange=_Exchange(settings, port, "negotiate", auth.user, _password(auth)))
        return Identity(exchange=_Exchange(settings, port, "kerberos" if auth == "kerberos" else "negotiate"))
    except SourceLoginFailed:
        raise
    except Exception as exc:
        raise SourceLoginFailed(f"there is no Windows identity to log in with: {exc}") from exc


def _password(auth: Credentials) -> str:
    try:
        return _read(auth).reveal()
    except ConfigError as exc:
        raise SourceLoginFailed(str(exc)) from exc


def _read(auth: Credentials) -> Secret:
    return read_secret(auth.password_file, what="the password")


class _Exchange:
    """The driver's interface to `pyspnego`."""

    def __init__(
        self, settings: CatalogSettings, port: int, protocol: str, user: str | None = None, password: str | None = None
    ) -> None:
        import spnego  # noqa: PLC0415 - only where a Windows identity is configured

        self._context = spnego.client(
            user,
            password,
            # The service principal of SQL Server carries the port: MSSQLSvc/host:port.
            hostname=f"{settings.address.host}:{port}",
            service="MSSQLSvc",
            protocol=protocol,
        )

    def create_packet(self) -> bytes:
        """The first token."""
        return self._step(None) or b""

    def handle_next(self, packet: bytes) -> bytes | None:
        """The answer to the server's token."""
        return self._step(packet)

    def close(self) -> None:
        """Nothing is held."""

    def _step(self, token: bytes | None) -> bytes | None:
        import spnego.exceptions  # noqa: PLC0415

        try:
            answer: bytes | None = self._context.step(token)
        except spnego.exceptions.SpnegoError as exc:
            raise SourceLoginFailed(f"the Windows identity was not accepted: {exc}") from exc
        return answer
