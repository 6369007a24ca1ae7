"""The installed command: help, versions, wrong flags and files, and the exit codes that the README lists."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssis_exporter import __version__
from ssis_exporter.cli import COMMANDS, exits, options
from tests import outside
from tests.installed import Done, run

DEMO = "sources: [{name: estate, kind: demo, packages: 5}]\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that works anywhere."""
    path = tmp_path / "ssis.yml"
    path.write_text(DEMO)
    return path


def assert_one_sentence(done: Done, code: int, sentence: str) -> None:
    """One line on stderr, nothing on stdout, this exit code."""
    assert "" == done.out
    assert f"ssis-exporter: {sentence}\n" == done.err
    assert code == done.code


def test_help_names_every_command() -> None:
    """
    `--help` shows all commands and ends well.
    """
    done = run("--help")

    assert exits.OK == done.code
    assert "" == done.err
    assert all(name in done.out and text in done.out for name, (_, text) in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    """
    `-h` too.
    """
    done = run(name, "-h")

    assert exits.OK == done.code
    assert "Usage:" in done.out
    assert done.out.count("\n") > 3


@pytest.mark.parametrize("module", [False, True])
def test_the_version_is_told(module: bool) -> None:
    """
    `--version` works as a command and as `python -m`.
    """
    done = run("--version", module=module)

    assert exits.OK == done.code
    assert done.out.startswith(f"ssis_exporter, version {__version__} (python 3.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serv"], "No such command 'serv'. Did you mean 'serve'?"),
        (["frobnicate"], "No such command 'frobnicate'.\n"),
        (["serve", "--web.listen-adress", ":1"], "No such option '--web.listen-adress'"),
        (["serve", "--web.listen-address", "10058"], "is no address to listen on; write it like :10058"),
        (["serve", "--web.listen-address", ":99999"], "a port is at most 65535"),
        (["serve", "--web.telemetry-path", "metrics"], "is no path; write it like /metrics"),
        (["serve", "--web.telemetry-path", ""], "is no path; write it like /metrics"),
        (["serve", "--web.telemetry-path", "/"], "is another page of the exporter"),
        (["serve", "--web.telemetry-path", "/-/ready"], "is another page of the exporter"),
        (["serve", "--web.max-requests", "-1"], "-1 is not in the range x>=0"),
        (["serve", "--scrape.timeout-margin", "nan"], "is no number of seconds from 0 to 3600"),
        (["serve", "--scrape.timeout-margin", "-1"], "is no number of seconds from 0 to 3600"),
        (["serve", "--log.level", "loud"], "'loud' is not one of"),
        (["serve", "extra"], "unexpected extra argument"),
        (["demo", "--speed", "0"], "is not in the range"),
        (["demo", "--packages", "0"], "is not in the range"),
        (["list", "--url", "127.0.0.1:10058"], "must be like http://127.0.0.1:10058"),
        (["list", "--url", "ftp://127.0.0.1"], "must be like http://127.0.0.1:10058"),
        (["list", "--url", "http://a:hunter2@127.0.0.1:1"], "a password on the command line can be seen by everybody"),
        (["list", "--url", "http://127.0.0.1:1", "--config.file", "x"], "which has its own configuration"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(arguments: list[str], words: str) -> None:
    """
    What is wrong is said, and the exit code tells scripts.
    """
    done = run(*arguments)

    assert exits.USAGE == done.code
    assert "" == done.out
    assert words in done.err
    assert "Traceback" not in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize("command", [["serve"], ["serve", "--config.check"], ["check"], ["list"]])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"sources: [{name: a, kind: demo, sed: 1}]", '{path}:1: sources[0].sed: unknown key; did you mean "seed"?'),
        (
            b"sources: [{name: a, kind: demos}]",
            "{path}:1: sources[0].kind: unknown kind 'demos'; did you mean \"demo\"?",
        ),
        (b"labels:\n  user_name: \xff", "{path}:2: the configuration file is not UTF-8; save it as UTF-8"),
        (None, "{path}: the configuration file is a directory; name a file"),
    ],
    ids=["unknown-key", "unknown-kind", "not-utf-8", "directory"],
)
def test_a_wrong_configuration_is_one_sentence(
    tmp_path: Path, command: list[str], content: bytes | None, sentence: str
) -> None:
    """
    Every command that reads the configuration refuses a wrong one in the same way.
    """
    path = tmp_path / "ssis.yml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    assert_one_sentence(run(*command, "--config.file", path), exits.USAGE, sentence.format(path=path))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """
    A path with a slip in it is named.
    """
    path = tmp_path / "sssis.yml"

    assert_one_sentence(
        run("serve", "--config.file", path),
        exits.USAGE,
        f"{path}: the configuration file cannot be read: No such file or directory",
    )


def test_who_reads_a_file_tells_that_it_cannot_be_read() -> None:
    """
    The flags of files leave that to the sentence that every other trouble of a file gets, instead of a usage page.
    """
    assert not options.FILE.readable


def test_a_log_file_that_cannot_be_written_is_one_sentence(tmp_path: Path, config: Path) -> None:
    """
    Before anything is started.
    """
    assert_one_sentence(
        run("serve", "--config.file", config, "--log.file", tmp_path / "none" / "x.log"),
        exits.USAGE,
        f"--log.file {tmp_path / 'none' / 'x.log'} cannot be written: No such file or directory",
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback that somebody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def test_a_port_in_use_is_one_sentence(config: Path, taken: int) -> None:
    """
    The sentence names the address and the flag for another one; the exit code says that it could not listen.
    """
    done = run("serve", "--config.file", config, "--web.listen-address", f"127.0.0.1:{taken}", "--log.level", "error")

    assert exits.LISTEN == done.code
    assert done.err.startswith(
        f"ssis-exporter: cannot listen on 127.0.0.1:{taken}: port {taken} is in use by another program"
    )
    assert done.err.endswith("; --web.listen-address names another one\n")
    assert 1 == done.err.count("\n")


def test_the_webhooks_port_in_use_names_the_key(tmp_path: Path, taken: int) -> None:
    """
    Likewise for the port that Alertmanager is let in by: the sentence names the key of the configuration.
    """
    path = tmp_path / "config.yml"
    path.write_text(f"sources: [{{name: a, kind: demo}}]\nstop: {{listen_address: '127.0.0.1:{taken}'}}\n", "utf-8")
    done = run(
        "serve",
        f"--config.file={path}",
        f"--storage.path={tmp_path / 'state'}",
        "--web.listen-address=127.0.0.1:0",
        "--log.level=error",
    )

    assert exits.LISTEN == done.code
    assert done.err.startswith(f"ssis-exporter: cannot listen on 127.0.0.1:{taken}: ")
    assert done.err.endswith("; stop.listen_address names another one\n")


def test_nothing_is_bound_before_the_configuration_is_right(tmp_path: Path, taken: int) -> None:
    """
    Of two things wrong the configuration is told.
    """
    path = tmp_path / "none.yml"
    done = run("serve", "--config.file", path, "--web.listen-address", f"127.0.0.1:{taken}")

    assert exits.USAGE == done.code
    assert "the configuration file cannot be read" in done.err


@pytest.mark.parametrize("command", [["serve"], ["serve", "--config.check"], ["check"]])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("tls_server_config: {cert_file: none.crt, key_file: none.key}", "none.crt"),
        ("tls_server_config: {cert_file: none.crt}", "key_file"),
        ("tls_server_configs: {}", 'unknown key; did you mean "tls_server_config"?'),
        ("http_server_config: {http2: true, http2: false}", "stands twice"),
    ],
)
def test_a_wrong_web_configuration_is_one_sentence(
    tmp_path: Path, config: Path, command: list[str], content: str, words: str
) -> None:
    """
    The file that is exporter-toolkit's is checked before anything listens, certificates too.
    """
    path = tmp_path / "web.yml"
    path.write_text(content)
    done = run(*command, "--config.file", config, "--web.config.file", path)

    assert exits.USAGE == done.code
    assert words in done.err
    assert 1 == done.err.count("\n")
    assert "Traceback" not in done.err


MISSING = """
import sys
from ssis_exporter.extras import need

