"""Makes any text fit to be shown: as the value of a label, or in what must stay one line."""

from __future__ import annotations

import re

LONGEST = 256
"""Characters of the longest label value. Prometheus refuses a whole scrape over one that is beyond its limit."""

LONGEST_PATH = 2 * 128 + 1
"""Characters of a name with its folder's, as an environment is told: the catalog gives 128 to each."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CUT = "\N{HORIZONTAL ELLIPSIS}"

# C0, DEL and C1 break terminals, and lines of who reads a page line by line; so do the two Unicode line breaks. A lone
# surrogate (nvarchar and Windows names can hold one) cannot be encoded. Embeddings, overrides and isolates make a whole
# name read as another one, and people decide on stops by these names; the three direction marks stay, names in Arabic
# and Hebrew need them. The line feed is the one control character that both text formats can write as an escape.
_UNFIT = "\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNFIT_IN_LABEL = re.compile(f"[{_UNFIT}]")
_UNFIT_IN_LINE = re.compile(f"[\n{_UNFIT}]")


def clean_label(value: str, *, longest: int = LONGEST) -> str:
    """
    The text as the value of a label, which may have several lines: each unfit character but the line feed replaced by
    U+FFFD, and cut to 256 characters, the last one an ellipsis then.

    What is fit comes back as it is; cleaning twice changes nothing.
    """
    return _clean(_UNFIT_IN_LABEL, value, longest)


def clean_line(value: str, *, longest: int = LONGEST) -> str:
    """
    The text for a table, a page, a sentence or a key, which must stay one line: as `clean_label`, without line feeds.

    The same whether or not the text was cleaned for a label before. Only what is no label may be longer.
    """
    return _clean(_UNFIT_IN_LINE, value, longest)


def _clean(unfit: re.Pattern[str], value: str, longest: int) -> str:
    # Nothing that is unfit is printable, so plain names pass at the price of one scan in C.
    if not value.isprintable():
        value = unfit.sub(REPLACEMENT, value)
    if len(value) > longest:
        return value[: longest - 1] + CUT
    return value
