"""Listening sockets for an address, or one sentence that says why there are none."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterable

from ssis_exporter.addresses import Address
from ssis_exporter.errors import ListenError

BACKLOG = 256

WINDOWS_SOCKETS = 10000
"""From here on the numbers are Windows' own, and only the error itself knows what they mean."""

WINDOWS_NO_ACCESS = 10013
WINDOWS_IN_USE = 10048
WINDOWS_NOT_HERE = 10049


def listen_on(address: Address) -> list[socket.socket]:
    """
    Sockets that listen on this address: several where a name stands for several addresses.

    An empty host and `[::]` mean every address of this machine, IPv4 and IPv6 by one socket, as in other exporters;
    `0.0.0.0` means IPv4 only. May block to resolve a name. Raises `ListenError`.
    """
    try:
        if address.host in ("", "::"):
            return [_every_address(address)]
        return _resolved(address)
    except socket.gaierror as exc:
        raise ListenError(f"cannot listen on {address}: the name {address.host} does not resolve") from exc
    except OSError as exc:
        raise ListenError(refusal(address, exc, windows=sys.platform == "win32")) from exc


def refusal(address: Address, exc: OSError, *, windows: bool) -> str:
    """What went wrong with this address, in one sentence."""
    code = getattr(exc, "winerror", None) or exc.errno
    if windows and code in (WINDOWS_NO_ACCESS, errno.EACCES):
        why = (
            f"another program holds port {address.port} or Windows has reserved it "
            "(see: netsh int ipv4 show excludedportrange protocol=tcp)"
        )
    elif code in (errno.EADDRINUSE, WINDOWS_IN_USE):
        why = f"port {address.port} is in use by another program"
        if windows:
            why += " (reserved ranges: netsh int ipv4 show excludedportrange protocol=tcp)"
    elif code in (errno.EADDRNOTAVAIL, WINDOWS_NOT_HERE):
        why = f"this machine has no address {address.host}"
    elif code in (errno.EACCES, errno.EPERM):
        why = f"this account may not use port {address.port}; ports below 1024 need more rights"
    elif exc.errno is None or exc.errno >= WINDOWS_SOCKETS:
        why = exc.strerror or str(exc)
    else:
        why = os.strerror(exc.errno)
    return f"cannot listen on {address}: {why}"


def _every_address(address: Address) -> socket.socket:
    try:
        return _bound(socket.AF_INET6, ("::", address.port), both_families=True)
    except OSError as exc:
        no_ipv6 = exc.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, WINDOWS_NOT_HERE)
        if not no_ipv6 or address.host == "::":
            raise
    return _bound(socket.AF_INET, ("0.0.0.0", address.port))  # noqa: S104 - every address is what was asked for


def _resolved(address: Address) -> list[socket.socket]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # IPv4 first: of a name that stands for both, that one must work; IPv6 may be switched off on this machine.
    families = sorted({(family, where) for family, _, _, _, where in found}, key=lambda item: item[0])
    bound: list[socket.socket] = []
    try:
        for family, where in families:
            # With port 0 the second address takes the port that the first one got.
            port = bound[0].getsockname()[1] if bound else address.port
            try:
                bound.append(_bound(family, (where[0], port, *where[2:])))
            except OSError as exc:
                if not bound or exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, WINDOWS_NOT_HERE):
                    raise
    except OSError:
        close_all(bound)
        raise
    return bound


def _bound(family: int, where: tuple[object, ...], *, both_families: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # Without it another program could bind the same port and take our requests.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both_families else 1)
        made.setblocking(False)
        made.bind(where)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Closes each of them."""
    for one in sockets:
        with contextlib.suppress(OSError):
            one.close()


def peer_name(address: object) -> str:
    """Who connected, for the log: an IPv4 peer of an IPv6 socket by its IPv4 address."""
    host = str(address[0]) if isinstance(address, tuple) and address else "?"
    return host.removeprefix("::ffff:")
