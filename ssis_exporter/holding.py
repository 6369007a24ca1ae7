"""Whether all stopping is on hold, as a running exporter knows it without reading the file each time."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor

from ssis_exporter.hold import Hold

log = logging.getLogger(__name__)


class Holding:
    """The file decides; between the order to hold and the file, the order does. The file is never read on the loop."""

    def __init__(self, hold: Hold, executor: Executor | None) -> None:
        self._hold = hold
        self._executor = executor
        self._by_file: str | None = None
        self._in_memory: str | None = None
        self._changing = asyncio.Lock()

    @property
    def reason(self) -> str | None:
        """Why all stopping is on hold, as of the last glance; None when it is not."""
        return self._in_memory or self._by_file

    async def glance(self) -> None:
        """Looks at the file."""
        self._by_file = await asyncio.get_running_loop().run_in_executor(self._executor, self._hold.reason)

    async def begin(self, reason: str) -> None:
        """
        Holds from now on, also after a restart.

        Raises `StorageError` when that could not be written down; it then holds until `end` or a restart.
        """
        self._in_memory = ordered = reason or "no reason given"
        async with self._changing:
            # An `end` that was given before this may have forgotten it.
            self._in_memory = ordered
            await asyncio.get_running_loop().run_in_executor(self._executor, self._hold.begin, reason)
            await self.glance()
            # From here on the file alone decides, so that whoever removes it ends the hold.
            self._in_memory = None
        log.warning("all stopping is on hold: %s", self._by_file)

    async def end(self) -> str | None:
        """Ends the hold; returns what it was. Raises `StorageError`, and it goes on."""
        async with self._changing:
            await self.glance()
            was = self.reason
            await asyncio.get_running_loop().run_in_executor(self._executor, self._hold.end)
            await self.glance()
            self._in_memory = None
        log.warning("stopping is no longer on hold; nominations that were refused come with their next message")
        return was
