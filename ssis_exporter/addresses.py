"""Addresses to listen on as people write them: `:10058`, `127.0.0.1:10058`, `[::1]:10058`, `localhost:10058`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

METRICS_PORT = 10058
WEBHOOK_PORT = 10059


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    """Empty for every address of this machine."""

    port: int
    """0 for any free one."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)


def parse_address(text: str) -> Address:
    """Reads `HOST:PORT`. Raises `ValueError` with one sentence that says what would be right."""
    wrong = f"{text[:80]!r} is no address to listen on; write it like :10058, 127.0.0.1:10058 or [::1]:10058"
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port):
        raise ValueError(wrong)
    if int(port) > 65535:
        raise ValueError(f"{text[:80]!r}: a port is at most 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as exc:
            raise ValueError(wrong) from exc
    elif host and _NAME.fullmatch(host) is None:
        raise ValueError(wrong)
    return Address(host, int(port))
