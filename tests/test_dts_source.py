"""
The source `dts` through the real helper and the real pythonnet, on Mono, against the documented contract.

What was never seen on a real server: HRESULTs as they really come, the Kind of a start time, visibility rules, COM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_exporter.errors import (
    ConfigError,
    IdentityUnknown,
    NoSuchExecution,
    SourceAccessDenied,
    SourceBroken,
    SourceError,
    SourceMissing,
    SourceUnreachable,
    StopDenied,
    StopUnsupported,
)
from ssis_exporter.model import ExecutionKey, ExecutionStatus, FindingLevel, Scope, StopReply
from ssis_exporter.sources.dts import DtsSource
from ssis_exporter.sources.dts.protocol import NO_IDENTITY
from ssis_exporter.sources.interface import Source
from ssis_exporter.testing import SourceContract
from tests.dts.assemblies import Gac
from tests.dts.estate import (
    Estate,
    Package,
    source_on,
    ticks,
)

pytest_plugins = ("tests.dts.fixtures",)
pytestmark = pytest.mark.real


class TestContract(SourceContract):
    """The rules of every source."""

    @pytest.fixture
    def source(self, estate: Estate) -> Iterator[Source]:
        """Two packages run."""
        estate.add(Package("Load"))
        estate.add(Package("Extract"))
        with source_on(estate) as made:
            yield made

    @pytest.fixture
    def broken_source(self, estate: Estate, tmp_path: Path) -> Iterator[Source]:
        """The service does not answer."""
        (tmp_path / "broken").mkdir()
        other = Estate(tmp_path / "broken", estate.gac)
        other.faults("list dtsthrow 0xC00160AA")
        with source_on(other, name="broken") as made:
            yield made


def test_all_properties_arrive(estate: Estate, source: DtsSource) -> None:
    """
    Name, ID, description, user, start and instance of a running package are shown as the API tells them.
    """
    began = datetime.now().replace(microsecond=0) - timedelta(minutes=7)
    package = estate.add(
        Package("Ünïcode 名前", description="line one\nline two", user="CORP\\svc-etl", start_ticks=ticks(began))
    )
    [seen] = source.snapshot().executions

    facts = seen.facts
    assert package.instance == facts.key.instance_id
    assert "Ünïcode 名前" == facts.package_name
    assert "{A0000000-0000-0000-0000-00000000000A}" == facts.package_id
    assert "line one\nline two" == facts.description
    assert "CORP\\svc-etl" == facts.user_name
    assert began.astimezone() == facts.started_at
    assert ExecutionStatus.RUNNING == seen.status
    assert timedelta(minutes=7) <= seen.duration < timedelta(minutes=9)
    assert "16.0.0.0" == source.info.version


def test_a_thousand_packages_and_one_that_ends(estate: Estate, source: DtsSource) -> None:
    """
    Every package of a long list is shown once, with its own values; one that ends is gone from the next look.
    """
    estate.packages = [Package(f"Load {number}", user=f"CORP\\u{number}") for number in range(1000)]
    estate.write()
    seen = {run.key.instance_id: run.facts for run in source.snapshot().executions}
    gone = estate.packages.pop(500)
    estate.write()
    later = {run.key.instance_id for run in source.snapshot().executions}

    assert {(p.instance, p.name, p.user) for p in [*estate.packages, gone]} == {
        (instance, facts.package_name, facts.user_name) for instance, facts in seen.items()
    }
    assert {gone.instance} == seen.keys() - later
    assert later <= seen.keys()


def test_null_and_empty_properties_are_ordinary(estate: Estate, source: DtsSource) -> None:
    """
    A package without name, description and user is shown with empty ones, and its name once it has one.
    """
    estate.add(Package("Load"))
    estate.faults("PackageName null", "PackageDescription null", "UserName null")
    [first] = source.snapshot().executions
    estate.faults()
    [second] = source.snapshot().executions

    assert ("", "", "") == (first.facts.package_name, first.facts.description, first.facts.user_name)
    assert "Load" == second.facts.package_name
    assert first.facts.started_at == second.facts.started_at


def test_a_start_whose_kind_is_utc(estate: Estate, source: DtsSource) -> None:
    """
    Should the API say of a start that it is in UTC, it is taken by its word.
    """
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=7)
    estate.add(Package("Load", start_ticks=ticks(began.replace(tzinfo=None))))
    estate.faults("ExecutionStartTime utc")
    [run] = source.snapshot().executions

    assert (began, False) == (run.facts.started_at, run.facts.start_uncertain)


def test_an_instance_id_that_comes_twice_names_no_run(estate: Estate, source: DtsSource) -> None:
    """
    A run that the API tells twice is shown once, and nobody is asked to stop.
    """
    double = [estate.add(Package("Load", instance="6f0e0000-0000-0000-0000-000000000001")) for _ in range(2)]
    [run] = source.snapshot().executions
    with pytest.raises(IdentityUnknown, match="2 packages run under"):
        source.request_stop(run)

    assert double[0].instance == run.key.instance_id
    assert [] == estate.stops()


def test_runs_without_an_instance_id_are_each_shown_and_never_stopped(estate: Estate, source: DtsSource) -> None:
    """
    Runs to which the API gives no InstanceID count each for itself, whatever else they have in common, keep their names
    from look to look, also those of a new helper, and are never asked to stop.
    """
    start = ticks(datetime.now() - timedelta(minutes=7))
    names = ["Load", "Load", "Extract", "Pay \ud800 roll"]
    nobody = [
        estate.add(Package(name, instance=NO_IDENTITY, start_ticks=start + number % 3), with_process=number == 3)
        for number, name in enumerate([*names, ""])
    ]
    known = estate.add(Package("Known"))
    first = source.snapshot().executions
    source.close()
    estate.packages.reverse()
    estate.write()
    second = source.snapshot().executions
    estate.packages.remove(nobody[1])
    estate.write()
    third = source.snapshot().executions

    for run in third:
        if run.facts.package_name != "Known":
            with pytest.raises(IdentityUnknown, match="no InstanceID"):
                source.request_stop(run)
    assert sorted([*names[:3], "Pay \ufffd roll", "", known.name]) == sorted(run.facts.package_name for run in first)
    assert 6 == len({run.key for run in first})
    assert {run.facts for run in first} == {run.facts for run in second}
    assert {run.key for run in third} < {run.key for run in second}
    assert 5 == len(third)
    assert [] == estate.stops()


def test_half_a_surrogate_pair_spoils_nothing(estate: Estate, source: DtsSource) -> None:
    """
    A text that is no Unicode is shown with U+FFFD, every other run beside it as always.
    """
    odd = estate.add(Package("L\ud800ad \N{PACKAGE}", description="\ud800", user="CORP\\\ud800"))
    plain = estate.add(Package("Load"))
    seen = {run.key.instance_id: run.facts for run in source.snapshot().executions}
    [probed, _] = source.probe()["packages"]

    facts = seen[odd.instance]
    assert ("L\ufffdad \N{PACKAGE}", "\ufffd", "CORP\\\ufffd") == (
        facts.package_name,
        facts.description,
        facts.user_name,
    )
    assert "Load" == seen[plain.instance].package_name
    assert {"type": "str", "value": "L\ufffdad \N{PACKAGE}"} == probed["PackageName"]


def test_a_run_that_no_look_showed_is_not_asked(estate: Estate, source: DtsSource) -> None:
    """
    A forged run, and one that is not what the last look showed, are no such execution.
    """
    estate.add(Package("Load"))
    [run] = source.snapshot().executions
    forged = replace(run, facts=replace(run.facts, package_name="Payroll"))
    other = replace(run, facts=replace(run.facts, key=ExecutionKey("local", str(uuid.uuid4()))))
    for wrong in (forged, other):
        with pytest.raises(NoSuchExecution):
            source.request_stop(wrong)

    assert [] == estate.stops()


def test_stop_ends_the_process_behind_one_instance_only(estate: Estate, source: DtsSource) -> None:
    """
    Of five packages of one name the one that is named is stopped, by its InstanceID.
    """
    packages = [estate.add(Package("Load"), with_process=True) for _ in range(5)]
    target = packages[2]
    runs = {run.key.instance_id: run for run in source.snapshot().executions}
    reply = source.request_stop(runs[target.instance])
    assert target.process is not None
    target.process.wait(timeout=30)
    left = {run.key.instance_id for run in source.snapshot().executions}

    assert StopReply.ACCEPTED == reply
    assert [target.instance] == estate.stops()
    assert {package.instance for package in packages} - {target.instance} == left


def test_a_stop_that_was_asked_is_not_asked_again(estate: Estate, source: DtsSource) -> None:
    """
    A package that takes its time to stop is shown as stopping, and a second request does not reach it.
    """
    package = estate.add(Package("Load"))
    [run] = source.snapshot().executions
    replies = [source.request_stop(run), source.request_stop(run)]
    [later] = source.snapshot().executions

    assert [StopReply.ACCEPTED, StopReply.ALREADY_STOPPING] == replies
    assert [package.instance] == estate.stops()
    assert ExecutionStatus.STOPPING == later.status


def test_stop_of_one_that_ended_and_denied_stop(estate: Estate, source: DtsSource) -> None:
    """
    A run that ended meanwhile is no such execution; a right that is missing is a denied stop; there is no force.
    """
    package = estate.add(Package("Load"))
    [run] = source.snapshot().executions
    estate.faults("stop denied")
    with pytest.raises(StopDenied, match="DCOM"):
        source.request_stop(run)
    estate.faults()
    estate.packages.remove(package)
    estate.write()
    with pytest.raises(NoSuchExecution):
        source.request_stop(run)
    with pytest.raises(StopUnsupported):
        source.force_stop(run)

    assert [] == estate.stops()


@pytest.mark.parametrize("member", ["list", "enumerate", "InstanceID", "PackageName", "UserName"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("dtsthrow 0xC00160AA", SourceUnreachable),
        ("throw 0x800706BA", SourceUnreachable),
        ("denied", SourceAccessDenied),
        ("dtsthrow 0xC00160AE", SourceAccessDenied),
        ("throw 0x80040154", SourceMissing),
        ("notfound", SourceMissing),
        ("throw 0x8000FFFF", SourceBroken),
    ],
)
def test_each_failure_in_each_member(
    shared: tuple[Estate, DtsSource], member: str, fault: str, error: type[SourceError]
) -> None:
    """
    Whatever member fails, and however, the look raises the right error with the HRESULT, and the next look is whole.
    """
    estate, source = shared
    estate.faults(f"{member} {fault}")
    with pytest.raises(error, match=r"local: .*0x"):
        source.snapshot()
    estate.faults()

    assert 1 == len(source.snapshot().executions)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, gac: Gac) -> Iterator[tuple[Estate, DtsSource]]:
    """One helper for the many small failures."""
    estate = Estate(tmp_path_factory.mktemp("shared"), gac)
    estate.add(Package("Load"))
    # Its name stays empty, so every look reads every property.
    estate.packages[0].name = ""
    estate.write()
    with source_on(estate) as source:
        yield estate, source


def test_constructor_that_fails(estate: Estate, source: DtsSource) -> None:
    """
    A constructor that fails is an error with its HRESULT, and is tried again at the next look.
    """
    estate.add(Package("Load"))
    estate.faults("ctor throw 0x80040154")
    with pytest.raises(SourceMissing, match="0x80040154"):
        source.snapshot()
    estate.faults()

    assert 1 == len(source.snapshot().executions)


def test_visibility_is_that_of_the_helper(estate: Estate, source: DtsSource) -> None:
    """
    An administrator sees all packages, another account its own: zero is told apart from "not allowed".
    """
    expected = Scope.ALL if os.geteuid() == 0 else Scope.OWN

    assert expected == source.snapshot().visibility.scope


def test_check_says_what_is_missing(estate: Estate, source: DtsSource) -> None:
    """
    `check` names the service or the right that is missing.
    """
    fine = source.check()
    estate.faults("list denied")
    denied = source.check()

    assert FindingLevel.OK == fine[0].level
    assert FindingLevel.PROBLEM == denied[0].level
    assert "10016" in denied[0].text


def test_probe_shows_raw_values_and_types(estate: Estate, source: DtsSource) -> None:
    """
    The probe tells values, types and kinds as the API gave them, and a property that failed as a failure.
    """
    estate.add(Package("Load", raw_duration=42))
    estate.faults("UserName throw 0x80010108")
    probed = source.probe()

    [package] = probed["packages"]
    assert {"type": "int", "value": "42"} == package["ExecutionDuration"]
    assert "Unspecified" == package["ExecutionStartTime"]["kind"]
    assert "0x80010108" == package["UserName"]["error"]["hresult"]
    assert "Version=16.0.0.0" in probed["assembly"]


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("(local)", r"refused by the managed API; use '\.', 'localhost'"),
        ("SQL01\\INST", "names an instance"),
        ("elsewhere.example.com", "is another machine"),
    ],
)
def test_server_names_are_refused_in_words(server: str, says: str) -> None:
    """
    What the API does not take is refused with a sentence that names what it takes.
    """
    with pytest.raises(ConfigError, match=says):
        DtsSource.from_settings("local", DtsSource.Settings(server=server))  # type: ignore[call-arg]


def test_the_probe_command_prints_what_the_api_answers(estate: Estate) -> None:
    """
    `dts-probe` prints one JSON document, and exits with 1 where the API did not answer.
    """
    estate.add(Package("Load"))
    command = [sys.executable, "-m", "ssis_exporter", "dts-probe", "--public-key-token", estate.gac.public_key_token]
    environment = {**os.environ, **estate.environment()}
    fine = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    missing = subprocess.run(
        [*command, "--release", "170"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert (0, 1) == (fine.returncode, missing.returncode), fine.stderr + missing.stderr
    assert "Load" == json.loads(fine.stdout)["packages"][0]["PackageName"]["value"]
    assert "not installed" in json.loads(missing.stdout)["error"]

    estate.faults("UserName throw 0x800706BA")
    spoilt = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert 1 == spoilt.returncode, spoilt.stderr
    [package] = json.loads(spoilt.stdout)["packages"]
    assert ("Load", "0x800706BA") == (package["PackageName"]["value"], package["UserName"]["error"]["hresult"])
