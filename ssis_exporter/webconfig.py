"""`--web.config.file`: exporter-toolkit's file for TLS, users, headers and a rate limit, read again when it changes."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ssis_exporter.certificates import ServerTls, Stamp, TlsSettings, stamp_of
from ssis_exporter.errors import ConfigError
from ssis_exporter.handlers import Refusal
from ssis_exporter.passwords import Passwords, check_hashes
from ssis_exporter.shapes import read_shape
from ssis_exporter.yamlfile import read_yaml

log = logging.getLogger(__name__)

VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}

CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
"""Go's names (of IANA) to OpenSSL's, for TLS 1.2 and older."""

CIPHERS_OF_TLS13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""Known and always offered: neither Go nor Python lets them be chosen."""

CURVES = {"X25519": "X25519", "CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1"}

Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]


class TlsFile(msgspec.Struct, frozen=True, kw_only=True):
    """The section `tls_server_config`."""

    cert_file: Path | None = None
    key_file: Path | None = None
    cert: str = ""
    key: str = ""
    client_ca_file: Path | None = None
    client_ca: str = ""
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Literal["X25519", "CurveP256", "CurveP384", "CurveP521"], ...] = ()

    def __post_init__(self) -> None:
        self._check_pair()
        self._check_client()
        if VERSIONS[self.min_version] > VERSIONS[self.max_version]:
            raise ValueError(f'"min_version" {self.min_version} is above "max_version" {self.max_version}')
        for name in self.cipher_suites:
            if name not in CIPHERS and name not in CIPHERS_OF_TLS13:
                raise ValueError(f'"cipher_suites": unknown name {name!r}; known are {", ".join(CIPHERS)}')
        if len(self.curve_preferences) > 1 and not hasattr(ssl.SSLContext, "set_groups"):
            raise ValueError('"curve_preferences": this Python can be told only one curve; name the preferred one')

    def _check_pair(self) -> None:
        for one, other in (("cert", "key"), ("cert_file", "key_file")):
            if getattr(self, one) and not getattr(self, other):
                raise ValueError(f'"{one}" needs "{other}"')
            if getattr(self, other) and not getattr(self, one):
                raise ValueError(f'"{other}" needs "{one}"')
        if self.cert and self.cert_file:
            raise ValueError('"cert" excludes "cert_file"; give one of them')
        if not self.cert and not self.cert_file and self.is_set():
            raise ValueError('"cert_file" and "key_file" are missing')

    def is_set(self) -> bool:
        """Whether anything differs from its default."""
        return any(getattr(self, name) != default for name, default in _TLS_DEFAULTS.items())

    def _check_client(self) -> None:
        if self.client_auth_type in ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert"):
            raise ValueError(
                f'"client_auth_type" {self.client_auth_type} takes certificates that nobody verified, which Python '
                "cannot do; use RequireAndVerifyClientCert"
            )
        has_ca = bool(self.client_ca or self.client_ca_file)
        if self.client_ca and self.client_ca_file:
            raise ValueError('"client_ca" excludes "client_ca_file"; give one of them')
        if has_ca and self.client_auth_type == "NoClientCert":
            raise ValueError('a client CA needs "client_auth_type": RequireAndVerifyClientCert')
        if not has_ca and self.client_auth_type != "NoClientCert":
            raise ValueError(f'"client_auth_type" {self.client_auth_type} needs "client_ca_file"')
        if self.client_allowed_sans and not has_ca:
            raise ValueError('"client_allowed_sans" needs "client_auth_type": RequireAndVerifyClientCert')

    def settings(self) -> TlsSettings:
        """For the listener."""
        ciphers = tuple(CIPHERS[name] for name in self.cipher_suites if name in CIPHERS)
        only_tls13 = bool(self.cipher_suites) and not ciphers
        return TlsSettings(
            cert_file=self.cert_file,
            key_file=self.key_file,
            cert=self.cert,
            key=self.key,
            client_ca_file=self.client_ca_file,
            client_ca=self.client_ca,
            client_certificate={
                "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
                "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
            }.get(self.client_auth_type, ssl.CERT_NONE),
            client_allowed_sans=self.client_allowed_sans,
            min_version=ssl.TLSVersion.TLSv1_3 if only_tls13 else VERSIONS[self.min_version],
            max_version=VERSIONS[self.max_version],
            ciphers=ciphers,
            server_order=self.prefer_server_cipher_suites,
            curves=tuple(CURVES[name] for name in self.curve_preferences),
        )


_TLS_DEFAULTS: dict[str, Any] = dict(zip(TlsFile.__struct_fields__, TlsFile.__struct_defaults__, strict=True))


_HEADERS = {
    "content_security_policy": "Content-Security-Policy",
    "x_frame_options": "X-Frame-Options",
    "x_content_type_options": "X-Content-Type-Options",
    "x_xss_protection": "X-XSS-Protection",
    "strict_transport_security": "Strict-Transport-Security",
}


