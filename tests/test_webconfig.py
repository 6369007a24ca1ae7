"""`--web.config.file`: what is refused and how, TLS, users, headers, rate, and changes without a restart."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from tornado.web import Application

from ssis_exporter import passwords
from ssis_exporter.certificates import ServerTls, TlsSettings, first_expiry, stamp_of
from ssis_exporter.errors import ConfigError, MissingExtra
from ssis_exporter.handlers import Handler, NotFound, Refusal
from ssis_exporter.passwords import CACHE_SIZE, MAX_WAITING, Passwords
from ssis_exporter.webconfig import CIPHERS, CIPHERS_OF_TLS13, WebConfig, read_web_file
from tests.certs import Authority
from tests.serving import DEADLINE, Answer, Served, serving


def hashed(password: str, cost: int = 4) -> str:
    """A hash at the least cost, so that tests are quick."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


HASH = hashed("right")
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Path:
    """A folder with server.crt, server.key and ca.crt."""
    authority.sign(names=("localhost",)).write(tmp_path)
    (tmp_path / "ca.crt").write_text(authority.cert)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    """The file, replaced as editors do: a new one takes its name."""
    new = folder / "new.yml"
    new.write_text(text)
    file = folder / "web.yml"
    new.replace(file)
    return file


class Small(Handler):
    async def get(self) -> None:
        self.finish(b"small")


@contextmanager
def served_with(web: WebConfig, client_context: ssl.SSLContext | None = None) -> Iterator[Served]:
    """A small application behind this file."""
    application = Application([("/", Small)], default_handler_class=NotFound, guard=web)
    tls = web if web.uses_tls else None
    try:
        with serving(application, tls=tls, client_context=client_context) as served:
            yield served
    finally:
        web.close()


def basic(user: str, password: str | bytes) -> str:
    """The header of basic authentication."""
    secret = password.encode() if isinstance(password, str) else password
    return "Authorization: Basic " + base64.b64encode(user.encode() + b":" + secret).decode()


# What is refused


def wrong(text: str, expected: str | None) -> tuple[str, str | None]:
    """A file and what is said of it after its name; None where the words are the YAML library's."""
    return text, expected


