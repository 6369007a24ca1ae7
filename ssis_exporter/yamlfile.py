"""Reads a YAML 1.2 file into plain values that know their place, so that an error can name file, line and key."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from ssis_exporter.errors import ConfigError

MAX_BYTES = 1024 * 1024
MAX_NODES = 50_000
"""After aliases were followed: nine lines of aliases of aliases can stand for a billion values."""
MAX_DEPTH = 40

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the file and where it stands."""

    value: Mapping[str, Node] | tuple[Node, ...] | Scalar
    file: str
    line: int
    """Of its key, where it has one."""

    path: str
    """`sources[0].name`; empty for the whole file."""

    def error(self, sentence: str) -> ConfigError:
        """An error about this value, to be raised."""
        return ConfigError(
            f"{self.file}:{self.line}: {self.path}: {sentence}" if self.path else f"{self.file}:{self.line}: {sentence}"
        )

    def at(self, *keys: str | int) -> Node:
        """What stands below under these keys and indexes; must be there."""
        node = self
        for key in keys:
            if isinstance(key, int):
                assert isinstance(node.value, tuple)
                node = node.value[key]
            else:
                assert isinstance(node.value, Mapping)
                node = node.value[key]
        return node

    def child(self, key: str | int) -> str:
        """The path of what stands below this under a key or at an index."""
        if isinstance(key, int):
            return f"{self.path}[{key}]"
        return f"{self.path}.{key}" if self.path else key


def read_file(path: Path, *, what: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of bounded size. Raises `ConfigError` with one sentence otherwise."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{path}: {what} is a directory; name a file")
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: {what} is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except (OSError, ValueError) as exc:
        # By number: the sentence is the same on every system.
        number = getattr(exc, "errno", None)
        why = os.strerror(number) if number is not None else str(exc)
        raise ConfigError(f"{path}: {what} cannot be read: {why}") from exc
    if len(data) > max_bytes:
        raise ConfigError(f"{path}: {what} is larger than {max_bytes} bytes")
    return data


def read_yaml(path: Path, *, what: str) -> Node:
    """
    The file as nodes; an empty one is an empty mapping.

    Raises `ConfigError` for a file that cannot be read, is no UTF-8 or no YAML, has a key twice, or a tag.
    """
    return parse_yaml(read_file(path, what=what), str(path), what=what)


def parse_yaml(data: bytes, file: str, *, what: str) -> Node:
    """As `read_yaml`, from bytes; `file` is only named in errors."""
    text = _decode(data, file, what)
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = yaml.compose(text)
    except MarkedYAMLError as exc:
        line, problem = _told(exc)
        if problem.startswith("maximum depth"):
            raise ConfigError(f"{file}:{line}: {what} is nested deeper than {MAX_DEPTH} levels") from exc
        raise ConfigError(f"{file}:{line}: this is no valid YAML: {problem}") from exc
    except RecursionError as exc:
        # Releases of the library that know no `max_depth`.
        raise ConfigError(f"{file}:1: {what} is nested deeper than {MAX_DEPTH} levels") from exc
    except (YAMLError, ValueError, AssertionError) as exc:
        raise ConfigError(f"{file}:1: this is no valid YAML: {' '.join(str(exc).split())}") from exc
    if root is None:
        return Node({}, file, 1, "")
    return _Reader(file, what).node(root, root.start_mark.line + 1, "", 0)


_IN_PLAIN_WORDS = (
    (r"found character '\\t' .*", "a tab begins this line or word; indent with spaces"),
    (r"found character '(.)' .*", "a text that begins with {} must stand in single quotes"),
    (r"found undefined alias .*|expected alphabetic .*", "a text that begins with * or & must stand in single quotes"),
    (r"sequence entries are .*", "a list with dashes begins in a line of its own"),
    (
        r"found unknown escape .*|expected escape .*",
        "in double quotes a backslash means something else; put the text in single quotes",
    ),
    (
        r"mapping values are .*",
        "no key fits here; look for other indentation, a missing colon or no space after one, also one line above",
    ),
    (
        r"expected <block end>, but found ','",
        "a comma ends this entry; entries of a list with dashes have none between them",
    ),
    (r"expected <block end>, .*", "this line is indented otherwise than what it belongs to"),
    (r"but found another document", "a second document begins here; a configuration is one, so remove the line ---"),
)
_WHERE_IT_BEGAN = (
    (r"could not find expected ':'", "a key needs a colon, and a space after it"),
    (r"found unexpected end of stream", "the quotation mark in this line is not closed"),
    (r"expected ',' or '(.)', but got .*", "what is opened in this line lacks a comma or the closing {}"),
)
"""What the library says, and what helps somebody who does not know how YAML is read."""


