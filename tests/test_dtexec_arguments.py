"""Arguments that are read where they lie: they say what a list of texts does, and are overwritten in the end."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.sources.dtexec.arguments import Arguments, Wiped

TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))


def texts_of(arguments: Arguments) -> list[str]:
    """All of them."""
    return [arguments.text(at) for at in range(len(arguments))]


@given(TEXTS.filter(lambda texts: texts != []))
def test_reads_as_the_kernel_writes(texts: list[str]) -> None:
    """
    Each argument ends with a zero byte.
    """
    found = Arguments.in_cmdline(Wiped(b"".join(os.fsencode(text) + b"\0" for text in texts)))

    assert texts == texts_of(found)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"\0", [""]),
        (b"\0\0", ["", ""]),
        (b"a", ["a"]),
        (b"a\0b", ["a", "b"]),
        (b"a\0\0b\0", ["a", "", "b"]),
        (b"a\xc3\xa4\0", ["a\u00e4"]),
    ],
)
def test_reads_what_is_cut_or_changed(content: bytes, texts: list[str]) -> None:
    """
    A process may write over its arguments, and long ones are cut: then the last has no end.
    """
    assert texts == texts_of(Arguments.in_cmdline(Wiped(content)))


@given(TEXTS, st.integers(0, 15))
def test_the_rest_is_the_rest(texts: list[str], count: int) -> None:
    """
    What comes after the first ones is what a list has there.
    """
    assert texts[count:] == texts_of(Arguments.of(texts).after(count))


@given(TEXTS, TEXTS)
def test_equal_are_those_that_say_the_same(ones: list[str], others: list[str]) -> None:
    """
    Wherever they lie.
    """
    assert (ones == others) is (Arguments.of(ones) == Arguments.of(others))
    assert Arguments.of(ones) == Arguments.of(["x", *ones]).after(1)


def test_a_pattern_is_tried_on_one_argument() -> None:
    """
    The whole argument must be what the pattern says, and nothing of its neighbours counts.
    """
    arguments = Arguments.of(["/F", "/File", "F"])
    pattern = re.compile(b"/f", re.IGNORECASE)

    assert [True, False, False] == [arguments.match(at, pattern) is not None for at in range(3)]


def test_overwritten_when_nobody_refers_to_it() -> None:
    """
    What is left of the arguments keeps their place, and the last reference to it takes all of it away.
    """
    ended: list[bytes] = []

    class Watched(Wiped):
        """Tells what it held in the end."""

        __slots__ = ()

        def __del__(self) -> None:
            super().__del__()
            ended.append(bytes(self))

    arguments = Arguments.in_cmdline(Watched(b"/P\0secret\0"))
    rest = arguments.after(1)
    del arguments
    assert ("secret", []) == (rest.text(0), ended)
    del rest

    assert [bytes(10)] == ended
