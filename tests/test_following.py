"""following: what the ledger gets about one run, and about no other."""

from __future__ import annotations

from pathlib import Path

from ssis_exporter.following import Follower
from ssis_exporter.model import ExecutionKey
from tests.stopping import Scene, play


def test_only_this_run_is_followed(tmp_path: Path) -> None:
    """
    Neither another run of its source nor a run of its name of another source; each step once.
    """

    async def work(scene: Scene) -> None:
        for source in ("b", "a"):
            for instance_id in ("10", "1", "2"):
                scene.workers[source].source.start(instance_id)  # type: ignore[attr-defined]
        follower = Follower(tmp_path, ExecutionKey("a", "1"))
        follower.begin()
        for source, instance_id in (("a", "2"), ("a", "10"), ("b", "1")):
            await scene.stopper.submit([scene.nominate(instance_id, source)])
            assert "stopped" == await scene.outcome(instance_id, source)
        assert [] == follower.look()

        await scene.time.advance(601)
        await scene.stopper.submit([scene.nominate("1", "a")])
        assert "stopped" == await scene.outcome("1", "a")
        kinds = ["nominated", "seen", "allowed", "requested", "asked", "outcome"]
        assert [(ExecutionKey("a", "1"), kind) for kind in kinds] == [(one.key, one.kind) for one in follower.look()]
        assert [] == follower.look()
        follower.close()

    play(tmp_path, work, sources=("b", "a"))
