"""Secrets come from files and are never printed."""

from __future__ import annotations

import copy
import logging
import os
import pickle
from pathlib import Path

import pytest

from ssis_exporter.errors import ConfigError
from ssis_exporter.secretfile import Secret, read_secret, too_open


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that only its owner can read."""
    path = tmp_path / "sql.password"
    path.touch(mode=0o600)
    return path


def test_a_secret_is_the_text_without_the_line_end(path: Path) -> None:
    """
    Editors end the last line; the password has no line end.
    """
    path.write_bytes("hünter 2\r\n".encode())

    assert "hünter 2" == read_secret(path, what="password_file").reveal()


def test_a_secret_shows_itself_in_no_way() -> None:
    """
    Neither repr, str, formatting nor an exception's arguments show it, and it is not written to a stream.
    """
    secret = Secret("hunter2")

    for text in (repr(secret), str(secret), f"{secret}", "%s" % secret, f"{secret!r}", str([secret])):  # noqa: UP031
        assert "hunter2" not in text
        assert "<secret>" in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\nsecond line", "must be one line without control characters"),
        (b"hunter2\x00", "must be one line without control characters"),
        (b"hunter2\xff", "is not UTF-8; save it as UTF-8 (PowerShell: Set-Content -Encoding utf8)"),
        ("hunter2\r\n".encode("utf-16"), "is not UTF-8; save it as UTF-8 (PowerShell: Set-Content -Encoding utf8)"),
        (b"h" * 4097, "is larger than 4096 bytes"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_without_showing_it(path: Path, content: bytes, sentence: str) -> None:
    """
    The sentence names the file and what is wrong; nothing of the content is in it, nor in what it was raised from.
    """
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_secret(path, what="password_file")

    assert f"{path}: password_file {sentence}" == str(caught.value)
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value)


def test_a_file_that_everybody_can_read_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    It is used all the same: a container may know better. Windows has no modes, and its lists are not looked at.
    """
    path.write_text("hunter2\n")
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        secret = read_secret(path, what="password_file")

    assert "hunter2" == secret.reveal()
    warning = f"{path}: password_file can be read by every account of this machine; run: chmod o-rwx {path}"
    assert (os.name == "posix") == (warning in caplog.text)
    path.chmod(0o640)
    assert "" == too_open(path, what="password_file")
