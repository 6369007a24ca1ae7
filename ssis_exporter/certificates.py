"""TLS for a listener: contexts from PEM files that may be replaced while it runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssis_exporter.errors import ConfigError
from ssis_exporter.secretfile import too_open
from ssis_exporter.yamlfile import read_file

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """What a server offers and demands. Certificate and key are files, or both texts."""

    cert_file: Path | None = None
    key_file: Path | None = None
    cert: str = ""
    key: str = field(default="", repr=False)
    client_ca_file: Path | None = None
    client_ca: str = ""
    client_certificate: ssl.VerifyMode = ssl.CERT_NONE
    client_allowed_sans: tuple[str, ...] = ()
    """When given, a client certificate must carry one of these names, exactly."""

    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    """OpenSSL's names, for TLS 1.2 and older; empty for the library's choice."""

    server_order: bool = True
    curves: tuple[str, ...] = ()
    """OpenSSL's names, the preferred first; empty for the library's choice."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it rests on."""
        return tuple(path for path in (self.cert_file, self.key_file, self.client_ca_file) if path is not None)


class ServerTls:
    """
    The context for handshakes; made anew when one of the files has changed.

    While the files are wrong, handshakes are refused and the log says why, once; nothing old is served on.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self.settings = settings
        self._stamp: Stamp | None = None
        self._context: ssl.SSLContext | None = None
        self._told = ""
        self.expires_at: datetime | None = None
        """When the first certificate of the chain in use ends; None until `load` has worked."""

    def load(self) -> ssl.SSLContext:
        """The context of the files as they are now. Blocks for reading. Raises `ConfigError` with one sentence."""
        stamp = stamp_of(self.settings.files)
        if self._context is None or stamp != self._stamp:
            self._context = None
            context, expires_at = _make_context(self.settings)
            # Only now: while they are wrong, each handshake looks again.
            self._context, self._stamp, self.expires_at = context, stamp, expires_at
            self._told = ""
            if expires_at <= datetime.now(UTC):
                log.warning("the TLS certificate ended on %s", expires_at.isoformat())
        return self._context

    async def context(self) -> ssl.SSLContext:
        """As `load`, without blocking the event loop."""
        try:
            return await asyncio.to_thread(self.load)
        except ConfigError as exc:
            if str(exc) != self._told:
                self._told = str(exc)
                log.error("TLS connections are refused: %s", exc)  # noqa: TRY400 - the sentence says it all
            raise

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether the client may speak; without `client_allowed_sans` every verified one may."""
        allowed = self.settings.client_allowed_sans
        return not allowed or bool(names_in(certificate) & {_normal(name) for name in allowed})


def stamp_of(files: tuple[Path, ...]) -> Stamp:
    """Changes when one of the files is replaced or written to."""
    return tuple(_stamp(path) for path in files)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The change time tells of rights taken away, too.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def names_in(certificate: Mapping[str, Any] | None) -> set[str]:
    """The alternative names of a certificate (DNS, e-mail, IP, URI)."""
    if not certificate:
        return set()
    return {_normal(str(name)) for _, name in certificate.get("subjectAltName", ())}


def _normal(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _make_context(settings: TlsSettings) -> tuple[ssl.SSLContext, datetime]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    _choose_versions(context, settings)
    chain = _load_pair(context, settings)
    context.verify_mode = settings.client_certificate
    if settings.client_certificate is not ssl.CERT_NONE:
        _load_client_ca(context, settings)
    return context, first_expiry(chain)


def _choose_versions(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.minimum_version = settings.min_version
    context.maximum_version = settings.max_version
    if not settings.server_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        if settings.ciphers:
            context.set_ciphers(":".join(settings.ciphers))
        if len(settings.curves) == 1:
            context.set_ecdh_curve(settings.curves[0])
        elif settings.curves:
            # Python 3.15 and later.
            context.set_groups(":".join(settings.curves))  # type: ignore[attr-defined]
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"this machine's OpenSSL refuses the ciphers or curves: {exc}") from exc


def _load_pair(context: ssl.SSLContext, settings: TlsSettings) -> str:
    """Loads certificate and key; returns the certificates' text."""
    if settings.cert_file is None or settings.key_file is None:
        _load_inline(context, settings)
        return settings.cert
    # Read first, for errors that say which of the two it is.
    chain = read_file(settings.cert_file, what="the TLS certificate").decode("ascii", "replace")
    read_file(settings.key_file, what="the TLS key")
    warning = too_open(settings.key_file, what="the TLS key")
    if warning:
        log.warning("%s", warning)
    _load_chain(context, settings.cert_file, settings.key_file, f"{settings.cert_file} and {settings.key_file}")
    return chain


def _load_inline(context: ssl.SSLContext, settings: TlsSettings) -> None:
    # The ssl module reads certificates and keys from files only.
    try:
        with tempfile.TemporaryDirectory(prefix="ssis_exporter-") as folder:
            pair = Path(folder, "pair.pem")
            pair.touch(mode=0o600)
            pair.write_text(f"{settings.cert}\n{settings.key}\n", encoding="utf-8")
            _load_chain(context, pair, pair, "cert and key")
    except OSError as exc:
        raise ConfigError(
            f"cert and key as text need a private temporary file for a moment, which cannot be written "
            f"({exc.strerror}); use cert_file and key_file"
        ) from exc


def _load_chain(context: ssl.SSLContext, cert: Path, key: Path, named: str) -> None:
    def encrypted() -> str:
        raise ConfigError(f"{named}: the key is encrypted; use one without a password")

    try:
        context.load_cert_chain(cert, key, password=encrypted)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{named}: the key does not belong to the certificate") from exc
        raise ConfigError(f"{named}: no usable certificate and key in PEM form ({exc.reason or exc})") from exc


def _load_client_ca(context: ssl.SSLContext, settings: TlsSettings) -> None:
    text, named = settings.client_ca, "client_ca"
    if settings.client_ca_file is not None:
        named = str(settings.client_ca_file)
        text = read_file(settings.client_ca_file, what="the CA of client certificates").decode("ascii", "replace")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"{named}: no certificate in PEM form") from exc


_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def first_expiry(chain: str) -> datetime:
    """When the first of these certificates ends. Raises `ConfigError` where there is none."""
    try:
        return min(_not_after(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(chain))
    except (ValueError, IndexError) as exc:
        raise ConfigError("the TLS certificate cannot be understood") from exc


def _not_after(der: bytes) -> datetime:
    """
    The end of a certificate's validity; `ssl` tells it only of a peer's verified certificate.

    RFC 5280, 4.1: Certificate { tbsCertificate { [0] version, serial, algorithm, issuer, validity { notBefore, notAfter
    """
    certificate = _inside(der, 0)
    position = certificate[0]
    position = _inside(der, position)[0]
    if der[position] == 0xA0:
        position = _inside(der, position)[1]
    for _ in ("serial", "algorithm", "issuer"):
        position = _inside(der, position)[1]
    not_before = _inside(der, position)[0]
    not_after = _inside(der, not_before)[1]
    start, end = _inside(der, not_after)
    text = der[start:end].decode("ascii")
    if der[not_after] == 0x17:  # UTCTime has two digits for the year; 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _inside(der: bytes, position: int) -> tuple[int, int]:
    """Where the content of the DER element at `position` begins and ends."""
    length = der[position + 1]
    start = position + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    return start, start + length