WRONG = [
    wrong("tls_server_confg: {}", '1: tls_server_confg: unknown key; did you mean "tls_server_config"?'),
    wrong(TLS + "  certfile: x\n", '4: tls_server_config.certfile: unknown key; did you mean "cert_file"?'),
    wrong("tls_server_config:\n  cert_file: server.crt", '2: tls_server_config.cert_file: needs "key_file"'),
    wrong("tls_server_config:\n  key: x", '2: tls_server_config.key: needs "cert"'),
    wrong("tls_server_config:\n  min_version: TLS13", '1: tls_server_config: "cert_file" and "key_file" are missing'),
    wrong(TLS + "  cert: x\n  key: y", '4: tls_server_config.cert: excludes "cert_file"; give one of them'),
    wrong(
        TLS + "  min_version: TLS14",
        "4: tls_server_config.min_version: must be TLS10 or TLS11 or TLS12 or TLS13, not 'TLS14'",
    ),
    wrong(
        TLS + "  min_version: TLS13\n  max_version: TLS12",
        '4: tls_server_config.min_version: TLS13 is above "max_version" TLS12',
    ),
    wrong(
        TLS + "  client_auth_type: RequireAnyClientCert",
        "4: tls_server_config.client_auth_type: RequireAnyClientCert takes certificates that nobody verified, "
        "which Python cannot do; use RequireAndVerifyClientCert",
    ),
    wrong(
        TLS + "  client_auth_type: RequestClientCert",
        "4: tls_server_config.client_auth_type: RequestClientCert takes certificates that nobody verified, "
        "which Python cannot do; use RequireAndVerifyClientCert",
    ),
    wrong(
        TLS + "  client_ca_file: ca.crt",
        '1: tls_server_config: a client CA needs "client_auth_type": RequireAndVerifyClientCert',
    ),
    wrong(
        TLS + "  client_auth_type: RequireAndVerifyClientCert",
        '4: tls_server_config.client_auth_type: RequireAndVerifyClientCert needs "client_ca_file"',
    ),
    wrong(
        TLS + "  client_allowed_sans: [a.example.com]",
        '4: tls_server_config.client_allowed_sans: needs "client_auth_type": RequireAndVerifyClientCert',
    ),
    wrong(
        TLS + "  cipher_suites: [TLS_NULL]",
        f"4: tls_server_config.cipher_suites: unknown name 'TLS_NULL'; known are {', '.join(CIPHERS)}",
    ),
    wrong(
        TLS + "  curve_preferences: [CurveP999]",
        "4: tls_server_config.curve_preferences[0]: must be CurveP256 or CurveP384 or CurveP521 or X25519, "
        "not 'CurveP999'",
    ),
    wrong(
        "http_server_config:\n  headers:\n    X-Other: a",
        "3: http_server_config.headers.X-Other: unknown key; known here: Content-Security-Policy, X-Frame-Options, "
        "X-Content-Type-Options, X-XSS-Protection, Strict-Transport-Security",
    ),
    wrong(
        "http_server_config:\n  headers:\n    X-Frame-Options: maybe",
        "3: http_server_config.headers.X-Frame-Options: must be deny or sameorigin, not 'maybe'",
    ),
    wrong(
        "http_server_config:\n  headers:\n    Strict-Transport-Security: |\n      a\n      b",
        '2: http_server_config.headers: "Strict-Transport-Security" must be one line of plain ASCII text',
    ),
    wrong(
        "basic_auth_users:\n  a: hunter2",
        "2: basic_auth_users.a: must be a bcrypt hash; make one with: htpasswd -nBC 10 USER",
    ),
    wrong(
        f'basic_auth_users:\n  "a:b": {HASH}',
        "2: basic_auth_users.a:b: a user name must not be empty and cannot hold a colon",
    ),
    wrong(
        "rate_limit:\n  interval: 1s", '1: rate_limit: "burst" must be at least 1, or every request would be refused'
    ),
    wrong(
        "rate_limit:\n  interval: soon\n  burst: 1",
        "2: rate_limit.interval: 'soon' is no duration; write it like 30s, 5m or 1h30m",
    ),
    wrong("rate_limit:\n  burst: -1", "2: rate_limit.burst: must be at least 0, not -1"),
    wrong(
        "http_server_config:\n  rate_limit: {}",
        "2: http_server_config.rate_limit: unknown key; known here: http2, headers",
    ),
    wrong("- a", None),
    wrong("a: b: c", None),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_a_wrong_file_is_one_sentence(folder: Path, text: str, expected: str | None) -> None:
    """
    What cannot be used names file, line, key and what would be right, and never shows a value that may be secret.
    """
    file = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        WebConfig(file)

    if expected is not None:
        assert f"{file}:{expected}" == str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """
    A file that is not there is named.
    """
    with pytest.raises(ConfigError) as caught:
        WebConfig(tmp_path / "web.yml")

    assert f"{tmp_path / 'web.yml'}: the web configuration file cannot be read: No such file or directory" == str(
        caught.value
    )


def test_users_need_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without `bcrypt` a file with users is refused at start with what to install.
    """

    def missing(module: str, *, extra: str, what: str) -> Any:
        raise MissingExtra(what=what, extra=extra, module=module)

    monkeypatch.setattr(passwords, "need", missing)
    with pytest.raises(MissingExtra) as caught:
        WebConfig(write(folder, f"basic_auth_users:\n  a: {HASH}"))

    assert (
        "basic_auth_users in the web configuration file needs bcrypt, which is not installed; "
        "run: pip install 'ssis-exporter[auth]'"
    ) == str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{}", "tls_server_config: {}", "http_server_config: {http2: true}", "rate_limit: {}"]
)
def test_what_says_nothing_changes_nothing(folder: Path, text: str) -> None:
    """
    An empty file, and empty sections, leave plain HTTP for everybody.
    """
    with served_with(WebConfig(write(folder, text))) as served:
        assert b"small" == served.get("/").body


# Certificates


def test_wrong_certificates_are_one_sentence(folder: Path, authority: Authority) -> None:
    """
    Missing, foreign, encrypted and unreadable certificates and keys are told apart.
    """
    cert, key, odd = folder / "server.crt", folder / "server.key", folder / "odd.pem"
    odd.write_text("no certificate")
    other = authority.sign().write(folder, "other")[1]
    encrypted = authority.sign(password=b"x").write(folder, "encrypted")
    expected = {
        (folder / "no.crt", key): f"{folder / 'no.crt'}: the TLS certificate cannot be read: No such file or directory",
        (cert, folder / "no.key"): f"{folder / 'no.key'}: the TLS key cannot be read: No such file or directory",
        (cert, other): f"{cert} and {other}: the key does not belong to the certificate",
        encrypted: f"{encrypted[0]} and {encrypted[1]}: the key is encrypted; use one without a password",
        (odd, key): f"{odd} and {key}: no usable certificate and key in PEM form",
        (folder, key): f"{folder}: the TLS certificate is a directory; name a file",
    }
    for (cert_file, key_file), sentence in expected.items():
        with pytest.raises(ConfigError) as caught:
            ServerTls(TlsSettings(cert_file=cert_file, key_file=key_file)).load()
        assert str(caught.value).startswith(sentence)


def test_a_wrong_client_ca_is_one_sentence(folder: Path) -> None:
    """
    A CA file without a certificate is named.
    """
    (folder / "ca.crt").write_text("nothing")
    text = TLS + "  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert"
    with pytest.raises(ConfigError) as caught:
        WebConfig(write(folder, text))

    assert f"{folder / 'ca.crt'}: no certificate in PEM form" == str(caught.value)


def test_tls_from_files_beside_the_file(folder: Path, authority: Authority) -> None:
    """
    Paths are relative to the file; TLS 1.2 and 1.3 are spoken, and HTTP/1.1 is what is chosen.
    """
    context = authority.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with served_with(WebConfig(write(folder, TLS)), context) as served:
        with served.connect() as peer:
            assert isinstance(peer, ssl.SSLSocket)
            spoken = (peer.version(), peer.selected_alpn_protocol())
        body = served.get("/").body

    assert (("TLSv1.3", "http/1.1"), b"small") == (spoken, body)


def test_tls_from_text_in_the_file(folder: Path, authority: Authority) -> None:
    """
    Certificate and key may stand in the file itself.
    """
    pair = authority.sign()
    indented = [text.replace("\n", "\n    ") for text in (pair.cert, pair.key)]
    text = f"tls_server_config:\n  cert: |\n    {indented[0]}\n  key: |\n    {indented[1]}\n"
    web = WebConfig(write(folder, text))
    with served_with(web, authority.client_context()) as served:
        body = served.get("/").body

    assert b"small" == body
    assert pair.not_after == web.certificate_expires_at


def test_versions_are_kept(folder: Path, authority: Authority) -> None:
    """
    Where only TLS 1.3 is allowed, a client that ends at 1.2 is refused.
    """
    old = authority.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with served_with(WebConfig(write(folder, TLS + "  min_version: TLS13")), old) as served:
        with pytest.raises(ssl.SSLError):
            served.get("/")


def test_ciphers_are_chosen_by_gos_names(folder: Path, authority: Authority) -> None:
    """
    Of the ciphers of TLS 1.2 only the listed ones are spoken.
    """
    text = TLS + "  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n"
    text += "  curve_preferences: [CurveP384]\n  prefer_server_cipher_suites: false\n"
    with served_with(WebConfig(write(folder, text)), authority.client_context()) as served:
        with served.connect() as peer:
            assert isinstance(peer, ssl.SSLSocket)
            cipher = peer.cipher()

    assert cipher is not None
    assert "ECDHE-ECDSA-AES256-GCM-SHA384" == cipher[0]


def test_every_cipher_name_is_known_to_openssl() -> None:
    """
    The table leads to ciphers that this OpenSSL knows.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name in CIPHERS.values():
        context.set_ciphers(name)
        assert name in {cipher["name"] for cipher in context.get_ciphers()}


def test_only_ciphers_of_tls13_mean_tls13(folder: Path) -> None:
    """
    A list without a cipher of TLS 1.2 leaves TLS 1.3 only, as in Go.
    """
    file = read_web_file(write(folder, TLS + f"  cipher_suites: [{', '.join(CIPHERS_OF_TLS13)}]"))

    assert file.tls_server_config is not None
    assert ssl.TLSVersion.TLSv1_3 == file.tls_server_config.settings().min_version


def test_several_curves_need_a_python_that_takes_them(folder: Path) -> None:
    """
    More than one curve is refused with a sentence where Python takes only one.
    """
    text = TLS + "  curve_preferences: [X25519, CurveP256]"
    if hasattr(ssl.SSLContext, "set_groups"):
        WebConfig(write(folder, text)).close()
        return
    with pytest.raises(ConfigError, match="this Python can be told only one curve"):
        WebConfig(write(folder, text))


@pytest.mark.parametrize("given", [True, False])
def test_verify_client_certificate_if_given(folder: Path, authority: Authority, *, given: bool) -> None:
    """
    `VerifyClientCertIfGiven` serves clients with a verified certificate and those without one.
    """
    text = TLS + "  client_ca_file: ca.crt\n  client_auth_type: VerifyClientCertIfGiven"
    client = authority.client_context()
    if given:
        client = authority.sign().client_context(folder / "..", authority.cert)
    with served_with(WebConfig(write(folder, text)), client) as served:
        assert b"small" == served.get("/").body


def test_a_certificate_of_another_authority_is_refused(folder: Path, authority: Authority) -> None:
    """
    A client certificate that the CA did not sign does not get in.
    """
    text = TLS + "  client_ca_file: ca.crt\n  client_auth_type: VerifyClientCertIfGiven"
    foreign = Authority().sign().client_context(folder, authority.cert)
    web = WebConfig(write(folder, text))
    with served_with(web, foreign) as served:
        with pytest.raises((ssl.SSLError, ConnectionError, IndexError)):
            served.get("/")


def test_a_new_certificate_is_served_without_a_restart(folder: Path, authority: Authority) -> None:
    """
    When the files are replaced, the next handshake shows the new certificate; its end is told.
    """
    web = WebConfig(write(folder, TLS))
    first_end = web.certificate_expires_at
    with served_with(web, authority.client_context()) as served:
        before = shown_serial(served)
        renewed = authority.sign(ends_in=timedelta(days=9))
        renewed.write(folder)
        after = shown_serial(served)

    assert before != after
    assert renewed.not_after == web.certificate_expires_at != first_end


def shown_serial(served: Served) -> str:
    """The serial number of the certificate that a new connection shows."""
    with served.connect() as peer:
        assert isinstance(peer, ssl.SSLSocket)
        certificate = peer.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_while_the_certificate_is_wrong_handshakes_are_refused(
    folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A key that does not fit stops new connections, is logged once, and is over when it fits again.
    """
    web = WebConfig(write(folder, TLS))
    old_key = (folder / "server.key").read_text()
    with served_with(web, authority.client_context()) as served:
        (folder / "server.key").write_text(authority.sign().key)
        for _ in range(3):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                served.get("/")
        (folder / "server.key").write_text(old_key)
        recovered = served.get("/").body

    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert 1 == len(errors)
    assert "the key does not belong to the certificate" in errors[0]
    assert b"small" == recovered


def test_the_end_of_a_certificate_is_read(authority: Authority) -> None:
    """
    The end of a chain is the end of what ends first, also beyond 2049 and in the past.
    """
    pairs = [authority.sign(ends_in=timedelta(days=days)) for days in (-300, 5, 20_000)]

    assert [pair.not_after for pair in pairs] == [first_expiry(pair.cert) for pair in pairs]
    assert pairs[0].not_after == first_expiry("".join(pair.cert for pair in reversed(pairs)))


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_what_is_no_certificate_has_no_end(text: str) -> None:
    """
    A text without a certificate is one sentence.
    """
    with pytest.raises(ConfigError, match="cannot be understood"):
        first_expiry(text)


def test_an_ended_certificate_is_told(folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """
    A certificate that has ended is served, since that is the client's to judge, and logged.
    """
    cert, key = authority.sign(ends_in=timedelta(days=-1)).write(folder)
    ServerTls(TlsSettings(cert_file=cert, key_file=key)).load()

    assert any(message.startswith("the TLS certificate ended on") for message in caplog.messages)


def test_http2_is_accepted_and_ignored(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    A file for other exporters that asks for HTTP/2 is taken, with a word in the log.
    """
    with caplog.at_level(logging.INFO):
        WebConfig(write(folder, TLS + "http_server_config:\n  http2: true")).close()

    assert any("http2 is accepted and ignored" in message for message in caplog.messages)


# Headers


def test_headers_are_added_and_replace_ours(folder: Path) -> None:
    """
    The allowed headers go out with every answer, errors too, also when the file changes.
    """
    text = "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n    X-XSS-Protection: 0\n"
    web = WebConfig(write(folder, text))
    with served_with(web) as served:
        before = [served.get(path).headers for path in ("/", "/nope")]
        write(folder, text + "    Strict-Transport-Security: max-age=1\n")
        served.get("/")
        after = served.get("/").headers

    assert [("sameorigin", "0")] * 2 == [(each["x-frame-options"], each["x-xss-protection"]) for each in before]
    assert "max-age=1" == after["strict-transport-security"]


# Users


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (basic("scraper", "right"), 200),
        (basic("scraper", "right").replace("Basic", "bAsIc"), 200),
        (basic("scraper", "wrong"), 401),
        (basic("nobody", "right"), 401),
        (basic("", "right"), 401),
        (basic("scraper", ""), 401),
        (basic("scraper", "right" + "x" * 70), 401),
        (basic("long", "x" * 72), 200),
        (basic("long", "x" * 73), 401),
        (basic("long", "x" * 10_000), 401),
        (basic("scraper", b"right\0more"), 401),
        (basic("scraper", b"\xff\xfe"), 401),
        ("Authorization: Basic !!!", 401),
        ("Authorization: Basic " + base64.b64encode(b"nocolon").decode(), 401),
        ("Authorization: Basic " + base64.b64encode(b"\xff\xff:x").decode(), 401),
        ("Authorization: Basic", 401),
        ("Authorization: Bearer right", 401),
        ("X-Nothing: 1", 401),
    ],
)
def test_only_users_with_the_right_password_get_in(folder: Path, header: str, status: int) -> None:
    """
    Whatever else is sent, it is 401 with the scheme, on every path.
    """
    text = f"basic_auth_users:\n  scraper: {HASH}\n  long: {hashed('x' * 72)}\n"
    with served_with(WebConfig(write(folder, text))) as served:
        answers = [served.get("/", header), served.get("/nope", header)]

    assert [status, 404 if status == 200 else status] == [answer.status for answer in answers]
    if status == 401:
        assert "Basic" == answers[0].headers["www-authenticate"]


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_hashes_of_htpasswd_and_others_are_taken(folder: Path, prefix: str) -> None:
    """
    The three names of the same hash all work.
    """
    text = f"basic_auth_users:\n  a: {prefix}{HASH[4:]}\n"
    with served_with(WebConfig(write(folder, text))) as served:
        assert 200 == served.get("/", basic("a", "right")).status


