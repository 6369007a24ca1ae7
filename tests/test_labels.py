"""Cleaning of label values."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.labels import LONGEST, clean

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
        "a" * LONGEST,
    ],
)
def test_fit_text_stays_as_it_is(text: str) -> None:
    """
    Names as people write them are not touched, in any script.
    """
    assert text == clean(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "a\ufffdb"),
        ("a\r\nb", "a\ufffd\ufffdb"),
        ("\x00\x1b[31m\x7f\x85\x9f", "\ufffd\ufffd[31m\ufffd\ufffd\ufffd"),
        ("a\u2028b\u2029", "a\ufffdb\ufffd"),
        ("\ud800\udfff", "\ufffd\ufffd"),
        ("\u202eyadretseY\u2069", "\ufffdyadretseY\ufffd"),
    ],
)
def test_unfit_characters_are_replaced_visibly(text: str, expected: str) -> None:
    """
    Control characters, line breaks, lone surrogates and what turns text around become U+FFFD, one for one.
    """
    assert expected == clean(text)


def test_long_text_is_cut_visibly() -> None:
    """
    A value has at most 256 characters; one that was longer ends in an ellipsis.
    """
    assert "a" * 255 + "…" == clean("a" * 257)


@given(ANY_TEXT)
def test_whatever_comes_in_is_fit_when_it_comes_out(text: str) -> None:
    """
    A cleaned value can be encoded, has no control character and is not too long; cleaning again changes nothing.
    """
    cleaned = clean(text)

    cleaned.encode()
    assert len(cleaned) <= LONGEST
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in cleaned}
    assert cleaned == clean(cleaned)


@given(ANY_TEXT)
def test_only_unfit_characters_change(text: str) -> None:
    """
    What is kept stands where it stood.
    """
    kept = [
        (before, after) for before, after in zip(text[: LONGEST - 1], clean(text), strict=False) if after != "\ufffd"
    ]

    assert all(before == after for before, after in kept)
