"""The installed command on real processes: what it shows, and that no secret is in it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.estate import Child, Estate
from tests.installed import Serving, run
from tests.real import need_memory_of
from tests.test_dtexec_packagefile import ATTRIBUTES, GUID

pytestmark = pytest.mark.real

SECRET = "s3cr3t-Kx"


def with_secret(secret: str) -> list[str]:
    """Options that hold it in each way that options can."""
    options = ["/P", secret, "/De", secret, "/Conn", f'"DW";"Password={secret}"', "/Set", f'"\\x.y";{secret}']
    return [
        *options,
        "/Par",
        f'"$Package::p";{secret}',
        "/Logger",
        f"x;{secret}",
        f"/P:{secret}",
        f"/Password={secret}",
    ]


SECRETS = with_secret(SECRET)


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


def parts_with(text: str, pid: int) -> list[str]:
    """The parts of a process's memory where a text stands in any form that Python gives it or a file may have."""
    forms = [text.encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-32-le")]
    found: list[str] = []
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for part in maps:
            addresses, rights = part.split()[:2]
            begin, end = (int(address, 16) for address in addresses.split("-"))
            # Parts that nobody may read, parts of the kernel's own, parts that are gone by now.
            with suppress(OSError, OverflowError):
                memory.seek(begin)
                content = memory.read(end - begin) if rights.startswith("r") else b""
                found += [part for form in forms if form in content]
    return found


def test_no_secret_stays_in_memory(estate: Estate, tmp_path: Path) -> None:
    """
    After a scrape, names are in the exporter's memory and no secret is: not of a run, long or with command files, of
    a client, a program under another name, a fork that has not become another program yet, a shell, or a loader.
    """
    secret = secrets.token_hex(12)
    options = with_secret(secret)
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / encoding).write_text(f"/SQL {encoding}\n/P {secret}\n/Set \\x.y;{secret}\n", encoding=encoding)
    script = estate.script("run.sh", "#!/bin/sh\nread line\n")
    with Serving("--storage.path", str(tmp_path / "storage"), "--log.level", "debug") as serving:
        need_memory_of(serving.process.pid)
        shown = [
            estate.start("dtexec", "/SQL", "Short Name", *options),
            estate.start("dtexec", "/SQL", "Long", *options, "/Rem", "x" * 30_000, *options),
            *(estate.start("dtexec", *options, "/Com", str(tmp_path / name)) for name in ("utf-8", "utf-16")),
            estate.start("dtexec", "/F", "not-there.dtsx", *options),
            estate.start("dtexec", *options, "/Com", "not-there.txt"),
            estate.start("dtexec", "-P", secret, "/SQL", "Other word", argv0="anything"),
        ]
        forking = estate.start("dtexec", "/SQL", "Forking", *options)
        forking.child(estate.program("dtexec"), *forked_from(forking.pid))
        estate.start("dtexec", "/ISSERVER", "\\SSISDB\\F\\P\\x.dtsx", *options)
        estate.start("qemu-x86_64", "-L", secret, "-cpu", secret, "other", *options)
        estate.run(script, ["sh", "--login", str(script), *options], ready=False)

        assert {str(child.pid) for child in (*shown, forking)} <= set(runs(serving))
        assert [] != parts_with("Short Name", serving.process.pid)
        assert [] == parts_with(secret, serving.process.pid)


def forked_from(pid: int) -> list[str]:
    """The arguments of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").removesuffix("\0").split("\0")
