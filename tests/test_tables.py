"""Rows of text for people."""

from __future__ import annotations

import io

import pytest

from ssis_exporter.cli.tables import FOLDING, fits, plain_lines, print_rows, record_lines

HEADS = ("PACKAGE", "USER", "AGE", "INSTANCE ID")
ROWS = (("ExtractFactSales", "CORP\\svc_etl_of_the_warehouse", "8h36m", "217565558952770"), ("Load", "", "", "4711"))


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        """True."""
        return True


def test_elsewhere_than_on_a_terminal_there_are_plain_columns() -> None:
    """
    Each column is as wide as its longest text, and no line ends in blanks.
    """
    assert [
        "PACKAGE           USER                           AGE    INSTANCE ID",
        "ExtractFactSales  CORP\\svc_etl_of_the_warehouse  8h36m  217565558952770",
        "Load                                                    4711",
    ] == list(plain_lines(HEADS, ROWS))
    pipe = io.StringIO()
    print_rows(HEADS, ROWS, pipe, 20)
    assert list(plain_lines(HEADS, ROWS)) == pipe.getvalue().splitlines()


@pytest.mark.parametrize("width", range(20, 100, 4))
def test_an_id_is_never_cut_in_two(width: int) -> None:
    """
    What is copied into another command stands in one piece, however narrow the terminal.
    """
    terminal = Terminal()
    print_rows(HEADS, ROWS, terminal, width)
    shown = terminal.getvalue()

    for text in ("ExtractFactSales", "8h36m", "217565558952770"):
        assert text in shown
    if fits(HEADS, ROWS, width):
        assert max(len(line) for line in shown.splitlines() if "\x1b" not in line) <= width


def test_a_terminal_that_is_too_narrow_gets_a_record_for_each_row() -> None:
    """
    With no line for what is not there.
    """
    assert 10 == FOLDING["USER"]
    assert not fits(HEADS, ROWS, 16 + 10 + 5 + 15 + 3 * 2 - 1)
    assert fits(HEADS, ROWS, 16 + 10 + 5 + 15 + 3 * 2)
    assert [
        "PACKAGE      ExtractFactSales",
        "USER         CORP\\svc_etl_of_the_warehouse",
        "AGE          8h36m",
        "INSTANCE ID  217565558952770",
        "",
        "PACKAGE      Load",
        "INSTANCE ID  4711",
    ] == list(record_lines(HEADS, ROWS))


def test_without_a_stdout_nothing_fails() -> None:
    """
    A shell that closed stdout (`>&-`) wants to see nothing.
    """
    print_rows(HEADS, ROWS, None, 80)
