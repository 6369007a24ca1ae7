"""TLS as the driver needs it: OpenSSL's context, with verification that names what is wrong."""

from __future__ import annotations

import ipaddress
import ssl
import sys
from typing import Any

from OpenSSL import SSL, crypto

from ssis_exporter.errors import ConfigError, SourceBroken
from ssis_exporter.sources.catalog.settings import CatalogSettings


class CertificateRefused(SourceBroken):
    """The server's certificate is not believed; the sentence says why and what would help."""


def make_context(settings: CatalogSettings) -> Any:
    """
    The TLS context for one server.

    Raises `ConfigError` for a `ca_file` that cannot be used.
    """
    # TLS 1.3 sends tickets after the handshake, which TDS 7 has no place for; 1.2 is what every server speaks.
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    if not settings.verify_certificate:
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        return context
    _trust(context, settings)
    host = settings.address.host if settings.verify_host else None
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verifier(host))
    return context


def _trust(context: Any, settings: CatalogSettings) -> None:
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(str(settings.ca_file))
        except SSL.Error as exc:
            raise ConfigError(f'"ca_file": {settings.ca_file} is not a readable PEM file with certificates') from exc
        return
    context.set_default_verify_paths()
    if sys.platform == "win32":
        # OpenSSL does not read Windows' own store.
        store = context.get_cert_store()
        for name in ("ROOT", "CA"):
            for data, encoding, trust in ssl.enum_certificates(name):
                if encoding == "x509_asn" and (trust is True or "1.3.6.1.5.5.7.3.1" in trust):
                    store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, data))


def _verifier(host: str | None) -> Any:
    """What OpenSSL asks for each certificate of the chain, from the authority to the server's own."""

    def verify(_connection: Any, certificate: Any, error: int, depth: int, ok: int) -> bool:
        if not ok:
            reason = _ERRORS.get(error, f"OpenSSL's error {error}")
            raise CertificateRefused(
                f"its certificate is not believed: {reason}; put the authority, or the certificate itself, into ca_file"
            )
        if depth == 0 and host is not None and not fits(certificate.to_cryptography(), host):
            raise CertificateRefused(
                f"its certificate is not for {host}; use a name that it is for, or say verify_host: false"
            )
        return True

    return verify


_ERRORS = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it signed itself",
    19: "an authority in its chain is unknown",
    20: "its authority is unknown",
    21: "its authority is unknown",
    23: "it was revoked",
    26: "it is not for servers",
}


def fits(certificate: Any, host: str) -> bool:
    """Whether a certificate is for this host: by its alternative names, or by its common name where it has none."""
    from cryptography import x509  # noqa: PLC0415 - comes with pyOpenSSL
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        return any(_same_host(name, host) for name in common)
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        return any(_same_host(name, host) for name in names.get_values_for_type(x509.DNSName))


def _same_host(pattern: str, host: str) -> bool:
    pattern, host = pattern.casefold().rstrip("."), host.casefold().rstrip(".")
    if pattern.startswith("*."):
        first, _, rest = host.partition(".")
        return bool(first) and rest == pattern[2:]
    return pattern == host
