"""From the configuration to a session: names of servers, TLS, accounts; and what is said when it cannot work."""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ssis_exporter.config import load_config
from ssis_exporter.errors import (
    ConfigError,
    MissingExtra,
    SourceBroken,
    SourceLoginFailed,
    SourceMissing,
    SourceTimeout,
    SourceUnreachable,
)
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog import address as address_module
from ssis_exporter.sources.catalog.address import connect, instance_port
from ssis_exporter.sources.catalog.aside import MOST_AT_ONCE
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.resolver import Resolver
from ssis_exporter.sources.catalog.settings import CatalogSettings, Credentials, ServerAddress, parse_server
from tests.catalogs import PASSWORD, USER, ids, make_estate, rig
from tests.tds import server as server_module
from tests.tds.server import ntlm_users

LIMIT = timedelta(seconds=20)


# Names of servers.


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("sql01", ServerAddress("sql01", 1433), "sql01"),
        ("sql01.corp.example:1533", ServerAddress("sql01.corp.example", 1533), "sql01.corp.example:1533"),
        ("sql01\\INST", ServerAddress("sql01", None, "INST"), "sql01\\INST"),
        ("sql01\\MSSQLSERVER", ServerAddress("sql01", 1433), "sql01"),
        (".", ServerAddress("localhost", 1433), "localhost"),
        ("(local)\\X", ServerAddress("localhost", None, "X"), "localhost\\X"),
        ("10.0.0.7", ServerAddress("10.0.0.7", 1433), "10.0.0.7"),
        ("[fe80::1]:1444", ServerAddress("fe80::1", 1444), "[fe80::1]:1444"),
    ],
)
def test_the_forms_of_a_server(text: str, expected: ServerAddress, shown: str) -> None:
    """
    host, host:port, host\\INSTANCE, and what SQL Server's own tools call this machine.
    """
    assert (expected, shown) == (parse_server(text), str(parse_server(text)))


@pytest.mark.parametrize(
    "text", ["", "sql01,1433", "sql01:0", "sql01:99999", "sql01\\a b", "tcp:sql01", "sql01\\I:1", "a b", "sql01:x"]
)
def test_what_is_no_server_is_refused(text: str) -> None:
    """
    One sentence that names the key.
    """
    with pytest.raises(ValueError, match='"server"'):
        parse_server(text)


CASES = [
    ("server: sql01,1433", "the port comes after a colon, not a comma"),
    ("{}", "server"),
    ("server: a\n    encrypt: false\n    ca_file: x.pem", "has no meaning with encrypt: false"),
    ("server: a\n    encrypt: false\n    verify_host: false", "has no meaning with encrypt: false"),
    ("server: a\n    ca_file: x.pem\n    verify_certificate: false", "has no meaning with verify_certificate: false"),
    ("server: a\n    database: ' '", "database"),
    ("server: a\n    auth: ntlm", "must be kerberos or windows, not 'ntlm'"),
    ("server: a\n    auth: {user: x}", "password_file"),
    ("server: a\n    auth: {user: x, password: secret}", "unknown key"),
]


@pytest.mark.parametrize(("text", "words"), CASES)
def test_wrong_settings_are_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    """
    File, line, key and what would be right.
    """
    file = tmp_path / "config.yaml"
    file.write_text(f"sources:\n  - name: sql01\n    kind: catalog\n    {text if text != '{}' else 'encrypt: true'}\n")

    with pytest.raises(ConfigError, match=words) as told:
        load_config(file)
    assert "secret" not in str(told.value)


def test_the_configuration_of_the_readme_is_read(tmp_path: Path) -> None:
    """
    Defaults: SSISDB, encrypted and verified, counters off; the password's path lies beside the file.
    """
    file = tmp_path / "config.yaml"
    file.write_text(
        "sources:\n  - name: sql01\n    kind: catalog\n    server: sql01\\INST\n"
        "    auth: {user: exporter, password_file: sql01.password}\n    time_limit: 5s\n"
    )

    (source,) = load_config(file).sources

    settings = source.settings
    assert isinstance(settings, CatalogSettings)
    assert ("SSISDB", True, True, True, False) == (
        settings.database,
        settings.encrypt,
        settings.verify_host,
        settings.verify_certificate,
        settings.performance_counters,
    )
    assert Credentials(user="exporter", password_file=tmp_path / "sql01.password") == settings.auth
    assert "sql01\\INST" == source.build().info.server