def check(checker: Passwords, users: dict[str, str], user: str, password: str) -> Refusal | None:
    """One check, on a loop of its own."""
    return asyncio.run(checker.check(users, basic(user, password).removeprefix("Authorization: ")))


def test_a_right_answer_is_remembered_and_a_wrong_one_is_not() -> None:
    """
    The second time costs no comparison; guessing cannot push anything out of the memory.
    """
    checker = Passwords()
    users = {"a": HASH}
    right = [check(checker, users, "a", "right") for _ in range(3)]
    after_right = checker.comparisons
    wrong = [check(checker, users, "a", "wrong") for _ in range(3)]
    after_wrong = checker.comparisons
    checker.close()

    assert [None] * 3 == right
    assert None not in wrong
    assert (1, 4) == (after_right, after_wrong)


def test_a_changed_hash_is_compared_anew() -> None:
    """
    What is remembered belongs to user, hash and password together.
    """
    checker = Passwords()
    check(checker, {"a": HASH}, "a", "right")
    refusal = check(checker, {"a": hashed("other")}, "a", "right")
    checker.close()

    assert refusal is not None


def test_users_and_passwords_do_not_run_together() -> None:
    """
    "ab" with "c" is not remembered as "a" with "bc" (GHSA-7rg2-cxvp-9p7p).
    """
    checker = Passwords()
    users = {"ab": hashed("c"), "a": hashed("x")}
    first = check(checker, users, "ab", "c")
    second = check(checker, users, "a", "bc")
    checker.close()

    assert first is None
    assert second is not None


