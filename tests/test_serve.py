"""The life of `ssis-exporter serve`: start, reload, end; shown through the installed command."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssis_exporter.cli import exits
from tests import outside
from tests.installed import COMMAND, SECONDS, Answer, Serving, run

posix = os.name == "posix"


class Estate:
    """A configuration whose one source obeys files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ssis.yml"
        self.env = outside.install(folder / "site")
        self.write("sql01")

    def write(self, *names: str, extra: str = "") -> None:
        """Configures these sources."""
        lines = [f"  - {{name: {name}, kind: outside, folder: {json.dumps(str(self.folder))}}}" for name in names]
        self.path.write_text("\n".join(["sources:", *lines, extra]) + "\n")

    def serving(self, *arguments: str | Path) -> Serving:
        """`serve` on it."""
        return Serving("--config.file", self.path, *arguments, env=self.env)

    def hang(self) -> None:
        """Looks wait from now on."""
        (self.folder / "wait").touch()

    def go_on(self) -> None:
        """Looks wait no more."""
        (self.folder / "wait").unlink(missing_ok=True)

    def fail(self) -> None:
        """Looks fail from now on."""
        (self.folder / "fail").touch()

    def wait_until_a_look_hangs(self) -> None:
        """Returns when a look waits."""
        deadline = time.monotonic() + SECONDS
        while not (self.folder / "waiting").exists():
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """One source, which goes on at the end whatever the test did."""
    made = Estate(tmp_path)
    yield made
    made.go_on()


