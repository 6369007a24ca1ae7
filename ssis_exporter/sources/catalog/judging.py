"""How seldom a server is asked for what it has to judge row by row: the new runs of a login that sees only its own."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ssis_exporter.errors import SourceTimeout
from ssis_exporter.model import Scope
from ssis_exporter.sources.catalog.rights import Rights

log = logging.getLogger(__name__)

IS_QUICK, SHARE = 0.5, 0.05
"""
Where the login sees only its own runs, the catalog judges each newer row of all others by its permissions, and no
question avoids that. If it takes more seconds than the first, new runs are asked for seldom enough to take no more than
the second of the time, and the answer is incomplete between. Known runs are asked for by id at every look. The same
where the server comes to no end with it in time, though it answers a small question.
"""

_HARD = (
    "so for every look the server judges the runs of all others, which %s; new runs are looked for in a twentieth of"
    " the time; ssis-exporter check prints what to grant"
)


class Judging:
    """What it took, and when it may be asked for again. Belongs to one source's thread."""

    def __init__(self, source: str, *, monotonic: Callable[[], float]) -> None:
        self._source = source
        self._monotonic = monotonic
        self._not_before = 0.0
        self._since: float | None = None
        """Since when a server that answers small questions has been judging, as far as the look that runs knows."""
        self._gave_up = False
        """Whether it came to no end with it when it was last asked."""
        self._rights = Rights()
        self._told = False

    @property
    def is_due(self) -> bool:
        """Whether new runs may be asked for."""
        return self._monotonic() >= self._not_before

    def forget(self) -> None:
        """Something changed for which new runs have to be asked for at once."""
        self._not_before = 0.0
        self._gave_up = False

    def look_begins(self) -> None:
        """A look that has asked for nothing yet."""
        self._since = None

    def answers(self, rights: Rights) -> None:
        """The server has answered a small question: whatever takes long from now on is its judging."""
        self._rights = rights
        self._since = None if rights.visibility.scope is Scope.ALL else self._monotonic()

    def check_due(self) -> None:
        """Raises `SourceTimeout` where a look that cannot do without judging has to wait."""
        if self._since is not None and self._gave_up and not self.is_due:
            raise self._hard()

    def done(self, rights: Rights, since: float) -> None:
        """New runs were asked for, from `since` to now."""
        self._gave_up = False
        took = self._monotonic() - since
        if rights.visibility.scope is Scope.ALL or took <= IS_QUICK:
            return
        self._not_before = since + took / SHARE
        if not self._told:
            self._told = True
            log.warning(
                "source %s: %s, %s", self._source, rights.visibility.detail, _HARD % f"has taken it {took:.1f} s"
            )

    def silent(self) -> SourceTimeout | None:
        """The look ended with its time: the reason, where it is the judging."""
        if self._since is None:
            return None
        self._gave_up = True
        self._not_before = self._since + (self._monotonic() - self._since) / SHARE
        return self._hard()

    def _hard(self) -> SourceTimeout:
        return SourceTimeout(f"{self._rights.visibility.detail}, {_HARD % 'it did not do in time'}")
