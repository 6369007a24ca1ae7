"""What the Linux kernel lets this process do beyond what its account may."""

from __future__ import annotations

from pathlib import Path

SIGNAL_OTHERS = 5
"""CAP_KILL."""

TRACE_OTHERS = 19
"""CAP_SYS_PTRACE."""


def has_capability(number: int) -> bool | None:
    """Whether it is in force; None where the kernel does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return None
    return bool(int(line.split()[1], 16) >> number & 1)