need("no_such_driver", extra="catalog", what="driverless")
"""

BROKEN = "raise RuntimeError('a driver\\nof somebody else')\n"

NO_SOURCE = "Kind = dict\n"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (MISSING, "driverless needs no_such_driver, which is not installed; run: pip install 'ssis-exporter[catalog]'"),
        (BROKEN, "the source kind 'outside' cannot be loaded: RuntimeError: a driver of somebody else"),
        (NO_SOURCE, "the source kind 'outside' names outside_kind:Kind, which is not a Source"),
    ],
    ids=["missing-extra", "broken-module", "no-source"],
)
def test_a_kind_that_cannot_be_loaded_is_one_sentence(tmp_path: Path, code: str, sentence: str) -> None:
    """
    Whatever happens while a kind is loaded, ours or somebody else's.
    """
    path = tmp_path / "ssis.yml"
    path.write_text("sources: [{name: a, kind: outside}]\n")

    done = run("serve", "--config.file", path, env=outside.install(tmp_path / "site", code))

    assert_one_sentence(done, exits.USAGE, f"{path}:1: sources[0].kind: {sentence}")


def test_only_kinds_that_are_named_are_loaded(tmp_path: Path, config: Path) -> None:
    """
    A broken distribution that nobody configured disturbs nothing.
    """

    assert exits.OK == run("check", "--config.file", config, env=outside.install(tmp_path / "site", BROKEN)).code


SLOW = """
from ssis_exporter import Source


