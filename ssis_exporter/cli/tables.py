"""Rows of text for people: a table on a terminal, a record each where it is too narrow, plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

import click

FOLDING = {"USER": 10, "STATUS": 10, "FOLDER": 10, "PROJECT": 10, "FIRST ERROR": 30}
"""
Columns whose texts may go over several lines, and how many characters they keep at least. Names of packages and ids
stay whole: they are copied into other commands.
"""

NUMBERS = frozenset({"AGE", "USUAL", "TIMES", "TOOK"})

GAP = 2


def print_rows(heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO | None, width: int) -> None:
    """Prints them to stdout, whose width counts where it is a terminal. A shell that closed it (`>&-`) leaves None."""
    if out is None:
        return
    if not out.isatty():
        for line in plain_lines(heads, rows):
            click.echo(line, out)
    elif fits(heads, rows, width):
        _print_table(heads, rows, out, width)
    else:
        for line in record_lines(heads, rows):
            click.echo(line, out)


def plain_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their longest text, for `grep` and `awk`."""
    widths = _widths(heads, rows)
    for row in (heads, *rows):
        yield (" " * GAP).join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def fits(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table of this width can hold every text that stays whole."""
    needed = (min(wide, FOLDING.get(head, wide)) for head, wide in zip(heads, _widths(heads, rows), strict=True))
    return sum(needed) + GAP * (len(heads) - 1) <= width


def record_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line for each text that there is, an empty line between two rows."""
    wide = max(map(len, heads))
    for number, row in enumerate(rows):
        if number:
            yield ""
        for head, text in zip(heads, row, strict=True):
            if text:
                yield f"{head:<{wide}}  {text}"


def _widths(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO, width: int) -> None:
    # Only for a terminal: rich alone takes longer to import than everything else here.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        justify = "right" if head in NUMBERS else "left"
        table.add_column(head, justify=justify, overflow="fold", no_wrap=head not in FOLDING)  # type: ignore[arg-type]
    for row in rows:
        # As Text: a package may be called "[red]".
        table.add_row(*(Text(text) for text in row))
    Console(file=out, width=width).print(table)
