"""The HTTP surface, over real sockets, with real workers and the real collector."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ssis_exporter import api
from ssis_exporter.baseline import Baseline
from ssis_exporter.errors import ConfigError, SourceUnreachable
from ssis_exporter.handlers import MAX_BODY_BYTES, Refusal
from ssis_exporter.historyfile import Failure
from ssis_exporter.model import ExecutionFacts, ExecutionStatus, Result
from ssis_exporter.testing import FakeSource
from ssis_exporter.web import WebSettings, make_application
from tests.fake_exporter import FakeExporter
from tests.serving import DEADLINE, Answer, Served, read_answer, serving

HURRIED = "X-Prometheus-Scrape-Timeout-Seconds: 0.2"


class Site:
    """A surface over some fake sources."""

    def __init__(self, exporter: FakeExporter, sources: dict[str, FakeSource], served: Served) -> None:
        self.exporter = exporter
        self.sources = sources
        self.served = served
        self.get = served.get

    def samples(self, *headers: str, path: str = "/metrics") -> dict[str, float]:
        """The page's samples, by name and labels as text."""
        answer = self.get(path, *headers)
        assert answer.status == 200
        return parsed(answer)


def parsed(answer: Answer) -> dict[str, float]:
    """Samples of a page in the text format."""
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@contextmanager
def site(*names: str, settings: WebSettings | None = None, keep_user_names: bool = True) -> Iterator[Site]:
    """Serves a surface over sources of these names."""
    sources = {name: FakeSource(name) for name in names}
    exporter = FakeExporter(list(sources.values()), keep_user_names=keep_user_names)
    try:
        with serving(make_application(exporter, settings or WebSettings())) as served:
            yield Site(exporter, sources, served)
    finally:
        for source in sources.values():
            source.gate.set()
        exporter.close()


# /metrics


def test_metrics_tell_every_source() -> None:
    """
    A scrape shows what runs on every source, in the text format when nothing else is asked for.
    """
    with site("a", "b") as here:
        here.sources["a"].start("1", "Load")
        answer = here.get("/metrics")
        samples = parsed(answer)

    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["content-type"]
    assert (1, 0) == (samples["ssis_running_packages{source=a}"], samples["ssis_running_packages{source=b}"])
    assert (1, 1) == (samples["ssis_up{source=a}"], samples["ssis_up{source=b}"])


