"""Exit codes of every command. The README lists them; tests compare."""

from __future__ import annotations

OK = 0
FOUND = 1
"""The command worked and found something wrong: a source that cannot be read, a right that is missing."""
USAGE = 2
"""A flag or the configuration is wrong; nothing was started."""
LISTEN = 3
"""An address cannot be listened on."""
STORAGE = 4
"""A file of the exporter's own cannot be used, or another exporter uses it."""
UNFORESEEN = 5
"""A failure that nobody foresaw: please report it."""
INTERRUPTED = 130
"""Ended at once: by a second signal, or by Ctrl-C in a command that only asks."""

MEANINGS = {
    OK: "done; for `serve`: ended as asked",
    FOUND: "the command worked and found something wrong, for instance a source that cannot be read",
    USAGE: "a flag or the configuration is wrong; nothing was started",
    LISTEN: "an address cannot be listened on",
    STORAGE: "a file of the exporter's own cannot be used, or another exporter uses it",
    UNFORESEEN: "a failure that nobody foresaw; please report it",
    INTERRUPTED: "ended at once by a second signal, or by Ctrl-C",
}
