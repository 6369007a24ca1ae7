"""The pages of docs/: links lead somewhere, examples are right, commands and flags exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from ssis_exporter.cli import cli
from ssis_exporter.config import load_config
from tests.real import need_program

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("**/*.md"), *ROOT.glob("*.md")])
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w+)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)

# What makes a YAML block an example of one program's file, and who checks it.
CHECKED_BY = {"scrape_configs": "prometheus", "route": "alertmanager", "groups": "rules", "sources": "exporter"}


def blocks(kinds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every fenced block of these kinds: where it stands and its text, without the indent of a list."""
    for path in PAGES:
        for number, found in enumerate(_BLOCK.finditer(path.read_text(encoding="utf-8"))):
            if found["kind"] in kinds:
                lines = [line.removeprefix(found["indent"]) for line in found["text"].splitlines()]
                yield f"{path.relative_to(ROOT)}-{number}", "\n".join(lines) + "\n"


def examples() -> list[object]:
    """YAML blocks with the program that they are for."""
    found = []
    for where, text in blocks(("yaml",)):
        keys = YAML(typ="safe").load(text)
        programs = [program for key, program in CHECKED_BY.items() if key in keys]
        found += [pytest.param(programs[0], text, id=f"{where}-{programs[0]}")] if programs else []
    return found


def commands() -> list[object]:
    """Every call of `ssis-exporter` in a shell block, its continued lines joined."""
    found = []
    for where, text in blocks(("sh", "powershell")):
        for line in text.replace("\\\n", " ").splitlines():
            called = re.search(
                r"(?<![\w./-])(?:\.?[\w/\\.: ()&']*[/\\'])?ssis-exporter(?:\.exe)?'?((?: [^|;&>#]+)+)", line
            )
            # "docker run … ssis-exporter serve" names the image, which has the command as its entry point.
            if called is not None and not re.match(r"\s*(docker build|sudo systemctl|\S*pip)", line):
                found.append(pytest.param(called[1].strip(), id=f"{where}-{called[1].strip()[:40]}"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_whole_and_no_heading_is_bare(path: Path) -> None:
    """
    Each table has its head, without which it is shown as text, and as many cells a row; a heading has a text.
    """
    text = re.sub(r"```.*?```", "code", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = table.splitlines()
        assert re.fullmatch(r"\|(?: ?:?-+:? ?\|)+", rows[1]), rows[0]
        assert 1 == len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}), rows[0]
    assert [] == re.findall(r"^(#+) .*\n\s*^\1 ", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """
    Each link within the project names a file that is there, and a heading that is in it.
    """
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, target


def test_every_page_is_in_the_index() -> None:
    """
    docs/README.md leads to every page of docs/.
    """
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}

    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


@pytest.mark.real
@pytest.mark.parametrize(("program", "text"), examples())
def test_examples_are_taken(program: str, text: str, tmp_path: Path) -> None:
    """
    What a page shows as a file of the exporter, Prometheus or Alertmanager is one.
    """
    file = tmp_path / "example.yml"
    file.write_text(text, encoding="utf-8")
    for name in ("runaways.rules.yml", "password"):
        (tmp_path / name).write_text("", encoding="utf-8")
    if program == "exporter":
        load_config(file)
        return
    checks = {
        "prometheus": ("promtool", "prometheus", ["check", "config", "--syntax-only"]),
        "rules": ("promtool", "prometheus", ["check", "rules"]),
        "alertmanager": ("amtool", "prometheus-alertmanager", ["check-config"]),
    }
    name, package, arguments = checks[program]
    command = [need_program(name, package), *arguments, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("called", commands())
def test_commands_and_flags_exist(called: str) -> None:
    """
    Each command and each of its flags in a shell block is one that the exporter has.
    """
    words = shlex.split(called.replace("…", "x").replace("\\", "/"))
    if words[0].startswith("-"):
        assert words[0] in {"--version", "--help", "-h"}
        return
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None, words[0]
    known = {flag for parameter in command.params for flag in parameter.opts} | {"--help", "-h"}
    assert {word.split("=")[0] for word in words[1:] if word.startswith("-")} <= known


def test_examples_and_commands_were_found() -> None:
    """
    There is something to check.
    """
    assert len(examples()) > 10
    assert len(commands()) > 20
