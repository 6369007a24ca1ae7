"""Names of accounts by their number, remembered: asking a directory service at every look would cost a network call."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1024)
def account_name(number: int) -> str:
    """The account's name; its number where no name is known."""
    # There is no such module on Windows, where nobody asks for numbers.
    import pwd  # noqa: PLC0415

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
