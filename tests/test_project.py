"""The project as a stranger gets it: nothing of one machine in it, its papers complete and agreeing with the code."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

import ssis_exporter
from ssis_exporter.sources.kinds import ENTRY_POINT_GROUP
from tests.real import cannot_run, need_program

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# What a stranger's machine runs to set everything up; it gets packages from wherever that machine gets them.
BUILD_FILES = (
    "Dockerfile",
    "Makefile",
    ".ci/run",
    ".github/workflows/ci.yml",
    "pyproject.toml",
    "requirements.lock",
    "requirements-build.lock",
    "tests/requirements.txt",
)


def tracked_files() -> list[Path]:
    """Every text file that git keeps."""
    if not (ROOT / ".git").exists():
        cannot_run("this is no git checkout")
    git = need_program("git", "git")
    listed = subprocess.run(
        [git, "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def text_of(name: str) -> str:
    """The text of one file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_nothing_of_this_machine_is_in_it() -> None:
    """
    No file names the folder that the project is in here, nor something in the home of who works on it.
    """
    places = {str(ROOT), f"{Path.home()}/"} - {"/", "//"}
    guilty = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in tracked_files()
        for place in places
        if place in path.read_text(encoding="utf-8", errors="replace")
    ]

    assert [] == guilty


@pytest.mark.parametrize("name", BUILD_FILES)
def test_no_registry_is_named(name: str) -> None:
    """
    No file that sets something up says where packages come from: that is for each machine to say.
    """
    text = text_of(name)
    hosts = set(re.findall(r"\bhttps?://([^/:\s\"']+)", text))

    assert hosts <= {"127.0.0.1"}
    assert not re.search(r"--(?:extra-)?index-url|--find-links\b|--trusted-host", text)


@pytest.mark.parametrize(
    "name",
    ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile", ".ci/run", "Dockerfile"],
)
def test_papers_are_there(name: str) -> None:
    """
    What a stranger looks for is there and is no empty file.
    """
    assert len(text_of(name)) > 500


def test_only_packages_are_looked_through_for_packages() -> None:
    """
    What the Wine tests leave behind leads to the root of the machine: an installation that walks there never ends.
    """
    found = tomllib.loads(text_of("pyproject.toml"))["tool"]["setuptools"]["packages"]["find"]
    bare = [path for path in (ROOT / "ssis_exporter").rglob("*.py") if not (path.parent / "__init__.py").exists()]

    assert found["namespaces"] is False
    assert [] == bare


def test_version_stands_in_one_place() -> None:
    """
    The version stands in `ssis_exporter/__init__.py` alone, and what is installed has it.
    """
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
    assert ssis_exporter.__version__ == version("ssis-exporter")


def test_changelog_speaks_of_what_comes() -> None:
    """
    The changelog has an Unreleased part and no headings but the six.
    """
    text = text_of("CHANGELOG.md")
    headings = set(re.findall(r"^### (.*)$", text, re.MULTILINE))

    assert "\n## [Unreleased]\n" in text
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_license_is_the_one_that_is_declared() -> None:
    """
    The license's text is that of the identifier in pyproject.toml.
    """
    text = text_of("LICENSE")

    assert "Apache-2.0" == PROJECT["license"]
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("point", entry_points(group=ENTRY_POINT_GROUP), ids=lambda point: point.name)
def test_kinds_of_sources_load(point: Any) -> None:
    """
    Every kind that we register names a source that says the same word, and has its part in the README.
    """
    if not point.value.startswith("ssis_exporter."):
        return
    loaded = point.load()

    assert issubclass(loaded, ssis_exporter.Source)
    assert point.name == loaded.kind
    assert re.search(rf"^### {point.name}\b", text_of("README.md"), re.MULTILINE)


def test_command_is_registered() -> None:
    """
    The command that the README speaks of is installed.
    """
    (command,) = entry_points(group="console_scripts", name="ssis-exporter")

    assert callable(command.load())


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_extras_are_in_the_readme(extra: str) -> None:
    """
    Each extra is named where somebody decides what to install.
    """
    assert f"`{extra}`" in text_of("README.md")


def test_links_lead_somewhere() -> None:
    """
    Every link from one of our pages to a file of the project finds it.
    """
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        ours = [target for target in targets if not re.match(r"[a-z]+:", target)]
        broken += [f"{page.relative_to(ROOT)}: {target}" for target in ours if not (page.parent / target).exists()]

    assert [] == broken


def test_make_has_the_two_commands() -> None:
    """
    `make demo` and `make test` are there, and the README says so.
    """
    makefile = text_of("Makefile")
    for target in ("demo", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert f"make {target}" in text_of("README.md")


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments."""
    lines = [line for line in text_of("Dockerfile").splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def last_stage() -> list[tuple[str, str]]:
    """The instructions that make the image itself."""
    instructions = dockerfile()
    begins = max(number for number, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[begins:]


def test_image_needs_no_root() -> None:
    """
    The image runs as a user named by number, so that a cluster can see that it is not root.
    """
    users = [arguments for word, arguments in last_stage() if word == "USER"]

    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_image_says_whether_it_is_well() -> None:
    """
    The health check is our own command, without a shell.
    """
    (check,) = [arguments for word, arguments in last_stage() if word == "HEALTHCHECK"]

    assert check.endswith('CMD ["ssis-exporter", "healthcheck"]')


def test_image_is_built_from_what_is_locked() -> None:
    """
    The base has a version, what pip fetches has hashes, and the last stage installs nothing.
    """
    instructions = dockerfile()
    bases = [arguments for word, arguments in instructions if word == "FROM"]
    default = dict(arguments.split("=", 1) for word, arguments in instructions if word == "ARG")["PYTHON_IMAGE"]

    assert len(bases) > 1
    assert {"${PYTHON_IMAGE}"} == {base.split()[0] for base in bases}
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", default)
    for word, arguments in instructions:
        for command in arguments.split("&&") if word == "RUN" else []:
            if re.search(r"\bpip (?:\S+ \S+ )?(?:install|wheel)\b", command):
                assert any(flag in command for flag in ("--require-hashes", "--no-index", "--no-deps")), command
    assert not any("apt-get" in arguments or "pip install" in arguments for _, arguments in last_stage())


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_lock_has_hashes(name: str) -> None:
    """
    Each requirement is one version with at least one hash.
    """
    blocks = re.split(r"\n(?=\S)", text_of(name).strip())

    assert blocks
    for block in blocks:
        assert re.match(r"[a-z0-9.-]+==[\w.]+ \\\n    --hash=sha256:[0-9a-f]{64}", block), block[:60]


def test_lock_holds_what_is_declared() -> None:
    """
    What the image needs is in the lock, in a version that pyproject.toml allows.
    """
    locked = dict(re.findall(r"^([a-z0-9.-]+)==([\w.]+)", text_of("requirements.lock"), re.MULTILINE))
    wanted = PROJECT["dependencies"] + [
        line for extra in ("fast", "auth", "catalog") for line in PROJECT["optional-dependencies"][extra]
    ]
    for line in wanted:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is not locked: run `make lock`"
        assert requirement.specifier.contains(locked[name]), f"{name} is locked at {locked[name]}: run `make lock`"


def test_workflow_tests_every_python_that_is_declared() -> None:
    """
    Linux and Windows, each Python of the classifiers, and the wheel.
    """
    jobs = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    declared = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]

    assert declared == matrix["python"]
    assert {"ubuntu", "windows"} == {system.split("-")[0] for system in matrix["os"]}
    assert any("dist/*.whl" in step.get("run", "") for step in jobs["tests"]["steps"])
