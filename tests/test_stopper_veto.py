"""stopper: until the request anybody may object."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.errors import SourceUnreachable
from ssis_exporter.model import (
    Execution,
    ExecutionKey,
    RefusalReason,
    StopMode,
)
from ssis_exporter.policy import Breaker, Policy
from tests.stopping import EVERYTHING, GRACE, Scene, kinds, play


def test_a_resolved_alert_vetoes(tmp_path: Path) -> None:
    """
    During grace it ends the stop at once; the alert may fire again.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(119)
        assert await scene.stopper.veto(ExecutionKey("local", "1"), "resolved", ended_at=scene.time.now())
        assert "vetoed" == await scene.outcome("1")
        await scene.time.advance(600)
        assert [] == scene.source.stop_requests
        assert not await scene.stopper.veto(ExecutionKey("local", "1"), "resolved")
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[GRACE])


def test_after_grace_it_is_looked_and_judged_again(tmp_path: Path) -> None:
    """
    Rules that changed meanwhile, and an end meanwhile, count.
    """

    async def work(scene: Scene) -> None:
        for number in "12":
            scene.source.start(number)
            await scene.stopper.submit([scene.nominate(number)])
        await scene.time.advance(60)
        scene.source.end("1")
        scene.stopper.reconfigure(replace(scene.settings, policy=Policy()))
        assert ["already_ended", "refused"] == [await scene.outcome("1"), await scene.outcome("2")]
        assert "no_rule" == scene.reason()
        assert [] == scene.source.stop_requests

    play(tmp_path, work, rules=[GRACE])


@pytest.mark.parametrize("before", [timedelta(), timedelta(minutes=2)], ids=["none", "short"])
def test_a_grace_that_a_reload_made_longer_is_waited_for(tmp_path: Path, before: timedelta) -> None:
    """
    Whoever gives people more time to object gives it to what is pending, too; counted from the same beginning.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.workers["local"].hangs = before == timedelta()
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(20)
        scene.stopper.reconfigure(
            replace(scene.settings, policy=Policy((replace(GRACE, grace=timedelta(minutes=10)),)))
        )
        scene.workers["local"].go_on()
        await scene.time.advance(550)
        assert [] == scene.source.stop_requests
        assert "stopped" == await scene.outcome("1")
        assert 600 <= scene.time.seconds < 660

    play(tmp_path, work, rules=[replace(GRACE, grace=before)])


def test_a_grace_that_a_reload_made_longer_in_the_last_moment_is_waited_for(tmp_path: Path) -> None:
    """
    The reload comes while the evidence is gathered: the source is not asked before that grace is over.
    """

    async def work(scene: Scene) -> None:
        def evidence(_: Execution) -> dict[str, str]:
            scene.stopper.reconfigure(replace(scene.settings, policy=Policy((GRACE,))))
            return {}

        scene.source.evidence = evidence  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(119)
        assert [] == scene.source.stop_requests
        assert "not_asked" in kinds(tmp_path)
        assert "stopped" == await scene.outcome("1")
        assert ["1"] == scene.source.stop_requests

    play(tmp_path, work, rules=[EVERYTHING])


def test_a_breaker_that_a_reload_made_narrower_in_the_last_moment_counts(tmp_path: Path) -> None:
    """
    There was room at the look, and there is none when the source would be asked.
    """

    async def work(scene: Scene) -> None:
        def evidence(_: Execution) -> dict[str, str]:
            breaker = Breaker(stops=1, window=timedelta(minutes=10))
            scene.stopper.reconfigure(replace(scene.settings, breaker=breaker))
            return {}

        for number in "12":
            scene.source.start(number)
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")
        scene.source.evidence = evidence  # type: ignore[method-assign]
        await scene.stopper.submit([scene.nominate("2")])
        assert "refused" == await scene.outcome("2")
        assert "breaker_open" == scene.reason()
        assert ["1"] == scene.source.stop_requests

    play(tmp_path, work, rules=[EVERYTHING])


@pytest.mark.parametrize("step", [-86_400.0, -1.0, 86_400.0])
def test_a_clock_that_is_set_keeps_no_nomination_alive(tmp_path: Path, step: float) -> None:
    """
    Nobody can look; after `request_ttl` it is given up, whatever the clock on the wall says.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.fail_with = SourceUnreachable("nobody answers")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        scene.time.set_by = step
        assert "expired" == await scene.outcome("1")
        assert scene.time.seconds <= 15 * 60 + 10
        scene.source.fail_with = None
        await scene.time.advance(3600)
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


