"""Log lines: one each, whatever is in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter import logs

log = logging.getLogger("ssis_exporter.part")


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """Puts the root logger back as it was; the handlers that were there are only taken off, not closed."""
    logger = logging.getLogger()
    handlers, level, raising = logger.handlers[:], logger.level, logging.raiseExceptions
    logger.handlers.clear()
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.raiseExceptions = raising


def written(write: Callable[[], object], level: str = "info", format: str = "logfmt") -> str:  # noqa: A002
    """What the log says while `write` runs."""
    stream = io.StringIO()
    logging.getLogger().handlers.clear()
    logs.configure(level=level, format=format, stream=stream)
    write()
    return stream.getvalue()


def test_a_line_of_logfmt() -> None:
    """
    Time in UTC, level, logger, message.
    """
    line = written(lambda: log.warning("source %s did not answer", "sql01"))

    assert line.startswith("ts=20")
    assert line.endswith('+00:00 level=warn logger=ssis_exporter.part msg="source sql01 did not answer"\n')


def test_a_line_of_json() -> None:
    """
    The same fields as JSON.
    """
    fields = json.loads(written(lambda: log.error("it is %d", 5), format="json"))

    assert ["ts", "level", "logger", "msg"] == list(fields)
    assert ("error", "ssis_exporter.part", "it is 5") == (fields["level"], fields["logger"], fields["msg"])


@pytest.mark.parametrize("format_", logs.FORMATS)
@given(text=st.text())
def test_a_message_is_one_line_whatever_it_holds(format_: str, text: str) -> None:
    """
    No text ends the line, moves the cursor, or begins a field of its own.
    """
    line = written(lambda: log.info("before %s after", text), format=format_)

    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert 1 == len(line.splitlines())


def test_a_message_cannot_forge_a_field() -> None:
    """
    What looks like another field stays inside the quotes.
    """
    line = written(lambda: log.info("%s", 'x" level=error msg="gotcha\nts=1 level=error'))

    assert r'msg="x\" level=error msg=\"gotcha\\nts=1 level=error"' in line


def test_a_long_message_is_cut_visibly() -> None:
    """
    A peer cannot fill the disk with one name.
    """
    line = written(lambda: log.info("%s", "x" * 1_000_000))

    assert len(line) < 2 * logs.MAX_CHARACTERS
    assert "... (995904 more)" in line


def fail() -> None:
    """Logs an exception with a text of two lines."""
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it failed")


def test_an_exception_is_one_line_without_traceback() -> None:
    """
    Its kind and text stand on the line; where it happened is for debug.
    """
    line = written(fail)

    assert line.endswith(
        r'level=error logger=ssis_exporter.part msg="it failed" error="ValueError: first\\nsecond"' + "\n"
    )
    assert "Traceback" not in line


@pytest.mark.parametrize("format_", logs.FORMATS)
def test_debug_shows_where_it_failed(format_: str) -> None:
    """
    At level debug the traceback is there, still on the same line.
    """
    line = written(fail, level="debug", format=format_)

    assert "Traceback" in line
    assert "test_logs.py" in line
    assert 1 == len(line.splitlines())


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_a_level_leaves_out_what_is_less(level: str, count: int) -> None:
    """
    A level shows itself and what is worse.
    """

    def write() -> None:
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(number, "x")

    assert count == len(written(write, level=level).splitlines())


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """
    What an earlier run wrote stays.
    """
    path = tmp_path / "exporter.log"
    path.write_text("before\n")
    logs.configure(level="info", format="logfmt", file=path)
    log.info("one")

    assert ["before", "one"] == [line.rpartition("msg=")[2] for line in path.read_text().splitlines()]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    """
    As logrotate does it. Windows moves no open file, so there the question does not come up.
    """
    path, moved = tmp_path / "exporter.log", tmp_path / "exporter.log.1"
    logs.configure(level="info", format="logfmt", file=path)
    log.info("one")
    try:
        path.rename(moved)
    except PermissionError:
        return
    log.info("two")

    assert "msg=one" in moved.read_text()
    assert "msg=two" in path.read_text()


def test_a_stream_that_is_gone_disturbs_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    """
    A closed stderr must not cause tracebacks about itself.
    """
    stream = io.StringIO()
    logs.configure(level="info", format="logfmt", stream=stream)
    stream.close()
    log.info("x")

    assert ("", "") == tuple(capfd.readouterr())


@pytest.mark.parametrize(("level", "told"), [("info", False), ("warn", False), ("debug", True)])
def test_peers_cannot_fill_the_log(level: str, *, told: bool) -> None:
    """
    What peers send that is no TLS or no HTTP is told at debug level only.
    """
    general = logging.getLogger("tornado.general")
    line = written(lambda: general.warning("SSL Error on %d", 5), level=level)
    general.setLevel(logging.NOTSET)

    assert told == ("SSL Error on 5" in line)


@pytest.mark.parametrize(("level", "lines"), [("info", 1), ("debug", 2)])
def test_a_driver_that_tells_each_request_is_heard_at_debug_only(level: str, lines: int) -> None:
    """
    The catalog's driver logs a line for each request that it sends; its warnings are of use at any level.
    """

    def look() -> None:
        logging.getLogger("pytds").info("Sending RPC")
        logging.getLogger("pytds.tds_base").warning("unknown env type")

    assert lines == written(look, level=level).count("\n")