@pytest.mark.skipif(sys.platform == "win32", reason="there it is right")
def test_this_processs_account_is_for_windows(made_settings: Any) -> None:
    """
    Elsewhere the sentence says what to use.
    """
    with pytest.raises(ConfigError, match="here use kerberos"):
        CatalogSource.from_settings("sql01", CatalogSettings(server="a", auth="windows"))


@pytest.fixture
def made_settings() -> None:
    """Nothing to make."""


def test_a_missing_driver_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Which extra to install.
    """
    monkeypatch.setitem(sys.modules, "pytds", None)

    with pytest.raises(MissingExtra, match=r"pip install 'ssis-exporter\[catalog\]'"):
        CatalogSource.from_settings("sql01", CatalogSettings(server="a", auth="kerberos"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows brings its own Kerberos")
def test_a_missing_kerberos_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    At start, not at the first scrape.
    """
    monkeypatch.setitem(sys.modules, "gssapi", None)

    with pytest.raises(MissingExtra, match=r"auth: kerberos needs gssapi, .*'ssis-exporter\[kerberos\]'"):
        CatalogSource.from_settings("sql01", CatalogSettings(server="a", auth="kerberos"))


# Where the server is.


class Browser:
    """The SQL Server Browser service, on a free port."""

    def __init__(self, answers: dict[str, bytes], *, deaf: int = 0) -> None:
        self.sock = socket.socket(type=socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.asked: list[bytes] = []
        self._answers = answers
        self._deaf = deaf
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, who = self.sock.recvfrom(1024)
            if question == b"end":
                return
            self.asked.append(question)
            if len(self.asked) > self._deaf:
                self.sock.sendto(self._answers.get(question[1:-1].decode().upper(), b"\x05\0\0"), who)

    def close(self) -> None:
        """Ends it."""
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join(10)
        self.sock.close()


def reply(port: int | None) -> bytes:
    text = "ServerName;SQL01;InstanceName;INST;IsClustered;No;Version;16.0.1000.6;"
    text += f"tcp;{port};;" if port else "np;\\\\SQL01\\pipe\\sql;;"
    return b"\x05" + len(text).to_bytes(2, "little") + text.encode()


def test_a_named_instance_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The browser service is asked again when a packet is lost; an instance without TCP is told.
    """
    monkeypatch.setattr(address_module, "BROWSER_WAIT", 0.2)
    browser = Browser({"INST": reply(50123), "PIPES": reply(None)}, deaf=1)
    try:
        found = instance_port(ServerAddress("127.0.0.1", None, "Inst"), Deadline(LIMIT), browser_port=browser.port)
        for name in ("PIPES", "NOBODY"):
            with pytest.raises(SourceMissing, match="does not listen on TCP"):
                instance_port(ServerAddress("127.0.0.1", None, name), Deadline(LIMIT), browser_port=browser.port)
    finally:
        browser.close()

    assert (50123, [b"\x04Inst\0"] * 2) == (found, browser.asked[:2])


@pytest.mark.parametrize("seconds", [0.2, 300])
def test_a_silent_browser_service_is_told(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """
    With what would help, however little time a look has; what is told is a `timeout`, as for all that keeps silent.
    """
    if seconds > LIMIT.total_seconds():
        monkeypatch.setattr(address_module, "BROWSER_WAIT", 0.05)
    browser = Browser({}, deaf=100)
    deadline = Deadline(timedelta(seconds=seconds))
    try:
        with pytest.raises(SourceTimeout, match="name the port"):
            instance_port(ServerAddress("127.0.0.1", None, "X"), deadline, browser_port=browser.port)
    finally:
        browser.close()

    assert 3 == len(browser.asked)


def test_a_browser_service_that_is_not_there_is_told() -> None:
    """
    The machine says so at once.
    """
    browser = Browser({})
    browser.close()

    with pytest.raises(SourceUnreachable, match="name the port"):
        instance_port(ServerAddress("127.0.0.1", None, "X"), Deadline(LIMIT), browser_port=browser.port)


def test_each_address_of_a_name_is_tried(tmp_path: Path) -> None:
    """
    A listener of an availability group has an address per subnet, and one of them is dead.
    """
    with rig(tmp_path, make_estate()) as made:
        real = socket.getaddrinfo

        def several(host: str, port: int, **more: Any) -> Any:
            live = real("127.0.0.1", port, **more)
            return [(*live[0][:4], ("127.0.0.1", 1)), *live]

        sock, _ = connect(ServerAddress("listener", made.server.port), Deadline(LIMIT), resolver=Resolver(several))
        sock.close()

        with pytest.raises(SourceUnreachable, match=r"port 2 does not answer .127\.0\.0\.1: .*; 127\.0\.0\.1: "):
            connect(ServerAddress("listener", 2), Deadline(LIMIT), resolver=Resolver(several))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a listener whose queue is full refuses")
def test_addresses_that_say_nothing_share_one_wait() -> None:
    """
    A name whose addresses are black holes takes no longer than the other side may be silent, and that is a `timeout`,
    whichever ends first: this wait or the scrape's.
    """
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        port = full.getsockname()[1]

        def several(*_: object, **__: object) -> list[tuple[Any, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.1")]

        deadline = Deadline(timedelta(minutes=5), silence=timedelta(seconds=0.5))
        with pytest.raises(SourceTimeout, match=r"timed out; 127\.1: timed out"):
            connect(ServerAddress("listener", 1433), deadline, resolver=Resolver(several))

        assert deadline.left > 240


def test_a_name_that_leads_nowhere_is_told() -> None:
    """
    Not a traceback of the resolver.
    """
    with pytest.raises(SourceUnreachable, match="leads nowhere"):
        connect(ServerAddress("no-such-host.invalid", 1433), Deadline(LIMIT))


# TLS.


Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def public(self) -> bytes:
        """As PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private(self) -> bytes:
        """Its key, as PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def sign(
    common: str,
    names: Sequence[x509.GeneralName] = (),
    *,
    days: int = 30,
    by: Issued | None = None,
    key: Key | None = None,
) -> Issued:
    """A certificate for these names, signed by an authority, or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=60))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=by is None or not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Issued(builder.sign(key if by is None else by.key, hashes.SHA256()), key)


