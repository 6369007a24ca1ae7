"""Makes any text fit to be a label value: the one cleaning function."""

from __future__ import annotations

import re

LONGEST = 256
"""Characters of the longest label value. Prometheus refuses a whole scrape over one that is beyond its limit."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CUT = "\N{HORIZONTAL ELLIPSIS}"

# C0, DEL and C1 break lines and terminals; so do the two Unicode line breaks. A lone surrogate (nvarchar and Windows
# names can hold one) cannot be encoded. Embeddings, overrides and isolates make a whole name read as another one, and
# people decide on stops by these names; the three direction marks stay, names in Arabic and Hebrew need them.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(value: str, *, longest: int = LONGEST) -> str:
    """
    The text with every unfit character replaced by U+FFFD, and cut to 256 characters, the last one an ellipsis then.
    Only what is no label may be longer.

    What is fit comes back as it is; cleaning twice changes nothing.
    """
    # Nothing that is unfit is printable, so plain names pass at the price of one scan in C.
    if not value.isprintable():
        value = _UNFIT.sub(REPLACEMENT, value)
    if len(value) > longest:
        return value[: longest - 1] + CUT
    return value
