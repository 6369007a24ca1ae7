"""Configuration files, good and wrong: what each says, and the one sentence that each wrong one gets."""

from __future__ import annotations

import json
from datetime import time, timedelta
from pathlib import Path

import pytest

from ssis_exporter.config import Config, LabelsConfig, LimitsConfig, default_config, load_config
from ssis_exporter.errors import ConfigError
from ssis_exporter.policy import Action, Hours, Match, Rule
from ssis_exporter.sources.kinds import known_kinds
from ssis_exporter.stopconfig import BreakerConfig, StopConfig

FOLDER = Path(__file__).parent / "data" / "config"

# Each file and its sentence, in which the file's own path stands as FILE and the installed kinds as KINDS.
WRONG: dict[str, str] = json.loads((FOLDER / "wrong.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gets_one_sentence(name: str) -> None:
    """
    File, line, key, what is wrong and what would be right, in one sentence on one line.
    """
    path = FOLDER / "wrong" / f"{name}.yml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert WRONG[name].replace("FILE", str(path)).replace("KINDS", ", ".join(sorted(known_kinds()))) == str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_every_wrong_file_is_in_the_table() -> None:
    """
    No wrong file is forgotten.
    """
    assert set(WRONG) == {path.stem for path in (FOLDER / "wrong").glob("*.yml")}


def good(name: str) -> Config:
    """One of the good files, read."""
    return load_config(FOLDER / "good" / f"{name}.yml")


def test_everything_that_can_be_configured_arrives() -> None:
    """
    Each key of a file that uses all of them ends up in the configuration; relative paths are beside the file.
    """
    found = good("everything")
    local, estate = found.sources

    assert ("local", "dtexec", timedelta(seconds=5)) == (local.name, local.kind, local.settings.time_limit)
    assert ("estate", "demo") == (estate.name, estate.kind)
    assert (7, 60.0, 12) == (estate.settings.seed, estate.settings.speed, estate.settings.packages)  # type: ignore[attr-defined]
    assert LabelsConfig(user_name="drop") == found.labels
    assert not found.keep_user_names
    assert LimitsConfig(executions_per_source=50, packages_per_source=100, backfill_share=0.25) == found.limits
    assert found.stop is not None
    assert found.stop.tls is not None
    assert "armed" == found.stop.mode
    assert ("0.0.0.0", 10059) == (found.stop.address.host, found.stop.address.port)
    assert FOLDER / "good" / "stop.crt" == found.stop.tls.cert_file
    assert Path("/etc/ssis/stop.key").absolute() == found.stop.tls.key_file
    assert FOLDER / "good" / "ca.crt" == found.stop.tls.client_ca_file
    assert ("alertmanager",) == found.stop.tls.client_allowed_sans
    assert (FOLDER / "good" / "stop.token", FOLDER / "good" / "next.token") == found.stop.token_files
    assert "http://127.0.0.1:9093" == found.stop.alertmanager_url
    assert 5 == found.stop.max_runs_per_message
    assert timedelta(minutes=20) == found.stop.request_ttl
    assert timedelta(minutes=30) == found.stop.confirm_timeout
    assert BreakerConfig(stops=2, window=timedelta(minutes=5)) == found.stop.breaker
    assert (
        Rule(match=Match(package_name="Payroll*"), action=Action.NEVER),
        Rule(
            match=Match(source="local", folder="Finance", project="DW", package_name="Load*", user_name="CORP\\etl"),
            action=Action.STOP,
            min_duration=timedelta(minutes=30),
            min_overrun=3.0,
            hours=Hours(time(20), time(6)),
            grace=timedelta(minutes=2),
            escalate_after=timedelta(minutes=15),
        ),
    ) == found.stop.rules


@pytest.mark.parametrize("name", ["empty", "comments-only"])
def test_a_file_that_says_nothing_is_the_default(name: str) -> None:
    """
    What a file leaves out keeps its default, the sources too.
    """
    found = good(name)

    assert default_config().sources == found.sources
    assert found.stop is None


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    """
    What Notepad writes is read.
    """
    assert "drop" == good("byte-order-mark").labels.user_name


def test_an_alias_stands_for_its_value() -> None:
    """
    An alias within bounds is read where it stands.
    """
    found = good("alias")

    assert found.stop is not None
    assert found.stop.rules[0].match == found.stop.rules[1].match


def test_stopping_is_a_dry_run_on_loopback_unless_told_otherwise() -> None:
    """
    An empty section arms nothing and is not reachable from outside.
    """
    found = good("stop-defaults").stop

    assert found == StopConfig()
    assert found is not None
    assert "dry-run" == found.mode
    assert "127.0.0.1:10059" == str(found.address)
    assert () == found.rules


def test_without_a_file_processes_are_read() -> None:
    """
    The built-in configuration reads processes and stops nothing.
    """
    found = default_config()

    assert ("local", "dtexec") == (found.sources[0].name, found.sources[0].kind)
    assert found.stop is None
    assert found.path is None


def test_equal_entries_make_equal_sources(tmp_path: Path) -> None:
    """
    A reload knows by comparing what has not changed, wherever in the file it stands.
    """
    first, second = tmp_path / "first.yml", tmp_path / "second.yml"
    first.write_text("sources:\n  - {name: local, kind: demo, seed: 3}\n")
    second.write_text("# moved down\nsources:\n  - {seed: 3, kind: demo, name: local}\n")

    assert load_config(first).sources == load_config(second).sources


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.mkdir(), "the configuration file is a directory; name a file"),
        (lambda _: None, "the configuration file cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(b"#" * 1048577), "the configuration file is larger than 1048576 bytes"),
    ],
    ids=["directory", "missing", "too-large"],
)
def test_what_is_no_file_gets_one_sentence(tmp_path: Path, make: object, sentence: str) -> None:
    """
    A path that cannot be read is named with the reason.
    """
    path = tmp_path / "config.yml"
    make(path)  # type: ignore[operator]
    with pytest.raises(ConfigError) as caught:
        load_config(path)

    assert f"{path}: {sentence}" == str(caught.value)


def test_a_device_is_not_read() -> None:
    """
    A file without an end must not fill the memory.
    """
    with pytest.raises(ConfigError, match=r"is not a regular file|cannot be read"):
        load_config(Path("/dev/zero"))