def test_openmetrics_and_gzip_are_negotiated() -> None:
    """
    Prometheus's own headers get OpenMetrics 1.0.0, compressed; caches are told that it depends on them.
    """
    accept = (
        "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    )
    with site("a") as here:
        answer = here.get("/metrics", accept, "Accept-Encoding: gzip")

    assert "application/openmetrics-text; version=1.0.0; charset=utf-8" == answer.headers["content-type"]
    assert "gzip" == answer.headers["content-encoding"]
    assert "Accept, Accept-Encoding" == answer.headers["vary"]
    assert str(len(answer.body)) == answer.headers["content-length"]
    assert gzip.decompress(answer.body).endswith(b"# EOF\n")


def test_head_is_get_without_the_body() -> None:
    """
    HEAD has the headers of GET, its length too, on every page.
    """
    with site("a") as here:
        for path in ("/metrics", "/", "/api/v1/executions", "/-/healthy", "/-/ready"):
            answer = here.get(path, method="HEAD")

            assert (path, 200, b"") == (path, answer.status, answer.body)
            assert int(answer.headers["content-length"]) > 0
            assert answer.headers["content-type"]


def test_a_source_that_fails_is_a_sample_not_an_error() -> None:
    """
    The page is 200 with `ssis_up` 0 and without the run metrics of the source that failed; then it recovers.
    """
    with site("a", "b") as here:
        here.sources["a"].start("1")
        here.sources["b"].start("2")
        here.sources["b"].fail_with = SourceUnreachable("b: down")
        down = here.samples()
        here.sources["b"].fail_with = None
        recovered = here.samples()

    assert (1, 0) == (down["ssis_up{source=a}"], down["ssis_up{source=b}"])
    assert 1 == down["ssis_running_packages{source=a}"]
    assert "ssis_running_packages{source=b}" not in down
    assert 1 == recovered["ssis_running_packages{source=b}"]


def test_a_source_that_hangs_costs_only_itself() -> None:
    """
    At the scrape's own deadline the page comes, with a timeout for the source that hangs.
    """
    with site("a", "b") as here:
        here.sources["b"].gate.clear()
        hung = here.samples(HURRIED)
        here.sources["b"].gate.set()
        recovered = here.samples()

    assert (1, 0) == (hung["ssis_up{source=a}"], hung["ssis_up{source=b}"])
    assert (0, 1) == (hung["ssis_scrape_timed_out{source=a}"], hung["ssis_scrape_timed_out{source=b}"])
    assert 1 == recovered["ssis_up{source=b}"]


def test_a_hundred_overlapping_scrapes_cause_one_call_and_none_fails() -> None:
    """
    More scrapes than may be in flight, all at once: one look, a hundred whole pages.
    """
    with site("a") as here, ThreadPoolExecutor(100) as pool:
        source = here.sources["a"]
        source.start("1")
        source.gate.clear()
        scrapes = [pool.submit(here.get, "/metrics") for _ in range(100)]
        assert source.began.acquire(timeout=DEADLINE)
        deadline = time.monotonic() + DEADLINE
        while busy(here) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        source.gate.set()
        answers = [scrape.result(DEADLINE) for scrape in scrapes]

    assert {200} == {answer.status for answer in answers}
    assert 1 == len({answer.body for answer in answers})
    assert 1 == source.calls


def busy(here: Site) -> int:
    """How many requests are being answered."""
    return sum(1 for one in list(here.served.listener._connections) if one.phase.name == "WORKING")


def test_chosen_sources_only() -> None:
    """
    `collect[]` chooses sources; the others are not even looked at.
    """
    with site("a", "b", "c") as here:
        samples = here.samples(path="/metrics?collect[]=a&collect[]=c")

    assert {"ssis_up{source=a}", "ssis_up{source=c}"} == {name for name in samples if name.startswith("ssis_up{")}
    assert 0 == here.sources["b"].calls


@pytest.mark.parametrize(
    ("query", "named"), [("collect[]=x", "x"), ("collect%5B%5D=a&collect[]=%3Cb%3E", "<b>"), ("collect[]=", "")]
)
def test_an_unknown_source_is_400(query: str, named: str) -> None:
    """
    A name that is not configured is one sentence, as plain text.
    """
    with site("a", "b") as here:
        answer = here.get(f"/metrics?{query}")

    assert 400 == answer.status
    assert f"collect[]: there is no source {named}; known are a, b\n" == answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    assert "nosniff" == answer.headers["x-content-type-options"]


def test_beyond_max_requests_is_503() -> None:
    """
    More collections than allowed are refused with the flag's name; a scrape that joins one is not.
    """
    with site("a", "b", settings=WebSettings(max_requests=1)) as here, ThreadPoolExecutor() as pool:
        here.sources["a"].gate.clear()
        running = pool.submit(here.get, "/metrics?collect[]=a")
        assert here.sources["a"].began.acquire(timeout=DEADLINE)
        refused = here.get("/metrics?collect[]=b")
        joined = here.get("/metrics?collect[]=a", HURRIED)
        here.sources["a"].gate.set()
        answered = running.result(DEADLINE)

    assert 503 == refused.status
    assert "1 collections are in flight already (--web.max-requests)\n" == refused.text
    assert (200, 200) == (joined.status, answered.status)


def test_the_path_can_be_chosen() -> None:
    """
    `--web.telemetry-path` moves the metrics, and the page's link.
    """
    with site("a", settings=WebSettings(telemetry_path="/ssis/metrics.txt")) as here:
        assert 200 == here.get("/ssis/metrics.txt").status
        assert 404 == here.get("/ssis/metricsXtxt").status
        assert 404 == here.get("/metrics").status
        assert 'href="ssis/metrics.txt"' in here.get("/").text


def test_a_scraper_that_leaves_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """
    A connection that is closed within a scrape leaves no error behind, and the next scrape is served.
    """
    with site("a") as here:
        here.sources["a"].gate.clear()
        with here.served.connect() as peer:
            peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert here.sources["a"].began.acquire(timeout=DEADLINE)
        here.sources["a"].gate.set()
        samples = here.samples()

    assert 1 == samples["ssis_up{source=a}"]
    assert [] == [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


def test_a_page_that_cannot_be_made_is_500_without_a_traceback() -> None:
    """
    An error of our own is 500 and one phrase; what happened is for the log.
    """
    with site("a") as here:
        here.exporter.collector = None  # type: ignore[assignment]
        answer = here.get("/metrics")

    assert (500, "Internal Server Error\n") == (answer.status, answer.text)


# Health, reload, others


def test_ready_follows_the_exporter() -> None:
    """
    `/-/healthy` is 200 while it serves; `/-/ready` is 503 while it starts or ends, and knows nothing of sources.
    """
    with site("a") as here:
        here.sources["a"].fail_with = SourceUnreachable("a: down")
        ready = here.get("/-/ready").status
        here.exporter.ready = False
        ending = here.get("/-/ready").status
        healthy = here.get("/-/healthy").status
        calls = here.sources["a"].calls

    assert (200, 503, 200, 0) == (ready, ending, healthy, calls)


def test_reload_is_off_unless_enabled() -> None:
    """
    Without the flag a reload is 403 and names the flag.
    """
    with site("a") as here:
        answer = here.get("/-/reload", method="POST")
        reloads = here.exporter.reloads

    assert (403, 0) == (answer.status, reloads)
    assert "--web.enable-lifecycle" in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_reload_when_enabled(method: str) -> None:
    """
    POST and PUT reload; a wrong configuration is 500 with its sentence.
    """
    with site("a", settings=WebSettings(enable_lifecycle=True)) as here:
        worked = here.get("/-/reload", method=method)
        here.exporter.reload_fails_with = ConfigError("ssis.yml:3: sources[0]: unknown key")
        failed = here.get("/-/reload", method=method)

    assert 200 == worked.status
    assert 500 == failed.status
    assert "the old configuration stays in force: ssis.yml:3: sources[0]: unknown key\n" == failed.text


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Sec-Fetch-Site: cross-site", 403),
        ("Sec-Fetch-Site: same-site", 403),
        ("Sec-Fetch-Site: same-origin", 200),
        ("Sec-Fetch-Site: none", 200),
        ("Origin: http://evil.example.com", 403),
        ("X-Nothing: 1", 200),
    ],
)
def test_another_site_cannot_reload(header: str, status: int) -> None:
    """
    A page of another site that makes a browser send the request is refused.
    """
    with site("a", settings=WebSettings(enable_lifecycle=True)) as here:
        answer = here.get("/-/reload", header, method="POST")

    assert status == answer.status


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/metrics", "POST", "GET, HEAD"),
        ("/metrics", "BREW", "GET, HEAD"),
        ("/", "DELETE", "GET, HEAD"),
        ("/api/v1/executions", "PUT", "GET, HEAD"),
        ("/-/healthy", "PATCH", "GET, HEAD"),
        ("/-/ready", "OPTIONS", "GET, HEAD"),
        ("/-/reload", "GET", "POST, PUT"),
        ("/-/reload", "HEAD", "POST, PUT"),
    ],
)
def test_other_methods_are_405_with_allow(path: str, method: str, allowed: str) -> None:
    """
    A wrong method is told the right ones.
    """
    with site("a") as here:
        answer = here.get(path, method=method)

    assert (405, allowed) == (answer.status, answer.headers["allow"])