def issue(
    folder: Path, name: str, *, dns: str = "", ip: str = "", days: int = 30, common: str = "sql"
) -> tuple[Path, Path]:
    """A certificate that signed itself, for these names: PEM with key, and PEM without."""
    names: list[x509.GeneralName] = [x509.DNSName(dns)] if dns else []
    if ip:
        names.append(x509.IPAddress(ipaddress.ip_address(ip)))
    made = sign(common, names, days=days)
    both, alone = folder / f"{name}.pem", folder / f"{name}.crt"
    both.write_bytes(made.public + made.private)
    alone.write_bytes(made.public)
    return both, alone


def look(
    folder: Path, certificate: Path, *, encryption: str = "on", host: str = "127.0.0.1", **changes: Any
) -> set[int]:
    """What a look over TLS sees."""
    with rig(folder, make_estate(), encryption=encryption, certificate=certificate) as made:
        made.estate.add(5)
        settings = made.settings(server=f"{host}:{made.server.port}", **changes)
        source = made.source(settings=settings)
        return ids(source.snapshot())


@pytest.mark.parametrize("encryption", ["on", "required"])
@pytest.mark.parametrize(
    ("names", "host"),
    [({"ip": "127.0.0.1"}, "127.0.0.1"), ({"dns": "localhost"}, "localhost"), ({"common": "localhost"}, "localhost")],
)
def test_a_known_certificate_is_believed(tmp_path: Path, encryption: str, names: dict[str, str], host: str) -> None:
    """
    By address, by name, and by common name where there is no other.
    """
    certificate, authority = issue(tmp_path, "server", **names)  # type: ignore[arg-type]

    assert {5} == look(tmp_path, certificate, encryption=encryption, host=host, encrypt=True, ca_file=authority)