def _told(exc: MarkedYAMLError) -> tuple[int, str]:
    """The line to look at, and what is wrong there."""
    mark = exc.problem_mark or exc.context_mark
    line = mark.line + 1 if mark else 1
    problem = " ".join(str(exc.problem or exc.context).split())
    for pattern, words in _IN_PLAIN_WORDS:
        if found := re.fullmatch(pattern, problem):
            return line, words.format(*found.groups())
    for pattern, words in _WHERE_IT_BEGAN:
        if found := re.fullmatch(pattern, problem):
            # The library names the place where it noticed, which may be the end of the file.
            return (exc.context_mark.line + 1 if exc.context_mark else line), words.format(*found.groups())
    return line, problem


def _decode(data: bytes, file: str, what: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{file}:1: {what} is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{file}:{line}: {what} is not UTF-8; save it as UTF-8") from exc
    bad = next(_unprintable(text), None)
    if bad is not None:
        line = text.count("\n", 0, bad) + 1
        raise ConfigError(f"{file}:{line}: {what} holds a control character (U+{ord(text[bad]):04X})")
    return text


def _unprintable(text: str) -> Iterator[int]:
    return (
        found.start()
        for found in re.finditer(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    )


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What `"CORP\\test"` holds where `'CORP\\test'` holds a backslash."""

_NULL = re.compile(r"~|null|Null|NULL|", re.ASCII)
_TRUE = re.compile(r"true|True|TRUE", re.ASCII)
_FALSE = re.compile(r"false|False|FALSE", re.ASCII)
_INT = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)


def _plain(text: str) -> Scalar:
    """The core schema of YAML 1.2 for a scalar without quotes; dates, `yes` and `20:00-06:00` are text."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Reader:
    """Turns the library's nodes into ours, within the limits."""

    def __init__(self, file: str, what: str) -> None:
        self._file = file
        self._what = what
        self._count = 0

    def node(self, raw: Any, line: int, path: str, depth: int) -> Node:
        here = Node(None, self._file, line, path)
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            raise Node(None, self._file, line, "").error(f"{self._what} holds too much; aliases count where they stand")
        tag = str(raw.tag)
        if not tag.startswith("tag:yaml.org,2002:") or "python" in tag:
            raise here.error(f"the tag {tag.replace('tag:yaml.org,2002:', '!!')[:40]} is not supported; leave it out")
        match raw:
            case MappingNode():
                return Node(self._mapping(raw, here, depth), self._file, line, path)
            case SequenceNode():
                items = tuple(
                    self.node(item, item.start_mark.line + 1, here.child(index), depth + 1)
                    for index, item in enumerate(raw.value)
                )
                return Node(items, self._file, line, path)
            case ScalarNode():
                plain = raw.style is None and not tag.endswith(":str")
                if raw.style == '"' and (hidden := _CONTROL.search(raw.value)):
                    raise here.error(
                        f"holds a control character (U+{ord(hidden[0]):04X}), which is what a backslash and a letter "
                        "mean in double quotes; put the text in single quotes"
                    )
                return Node(_plain(raw.value) if plain else raw.value, self._file, line, path)
        raise here.error("this is no mapping, list or scalar")

    def _mapping(self, raw: Any, here: Node, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for raw_key, raw_value in raw.value:
            line = raw_key.start_mark.line + 1
            at = Node(None, self._file, line, here.path)
            if not isinstance(raw_key, ScalarNode):
                raise at.error("a key must be one word")
            key = str(raw_key.value)
            if key in found:
                raise at.error(f"the key {key[:60]!r} stands twice; it is first in line {found[key].line}")
            found[key] = self.node(raw_value, line, here.child(key[:60]), depth + 1)
        return found
