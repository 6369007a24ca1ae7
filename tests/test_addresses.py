"""Addresses to listen on."""

from __future__ import annotations

import pytest

from ssis_exporter.addresses import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        (":10058", Address("", 10058), False),
        ("0.0.0.0:10058", Address("0.0.0.0", 10058), False),
        ("127.0.0.1:0", Address("127.0.0.1", 0), True),
        ("127.8.9.10:1", Address("127.8.9.10", 1), True),
        ("[::1]:10058", Address("::1", 10058), True),
        ("[::]:10058", Address("::", 10058), False),
        ("localhost:65535", Address("localhost", 65535), True),
        ("LocalHost:80", Address("LocalHost", 80), True),
        ("etl01.corp.example:10058", Address("etl01.corp.example", 10058), False),
        ("localhost.corp.example:80", Address("localhost.corp.example", 80), False),
    ],
)
def test_an_address_is_read_and_printed(text: str, address: Address, loopback: bool) -> None:
    """
    What was read is printed as it was; only this machine's own addresses are loopback.
    """
    found = parse_address(text)

    assert address == found
    assert text == str(found)
    assert loopback is found.is_loopback


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10058",
        "localhost",
        "::1:10058x",
        "[::1]",
        "[nothing]:80",
        "::1:80",
        "a b:80",
        "http://a:80",
        "a:-1",
        "-a:80",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """
    The sentence says how to write one.
    """
    with pytest.raises(ValueError, match="is no address to listen on; write it like :10058"):
        parse_address(text)


def test_a_port_has_an_upper_bound() -> None:
    """
    A port has 16 bits.
    """
    with pytest.raises(ValueError, match="a port is at most 65535"):
        parse_address(":65536")