@pytest.mark.parametrize("silenced", [True, False])
def test_a_silence_vetoes(tmp_path: Path, *, silenced: bool) -> None:
    """
    Alertmanager is asked at the end of grace.
    """

    async def silences(_: object) -> bool:
        return silenced

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert ("vetoed" if silenced else "stopped") == await scene.outcome("1")
        assert scene.time.seconds >= 120

    play(tmp_path, work, rules=[GRACE], silences=silences)


def test_an_alertmanager_that_does_not_answer_means_no_stop(tmp_path: Path) -> None:
    """
    Nobody knows whether it is silenced: it waits, and expires; also when it hangs.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    async def unreachable(_: object) -> bool:
        raise OSError("connection refused")

    async def hangs(_: object) -> bool:
        await asyncio.Event().wait()
        return False

    play(tmp_path / "unreachable", work, rules=[GRACE], silences=unreachable)
    play(tmp_path / "hangs", work, rules=[GRACE], silences=hangs)


def test_hold_vetoes_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    """
    Within a second nothing is stopped any more, also after a restart, until it is resumed.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        await scene.stopper.hold("month end")
        await scene.time.advance(1)
        assert [] == scene.stopper.pending()
        assert "vetoed" == await scene.outcome("1")
        assert 1 == scene.value("ssis_stop_mode", mode="held")
        assert 0 == scene.value("ssis_stop_mode", mode="armed")
        await scene.restart()
        assert "month end" == scene.stopper.held
        [decision] = await scene.stopper.submit([scene.nominate("1")])
        assert RefusalReason.HELD == decision.reason
        await scene.stopper.resume()
        assert scene.stopper.held is None
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[GRACE])


def test_the_file_alone_holds(tmp_path: Path) -> None:
    """
    An operator can put it there and take it away without the service.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(60)
        (tmp_path / "hold").write_text("by hand\n")
        await scene.time.advance(1)
        assert "by hand" == scene.stopper.held
        assert [] == scene.stopper.pending()
        (tmp_path / "hold").unlink()
        await scene.time.advance(1)
        assert scene.stopper.held is None

    play(tmp_path, work, rules=[GRACE])


def test_a_hold_in_the_last_moment_counts(tmp_path: Path) -> None:
    """
    The file is looked for once more on the source's own thread, after "requested" is on disk.
    """

    async def work(scene: Scene) -> None:
        def evidence(_: Execution) -> dict[str, str]:
            (tmp_path / "hold").write_text("now!")
            return {}

        scene.source.evidence = evidence  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "vetoed" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work)

    assert "not_asked" in kinds(tmp_path)


def test_disarming_and_new_rules_in_the_last_moment_count(tmp_path: Path) -> None:
    """
    Mode and rules are read once more on the source's own thread, after "requested" is on disk.
    """

    def in_the_last_moment(**changes: Any) -> Callable[[Scene], Awaitable[None]]:
        async def work(scene: Scene) -> None:
            def evidence(_: Execution) -> dict[str, str]:
                scene.stopper.reconfigure(replace(scene.settings, **changes))
                return {}

            scene.source.evidence = evidence  # type: ignore[method-assign]
            scene.source.start("1")
            await scene.stopper.submit([scene.nominate("1")])
            assert await scene.outcome("1") in ("refused", "would_stop")
            assert [] == scene.source.stop_requests

        return work

    play(tmp_path / "rules", in_the_last_moment(policy=Policy()))
    play(tmp_path / "mode", in_the_last_moment(mode=StopMode.DRY_RUN))

    assert ["not_asked", "not_asked"] == [
        kind for folder in ("rules", "mode") for kind in kinds(tmp_path / folder) if kind == "not_asked"
    ]


def test_a_request_that_waits_in_line_for_too_long_is_never_made(tmp_path: Path) -> None:
    """
    A source that hangs after the look is not asked when it comes back.
    """

    async def work(scene: Scene) -> None:
        def evidence(_: Execution) -> dict[str, str]:
            scene.workers["local"].hangs = True
            return {}

        scene.source.evidence = evidence  # type: ignore[method-assign]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(45)
        assert [] == scene.source.stop_requests
        assert "expired" == await scene.outcome("1")
        scene.workers["local"].go_on()
        await scene.time.advance(600)
        assert [] == scene.source.stop_requests

    play(tmp_path, work)
