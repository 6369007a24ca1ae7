"""Who logs in: a login of SQL Server, a domain account with its password, this process's account, a Kerberos ticket."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ssis_exporter.errors import ConfigError, SourceLoginFailed, SourceTimeout
from ssis_exporter.extras import need
from ssis_exporter.secretfile import Secret, read_secret
from ssis_exporter.sources.catalog.aside import MOST_AT_ONCE, Aside
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.settings import CatalogSettings, Credentials

T = TypeVar("T")


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


def make_identity(settings: CatalogSettings, deadline: Deadline, *, port: int) -> Identity:
    """
    The identity for one login; the password is read from its file each time, so that a new one is taken at once.

    Raises `SourceLoginFailed` where there is nothing to log in with, `SourceTimeout` where nobody said so in time.
    """
    auth = settings.auth
    if isinstance(auth, Credentials) and not auth.is_windows:
        return Identity(auth.user, _password(auth))
    try:
        user, password = (auth.user, _password(auth)) if isinstance(auth, Credentials) else (None, None)
        server = f"{settings.address.host}:{port}"
        protocol = "kerberos" if auth == "kerberos" else "negotiate"
        return Identity(user or "", exchange=_Exchange(server, protocol, deadline, user=user, password=password))
    except (SourceLoginFailed, SourceTimeout, TimeoutError):
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
        self, server: str, protocol: str, deadline: Deadline, *, user: str | None, password: str | None
    ) -> None:
        import spnego  # noqa: PLC0415 - only where a Windows identity is configured

        self._server = server
        self._deadline = deadline
        self._context = self._in_time(
            # The service principal of SQL Server carries the port: MSSQLSvc/host:port.
            lambda: spnego.client(user, password, hostname=server, service="MSSQLSvc", protocol=protocol)
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
            answer: bytes | None = self._in_time(lambda: self._context.step(token))
        except spnego.exceptions.SpnegoError as exc:
            raise SourceLoginFailed(f"the Windows identity was not accepted: {exc}") from exc
        return answer

    def _in_time(self, call: Callable[[], T]) -> T:
        """
        The libraries ask domain controllers, which may say nothing, and files that may be on a disk that hangs.

        Who logs in next does not depend on a call that was left behind, as long as there are few of them.
        """
        wait = self._deadline.wait
        with _lock:
            hanging = _hanging[self._server] = [one for one in _hanging[self._server] if not one.answer.done()]
            if len(hanging) >= MOST_AT_ONCE:
                raise SourceTimeout(_HANGS)
            begun = Aside(call, name="identity")
            hanging.append(begun)
        try:
            return begun.answer.result(wait)
        except TimeoutError as exc:
            raise SourceTimeout(_HANGS) from exc


_HANGS = "the library for Windows identities (Kerberos, SSPI) does not come back: look at the domain controllers"

_lock = threading.Lock()
_hanging: dict[str, list[Aside[Any]]] = defaultdict(list)
"""By server: calls that were on their way when last asked."""