def value(page: str, series: str) -> float:
    """One sample of a page."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    assert found is not None, f"no {series} in {page}"
    return float(found[1])


def test_it_serves_and_ends_when_asked(estate: Estate) -> None:
    """
    Everything answers, and SIGTERM (Ctrl-Break on Windows) ends it with 0.
    """
    with estate.serving() as serving:
        page = serving.get("/metrics")
        answers = {
            path: serving.get(path).status for path in ("/", "/-/healthy", "/-/ready", "/api/v1/executions", "/x")
        }
        code = serving.stop()

    assert 1 == value(page.text, 'ssis_up{source="sql01"}')
    assert 1 == value(page.text, 'ssis_running_packages{source="sql01"}')
    assert {"/": 200, "/-/healthy": 200, "/-/ready": 200, "/api/v1/executions": 200, "/x": 404} == answers
    assert exits.OK == code
    assert serving.lines[-1].endswith("msg=ended")
    assert [] == [line for line in serving.lines if "level=error" in line]


def test_ctrl_c_ends_it(estate: Estate) -> None:
    """
    SIGINT is as good as SIGTERM.
    """
    with estate.serving() as serving:
        assert exits.OK == serving.stop(signal.SIGINT if posix else None)


def test_a_scrape_that_runs_is_answered_before_the_end(estate: Estate) -> None:
    """
    SIGTERM during a slow scrape: the scrape gets its page, and the exit code is 0.
    """
    estate.hang()
    answers: list[Answer] = []
    with estate.serving() as serving:
        scrape = threading.Thread(target=lambda: answers.append(serving.get("/metrics")))
        scrape.start()
        estate.wait_until_a_look_hangs()
        serving.signal(signal.SIGTERM if posix else signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined,unused-ignore]
        serving.wait_for("ending")
        estate.go_on()
        scrape.join(SECONDS)
        code = serving.wait()

    assert 1 == value(answers[0].text, 'ssis_up{source="sql01"}')
    assert exits.OK == code


def test_a_second_signal_ends_it_at_once(estate: Estate) -> None:
    """
    Who insists need not wait for a source that hangs.
    """
    estate.hang()
    with estate.serving() as serving:
        scrape = socket.create_connection(("127.0.0.1", serving.port))
        scrape.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        estate.wait_until_a_look_hangs()
        number = signal.SIGTERM if posix else signal.CTRL_BREAK_EVENT  # type: ignore[attr-defined,unused-ignore]
        serving.signal(number)
        serving.wait_for("ending")
        serving.signal(number)
        code = serving.wait()
        scrape.close()

    assert exits.INTERRUPTED == code


def test_a_hung_source_does_not_keep_it_alive(estate: Estate) -> None:
    """
    A call that never returns is left behind, with a warning; a patient scrape that waits for it still gets its page.
    """
    estate.hang()
    answers: list[Answer] = []
    with estate.serving() as serving:
        patient = {"X-Prometheus-Scrape-Timeout-Seconds": "60"}
        scrape = threading.Thread(target=lambda: answers.append(serving.get("/metrics", headers=patient)))
        scrape.start()
        estate.wait_until_a_look_hangs()
        code = serving.stop()
        scrape.join(SECONDS)

    assert 0 == value(answers[0].text, 'ssis_up{source="sql01"}')
    assert 1 == value(answers[0].text, 'ssis_scrape_timed_out{source="sql01"}')
    assert exits.OK == code
    assert any("source sql01 did not end its call in time" in line for line in serving.lines)


def test_a_hangup_reads_the_configuration_again(estate: Estate) -> None:
    """
    SIGHUP: new sources are there from the next scrape on; a wrong file changes nothing and is told.
    """
    if not posix:
        # There is no SIGHUP on Windows; POST /-/reload does the same there.
        return
    with estate.serving() as serving:
        estate.write("sql01", "sql02")
        serving.signal(signal.SIGHUP)
        serving.wait_for("was reloaded")
        good = serving.get("/metrics").text
        estate.write("sql01", extra="nonsense: 1")
        serving.signal(signal.SIGHUP)
        line = serving.wait_for("was not reloaded")
        bad = serving.get("/metrics").text
        code = serving.stop()

    assert 1 == value(good, 'ssis_up{source="sql02"}')
    assert 1 == value(good, "ssis_exporter_config_last_reload_successful")
    assert f"{estate.path}:3: nonsense: unknown key" in line
    assert 1 == value(bad, 'ssis_up{source="sql02"}')
    assert 0 == value(bad, "ssis_exporter_config_last_reload_successful")
    assert exits.OK == code


def test_a_reload_by_http_only_where_it_is_enabled(estate: Estate) -> None:
    """
    POST /-/reload needs --web.enable-lifecycle; a wrong file is answered with the reason.
    """
    with estate.serving() as serving:
        assert 403 == serving.get("/-/reload", "POST").status
        serving.stop()
    with estate.serving("--web.enable-lifecycle") as serving:
        estate.write("sql01", "sql02")
        good = serving.get("/-/reload", "POST")
        page = serving.get("/metrics").text
        estate.write()
        bad = serving.get("/-/reload", "POST")
        serving.stop()

    assert 200 == good.status
    assert 1 == value(page, 'ssis_up{source="sql02"}')
    assert 500 == bad.status
    assert f"{estate.path}:1: sources: has no value" in bad.text


def test_flags_shape_what_is_served(estate: Estate) -> None:
    """
    The path of the metrics, the metrics about itself, the log's format and its file.
    """
    log = estate.folder / "exporter.log"
    with estate.serving(
        "--web.telemetry-path", "/ssis", "--web.disable-exporter-metrics", "--log.format", "json"
    ) as serving:
        page = serving.get("/ssis")
        old = serving.get("/metrics")
        serving.stop()

    assert 1 == value(page.text, 'ssis_up{source="sql01"}')
    assert "process_cpu_seconds_total" not in page.text
    assert 404 == old.status
    assert all("msg" in json.loads(line) for line in serving.lines)
    assert not log.exists()


def test_the_log_goes_to_a_file(estate: Estate) -> None:
    """
    With --log.file nothing is left on stderr.
    """
    log = estate.folder / "exporter.log"
    done = run("check", "--config.file", estate.path, "--log.file", log, "--log.level", "debug", env=estate.env)

    assert (exits.OK, "") == (done.code, done.err)
    assert log.exists()


def test_several_addresses_are_served(estate: Estate) -> None:
    """
    Each --web.listen-address is another one.
    """
    with estate.serving("--web.listen-address", "127.0.0.1:0") as serving:
        second = re.search(r"listening on 127\.0\.0\.1:(\d+)", serving.wait_for("listening on"))
        assert second is not None
        first, serving.port = serving.port, int(second[1])
        answer = serving.get("/-/healthy")
        serving.stop()

    assert first != serving.port
    assert 200 == answer.status


def test_who_has_all_rights_is_told_that_fewer_do(estate: Estate) -> None:
    """
    Running as root works, with a warning.
    """
    with estate.serving() as serving:
        serving.get("/-/healthy")
        serving.stop()

    warned = any("running with all rights" in line for line in serving.lines)
    if posix:
        assert warned == (os.geteuid() == 0)


@pytest.mark.real
def test_without_a_configuration_it_reads_processes_and_stays_small() -> None:
    """
    `serve` alone works, and needs at most 60 MB when idle.
    """
    with Serving() as serving:
        page = serving.get("/metrics").text
        resident = value(page, "process_resident_memory_bytes")
        serving.stop()

    assert 1 == value(page, 'ssis_up{source="local"}')
    assert resident < 60 * 1024 * 1024


def test_the_list_beside_a_running_exporter(estate: Estate) -> None:
    """
    `list --url` shows what the exporter sees; `--json` is what it answers.
    """
    with estate.serving() as serving:
        plain = run("list", "--url", serving.url)
        as_json = run("list", "--url", serving.url + "/", "--json")
        serving.stop()

    assert exits.OK == plain.code
    assert "" == plain.err
    head, row = plain.out.splitlines()
    assert [
        *["PACKAGE", "USER", "AGE", "USUAL", "TIMES", "STATUS", "FOLDER", "PROJECT", "SOURCE", "INSTANCE", "ID"]
    ] == head.split()
    assert ["Load[red]Sales", "CORP\\etl", "0s", "unknown", "-", "running", "sql01", "1"] == row.split()
    assert exits.OK == as_json.code
    assert ["1"] == [run_["instance_id"] for run_ in json.loads(as_json.out)["executions"]]


def test_the_list_by_itself(estate: Estate) -> None:
    """
    Without --url it looks itself.
    """
    done = run("list", "--config.file", estate.path, env=estate.env)

    assert (exits.OK, "") == (done.code, done.err)
    assert "Load[red]Sales" in done.out


def test_the_list_never_says_that_nothing_runs_when_it_could_not_look(estate: Estate) -> None:
    """
    A source that cannot be read is told, and the exit code says so.
    """
    estate.fail()
    alone = run("list", "--config.file", estate.path, env=estate.env)
    with estate.serving() as serving:
        beside = run("list", "--url", serving.url)
        serving.stop()

    for done in (alone, beside):
        assert exits.FOUND == done.code
        assert "" == done.out
        assert "source sql01 could not be read: nobody is at home\n" == done.err


def test_a_list_that_nobody_reads_to_its_end_ends_quietly(estate: Estate) -> None:
    """
    `list | head` is no failure.
    """
    command = [str(COMMAND), "list", "--config.file", str(estate.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **estate.env}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
        code = process.wait(SECONDS)

    assert (exits.OK, b"") == (code, complaint)


def test_a_name_that_the_terminal_lacks_is_shown_with_escapes(estate: Estate) -> None:
    """
    The encoding of a terminal ends no command.
    """
    lines = [line.replace("}", ', user_name: "CORP\\\\Jürgen 統"}') for line in estate.path.read_text().splitlines()]
    estate.path.write_text("\n".join(lines), encoding="utf-8")
    done = run(
        "list", "--config.file", estate.path, env={**estate.env, "PYTHONIOENCODING": "iso8859-5", "PYTHONUTF8": "0"}
    )

    assert (exits.OK, "") == (done.code, done.err)
    assert "CORP\\J\\xfcrgen \\u7d71" in done.out


def test_a_list_that_waits_too_long_says_so(estate: Estate) -> None:
    """
    --timeout is kept, and the hung source does not keep the command alive.
    """
    estate.hang()
    done = run("list", "--config.file", estate.path, "--timeout", "0.2", env=estate.env)

    assert exits.FOUND == done.code
    assert "source sql01 could not be read: no answer within 0.2 s" in done.err


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (None, "does not answer: "),
        (b"", "does not answer: Remote end closed connection without response"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "answered 401: it asks for a user and password"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nno such\n", "answered 404: no such"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "answered what no exporter of this version does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xff", "answered what no exporter of this version does"),
        (b"nonsense\r\n\r\n", "does not answer: "),
    ],
)
def test_a_list_from_something_else_is_one_sentence(answer: bytes | None, sentence: str) -> None:
    """
    Whatever is at the other end, one line says what came from there.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        if answer is not None:
            server.listen()
            server.settimeout(SECONDS)
            threading.Thread(target=_answer_once, args=(server, answer), daemon=True).start()
        done = run("list", "--url", url)

    assert exits.FOUND == done.code
    assert done.err.startswith(f"ssis-exporter: {url} {sentence}")
    assert 1 == done.err.count("\n")


