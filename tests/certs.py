"""Certificates for tests, made on the spot."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    cert: str
    key: str
    not_after: datetime

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """As two files."""
        cert, key = folder / f"{name}.crt", folder / f"{name}.key"
        cert.write_text(self.cert)
        key.touch(mode=0o600)
        key.write_text(self.key)
        return cert, key

    def client_context(self, folder: Path, trusts: str) -> ssl.SSLContext:
        """A client that shows this certificate and trusts another."""
        context = trusting(trusts)
        context.load_cert_chain(*self.write(folder, "client"))
        return context


class Authority:
    """Signs."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        builder = _builder(self._name, self._name, self._key, datetime.now(UTC) + timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.cert = _pem(builder.sign(self._key, hashes.SHA256()))

    def sign(
        self,
        *,
        names: tuple[str, ...] = ("localhost",),
        ends_in: timedelta = timedelta(days=2),
        password: bytes | None = None,
    ) -> Pair:
        """A certificate with these alternative names; those that look like addresses, e-mails and URIs become such."""
        key = ec.generate_private_key(ec.SECP256R1())
        not_after = (datetime.now(UTC) + ends_in).replace(microsecond=0)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        builder = _builder(subject, self._name, key, not_after)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()
        return Pair(_pem(builder.sign(self._key, hashes.SHA256())), text, not_after)

    def client_context(self) -> ssl.SSLContext:
        """A client that trusts this authority."""
        return trusting(self.cert)


def trusting(cert: str) -> ssl.SSLContext:
    """A client that trusts this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=cert)
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=400))
        .not_valid_after(not_after)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    return x509.RFC822Name(name) if "@" in name else x509.DNSName(name)


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()
