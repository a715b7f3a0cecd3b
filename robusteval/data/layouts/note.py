"""The note that `robusteval data export` leaves beside what it wrote, so that any later change of it is found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from robusteval.data.registry import DatasetInfo, Split
from robusteval.errors import UserError
from robusteval.records import Record


class Note(Record):
    """Which images the files beside the note hold."""

    name: str
    split: Split
    n: Annotated[int, Field(ge=1)]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def note_name(name: str, split: Split) -> str:
    """The file name of a split's note."""
    return f"{name}-{split}.json"


def read_note(folder: Path, info: DatasetInfo, split: Split) -> Note | None:
    """The note on a split in a folder, None if there is none.

    Raises:
        UserError: it cannot be read, or is about another split.
    """
    path = folder / note_name(info.name, split)
    if not path.is_file():
        return None
    try:
        note = Note.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{path}: not a note that `robusteval data export` wrote; delete it or export again") from None
    if (note.name, note.split) != (info.name, split):
        raise UserError(f"{path}: is about {note.name} {note.split}, not {info.name} {split}")
    return note
