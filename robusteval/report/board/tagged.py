"""What people wrote on runs: tags and notes."""

from __future__ import annotations

from robusteval.errors import UserError
from robusteval.store import StoredRun
from robusteval.tags import Label, read_label

UNREADABLE = "(unreadable tags)"


def label(stored: StoredRun) -> Label:
    """The run's tags and note; where they cannot be read a tag that says so: no number depends on it."""
    if "\0" in str(stored.folder):
        return Label()  # no system has such a folder: a run that was made in memory, with its id as name
    try:
        return read_label(stored.folder)
    except UserError:
        return Label(tags=(UNREADABLE,))