@pytest.mark.parametrize("path", ["/nope", "/metrics/", "/metricsx", "/-/", "/api/v1/", "/favicon.ico", "/%2e%2e/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
def test_everything_else_is_404(path: str, method: str) -> None:
    """
    Other paths are not found, whatever the method; they do not lead to metrics.
    """
    with site("a") as here:
        answer = here.get(path, method=method)

    assert (404, "not found; the pages are linked from /\n") == (answer.status, answer.body.decode())


@pytest.mark.parametrize("request_line", ["GET /metrics", "POST /-/reload", "PUT /nowhere"])
@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "9" * 5000])
def test_a_large_body_is_413_before_it_is_sent(request_line: str, length: str) -> None:
    """
    On every path and at once, although the body that was announced never comes.
    """
    head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    with site("a") as here:
        answer = Answer.parse(here.served.ask(head.encode()))

    assert (413, f"the body is larger than {MAX_BODY_BYTES} bytes\n") == (answer.status, answer.text)
    assert "nosniff" == answer.headers["x-content-type-options"]


@pytest.mark.parametrize("request_line", ["GET /metrics", "POST /-/reload", "PUT /nowhere"])
@pytest.mark.parametrize("header", ["chunked", "gzip, chunked", "chunked\r\nContent-Length: 5", "CHUNKED"])
@pytest.mark.parametrize("body", ["0\r\n\r\n", "100001\r\n", "ffffffffffffffff\r\n", "no number\r\n"])
def test_a_body_without_a_length_is_411_before_it_is_read(request_line: str, header: str, body: str) -> None:
    """
    Small or endless: how large a chunked body is, nobody knows before it was read. The connection ends.
    """
    head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {header}\r\n\r\n"
    with site("a") as here:
        answer = Answer.parse(here.served.ask(f"{head}{body}GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))

    assert (411, "no path here takes a body without Content-Length\n") == (answer.status, answer.text)


def test_who_may_not_ask_is_not_told_of_a_large_body() -> None:
    """
    The guard comes first.
    """

    class Closed:
        """Lets nobody in."""

        headers: Mapping[str, str] = {}

        async def check(self, authorization: str | None) -> Refusal | None:
            """Refuses."""
            del authorization
            return Refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized")

    with site("a", settings=WebSettings(guard=Closed())) as here:
        assert 401 == here.get("/metrics", f"Content-Length: {MAX_BODY_BYTES + 1}").status
        assert 401 == here.get("/metrics", "Transfer-Encoding: chunked").status


def test_a_body_of_the_full_size_is_read() -> None:
    """
    The limit itself is allowed, and another request may follow.
    """
    head = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n"
    with site("a") as here, here.served.connect() as peer:
        peer.sendall(head + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES + b"x" * MAX_BODY_BYTES)
        first = read_answer(peer)
        peer.sendall(head + b"\r\n")
        second = read_answer(peer)

    assert (200, 200) == (first.status, second.status)


@pytest.mark.parametrize(
    "path", ["/metrics", "/", "/api/v1/executions", "/-/healthy", "/nope", "/metrics?collect[]=x", "/-/reload"]
)
def test_every_answer_has_the_security_headers(path: str) -> None:
    """
    Answers are not sniffed, framed, cached or scripted, errors neither; and none tells what serves.
    """
    with site("a") as here:
        headers = here.get(path).headers

    assert "nosniff" == headers["x-content-type-options"]
    assert "deny" == headers["x-frame-options"]
    assert "no-store" == headers["cache-control"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not {"server", "etag", "access-control-allow-origin", "set-cookie"} & headers.keys()


# JSON


def test_executions_as_json() -> None:
    """
    The JSON answer has this shape: sources with their health, executions with all facts, times in UTC, seconds.
    """
    with site("a", "b") as here:
        here.sources["a"].start("7", "Load", status=ExecutionStatus.PENDING)
        here.sources["b"].fail_with = SourceUnreachable("b: nobody answers")
        answer = here.get("/api/v1/executions")
        said = json.loads(answer.body)

    up, down = said["sources"]
    (run,) = said["executions"]
    moment = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
    assert "application/json" == answer.headers["content-type"]
    assert moment.fullmatch(run.pop("started_at"))
    assert moment.fullmatch(up.pop("taken_at"))
    assert run.pop("duration_seconds") >= 0
    assert up.pop("took_seconds") >= 0
    assert down.pop("took_seconds") >= 0
    common = {"kind": "fake", "server": "fake.example.com", "version": "1.0", "timed_out": False}
    assert {
        **common,
        "name": "a",
        "up": True,
        "error": None,
        "reason": None,
        "visibility": "all",
        "visibility_detail": "",
        "incomplete": False,
    } == up
    assert {
        **common,
        "name": "b",
        "up": False,
        "error": "b: nobody answers",
        "reason": "unreachable",
        "taken_at": None,
        "visibility": None,
        "visibility_detail": None,
        "incomplete": None,
    } == down
    assert {
        "source": "a",
        "instance_id": "7",
        "package_name": "Load",
        "folder": "Finance",
        "project": "DW",
        "package_id": "",
        "user_name": "CORP\\etl",
        "caller": "",
        "status": "pending",
        "orphaned": False,
        "created_at": None,
        "typical_seconds": None,
        "p95_seconds": None,
        "samples": 0,
        "stopping_since": None,
        "machine": "",
        "process_id": None,
        "host": "",
        "description": "",
        "environment": "",
        "figures": None,
        "data_flow": None,
    } == run


@pytest.mark.parametrize(
    "shape",
    [api.SourceState, api.OpenExecution, api.ProcessFigures, api.DataFlowCounters, api.PastFailure],
    ids=lambda shape: shape.__name__,
)
def test_every_field_of_the_json_is_in_the_readme(shape: type[msgspec.Struct]) -> None:
    """
    The README lists the fields of each part, in their order.
    """
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

    assert f"| {' '.join(f'`{name}`' for name in shape.__struct_fields__)} |" in readme


def test_user_names_can_be_left_out() -> None:
    """
    With `labels.user_name: drop` neither page, JSON nor metrics name a user.
    """
    with site("a", keep_user_names=False) as here:
        here.sources["a"].start("1", user_name="CORP\\secret")
        said = [here.get(path).text for path in ("/", "/api/v1/executions", "/metrics")]

    assert [False] * 3 == ["secret" in text for text in said]


# The page


def test_the_page_shows_runs_and_sources() -> None:
    """
    The page is HTML with what runs; its own policy allows nothing but its styles.
    """
    with site("a", "b") as here:
        here.sources["a"].start("1", "Load customers")
        here.sources["b"].fail_with = SourceUnreachable("b: nobody answers")
        answer = here.get("/")

    assert "text/html; charset=utf-8" == answer.headers["content-type"]
    assert "Load customers" in answer.text
    assert "nobody answers" in answer.text
    assert "style-src 'unsafe-inline'" in answer.headers["content-security-policy"]


def test_the_page_refreshes_itself_only_when_asked() -> None:
    """
    Each load looks at the sources, so a forgotten tab does not load unless somebody said so.
    """
    with site("a") as here:
        assert 'http-equiv="refresh"' not in here.get("/").text
        assert 'http-equiv="refresh"' in here.get("/?refresh=on").text


def test_the_page_does_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A source that hangs is told as such on the page.
    """
    monkeypatch.setattr("ssis_exporter.web.PAGE_BUDGET", timedelta(seconds=0.05))
    with site("a") as here:
        here.sources["a"].gate.clear()
        answer = here.get("/")

    assert 200 == answer.status
    assert "the call is still running" in answer.text


# Ending, through the installed command


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send to another process")
def test_sigterm_during_a_slow_scrape(tmp_path: Path) -> None:
    """
    A scrape that runs when the exporter is told to end is answered, and the exit code is 0.
    """
    plugin = tmp_path / "slow_site"
    (plugin / "slow-1.0.dist-info").mkdir(parents=True)
    (plugin / "slow-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (plugin / "slow-1.0.dist-info" / "entry_points.txt").write_text(
        "[ssis_exporter.sources]\nslow = slow_source:SlowSource\n"
    )
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    (plugin / "slow_source.py").write_text(SLOW_SOURCE.format(begun=str(begun), go_on=str(go_on)))
    config = tmp_path / "ssis.yml"
    config.write_text("sources:\n  - {name: slow, kind: slow}\n")
    port = free_port()
    command = [sys.executable, "-m", "ssis_exporter", "serve", f"--web.listen-address=127.0.0.1:{port}"]
    command += [f"--config.file={config}", f"--storage.path={tmp_path / 'state'}"]
    environment = {**os.environ, "PYTHONPATH": str(plugin)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        while "listening on" not in (line := process.stderr.readline()):
            assert line, f"it ended: {lines}"
            lines.append(line)
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as peer:
            peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(begun)
            process.send_signal(signal.SIGTERM)
            # "ending" is logged when the signal has arrived; only then may the source answer.
            while "ending" not in (line := process.stderr.readline()):
                assert line, "it ended without a word"
            go_on.touch()
            answer = read_answer(peer)
            rest = peer.recv(1)
        code = process.wait(DEADLINE)
        log = process.stderr.read()

    assert 200 == answer.status
    assert 'ssis_up{source="slow"} 1' in answer.text
    assert (b"", 0) == (rest, code)
    assert "Traceback" not in log


SLOW_SOURCE = """
import pathlib, time
from datetime import UTC, datetime
from ssis_exporter import Scope, Snapshot, Source, Visibility


class SlowSource(Source):
    kind = "slow"

    def snapshot(self):
        pathlib.Path({begun!r}).touch()
        while not pathlib.Path({go_on!r}).exists():
            time.sleep(0.01)
        return Snapshot(source=self.name, taken_at=datetime.now(UTC), visibility=Visibility(Scope.ALL))
"""


def wait_for(file: Path) -> None:
    """Until another process has made this file."""
    deadline = time.monotonic() + DEADLINE
    while not file.exists():
        assert time.monotonic() < deadline, f"{file.name} never came"
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Remembered:
    """A history that a test sets."""

    def baseline(self, facts: ExecutionFacts) -> Baseline | None:
        """Known for one package."""
        return Baseline(timedelta(minutes=4), timedelta(minutes=6), 9) if facts.package_name == "Load" else None

    def failures(self) -> list[Failure]:
        """One, with a long message."""
        return [
            Failure(
                source="a",
                instance_id="6",
                folder="Finance",
                project="DW",
                package_name="Load\x1b",
                result=Result.FAILED,
                ended_at=datetime(2026, 3, 1, tzinfo=UTC),
                duration=None,
                message="no\n" * 1000,
            )
        ]


def test_what_is_kept_is_shown() -> None:
    """
    With a history the JSON tells what is usual and what failed last, and the page too; without one, nothing of it.
    """
    with site("a") as here:
        here.sources["a"].start("7", "Load")
        here.sources["a"].start("8", "Other")
        empty = json.loads(here.get("/api/v1/failures").body)
        here.exporter.past = Remembered()
        runs = {run["package_name"]: run for run in json.loads(here.get("/api/v1/executions").body)["executions"]}
        answer = here.get("/api/v1/failures")
        page = here.get("/").text
    [failure] = json.loads(answer.body)["failures"]

    assert {"failures": []} == empty
    assert (240, 360, 9) == tuple(runs["Load"][name] for name in ("typical_seconds", "p95_seconds", "samples"))
    assert (None, None, 0) == tuple(runs["Other"][name] for name in ("typical_seconds", "p95_seconds", "samples"))
    assert "application/json" == answer.headers["content-type"]
    assert "Load\ufffd" == failure["package_name"]
    assert "2026-03-01T00:00:00Z" == failure["ended_at"]
    assert failure["duration_seconds"] is None
    assert 2000 == len(failure["message"])
    assert "usual: not known yet" in page
