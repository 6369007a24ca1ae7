"""TLS as the driver needs it: OpenSSL's context, with verification that names what is wrong."""

from __future__ import annotations

import ipaddress
import ssl
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto

from ssis_exporter.errors import ConfigError

_said = threading.local()
"""Why the handshake that runs on this thread was refused."""


@cache
def make_context(*, ca_file: Path | None, ca_written: int, verify_host: bool, verify_certificate: bool) -> Any:
    """
    The TLS context for servers of these settings; one for all of them, since the system's authorities take a megabyte.

    `ca_written` is when `ca_file` was written, so that another content makes another context.
    Raises `ConfigError` for a `ca_file` that cannot be used.
    """
    # TLS 1.3 sends tickets after the handshake, which TDS 7 has no place for; 1.2 is what every server speaks.
    del ca_written
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    if not verify_certificate:
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        return context
    _trust(context, ca_file)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verifier(verify_host=verify_host))
    return context


def take_refusal() -> str:
    """Why the last handshake on this thread was refused; empty when it was not for its certificate."""
    reason: str = getattr(_said, "refusal", "")
    _said.refusal = ""
    return reason


def _trust(context: Any, ca_file: Path | None) -> None:
    if ca_file is not None:
        try:
            context.load_verify_locations(str(ca_file))
        except SSL.Error as exc:
            raise ConfigError(f'"ca_file": {ca_file} is not a readable PEM file with certificates') from exc
        # Whatever is in it is believed, also where it did not sign itself: the server's own, or one in between.
        context.get_cert_store().set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        return
    context.set_default_verify_paths()
    if sys.platform == "win32":
        # OpenSSL does not read Windows' own store.
        store = context.get_cert_store()
        for name in ("ROOT", "CA"):
            for data, encoding, trust in ssl.enum_certificates(name):
                if encoding == "x509_asn" and (trust is True or "1.3.6.1.5.5.7.3.1" in trust):
                    store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, data))


def _verifier(*, verify_host: bool) -> Any:
    """What OpenSSL asks for each certificate of the chain, from the authority to the server's own."""

    def verify(connection: Any, certificate: Any, error: int, depth: int, ok: int) -> bool:
        if not ok:
            reason = _ERRORS.get(error) or _TOO_WEAK.get(error) or f"OpenSSL's error {error}"
            remedy = (
                "give the server another one, or say verify_certificate: false" if error in _TOO_WEAK else _TRUST_IT
            )
            _said.refusal = f"its certificate is not believed: {reason}; {remedy}"
            return False
        host = (connection.get_servername() or b"").decode("ascii")
        if depth == 0 and verify_host and not fits(certificate.to_cryptography(), host):
            _said.refusal = f"its certificate is not for {host}; use a name that it is for, or say verify_host: false"
            return False
        return True

    return verify


_TRUST_IT = "put the authority, or the certificate itself, into ca_file"

_TOO_WEAK = {
    66: "its key is too short",
    67: "the key of an authority in its chain is too short",
    68: "it is signed by a method that is broken",
}
"""What no `ca_file` mends. Servers before 2017 make themselves such a certificate where they are given none."""

_ERRORS = {
    2: "its authority is unknown",
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