def test_no_password_is_kept() -> None:
    """
    What is remembered holds neither password nor hash.
    """
    checker = Passwords()
    check(checker, {"a": HASH}, "a", "right")
    kept = b"".join(checker._right)
    checker.close()

    assert b"right" not in kept
    assert HASH.encode() not in kept


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    At most a hundred answers are remembered.
    """
    monkeypatch.setattr(passwords, "_compare", lambda *_: True)
    checker = Passwords()
    users = {str(number): HASH for number in range(CACHE_SIZE + 20)}
    for user in users:
        assert check(checker, users, user, "x") is None
    checker.close()

    assert CACHE_SIZE == len(checker._right)


def test_an_unknown_user_costs_as_much_as_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    For a name nobody has, the dearest hash is compared, and the answer is wrong even if it fits.
    """
    compared: list[str] = []

    def compare(password: bytes, against: str) -> bool:
        compared.append(against)
        return True

    monkeypatch.setattr(passwords, "_compare", compare)
    dear = hashed("x", 5)
    checker = Passwords()
    refusal = check(checker, {"a": HASH, "b": dear}, "nobody", "x")
    checker.close()

    assert [dear] == compared
    assert passwords.WRONG == refusal


def test_too_many_logins_at_once_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Comparisons run one at a time; beyond sixteen that wait, the next is refused without one. Who is known gets in.
    """
    checker = Passwords()
    users = {"a": HASH}
    right = basic("a", "right").removeprefix("Authorization: ")

    async def test() -> tuple[list[Refusal | None], Refusal | None, Refusal | None]:
        assert await checker.check(users, right) is None
        wrong = [
            asyncio.ensure_future(checker.check(users, basic("a", str(number)).removeprefix("Authorization: ")))
            for number in range(MAX_WAITING)
        ]
        await asyncio.sleep(0)
        one_more = await checker.check(users, basic("a", "x").removeprefix("Authorization: "))
        known = await checker.check(users, right)
        return await asyncio.gather(*wrong), one_more, known

    waited, one_more, known = asyncio.run(test())
    checker.close()

    assert [passwords.WRONG] * MAX_WAITING == waited
    assert passwords.BUSY == one_more
    assert known is None


def test_users_change_without_a_restart(folder: Path) -> None:
    """
    A user who is taken out of the file is out with the next request.
    """
    with served_with(WebConfig(write(folder, f"basic_auth_users:\n  a: {HASH}\n"))) as served:
        before = served.get("/", basic("a", "right")).status
        write(folder, f"basic_auth_users:\n  b: {HASH}\n")
        after = [served.get("/", basic(user, "right")).status for user in ("a", "b")]

    assert (200, [401, 200]) == (before, after)


@pytest.mark.parametrize("trouble", ["gone", "wrong", "unreadable"])
def test_a_file_that_becomes_wrong_opens_nothing(folder: Path, trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    While the file cannot be used every request is 500 without details; then it goes on. The log says why, once.
    """
    text = f"basic_auth_users:\n  a: {HASH}\n"
    file = write(folder, text)
    with served_with(WebConfig(file)) as served:
        if trouble == "gone":
            file.unlink()
        elif trouble == "wrong":
            write(folder, "basic_auth_users: []")
        else:
            file.unlink()
            file.mkdir()
        during = [served.get("/"), served.get("/", basic("a", "right"))]
        if file.is_dir():
            file.rmdir()
        write(folder, text)
        after = [served.get("/").status, served.get("/", basic("a", "right")).status]

    assert [(500, "the web configuration file is wrong; the log says why\n")] * 2 == [
        (answer.status, answer.text) for answer in during
    ]
    assert [401, 200] == after
    assert 1 == sum(record.levelno >= logging.ERROR and "web.yml" in record.getMessage() for record in caplog.records)


