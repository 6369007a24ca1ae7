"""`ssis-exporter healthcheck`: 0 for an exporter that answers, 1 for anything else."""

from __future__ import annotations

import datetime
import http.server
import importlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ssis_exporter import cli
from ssis_exporter.cli import exits


@contextmanager
def served(status: int, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that answers everything with one status; gives its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/-/healthy" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def healthcheck(*arguments: str) -> int:
    """Runs the command as `main` does."""
    return cli.run(["healthcheck", *arguments])


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, exits.OK), (401, exits.OK), (404, exits.FOUND), (500, exits.FOUND), (503, exits.FOUND)],
)
def test_the_answer_tells(status: int, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    """
    200 is healthy, and so is 401: the exporter lives and asks for a password; any other answer is not.
    """
    with served(status) as port:
        assert expected == healthcheck("--url", f"http://127.0.0.1:{port}/-/healthy")

    said = capsys.readouterr()
    assert (said.out == "healthy\n") == (expected == exits.OK)
    assert (said.err == "") == (expected == exits.OK)


def test_a_path_is_not_needed() -> None:
    """
    An address alone is asked for its health.
    """
    with served(200) as port:
        assert exits.OK == healthcheck("--url", f"http://127.0.0.1:{port}")


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Nobody there is one sentence and exit code 1.
    """
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        code = healthcheck("--url", f"http://127.0.0.1:{unused.getsockname()[1]}")

    assert exits.FOUND == code
    assert 1 == capsys.readouterr().err.count("\n")


def test_silence_is_not_waited_for() -> None:
    """
    A process that accepts and says nothing is not healthy.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = healthcheck("--timeout", "0.1", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}")

    assert exits.FOUND == code


def test_a_proxy_does_not_answer_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Proxies of the environment are left alone.
    """
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with served(200) as port:
        assert exits.OK == healthcheck("--url", f"http://127.0.0.1:{port}")


def test_https(tmp_path: Path) -> None:
    """
    A certificate that nobody vouches for is refused, unless `--insecure` says that it does not matter.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    with served(200, context) as port:
        url = f"https://127.0.0.1:{port}/-/healthy"

        assert exits.FOUND == healthcheck("--url", url)
        assert exits.OK == healthcheck("--insecure", "--url", url)


def self_signed(folder: Path) -> Path:
    """A file with a key and a certificate for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etl01.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    no_password = serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
    path = folder / "server.pem"
    path.write_bytes(text + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:10058", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:x/", "http://[::1"]
)
def test_what_is_no_address_is_a_usage_error(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A wrong address is the caller's mistake, in one sentence.
    """
    assert exits.USAGE == healthcheck("--url", url)
    assert "no address to ask" in capsys.readouterr().err


def test_the_command_list_hides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The module of the command `list` has the name of a built-in; once it was imported, the others still work.
    """
    importlib.import_module("ssis_exporter.cli.list")

    assert exits.OK == cli.run(["--help"])
    assert "healthcheck" in capsys.readouterr().out
    assert exits.OK == healthcheck("--help")
