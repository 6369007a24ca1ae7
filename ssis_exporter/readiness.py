"""Makes msgspec know types before threads need them."""

from __future__ import annotations

from typing import Any

import msgspec


def make_ready(*kinds: Any) -> None:
    """
    Has msgspec look at these types now, on the thread that imports the module which reads them.

    msgspec looks at a dataclass or struct when it is first read, and keeps what it found on the class. A second thread
    that reads the same type in that moment finds half of it and takes the process down (seen with 0.22.0). Every
    module that reads into a type of its own says so here, at import.
    """
    for kind in kinds:
        msgspec.json.Decoder(kind)
