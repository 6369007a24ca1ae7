"""
A listener in a process of its own that can be told on stdin to use up its file descriptors.

Its argument is how many it may have.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys

from tornado.web import Application

from ssis_exporter.addresses import Address
from ssis_exporter.handlers import Handler
from ssis_exporter.listening import Listener


class Small(Handler):
    """One small page."""

    async def get(self) -> None:
        """Says so."""
        self.finish(b"small")


async def main() -> None:
    """Serves until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), hard))
    listener = Listener(Application([("/", Small)]), [Address("127.0.0.1", 0)])
    await listener.start()
    print(listener.ports[0], flush=True)
    hoard: list[int] = []
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "hoard":
            try:
                while True:
                    hoard.append(os.dup(0))
            except OSError:
                print("hoarding", flush=True)
        elif line == "release":
            while hoard:
                os.close(hoard.pop())
            print("released", flush=True)
        else:
            print(listener.connections, flush=True)
    await listener.drain(1.0)


if __name__ == "__main__":
    asyncio.run(main())