@pytest.mark.parametrize("trusted", ["the server's own", "one in between", "the root", "another"])
def test_a_chain_is_believed_by_any_of_its_certificates(tmp_path: Path, trusted: str) -> None:
    """
    What stands in `ca_file` is believed, whoever signed it; nothing else is.
    """
    root = sign("root")
    between = sign("between", by=root)
    own = sign("sql", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], by=between)
    by_name = {"the server's own": own, "one in between": between, "the root": root, "another": sign("another")}
    served, believed = tmp_path / "server.pem", tmp_path / "ca.pem"
    served.write_bytes(own.public + own.private + between.public)
    believed.write_bytes(by_name[trusted].public)

    if trusted == "another":
        with pytest.raises(SourceBroken, match="its authority is unknown; put the authority, or the certificate"):
            look(tmp_path, served, encrypt=True, ca_file=believed)
    else:
        assert {5} == look(tmp_path, served, encrypt=True, ca_file=believed)


def test_an_unknown_certificate_is_refused_by_default(tmp_path: Path) -> None:
    """
    Encrypted is not verified: the system's authorities do not know it.
    """
    certificate, _ = issue(tmp_path, "server", ip="127.0.0.1")

    with pytest.raises(SourceBroken, match=r"is not believed: it signed itself; put .* into ca_file"):
        look(tmp_path, certificate, encrypt=True)


def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    """
    Unless `verify_host: false` says it plainly.
    """
    certificate, authority = issue(tmp_path, "server", dns="other.example")

    with pytest.raises(SourceBroken, match=r"is not for 127\.0\.0\.1; .*verify_host: false"):
        look(tmp_path, certificate, encrypt=True, ca_file=authority)
    assert {5} == look(tmp_path, certificate, encrypt=True, ca_file=authority, verify_host=False)


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """
    Unless nothing is verified at all.
    """
    certificate, authority = issue(tmp_path, "server", ip="127.0.0.1", days=-1)

    with pytest.raises(SourceBroken, match="it has expired"):
        look(tmp_path, certificate, encrypt=True, ca_file=authority)
    assert {5} == look(tmp_path, certificate, encrypt=True, verify_certificate=False)


def test_a_new_authority_is_taken_at_once(tmp_path: Path) -> None:
    """
    A `ca_file` that was written anew counts at the next login, as a new password does; one that is gone is told.
    """
    certificate, authority = issue(tmp_path, "server", ip="127.0.0.1")
    _, other = issue(tmp_path, "other", ip="127.0.0.1")
    believed = tmp_path / "ca.pem"
    believed.write_bytes(other.read_bytes())
    with rig(tmp_path, make_estate(), encryption="on", certificate=certificate) as made:
        source = made.source(settings=made.settings(encrypt=True, ca_file=believed))
        with pytest.raises(SourceBroken, match="is not believed"):
            source.snapshot()
        believed.write_bytes(authority.read_bytes())
        assert set() == ids(source.snapshot())
        source.close()
        believed.unlink()
        with pytest.raises(SourceBroken, match="is not a readable PEM file"):
            source.snapshot()