def _answer_once(server: socket.socket, answer: bytes) -> None:
    peer, _ = server.accept()
    with peer:
        peer.recv(65536)
        peer.sendall(answer)


def test_check_tells_of_each_source(estate: Estate) -> None:
    """
    What works and what does not, by source; the exit code tells a script.
    """
    good = run("check", "--config.file", estate.path, env=estate.env)
    estate.fail()
    bad = run("check", "--config.file", estate.path, env=estate.env)

    assert exits.OK == good.code
    assert f"configuration\n  ok       {estate.path}\n" in good.out
    assert "source sql01 (outside)\n  ok       1 open executions; the account sees: all\n" in good.out
    assert exits.FOUND == bad.code
    assert "source sql01 (outside)\n  problem  sql01: nobody is at home\n" in bad.out


def test_check_does_not_wait_for_ever(estate: Estate) -> None:
    """
    A source that hangs is a problem, and does not keep the command alive.
    """
    estate.hang()
    done = run("check", "--config.file", estate.path, "--timeout", "0.2", env=estate.env)

    assert exits.FOUND == done.code
    assert "  problem  no answer within 0.2 s (--timeout)\n" in done.out


def test_the_demo_shows_what_to_open() -> None:
    """
    `demo` serves a made-up estate on loopback and prints URLs that work, and commands that a shell here finds.
    """
    with Serving("--packages", "30", "--seed", "7", command="demo", env={"PATH": os.defpath}) as serving:
        page = serving.get("/metrics").text
        listed = run("list", "--url", serving.url)
        code = serving.stop()

    assert 0 < value(page, 'ssis_running_packages{source="demo"}')
    assert exits.OK == listed.code
    assert "CORP\\" in listed.out
    assert exits.OK == code
    assert any(f"{serving.url}/metrics" in line for line in serving.out)
    assert f"  {COMMAND.with_suffix('')} list --url {serving.url}" in serving.out


def test_the_same_seed_shows_the_same_estate() -> None:
    """
    The flags reach the estate: it can be made again, but for what began or ended between the two looks.
    """
    shown: list[set[str]] = []
    for _ in range(2):
        with Serving("--seed", "7", "--packages", "60", command="demo") as serving:
            seen = json.loads(serving.get("/api/v1/executions").text)["executions"]
            shown.append({run_["package_name"] for run_ in seen})
            serving.stop()
    first, second = shown

    assert len(first & second) > len(first ^ second)


def test_a_module_is_a_command() -> None:
    """
    `python -m ssis_exporter` is the same program.
    """
    assert exits.OK == run("list", "--help", module=True).code
