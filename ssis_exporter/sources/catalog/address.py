"""From the name of a server to a connected socket: instance names, several addresses, one deadline."""

from __future__ import annotations

import logging
import socket

from ssis_exporter.errors import SourceError, SourceMissing, SourceTimeout, SourceUnreachable
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.resolver import Resolver
from ssis_exporter.sources.catalog.settings import ServerAddress

log = logging.getLogger(__name__)

BROWSER_PORT = 1434
BROWSER_WAIT, BROWSER_TRIES = 2.0, 3
"""Seconds for one question to the browser service, and how often it is asked: UDP loses packets."""

LONGEST_REPLY = 65535

RESOLVER = Resolver()
"""For all sources."""


def connect(
    address: ServerAddress,
    deadline: Deadline,
    *,
    browser_port: int = BROWSER_PORT,
    resolver: Resolver = RESOLVER,
) -> tuple[socket.socket, int]:
    """
    A connected socket and the port that was used.

    A name with several addresses (a listener of an availability group over two subnets has one that is dead) is tried
    address by address, each with its share of the time. Raises `SourceTimeout` when one of them keeps silent, as a
    scrape says whose own time ends before, and `SourceUnreachable` when all refuse.
    """
    deadline = deadline.of_one_wait()
    port = address.port or instance_port(address, deadline, browser_port=browser_port, resolver=resolver)
    found = resolver.addresses(address.host, port, deadline.left)
    troubles: list[str] = []
    kind: type[SourceError] = SourceUnreachable
    for place, (family, sockaddr) in enumerate(found):
        share = deadline.left / (len(found) - place)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(share)
            sock.connect(sockaddr)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as exc:
            sock.close()
            troubles.append(f"{sockaddr[0]}: {exc.strerror or exc}")
            if isinstance(exc, TimeoutError):
                kind = SourceTimeout
        else:
            return sock, port
    raise kind(f"port {port} does not answer ({'; '.join(troubles)})")


def instance_port(
    address: ServerAddress,
    deadline: Deadline,
    *,
    browser_port: int = BROWSER_PORT,
    resolver: Resolver = RESOLVER,
) -> int:
    """
    The TCP port of a named instance, from the SQL Server Browser service (MC-SQLR: a question of byte 4 and the name).

    Raises `SourceTimeout` when the service keeps silent, `SourceUnreachable` when it is not there, `SourceMissing` for
    an instance without a port.
    """
    question = b"\x04" + address.instance.encode("ascii", "replace") + b"\0"
    found = resolver.addresses(address.host, browser_port, deadline.left)
    # Within the time that there is, so that whoever waits is told what does not answer.
    wait = min(BROWSER_WAIT, deadline.left / BROWSER_TRIES) / len(found)
    kind: type[SourceError] = SourceUnreachable
    for _ in range(BROWSER_TRIES):
        for family, sockaddr in found:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(wait)
                try:
                    sock.connect(sockaddr)
                    sock.send(question)
                    reply = sock.recv(LONGEST_REPLY)
                except OSError as exc:
                    log.debug("browser service of %s at %s: %s", address.host, sockaddr[0], exc)
                    if isinstance(exc, TimeoutError):
                        kind = SourceTimeout
                    continue
            return _port_in(reply, address)
    raise kind(
        f"the SQL Server Browser service of {address.host} (UDP {browser_port}) does not answer;"
        f" start it or name the port: {address.host}:PORT"
    )


def _port_in(reply: bytes, address: ServerAddress) -> int:
    words = reply[3:].decode("ascii", "replace").split(";")
    facts = dict(zip(words[::2], words[1::2], strict=False))
    port = facts.get("tcp", "")
    if reply[:1] != b"\x05" or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SourceMissing(f"the instance {address.instance} does not listen on TCP")
    return int(port)
