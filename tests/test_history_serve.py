"""History through the installed command: restarts, kills, and files that cannot be used."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest

from ssis_exporter.cli import exits
from ssis_exporter.historyfile import NAME
from tests import outside
from tests.installed import Serving, run

posix = os.name == "posix"

# Each line of the file `log` is one run that ended: id, package, result. A catalog in small: each look tells all ends
# after the bookmark.
RECORDING = """
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ssis_exporter import EndedExecution, Execution, ExecutionFacts, ExecutionKey, ExecutionStatus, Result, Scope
from ssis_exporter import Snapshot, SourceSettings, Visibility
from ssis_exporter.sources.interface import RecordingSource


class Settings(SourceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    folder: Path


class Kind(RecordingSource):
    kind = "outside"
    Settings = Settings

    @classmethod
    def from_settings(cls, name, settings):
        source = cls(name)
        source.log = settings.folder / "log"
        source.told = None
        return source

    def resume(self, bookmark, open_ids):
        if bookmark:
            self.told = int(bookmark)

    def snapshot(self):
        lines = self.log.read_text().splitlines()
        first = len(lines) if self.told is None else self.told
        self.told = len(lines)
        now = datetime.now(UTC)
        running = Execution(facts=self.facts("0", "Load Sales", now), status=ExecutionStatus.RUNNING,
                            duration=timedelta(minutes=150))
        return Snapshot(source=self.name, taken_at=now, visibility=Visibility(Scope.ALL), executions=(running,),
                        ended=tuple(self.ended(line, now) for line in lines[first:]), records_ends=True,
                        bookmark=str(len(lines)))

    def facts(self, instance, package, now):
        started = now - timedelta(minutes=15)
        return ExecutionFacts(key=ExecutionKey(self.name, instance), package_name=package, folder="Finance",
                              project="DW", user_name="CORP\\\\etl", started_at=started)

    def ended(self, line, now):
        instance, package, result = line.split(",")
        return EndedExecution(facts=self.facts(instance, package, now), result=Result(result),
                              ended_at=now - timedelta(seconds=1), duration=timedelta(minutes=10))

    def past(self, cursor):
        now = datetime.now(UTC)
        old = [EndedExecution(facts=self.facts("-" + str(number), "Load Sales", now), result=Result.SUCCEEDED,
                              ended_at=now - timedelta(days=1 + number), duration=timedelta(minutes=10))
               for number in range(20)]
        return old, None

    def first_error(self, instance_id):
        return "Login failed for <user> " + instance_id
"""


class Estate:
    """A configuration with the recording source, and a storage folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "state"
        self.path = folder / "ssis.yml"
        self.env = outside.install(folder / "site", RECORDING)
        self.path.write_text(f"sources: [{{name: sql01, kind: outside, folder: {json.dumps(str(folder))}}}]\n")
        (folder / "log").touch()

    def ends(self, *lines: str) -> None:
        """Runs end."""
        with (self.folder / "log").open("a") as log:
            log.writelines(f"{line}\n" for line in lines)

    def serving(self) -> Serving:
        """`serve` on it."""
        return Serving("--config.file", self.path, "--storage.path", self.storage, env=self.env)


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    """In a folder of its own."""
    return Estate(tmp_path)


def counted(page: str) -> dict[str, float]:
    """What is counted of the package Load Sales, by result, zeros left out."""
    found = re.findall(r'^ssis_package_executions_total{.*package_name="Load Sales",result="(\w+)"} (\S+)$', page, re.M)
    return {result: float(number) for result, number in found if float(number)}


def value(page: str, name: str) -> float:
    """A sample without labels."""
    found = re.search(rf"^{name} (\S+)$", page, re.M)
    assert found is not None, f"no {name} in {page}"
    return float(found[1])


def kept(estate: Estate) -> dict[str, int]:
    """What the file counts of the package."""
    with sqlite3.connect(estate.storage / NAME) as connection:
        [(counts,)] = connection.execute("SELECT counts FROM package WHERE name = 'Load Sales'")
    connection.close()
    return {result: count for result, count in json.loads(counts).items() if count}


def test_what_ended_is_counted_once_over_restarts_and_kills(estate: Estate) -> None:
    """
    Also what ended while the exporter was off; each life shows at once what the ones before it counted.
    """
    estate.ends("1,Load Sales,succeeded")
    with estate.serving() as serving:
        serving.get("/metrics")
        estate.ends("2,Load Sales,failed", "3,Load Sales,succeeded")
        held = counted(serving.get("/metrics").text)
        serving.stop(getattr(signal, "SIGKILL", None))
    estate.ends("4,Load Sales,failed")
    with estate.serving() as serving:
        second = counted(serving.get("/metrics").text)
        estate.ends("5,Load Sales,ended_unexpectedly")
        serving.get("/metrics")
        serving.stop()
    with estate.serving() as serving:
        third = counted(serving.get("/metrics").text)
        serving.stop()

    assert {} == held
    assert {"succeeded": 1, "failed": 2} == second
    assert {"succeeded": 1, "failed": 2, "ended_unexpectedly": 1} == third


def test_age_against_usual_and_what_failed_last_are_shown(estate: Estate) -> None:
    """
    On the page, in the JSON, by `list` and `list --failed`, beside a running exporter and without one.
    """
    with estate.serving() as serving:
        serving.wait_for("the past of sql01 was read")
        estate.ends("7,Load Sales,failed")
        serving.get("/metrics")
        page = serving.get("/").text
        [running] = json.loads(serving.get("/api/v1/executions").text)["executions"]
        [failure] = json.loads(serving.get("/api/v1/failures").text)["failures"]
        beside = run("list", "--url", serving.url)
        failed = run("list", "--failed", "--url", serving.url)
        serving.stop()
    own = ("--config.file", estate.path, "--storage.path", estate.storage)
    alone = run("list", *own, env=estate.env)
    failed_alone = run("list", "--failed", *own, env=estate.env)
    failed_json = run("list", "--failed", "--json", *own, env=estate.env)

    assert "2 h 30 min" in page
    assert "usual: 10 min 00 s, now 15 times" in page
    assert (600, 600, 20) == (running["typical_seconds"], running["p95_seconds"], running["samples"])
    assert ("7", "failed", 600, "Load Sales") == tuple(
        failure[name] for name in ("instance_id", "result", "duration_seconds", "package_name")
    )
    for done in (beside, alone):
        assert "Load Sales CORP\\etl 2h30m 10m 15.0 running" in " ".join(done.out.split())
    for done in (failed, failed_alone):
        assert exits.OK == done.code
        assert "failed Load Sales 10m Finance DW sql01 7" in " ".join(done.out.split())
    assert [failure | {"message": None}] == [one | {"message": None} for one in json.loads(failed_json.out)["failures"]]


def test_a_second_exporter_does_not_start(estate: Estate) -> None:
    """
    One at a time works with a folder, whether it stops anything or not.
    """
    with estate.serving() as serving:
        done = run(
            *("serve", "--config.file", estate.path, "--storage.path", estate.storage),
            *("--web.listen-address", "127.0.0.1:0"),
            env=estate.env,
        )
        serving.stop()

    assert exits.STORAGE == done.code
    assert f"works with {estate.storage}; end it, or give another --storage.path" in done.err


def test_a_folder_that_cannot_be_used_is_said_and_metrics_go_on(estate: Estate) -> None:
    """
    Ends are counted in memory, and `ssis_storage_up` is 0.
    """
    estate.storage.touch()
    with estate.serving() as serving:
        serving.get("/metrics")
        estate.ends("2,Load Sales,failed")
        page = serving.get("/metrics").text
        failures = serving.get("/api/v1/failures").text
        code = serving.stop()

    assert 0 == value(page, "ssis_storage_up")
    assert 'ssis_up{source="sql01"} 1' in page
    assert 'result="failed"} 0' in page  # shown as 0 for two minutes
    assert '"instance_id":"2"' in failures
    assert exits.OK == code
    assert any("what ends is not kept" in line for line in serving.lines)


def test_a_file_of_zeros_is_set_aside(estate: Estate) -> None:
    """
    It is kept, said and counted; what ends from then on is kept again.
    """
    estate.storage.mkdir()
    (estate.storage / NAME).write_bytes(b"\0" * 8192)
    with estate.serving() as serving:
        serving.get("/metrics")
        estate.ends("2,Load Sales,failed")
        page = serving.get("/metrics").text
        serving.stop()

    assert 1 == value(page, "ssis_storage_damaged_total")
    assert 1 == value(page, "ssis_storage_up")
    assert any("history begins anew" in line for line in serving.lines)
    assert {"failed": 1} == kept(estate)
    assert [b"\0" * 8192] == [
        path.read_bytes() for path in estate.storage.iterdir() if path.name.startswith(f"{NAME}.damaged")
    ]


def test_a_file_of_a_later_version_is_left_alone(estate: Estate) -> None:
    """
    The metrics go on, it is said, and the file stays as it was.
    """
    with estate.serving() as serving:
        serving.get("/metrics")
        serving.stop()
    with sqlite3.connect(estate.storage / NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (estate.storage / NAME).read_bytes()
    with estate.serving() as serving:
        page = serving.get("/metrics").text
        serving.stop()

    assert 0 == value(page, "ssis_storage_up")
    assert 'ssis_up{source="sql01"} 1' in page
    assert any("was written by a later version" in line for line in serving.lines)
    assert before == (estate.storage / NAME).read_bytes()


def test_a_full_disk_loses_nothing_that_comes_back(estate: Estate) -> None:
    """
    While nothing can be written the exporter serves and counts; once there is room, all is on disk.
    """
    if not hasattr(os, "statvfs"):
        # Only POSIX limits the size of files; there is no other way to fill a disk without filling it.
        return
    import resource

    with estate.serving() as serving:
        serving.get("/metrics")
        estate.ends("1,Load Sales,failed")
        serving.get("/metrics")
        process = serving.process.pid
        limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
        # As full as a disk can be: no file may grow over a byte.
        resource.prlimit(process, resource.RLIMIT_FSIZE, (1, limits[1]))
        estate.ends("2,Load Sales,failed", "3,Load Sales,failed")
        full = serving.get("/metrics").text
        resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
        estate.ends("4,Load Sales,succeeded")
        code = serving.stop()

    assert 0 == value(full, "ssis_storage_up")
    assert 'ssis_up{source="sql01"} 1' in full
    assert exits.OK == code
    assert {"failed": 3} == kept(estate)
    with estate.serving() as serving:
        serving.get("/metrics")
        serving.stop()
    assert {"failed": 3, "succeeded": 1} == kept(estate)


def test_a_run_that_was_stopped_is_told_apart(estate: Estate) -> None:
    """
    What this exporter asked to stop is counted as such; what would be decided is told against what is usual.
    """
    estate.path.write_text(
        "sources: [{name: made-up, kind: demo, seed: 3, speed: 10}]\n"
        "stop: {mode: armed, listen_address: '127.0.0.1:0', rules: [{match: {package_name: '*'}, action: stop}]}\n"
    )
    with estate.serving() as serving:
        serving.wait_for("the past of made-up was read")
        runs = json.loads(serving.get("/api/v1/executions").text)["executions"]
        running = [one for one in runs if one["status"] == "running" and not one["orphaned"]]
        chosen = max(running, key=lambda one: one["typical_seconds"])
        own = (chosen["instance_id"], "--source", "made-up", "--storage.path", estate.storage)
        explained = run("stop", *own, "--dry-run")
        stopped = run("stop", *own, "--yes")
        serving.get("/metrics")
        serving.stop()

    assert "typical_duration: " in explained.out
    assert " times its typical duration" in explained.out
    assert exits.OK == stopped.code, stopped
    with sqlite3.connect(estate.storage / NAME) as connection:
        results = [json.loads(counts) for (counts,) in connection.execute("SELECT counts FROM package")]
    connection.close()
    assert 1 == sum(counts.get("stopped_by_exporter", 0) for counts in results)


def test_without_a_history_there_are_no_failures_to_list(tmp_path: Path) -> None:
    """
    One sentence says where it was looked for.
    """
    done = run("list", "--failed", "--storage.path", tmp_path)

    assert exits.STORAGE == done.code
    assert f"there is no {tmp_path / NAME}" in done.err
