"""holding: an order to hold counts at once, and of many orders at the same time the last one."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from ssis_exporter.hold import Hold
from ssis_exporter.holding import Holding


def test_orders_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """
    Each succeeds, and the last one decides, in memory as on disk.
    """

    async def work() -> None:
        holding = Holding(Hold(tmp_path), None)
        await asyncio.gather(*(holding.begin(str(number)) for number in range(20)))
        assert ("19", "19") == (holding.reason, Hold(tmp_path).reason())

        await asyncio.gather(holding.begin("again"), holding.end())
        assert (None, None) == (holding.reason, Hold(tmp_path).reason())

        await asyncio.gather(holding.end(), holding.begin("and again"))
        assert ("and again", "and again") == (holding.reason, Hold(tmp_path).reason())

    asyncio.run(work())


def test_an_order_counts_before_it_is_written(tmp_path: Path) -> None:
    """
    Also one that has to wait until an earlier one is written.
    """

    class SlowDisk(Hold):
        """Writes when it is told to."""

        go_on = threading.Event()

        def begin(self, reason: str) -> None:
            """Waits first."""
            assert self.go_on.wait(30)
            super().begin(reason)

    async def work() -> None:
        hold = SlowDisk(tmp_path)
        holding = Holding(hold, None)
        end, begin = asyncio.create_task(holding.end()), asyncio.create_task(holding.begin("now"))
        await asyncio.sleep(0)
        assert "now" == holding.reason
        await end
        await holding.glance()
        assert ("now", None) == (holding.reason, hold.reason())
        hold.go_on.set()
        await begin
        assert ("now", "now") == (holding.reason, hold.reason())

    asyncio.run(work())
