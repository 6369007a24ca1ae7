"""What the operating system asks of a running exporter: to end, to end at once, to read its configuration again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from ssis_exporter.cli import exits


class Signals:
    """
    Turns signals into an event and calls, on one event loop.

    The first SIGTERM, SIGINT or (on Windows) Ctrl-Break sets `stop`; a second one ends the process at once.
    """

    def __init__(self, on_hangup: Callable[[], None]) -> None:
        self.stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if sys.platform == "win32":
            # Python runs these handlers on the main thread, between two steps of the loop, which the event wakes.
            for number in (signal.SIGINT, signal.SIGBREAK, signal.SIGTERM):
                signal.signal(number, lambda *_: self._loop.call_soon_threadsafe(self._asked))
        else:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._asked)
            self._loop.add_signal_handler(signal.SIGHUP, on_hangup)

    def _asked(self) -> None:
        if self.stop.is_set():
            # At once: a source that hangs or a file that cannot be written must not hold up who insists.
            os._exit(exits.INTERRUPTED)
        self.stop.set()