def test_rights_that_are_taken_away_are_noticed(folder: Path) -> None:
    """
    A change of a file's rights counts as a change of the file.
    """
    file = write(folder, "{}")
    before = stamp_of((file,))
    file.chmod(0o600 if file.stat().st_mode & 0o777 != 0o600 else 0o640)

    assert os.name != "posix" or before != stamp_of((file,))


def test_tls_is_never_given_up(folder: Path, authority: Authority) -> None:
    """
    When TLS vanishes from the file, handshakes are refused; nothing is served in plain text.
    """
    file = write(folder, TLS)
    with served_with(WebConfig(file), authority.client_context()) as served:
        write(folder, "{}")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            served.get("/")
        with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                said = peer.recv(100)
            except ConnectionError:
                said = b""

    assert b"" == said


# Rate


def test_the_rate_is_limited_for_all_together(folder: Path) -> None:
    """
    After the burst, one request passes per interval; it counts before users are asked.
    """
    clock = [0.0]
    text = f"rate_limit:\n  interval: 10s\n  burst: 3\nbasic_auth_users:\n  a: {HASH}\n"
    web = WebConfig(write(folder, text), monotonic=lambda: clock[0])

    def statuses(served: Served, count: int) -> list[int]:
        return [served.get("/").status for _ in range(count)]

    with served_with(web) as served:
        burst = statuses(served, 5)
        clock[0] += 10
        later = statuses(served, 2)
        clock[0] += 1000
        much_later = statuses(served, 4)

    assert [401, 401, 401, 429, 429] == burst
    assert [401, 429] == later
    assert [401, 401, 401, 429] == much_later


def test_many_requests_with_users_are_served_at_once(folder: Path) -> None:
    """
    A known user's requests do not queue behind comparisons.
    """
    with (
        served_with(WebConfig(write(folder, f"basic_auth_users:\n  a: {HASH}\n"))) as served,
        ThreadPoolExecutor() as pool,
    ):
        assert 200 == served.get("/", basic("a", "right")).status
        answers: list[Answer] = list(pool.map(lambda _: served.get("/", basic("a", "right")), range(50)))

    assert {200} == {answer.status for answer in answers}
