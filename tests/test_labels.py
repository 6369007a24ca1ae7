"""Cleaning of label values, and of what must stay one line."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.labels import LONGEST, clean_label, clean_line

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=400)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Load",
        "Lade Kunden (täglich)",
        "\\\\host\\share",
        'a"b',
        "日本語",
        "no\u00a0break",
        "a\u200eb",
        "😀",
        "\u200f\u05e9\u05dc\u05d5\u05dd\u200e \u061c\u0645\u0631\u062d\u0628\u0627",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        " outer spaces ",
        "a" * LONGEST,
    ],
)
def test_fit_text_stays_as_it_is(text: str) -> None:
    """
    Names as people write them are not touched, in any script.
    """
    assert (text, text) == (clean_label(text), clean_line(text))


def test_a_line_feed_stays_in_a_label_and_in_no_line() -> None:
    """
    A label has as many lines as the name; a table, a page and a key have one.
    """
    assert ("a\n\nb\n", "a\ufffd\ufffdb\ufffd") == (clean_label("a\n\nb\n"), clean_line("a\n\nb\n"))
    assert ("a\ufffd\nb", "a\ufffd\ufffdb") == (clean_label("a\r\nb"), clean_line("a\r\nb"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\rb\tc", "a\ufffdb\ufffdc"),
        ("\x00\x1b[31m\x7f\x85\x9f", "\ufffd\ufffd[31m\ufffd\ufffd\ufffd"),
        ("a\u2028b\u2029", "a\ufffdb\ufffd"),
        ("\ud800\udfff", "\ufffd\ufffd"),
        ("\u202eyadretseY\u2069", "\ufffdyadretseY\ufffd"),
    ],
)
def test_unfit_characters_are_replaced_visibly(text: str, expected: str) -> None:
    """
    Control characters, Unicode's line breaks, lone surrogates and what turns text around become U+FFFD, one for one.
    """
    assert (expected, expected) == (clean_label(text), clean_line(text))


def test_long_text_is_cut_visibly() -> None:
    """
    A value has at most 256 characters; one that was longer ends in an ellipsis.
    """
    assert "a" * 255 + "…" == clean_label("a" * 257) == clean_line("a" * 257)
    assert "a" * 257 == clean_label("a" * 257, longest=257) == clean_line("a" * 257, longest=257)


@given(ANY_TEXT)
def test_whatever_comes_in_is_fit_when_it_comes_out(text: str) -> None:
    """
    A cleaned text can be encoded, has no control character (a label: but line feeds) and is not too long; cleaning
    again changes nothing, and a line is the same whether or not the text was a label before.
    """
    label, line = clean_label(text), clean_line(text)

    for cleaned in (label.replace("\n", ""), line):
        cleaned.encode()
        assert len(cleaned) <= LONGEST
        assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in cleaned}
    assert len(label) <= LONGEST
    assert (label, line) == (clean_label(label), clean_line(line))
    assert line == clean_line(label)


@given(ANY_TEXT)
def test_only_unfit_characters_change(text: str) -> None:
    """
    What is kept stands where it stood.
    """
    pairs = [*zip(text[: LONGEST - 1], clean_label(text), strict=False)]

    assert all(before == after for before, after in pairs if after != "\ufffd")
