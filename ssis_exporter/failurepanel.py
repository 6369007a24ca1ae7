"""The page's section about what failed last, with the first error message where the source keeps one."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ssis_exporter.historyfile import Failure
from ssis_exporter.labels import clean_line
from ssis_exporter.landing import section, span, table, text, when
from ssis_exporter.model import Result

SHOWN = 20
"""How many failures are shown."""

LONGEST_MESSAGE = 500
"""Of a message on the page; all of it is in the JSON answer."""


def render(failures: Sequence[Failure]) -> str:
    """The section."""
    if not failures:
        return section("failures", "Failed last", "<p>No failure is known.</p>\n")
    columns = ("Ended (UTC)", "Package", "Folder / project", "Source", "Result", "Took", "First error")
    caption = "The last failure" if len(failures) == 1 else f"The last {len(failures)} failures, newest first"
    link = '<p>All that are kept: <a href="api/v1/failures">JSON</a>.</p>\n'
    return section("failures", "Failed last", table(caption, columns, map(_failure, failures)) + link)


def _failure(failure: Failure) -> tuple[str, ...]:
    return (
        when(failure.ended_at),
        f'<span title="{text(failure.instance_id)}">{text(failure.package_name)}</span>',
        " / ".join(text(part) for part in (failure.folder, failure.project) if part),
        text(failure.source),
        f'<span class="bad">{"ended unexpectedly" if failure.result is Result.ENDED_UNEXPECTEDLY else "failed"}</span>',
        span(failure.duration) if failure.duration is not None else "",
        html.escape(clean_line(failure.message, longest=LONGEST_MESSAGE)) if failure.message else "",
    )