@pytest.fixture
def lax(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The tests' server takes what OpenSSL refuses to offer these days."""

    def use(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> None:
        class Lax(ssl.SSLContext):
            def load_cert_chain(self, *arguments: Any, **named: Any) -> None:
                self.set_ciphers("DEFAULT@SECLEVEL=0")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    self.minimum_version, self.maximum_version = ssl.TLSVersion.TLSv1, version
                super().load_cert_chain(*arguments, **named)

        monkeypatch.setattr(server_module, "ssl", SimpleNamespace(**{**vars(ssl), "SSLContext": Lax}))

    return use


def test_a_weak_certificate_needs_another_one(tmp_path: Path, lax: Callable[..., None]) -> None:
    """
    As old servers make it for themselves: no `ca_file` helps, and that is told.
    """
    made = sign("localhost", key=rsa.generate_private_key(65537, 1024))
    served, alone = tmp_path / "server.pem", tmp_path / "server.crt"
    served.write_bytes(made.public + made.private)
    alone.write_bytes(made.public)
    lax()

    with pytest.raises(SourceBroken, match=r"its key is too short; .* verify_certificate: false$"):
        look(tmp_path, served, host="localhost", encrypt=True, ca_file=alone)
    assert {5} == look(tmp_path, served, encrypt=True, verify_certificate=False)


def test_a_server_without_a_modern_tls_is_told(tmp_path: Path, lax: Callable[..., None]) -> None:
    """
    SQL Server 2012 and 2014 before their updates.
    """
    certificate, authority = issue(tmp_path, "server", ip="127.0.0.1")
    lax(ssl.TLSVersion.TLSv1_1)

    with pytest.raises(SourceBroken, match=r"speaks no TLS 1\.2; update it, or say encrypt: false"):
        look(tmp_path, certificate, encrypt=True, ca_file=authority)


def test_a_server_that_does_not_encrypt_gets_no_password(tmp_path: Path) -> None:
    """
    `encrypt: true` never falls back.
    """
    with rig(tmp_path, make_estate(), encryption="off") as made:
        with pytest.raises(SourceBroken, match="does not encrypt"):
            made.source(settings=made.settings(encrypt=True)).snapshot()

        assert [] == made.server.logins


def test_a_server_that_demands_encryption_is_told(tmp_path: Path) -> None:
    """
    `encrypt: false` against it is one sentence.
    """
    certificate, _ = issue(tmp_path, "server", ip="127.0.0.1")

    with pytest.raises(SourceBroken, match="say encrypt: true"):
        look(tmp_path, certificate, encryption="required", encrypt=False)


def test_a_frozen_handshake_ends_in_time(tmp_path: Path) -> None:
    """
    The limit holds inside TLS, too.
    """
    certificate, authority = issue(tmp_path, "server", ip="127.0.0.1")
    with rig(tmp_path, make_estate(), encryption="on", certificate=certificate) as made:
        settings = made.settings(encrypt=True, ca_file=authority, time_limit=timedelta(seconds=0.3))
        source = made.source(settings=settings)
        made.server.freeze()
        with pytest.raises(SourceTimeout):
            source.snapshot()
        made.server.thaw()

        assert set() == ids(made.source(settings=made.settings(encrypt=True, ca_file=authority)).snapshot())


def test_an_unreadable_ca_file_is_a_sentence_at_start(tmp_path: Path) -> None:
    """
    Not at the first scrape.
    """
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    auth = Credentials(user="x", password_file=tmp_path / "p")

    with pytest.raises(ConfigError, match="is not a readable PEM file"):
        CatalogSource.from_settings("sql01", CatalogSettings(server="a", auth=auth, ca_file=file))


# Who logs in.


@pytest.fixture
def secrets(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing of the password in any log line, of the driver neither."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert "secret" not in record.getMessage()
        assert PASSWORD not in record.getMessage()


def test_a_login_of_sql_server(tmp_path: Path, secrets: None) -> None:
    """
    User and password as given, whatever letters they have; the application's name and the database.
    """
    with rig(tmp_path, make_estate()) as made:
        made.source().snapshot()

        (login,) = made.server.logins

    assert (USER, PASSWORD, "ssis_exporter", "SSISDB") == (
        login.user,
        login.password,
        login.application,
        login.database,
    )


def test_a_new_password_is_taken_at_once(tmp_path: Path, secrets: None) -> None:
    """
    The file is read at each login; a wrong one is told without its content.
    """
    with rig(tmp_path, make_estate()) as made:
        source = made.source()
        (tmp_path / "password").write_text("secret wrong")
        with pytest.raises(SourceLoginFailed) as told:
            source.snapshot()
        (tmp_path / "password").unlink()
        with pytest.raises(SourceLoginFailed, match="the password"):
            source.snapshot()
        (tmp_path / "password").write_text(PASSWORD)

        assert set() == ids(source.snapshot())
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("password", ["secret", "wrong secret"])
def test_a_domain_account_logs_in_by_ntlm(tmp_path: Path, secrets: None, password: str) -> None:
    """
    The real exchange of `pyspnego`, over TLS; the password itself never travels.
    """
    certificate, authority = issue(tmp_path, "server", ip="127.0.0.1")
    estate = make_estate()
    estate.add_account("CORP\\svc", windows=True, roles={"ssis_admin"})
    file = tmp_path / "domain-password"
    file.write_text(password)
    with (
        ntlm_users(tmp_path / "users", ("CORP", "svc", "secret")),
        rig(tmp_path, estate, encryption="required", certificate=certificate) as made,
    ):
        settings = made.settings(
            auth=Credentials(user="CORP\\svc", password_file=file), encrypt=True, ca_file=authority
        )
        source = made.source(settings=settings)
        if password != "secret":
            with pytest.raises(SourceLoginFailed):
                source.snapshot()
            return
        seen = source.snapshot()
        (login,) = made.server.logins

    assert "CORP\\svc is in ssis_admin" == seen.visibility.detail
    assert ("", "", True) == (login.user, login.password, login.integrated)


def test_kerberos_asks_for_the_servers_principal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    MSSQLSvc/host:port, by this process's ticket; without one, one sentence.
    """
    import spnego

    asked: list[tuple[Any, ...]] = []

    def client(*arguments: Any, **named: Any) -> Any:
        asked.append((*arguments, named["service"], named["hostname"], named["protocol"]))
        raise spnego.exceptions.NoCredentialError(context_msg="no ticket")

    monkeypatch.setattr(spnego, "client", client)
    with rig(tmp_path, make_estate()) as made:
        with pytest.raises(SourceLoginFailed, match="no ticket"):
            made.source(settings=made.settings(auth="kerberos")).snapshot()

        assert [(None, None, "MSSQLSvc", f"127.0.0.1:{made.server.port}", "kerberos")] == asked


@pytest.mark.parametrize("where", ["client", "step"])
def test_a_library_of_identities_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """
    Within the look's time, with few threads left behind however often it is tried; and asked again once they are back.
    """
    import spnego

    works = threading.Event()

    class Library:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.step("client")

        def step(self, at: Any = None) -> bytes:
            if (at == "client") == (where == "client"):
                works.wait()
                raise spnego.exceptions.NoCredentialError(context_msg="no ticket")
            return b"token"

    def waiting() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "identity"]

    monkeypatch.setattr(spnego, "client", Library)
    with rig(tmp_path, make_estate()) as made:
        source = made.source(settings=made.settings(auth="kerberos", time_limit=timedelta(seconds=0.2)))
        for _ in range(4):
            with pytest.raises(SourceTimeout, match=r"the library for Windows identities .* does not come back"):
                source.snapshot()
        left = waiting()
        works.set()
        for thread in left:
            thread.join(LIMIT.total_seconds())

        assert MOST_AT_ONCE == len(left)
        with pytest.raises(SourceLoginFailed, match="no ticket"):
            source.snapshot()


def test_secrets_have_no_repr(tmp_path: Path) -> None:
    """
    Neither settings nor identity show a password.
    """
    from ssis_exporter.sources.catalog.identity import Identity

    settings = CatalogSettings(server="a", auth=Credentials(user="x", password_file=tmp_path / "p"))

    assert "secret" not in repr(Identity("x", "secret")).replace("<secret>", "")
    assert "p" in msgspec.to_builtins(settings, enc_hook=str)["auth"]["password_file"]