class Kind(Source):
    kind = "outside"

    def snapshot(self):
        raise ZeroDivisionError("a bug of somebody else")

    @classmethod
    def from_settings(cls, name, settings):
        raise KeyError("unforeseen")
"""


def test_an_unforeseen_failure_is_one_sentence_with_a_hint(tmp_path: Path) -> None:
    """
    No traceback; the exit code says that this is a bug, and the sentence how to find out more.
    """
    path = tmp_path / "ssis.yml"
    path.write_text("sources: [{name: a, kind: outside}]\n")
    env = outside.install(tmp_path / "site", SLOW)

    assert_one_sentence(
        run("check", "--config.file", path, env=env),
        exits.UNFORESEEN,
        "unforeseen failure: KeyError: 'unforeseen'; run again with --log.level debug for where it failed, "
        "and please report it",
    )
    done = run("check", "--config.file", path, "--log.level", "debug", env=env)
    assert exits.UNFORESEEN == done.code
    assert "Traceback" in done.err
    assert "outside_kind.py" in done.err


def test_a_configuration_can_be_checked_without_starting(config: Path, taken: int) -> None:
    """
    `--config.check` binds nothing and ends.
    """
    done = run("serve", "--config.check", "--config.file", config, "--web.listen-address", f"127.0.0.1:{taken}")

    assert (exits.OK, "the configuration is right\n", "") == (done.code, done.out, done.err)


def test_a_password_that_cannot_be_read_is_told_before_any_server_is_asked(tmp_path: Path, taken: int) -> None:
    """
    `--config.check` refuses it at its place, `check` names it instead of the server.
    """
    path = tmp_path / "ssis.yml"
    path.write_text(
        f"sources:\n  - {{name: sql01, kind: catalog, server: '127.0.0.1:{taken}',"
        " auth: {user: exporter, password_file: none.password}}\n"
    )
    sentence = f"{tmp_path / 'none.password'}: the password cannot be read: "
    checked = run("serve", "--config.check", "--config.file", path)
    asked = run("check", "--config.file", path)

    assert (exits.USAGE, "") == (checked.code, checked.out)
    assert checked.err.startswith(f"ssis-exporter: {path}:2: sources[0]: {sentence}")
    assert exits.FOUND == asked.code
    assert f"  problem  {sentence}" in asked.out


def test_every_exit_code_has_a_meaning() -> None:
    """
    The list of meanings, which the README repeats, is complete.
    """
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}

    assert codes == set(exits.MEANINGS)


def test_check_tells_what_is_open_about_stopping(tmp_path: Path) -> None:
    """
    A webhook without credential works on loopback, and is told.
    """
    path = tmp_path / "ssis.yml"
    path.write_text(DEMO + "stop: {}\n")
    done = run("check", "--config.file", path)

    assert exits.OK == done.code
    assert "stopping\n  ok       dry-run; the webhook listens on 127.0.0.1:10059\n" in done.out
    assert "  warning  every account of this machine may nominate runs" in done.out
    assert "  warning  no rule has action stop, so every request is refused\n" in done.out


@pytest.mark.parametrize("command", [["check"], ["serve", "--config.check"]])
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("token_files: [none.token]", "none.token"),
        ("tls: {cert_file: none.crt, key_file: none.key}", "none.crt"),
    ],
)
def test_a_file_of_the_webhook_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, command: list[str], section: str, words: str
) -> None:
    """
    Tokens and certificates are looked at before anything is started.
    """
    path = tmp_path / "ssis.yml"
    path.write_text(f"{DEMO}stop:\n  {section}\n")
    done = run(*command, "--config.file", path)

    assert exits.USAGE == done.code
    assert words in done.err
    assert 1 == done.err.count("\n")
