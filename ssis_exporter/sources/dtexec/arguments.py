"""
A command line's arguments where they were read, overwritten when nobody needs them any more.

Passwords stand among them. Text that Python makes stays in its memory long after nobody refers to it, where a dump of
the process would show it, so only those arguments become text that are asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Self


class Wiped(bytearray):
    """Bytes that are overwritten in the moment when nobody refers to them any more. Never make them longer."""

    __slots__ = ()

    def __del__(self) -> None:
        """Called by CPython as soon as the last reference goes, also where an exception ended their use."""
        self[:] = bytes(len(self))


class Arguments:
    """The arguments of a process, or what is left of them after the first ones; all in one place."""

    __slots__ = ("_begins", "_decode", "_place")

    def __init__(self, place: Wiped, begins: Sequence[int], decode: Callable[[bytes], str] = os.fsdecode) -> None:
        """
        `begins` says where in `place` each argument begins, and where one after the last would.

        Between two there is a zero byte. `decode` says what their bytes mean.
        """
        self._place = place
        self._begins = begins
        self._decode = decode

    @classmethod
    def in_cmdline(cls, place: Wiped) -> Self:
        """What `/proc/PID/cmdline` holds: each argument ends with a zero byte, the last one mostly."""
        begins = [0]
        while begins[-1] < len(place):
            end = place.find(0, begins[-1])
            begins.append((end if end >= 0 else len(place)) + 1)
        return cls(place, tuple(begins))

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The same for texts that somebody else made; those cannot be overwritten."""
        parts = [os.fsencode(text) for text in texts]
        return cls(Wiped(b"\0".join(parts)), (0, *accumulate(len(part) + 1 for part in parts)))

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __eq__(self, other: object) -> bool:
        """Whether both say the same; nothing is copied."""
        if not isinstance(other, Arguments):
            return NotImplemented
        return len(self) == len(other) and all(self.view(at) == other.view(at) for at in range(len(self)))

    __hash__ = None  # type: ignore[assignment]  # as of any class that compares by what it holds

    def after(self, count: int) -> Arguments:
        """Those after the first ones."""
        return Arguments(self._place, self._begins[min(count, len(self)) :], self._decode)

    def text(self, at: int) -> str:
        """One of them, which stays in memory from then on: only for what is no secret."""
        return self._decode(bytes(self.view(at)))

    def match(self, at: int, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Whether the whole argument is what the pattern says; nothing is copied."""
        return pattern.fullmatch(self.view(at))

    def view(self, at: int) -> memoryview:
        """Its bytes, where they lie."""
        return memoryview(self._place)[self._begins[at] : self._begins[at + 1] - 1]
