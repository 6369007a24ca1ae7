"""The running exporter: readings of the sources configured now, and reloads that change only what changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from prometheus_client import CollectorRegistry

from ssis_exporter.config import Config, LabelsConfig, LimitsConfig, SourceConfig
from ssis_exporter.errors import ConfigError, MissingExtra, SourceUnreachable
from ssis_exporter.exporter import Exporter
from ssis_exporter.history import History
from ssis_exporter.historymetrics import HistoryMetrics
from ssis_exporter.model import Reading, Snapshot, SourceInfo
from ssis_exporter.sources.interface import SourceSettings
from ssis_exporter.storagefolder import Storage
from ssis_exporter.testing import FakeSource

SOON = timedelta(seconds=20)


class FakeSettings(SourceSettings, frozen=True, kw_only=True):
    """Something to change."""

    value: int = 1


class Recorded(FakeSource):
    """Remembers each object made, by name, in order."""

    Settings: ClassVar[type[SourceSettings]] = FakeSettings
    made: ClassVar[dict[str, list[Recorded]]] = {}

    @classmethod
    def from_settings(cls, name: str, settings: object) -> Recorded:
        """Refuses the value 13."""
        assert isinstance(settings, FakeSettings)
        if settings.value == 13:
            raise MissingExtra(what="the value 13", extra="luck", module="luck")
        source = cls(name)
        cls.made.setdefault(name, []).append(source)
        return source


@pytest.fixture(autouse=True)
def made() -> Iterator[dict[str, list[Recorded]]]:
    """What was made in this test."""
    Recorded.made.clear()
    yield Recorded.made
    for sources in Recorded.made.values():
        for source in sources:
            source.gate.set()


def source(name: str, value: int = 1) -> SourceConfig:
    """One entry."""
    return SourceConfig(name=name, kind="fake", source_class=Recorded, settings=FakeSettings(value=value))


def config(*sources: SourceConfig, **others: object) -> Config:
    """A configuration with these sources."""
    return Config(sources=sources, **others)  # type: ignore[arg-type]


@dataclass
class File:
    """What is read at a reload: a configuration, or an error."""

    says: Config | Exception
    reads: int = field(default=0)

    def load(self) -> Config:
        """Reads it."""
        self.reads += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def run(check: Callable[[Exporter, File], object], first: Config) -> CollectorRegistry:
    """An exporter with `first` in force, on a loop of its own; closed afterwards."""
    registry = CollectorRegistry()

    async def use() -> None:
        file = File(first)
        exporter = Exporter(first, registry=registry, load=file.load, now=lambda: 1000.0 + file.reads)
        try:
            await check(exporter, file)  # type: ignore[misc]
        finally:
            await exporter.close()

    asyncio.run(use())
    return registry


def names(readings: list[Reading]) -> list[str]:
    """Whose readings these are."""
    return [reading.source for reading in readings]


def test_every_source_is_read_in_its_order() -> None:
    """
    A read gives one reading per source, in the order of the configuration.
    """

    async def check(exporter: Exporter, _: File) -> None:
        readings = await exporter.read(SOON)

        assert ["b", "a"] == names(readings)
        assert all(isinstance(reading.outcome, Snapshot) for reading in readings)
        assert ("b", "a") == exporter.source_names

    run(check, config(source("b"), source("a")))


def test_only_the_named_sources_are_read(made: dict[str, list[Recorded]]) -> None:
    """
    A source that was not asked for is left alone.
    """

    async def check(exporter: Exporter, _: File) -> None:
        assert ["a"] == names(await exporter.read(SOON, ["a"]))

    run(check, config(source("b"), source("a")))

    assert 0 == made["b"][0].calls


def test_an_unchanged_source_keeps_its_worker_and_object(made: dict[str, list[Recorded]]) -> None:
    """
    A reload makes only what is new or changed, and closes only what is changed or gone.
    """

    async def check(exporter: Exporter, file: File) -> None:
        await exporter.read(SOON)
        kept = exporter.worker("kept")
        changed = exporter.worker("changed")
        file.says = config(source("changed", 2), source("new"), source("kept"))
        await exporter.reload()

        assert kept is exporter.worker("kept")
        assert changed is not exporter.worker("changed")
        assert exporter.worker("gone") is None
        assert ["changed", "new", "kept"] == names(await exporter.read(SOON))
        assert 0 == made["kept"][0].closed

    run(check, config(source("kept"), source("changed"), source("gone")))

    assert {"kept": 1, "changed": 2, "gone": 1, "new": 1} == {name: len(all_) for name, all_ in made.items()}
    assert made["changed"][0].closed
    assert made["gone"][0].closed


def test_a_changed_source_that_hangs_delays_nothing(made: dict[str, list[Recorded]]) -> None:
    """
    The reload returns, and the new source answers, while the old one's call still hangs.
    """

    async def check(exporter: Exporter, file: File) -> None:
        made["a"][0].gate.clear()
        late = await exporter.read(timedelta(milliseconds=1))
        file.says = config(source("a", 2))
        await exporter.reload()

        assert late[0].timed_out
        assert isinstance((await exporter.read(SOON))[0].outcome, Snapshot)
        assert 0 == made["a"][0].closed
        made["a"][0].gate.set()

    run(check, config(source("a")))


def test_a_scrape_that_runs_ends_during_a_reload(made: dict[str, list[Recorded]]) -> None:
    """
    What was asked before the reload is answered by the sources of then.
    """

    async def check(exporter: Exporter, file: File) -> None:
        made["a"][0].gate.clear()
        scrape = asyncio.create_task(exporter.read(SOON))
        await asyncio.to_thread(made["a"][0].began.acquire)
        file.says = config(source("b"))
        await exporter.reload()
        made["a"][0].gate.set()
        readings = await scrape

        assert ["a"] == names(readings)
        assert isinstance(readings[0].outcome, Snapshot)

    run(check, config(source("a")))


def test_a_wrong_configuration_keeps_the_old_one(made: dict[str, list[Recorded]]) -> None:
    """
    The error reaches who asked, the gauge falls, and the sources go on as they were.
    """

    async def check(exporter: Exporter, file: File) -> None:
        old = exporter.config
        file.says = ConfigError("ssis.yml:3: wrong")
        with pytest.raises(ConfigError, match="wrong"):
            await exporter.reload()

        assert old is exporter.config
        assert isinstance((await exporter.read(SOON))[0].outcome, Snapshot)

    registry = run(check, config(source("a")))

    assert 0 == registry.get_sample_value("ssis_exporter_config_last_reload_successful")
    assert 1000 == registry.get_sample_value("ssis_exporter_config_last_reload_success_timestamp_seconds")
    assert 1 == len(made["a"])


def test_a_source_that_cannot_be_made_keeps_the_old_configuration() -> None:
    """
    One wrong source among the new ones changes nothing.
    """

    async def check(exporter: Exporter, file: File) -> None:
        file.says = config(source("b"), source("a", 13))
        with pytest.raises(ConfigError, match="pip install"):
            await exporter.reload()

        assert ("a",) == exporter.source_names
        assert exporter.worker("b") is None

    run(check, config(source("a")))


def test_a_reload_after_a_wrong_one_is_told() -> None:
    """
    The gauges say that the last reload worked, and when.
    """

    async def check(exporter: Exporter, file: File) -> None:
        right = file.says
        file.says = ConfigError("wrong")
        with pytest.raises(ConfigError):
            await exporter.reload()
        file.says = right
        await exporter.reload()

    registry = run(check, config(source("a")))

    assert 1 == registry.get_sample_value("ssis_exporter_config_last_reload_successful")
    assert 1002 == registry.get_sample_value("ssis_exporter_config_last_reload_success_timestamp_seconds")


def test_reloads_at_the_same_time_come_one_after_the_other(made: dict[str, list[Recorded]]) -> None:
    """
    Ten reloads at once make each source once.
    """

    async def check(exporter: Exporter, file: File) -> None:
        file.says = config(source("b"))
        await asyncio.gather(*(exporter.reload() for _ in range(10)))

        assert 10 == file.reads

    run(check, config(source("a")))

    assert 1 == len(made["b"])


def test_labels_and_limits_change_with_a_reload(made: dict[str, list[Recorded]]) -> None:
    """
    The page of the next scrape follows the new configuration, without new sources.
    """

    async def page(exporter: Exporter) -> str:
        readings = await exporter.read(SOON)
        return str([sample for family in exporter.collector.families(readings) for sample in family.samples])

    async def check(exporter: Exporter, file: File) -> None:
        made["a"][0].start("1", user_name="CORP\\etl")
        made["a"][0].start("2", user_name="CORP\\etl")
        before = await page(exporter)
        file.says = config(
            source("a"), labels=LabelsConfig(user_name="drop"), limits=LimitsConfig(executions_per_source=1)
        )
        await exporter.reload()
        after = await page(exporter)

        assert "etl" in before
        assert "etl" not in after
        assert after.count("'instance_id'") < before.count("'instance_id'")

    run(check, config(source("a")))


def test_who_wants_to_know_is_told_of_a_reload() -> None:
    """
    Parts that depend on the configuration are told the new one, and only when it is in force.
    """
    told: list[Config] = []
    second = config(source("a", 2))

    async def check(exporter: Exporter, file: File) -> None:
        exporter.on_reload.append(told.append)
        file.says = ConfigError("wrong")
        with pytest.raises(ConfigError):
            await exporter.reload()
        file.says = second
        await exporter.reload()

    run(check, config(source("a")))

    assert [second] == told


def test_closing_closes_every_source_and_may_come_twice(made: dict[str, list[Recorded]]) -> None:
    """
    After closing, each source is closed; a second time is harmless.
    """

    async def check(exporter: Exporter, _: File) -> None:
        await exporter.read(SOON)
        await exporter.close()
        await exporter.close()

        assert all(source.closed for source in (made["a"][0], made["b"][0]))
        assert isinstance((await exporter.read(SOON))[0].outcome, SourceUnreachable)

    run(check, config(source("a"), source("b")))


def test_a_source_that_cannot_be_made_keeps_the_exporter_from_starting() -> None:
    """
    At the start there is no old configuration to keep.
    """
    with pytest.raises(ConfigError, match=r"ssis\.yml:4: sources\[0\]: the value 13 needs luck"):
        Exporter(
            config(
                SourceConfig(
                    name="a",
                    kind="fake",
                    source_class=Recorded,
                    settings=FakeSettings(value=13),
                    where="ssis.yml:4: sources[0]",
                )
            ),
            registry=CollectorRegistry(),
            load=lambda: config(),
        )


class Machine(FakeSource):
    """A source of a kind that its name tells."""

    made: ClassVar[dict[str, Machine]] = {}

    @property
    def info(self) -> SourceInfo:
        """Of that kind."""
        return SourceInfo(kind=self.name)

    @classmethod
    def from_settings(cls, name: str, settings: object) -> Machine:
        """Remembered by its name."""
        del settings
        cls.made[name] = cls(name)
        return cls.made[name]


def machine() -> Config:
    """The two sources that see the same runs of one machine."""
    return Config(
        sources=tuple(
            SourceConfig(name=kind, kind=kind, source_class=Machine, settings=SourceSettings())
            for kind in ("dts", "dtexec")
        )
    )


@asynccontextmanager
async def keeping(folder: Path) -> AsyncIterator[tuple[Exporter, History]]:
    """A life of an exporter that keeps the history of such a machine."""
    storage = Storage(folder)
    history = History.of(storage)
    await history.open()
    exporter = Exporter(machine(), registry=CollectorRegistry(), load=machine)
    exporter.keep_history(history)
    try:
        yield exporter, history
    finally:
        await exporter.close()
        await history.close()
        storage.release()


def counted(history: History) -> dict[str, int]:
    """Ends by source."""
    found = {record.key.source: sum(record.counts.values()) for record in history.records()}
    return {source: count for source, count in found.items() if count}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_run_that_two_sources_see_ends_once(tmp_path: Path, restarts: bool) -> None:
    """
    Its owner counts it, also when the exporter was off as it ended; a process of its own counts for itself.
    """
    began = datetime.now(UTC) - timedelta(minutes=5)

    async def look(exporter: Exporter, history: History) -> None:
        await exporter.read(SOON)
        await history.settle(SOON)

    async def start() -> None:
        async with keeping(tmp_path) as (exporter, history):
            for name, instance in (("dts", "A"), ("dtexec", "1")):
                Machine.made[name].start(instance, started_at=began)
            Machine.made["dtexec"].start("2", "Other", started_at=began)
            await look(exporter, history)
            await look(exporter, history)
            if not restarts:
                await finish(exporter, history)

    async def finish(exporter: Exporter, history: History) -> None:
        for source in Machine.made.values():
            for run_ in source.snapshot().executions:
                source.end(run_.key.instance_id)
        await look(exporter, history)
        await look(exporter, history)
        assert {"dts": 1, "dtexec": 1} == counted(history)

    async def again() -> None:
        async with keeping(tmp_path) as (exporter, history):
            await finish(exporter, history)

    asyncio.run(start())
    if restarts:
        asyncio.run(again())


def test_a_page_shows_what_ended(tmp_path: Path) -> None:
    """
    What a scrape sees end is counted on its own page, of the sources that were asked for.
    """

    async def main() -> None:
        async with keeping(tmp_path) as (exporter, _):
            exporter._ended = HistoryMetrics(packages_per_source=10, held_seconds=0)
            Machine.made["dts"].start("A")
            await exporter.read(SOON)
            Machine.made["dts"].end("A")
            readings = await exporter.read(SOON)
            samples = [
                (sample.labels["source"], sample.labels["result"])
                for family in exporter.families(readings)
                for sample in family.samples
                if sample.name == "ssis_package_executions_total" and sample.value
            ]
            others = await exporter.read(SOON, ["dtexec"])
            names = {family.name for family in exporter.families(others)}
            assert [("dts", "unknown")] == samples
            assert "ssis_package_executions" not in names

    asyncio.run(main())