class HeadersFile(msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: _HEADERS[name]):
    """The section `http_server_config.headers`: these and no others."""

    content_security_policy: str | None = None
    x_frame_options: Literal["deny", "sameorigin"] | None = None
    x_content_type_options: Literal["nosniff"] | None = None
    x_xss_protection: str | int | None = None
    strict_transport_security: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.items():
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f'"{name}" must be one line of plain ASCII text')

    def items(self) -> list[tuple[str, str]]:
        """Those that are given, by their names on the wire."""
        return [(_HEADERS[name], str(getattr(self, name))) for name in _HEADERS if getattr(self, name) is not None]


class HttpFile(msgspec.Struct, frozen=True, kw_only=True):
    """The section `http_server_config`."""

    http2: bool | None = None
    headers: HeadersFile | None = None


class RateFile(msgspec.Struct, frozen=True, kw_only=True):
    """The section `rate_limit`: one bucket for the whole server, read at start only."""

    interval: timedelta = timedelta()
    burst: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.interval and not self.burst:
            raise ValueError('"burst" must be at least 1, or every request would be refused')


class WebFile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    tls_server_config: TlsFile | None = None
    http_server_config: HttpFile | None = None
    basic_auth_users: dict[str, str] = {}
    rate_limit: RateFile | None = None


def read_web_file(path: Path) -> WebFile:
    """The file, checked. Raises `ConfigError` with file, line and key; `MissingExtra` where users need `bcrypt`."""
    node = read_yaml(path, what="the web configuration file")
    found = read_shape(node, WebFile, base=path.parent)
    if found.basic_auth_users:
        assert isinstance(node.value, Mapping)
        check_hashes(found.basic_auth_users, where=node.value["basic_auth_users"])
    return found


class Bucket:
    """So many requests at once, and one more after each interval."""

    def __init__(self, interval: timedelta, burst: int, monotonic: Callable[[], float]) -> None:
        self._interval = interval.total_seconds()
        self._burst = burst
        self._monotonic = monotonic
        self._left = float(burst)
        self._at = monotonic()

    def take(self) -> bool:
        """Whether one more may pass now."""
        now = self._monotonic()
        self._left = min(self._burst, self._left + (now - self._at) / self._interval)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class WebConfig:
    """
    The file in use: the guard of the application, and the listener's TLS.

    It is looked at before each request and each handshake. While it is wrong, requests are answered with 500 and
    handshakes are refused; nothing is ever opened because a file could not be read.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Reads file and certificates. Raises `ConfigError` or `MissingExtra` with one sentence."""
        self._path = path
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._file: WebFile | None = None
        self._tls: ServerTls | None = None
        self._told = ""
        self._passwords = Passwords()
        self._headers: dict[str, str] = {}
        file = self._current()
        self.uses_tls = file.tls_server_config is not None and file.tls_server_config.is_set()
        """Whether the listener is encrypted; decided at start."""
        rate = file.rate_limit
        self._bucket = Bucket(rate.interval, rate.burst, monotonic) if rate is not None and rate.interval else None
        if self.uses_tls:
            self._load_tls()
        if file.http_server_config is not None and file.http_server_config.http2:
            log.info("%s: http2 is accepted and ignored; this exporter speaks HTTP/1.1", path)

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers for every answer, of the last file that was right."""
        return self._headers

    @property
    def certificate_expires_at(self) -> datetime | None:
        """When the certificate in use ends; None without TLS."""
        return self._tls.expires_at if self._tls is not None else None

    async def check(self, authorization: str | None) -> Refusal | None:
        """Whether a request may be served: the rate, the file, the user."""
        if self._bucket is not None and not self._bucket.take():
            return Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many requests; the web configuration limits their rate")
        try:
            file = await asyncio.to_thread(self._current)
        except ConfigError as exc:
            self._tell(exc)
            return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the web configuration file is wrong; the log says why")
        if not file.basic_auth_users:
            return None
        return await self._passwords.check(file.basic_auth_users, authorization)

    async def context(self) -> ssl.SSLContext:
        """The context of the next handshake. Raises `ConfigError`, and tells the log once."""
        try:
            return await asyncio.to_thread(self._load_tls)
        except ConfigError as exc:
            self._tell(exc)
            raise

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a client with this certificate may speak."""
        return self._tls is not None and self._tls.admits(certificate)

    def close(self) -> None:
        """Ends the thread that compares passwords."""
        self._passwords.close()

    def _tell(self, exc: ConfigError) -> None:
        if str(exc) != self._told:
            self._told = str(exc)
            log.error("requests are refused: %s", exc)

    def _current(self) -> WebFile:
        with self._lock:
            stamp = stamp_of((self._path,))
            if self._file is None or stamp != self._stamp:
                self._file = None
                file = read_web_file(self._path)
                # Only now: while it is wrong, each request looks again.
                self._file, self._stamp, self._told = file, stamp, ""
                given = file.http_server_config.headers if file.http_server_config is not None else None
                self._headers = dict(given.items()) if given is not None else {}
            return self._file

    def _load_tls(self) -> ssl.SSLContext:
        section = self._current().tls_server_config
        if section is None or not section.is_set():
            raise ConfigError(f"{self._path}: tls_server_config is gone; going on without TLS needs a restart")
        settings = section.settings()
        with self._lock:
            if self._tls is None or self._tls.settings != settings:
                self._tls = ServerTls(settings)
            return self._tls.load()
