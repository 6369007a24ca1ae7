"""The README names every command, flag, configuration key and exit code; and its example is a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from msgspec import inspect

from ssis_exporter.cli import COMMANDS, cli, exits
from ssis_exporter.config import LabelsConfig, LimitsConfig, load_config
from ssis_exporter.sources.interface import SourceSettings
from ssis_exporter.sources.kinds import known_kinds, load_kind
from ssis_exporter.stopconfig import StopConfig

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

OURS = sorted(kind for kind, point in known_kinds().items() if point.value.startswith("ssis_exporter."))


def section(heading: str) -> str:
    """The text from one heading to the next of its level."""
    level = heading.split(maxsplit=1)[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^{level} |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no heading {heading}"
    return found[1]


def flags() -> Iterator[tuple[str, str]]:
    """Every command and each of its flags, as click knows them."""
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from ((name, flag) for flag in parameter.opts)


def keys(shape: inspect.Type) -> Iterator[str]:
    """Every key of a struct and of the structs in it."""
    match shape:
        case inspect.StructType():
            for field in shape.fields:
                yield field.encode_name
                yield from keys(field.type)
        case inspect.UnionType():
            for one in shape.types:
                yield from keys(one)
        case inspect.VarTupleType() | inspect.ListType():
            yield from keys(shape.item_type)
        case inspect.DictType():
            yield from keys(shape.value_type)
        case _:
            return


def keys_of(struct: type[msgspec.Struct]) -> list[str]:
    """Every key of a struct, once."""
    return sorted(set(keys(inspect.type_info(struct))))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    """
    By its name.
    """
    assert f"`{name}`" in section("## Command line")


@pytest.mark.parametrize(("name", "flag"), list(flags()))
def test_every_flag_is_in_the_readme(name: str, flag: str) -> None:
    """
    Each flag of each command, from click's own list.
    """
    text = section("## Command line")

    assert f"`{flag}`" in text or ("`--log.*`" in text and flag.startswith("--log."))
    assert name in text


@pytest.mark.parametrize("key", sorted({*keys_of(LabelsConfig), *keys_of(LimitsConfig), *keys_of(StopConfig)}))
def test_every_key_is_in_the_readme(key: str) -> None:
    """
    Each key of the configuration file, from the structs that read it.
    """
    assert re.search(rf"\b{key}\b", section("## Configuration"))


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in OURS for key in keys_of(load_kind(kind).Settings)])
def test_every_key_of_a_kind_is_in_the_readme(kind: str, key: str) -> None:
    """
    In the section of the kind; what all kinds have stands with the configuration.
    """
    text = section("## Configuration") if key in keys_of(SourceSettings) else section(f"### {kind}")

    assert re.search(rf"\b{key}\b", text)


def test_every_exit_code_is_in_the_readme() -> None:
    """
    With its meaning, as the code has it.
    """
    text = section("### Exit codes")

    assert list(exits.MEANINGS.items()) == [
        (int(code), meaning) for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)
    ]


def test_every_example_is_a_configuration(tmp_path: Path) -> None:
    """
    What stands in the README under `sources:` can be copied.
    """
    examples = [text for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if text.startswith("sources:")]
    path = tmp_path / "ssis.yml"
    for example in examples:
        path.write_text(example, encoding="utf-8")
        load_config(path)

    assert examples
