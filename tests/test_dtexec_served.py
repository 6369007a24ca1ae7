"""The installed command on real processes: what it shows, and that no secret is in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.estate import Child, Estate
from tests.installed import Serving, run
from tests.test_dtexec_packagefile import ATTRIBUTES, GUID

pytestmark = pytest.mark.real

SECRET = "s3cr3t-Kx"
SECRETS = ["/P", SECRET, "/De", SECRET, "/Conn", f'"DW";"Password={SECRET}"', "/Set", f'"\\x.y";{SECRET}']
SECRETS += ["/Par", f'"$Package::p";{SECRET}', "/Logger", f"x;{SECRET}", f"/P:{SECRET}", f"/Password={SECRET}"]


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """Real processes, ended after the test."""
    with Estate(tmp_path) as estate:
        yield estate


def runs(serving: Serving) -> dict[str, dict[str, str]]:
    """The identity labels of every run on `/metrics`, by pid."""
    families = text_string_to_metric_families(serving.get("/metrics").text)
    samples = [
        sample
        for family in families
        for sample in family.samples
        if sample.name == "ssis_package_execution_duration_seconds"
    ]
    return {sample.labels["instance_id"].split("-")[0]: sample.labels for sample in samples}


def test_serve_without_configuration_shows_each_form(estate: Estate, tmp_path: Path) -> None:
    """
    Each form of command line is on the next scrape with its name and gone from the scrape after its end; no secret
    is in metrics, page, JSON, `list` or the log at debug.
    """
    import pwd

    (tmp_path / "sales.dtsx").write_text(ATTRIBUTES)
    (tmp_path / "options.txt").write_text(f"/SQL Hidden\n/P {SECRET}\n")
    forms: dict[str, list[str]] = {
        "Load Sales": ["/FILE", str(tmp_path / "sales.dtsx"), *SECRETS],
        "Missing": ["-F", '"C:\\etl\\Missing.dtsx"', *SECRETS],
        "Pkg": ["/DTS", '"\\MSDB\\Folder\\Pkg"', "/SERVER", "HOST", *SECRETS],
        "Daily": ["/SQL", "\\Finance\\Daily", *SECRETS],
        "InProject": ["/PROJECT", "C:\\p\\DW.ispac", "/PACKAGE", "InProject.dtsx", *SECRETS],
        "Hidden": [*SECRETS, "/Com", str(tmp_path / "options.txt")],
    }
    storage = ("--storage.path", str(tmp_path / "storage"))
    with Serving(*storage, "--log.level", "debug") as serving:
        children: dict[str, Child] = {name: estate.start("dtexec", *form) for name, form in forms.items()}
        client = estate.start("dtexec", "/ISSERVER", "\\SSISDB\\F\\P\\x.dtsx", *SECRETS)
        shown = runs(serving)
        assert str(client.pid) not in shown
        for name, child in children.items():
            labels = shown[str(child.pid)]
            assert (name, pwd.getpwuid(os.geteuid()).pw_name) == (labels["package_name"], labels["user_name"])
        assert GUID == shown[str(children["Load Sales"].pid)]["package_id"]
        assert "MSDB\\Folder" == shown[str(children["Pkg"].pid)]["folder"]
        assert "DW" == shown[str(children["InProject"].pid)]["project"]

        page, answered = serving.get("/").text, serving.get("/api/v1/executions").text
        assert {"Load Sales", "Missing"} <= set(json.dumps(json.loads(answered)).replace('"', "\n").split("\n"))
        listed = run("list", "--json", "--log.level", "debug")
        assert 0 == listed.code
        assert "Load Sales" in listed.out
        told = [serving.get("/metrics").text, page, answered, listed.out, listed.err]

        children["Daily"].end()
        assert str(children["Daily"].pid) not in runs(serving)
        assert 0 == serving.stop()
        told += [*serving.lines, *serving.out]

    assert [] == [text for text in told if SECRET in text]
