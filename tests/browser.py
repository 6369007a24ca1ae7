"""A real Chromium without a window, asked over its own protocol what it made of a page."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.real import need_program

# No sandbox, because a container's root may not make one; without the rest Chromium asks the network for things.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
DEADLINE = 60.0


@dataclass
class Seen:
    """One page in one size."""

    values: list[Any]
    """What the expressions came to."""

    troubles: list[str] = field(default_factory=list)
    """Script errors, refused resources, whatever stands in the browser's console."""

    requests: list[str] = field(default_factory=list)
    """Everything that was loaded."""


class Chromium:
    """A browser; ended by its own handle."""

    def __init__(self, folder: Path) -> None:
        program = need_program("chromium", "chromium")
        self._log = (folder / "chromium.log").open("wb")
        self._profile = folder / "profile"
        command = [program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._port = self._await_port()

    def _await_port(self) -> int:
        file = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, Path(self._log.name).read_text(errors="replace")
            with suppress(OSError, ValueError, IndexError):
                return int(file.read_text().splitlines()[0])
            time.sleep(0.02)
        raise AssertionError("Chromium does not say its port")

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def look(self, url: str, expressions: Sequence[str], *, width: int, height: int = 900, dark: bool = False) -> Seen:
        """Loads the page in a window of that size and evaluates the expressions in it."""
        return asyncio.run(asyncio.wait_for(self._look(url, expressions, width, height, dark), DEADLINE))

    async def _look(self, url: str, expressions: Sequence[str], width: int, height: int, dark: bool) -> Seen:
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{self._port}/json/new", method="PUT", body=b"")
        target = json.loads(answer.body)
        page = _Page(await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 27))
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.call(f"{domain}.enable")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            await page.call("Emulation.setDeviceMetricsOverride", **size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await page.call("Emulation.setEmulatedMedia", features=[scheme])
            await page.call("Page.navigate", url=url)
            await page.event("Page.loadEventFired")
            values = [await page.evaluate(expression) for expression in expressions]
        finally:
            page.close()
        return Seen(values, page.troubles, page.requests)


class _Page:
    """One tab, spoken to by numbered calls; what happens in between is kept."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._events: list[str] = []
        self.troubles: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **parameters: object) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        await self._connection.write_message(json.dumps(message))
        while True:
            answer = await self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    async def event(self, name: str) -> None:
        while name not in self._events:
            await self._read()

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self) -> None:
        self._connection.close()

    async def _read(self) -> dict[str, Any]:
        text = await self._connection.read_message()
        assert text is not None, "the browser closed the connection"
        message: dict[str, Any] = json.loads(text)
        method, told = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        match method:
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled":
                self.troubles.append(json.dumps(told)[:500])
            case "Log.entryAdded":
                self.troubles.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Page.javascriptDialogOpening":
                self.troubles.append(f"a dialog: {told['message']}")
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
        return message
