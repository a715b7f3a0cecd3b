"""Tags and a note on a run, for people: beside the run's record in its folder, and no part of it or of its id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from robusteval.errors import UserError, unknown
from robusteval.records import SCHEMA, Record
from robusteval.store import locked, names, read_record, remove, write_record
from robusteval.wording import clean

FILE = "tags.json"
TAG_LENGTH, NOTE_LENGTH = 100, 10_000
"""Characters that a tag and a note may have."""


class Label(Record):
    """The tags of a run, each once, in the order in which they came, and the note."""

    schema_version: int = SCHEMA
    tags: tuple[str, ...] = ()
    note: str = ""


def read_label(folder: Path) -> Label:
    """The label of the run in the folder; an empty one if it never got any.

    Raises:
        Damaged: the file is not what was written.
    """
    return read_record(folder, FILE, Label) if FILE in names(folder) else Label()


def changed(
    label: Label, *, add: Iterable[str] = (), drop: Iterable[str] = (), note: str | None = None, where: str = "tag"
) -> Label:
    """The label with tags added and removed; a tag that is there already stays where it is.

    Args:
        label: what there is.
        add: tags.
        drop: tags to take away.
        note: the new note, "" for none; None leaves it.
        where: what errors begin with.

    Raises:
        UserError: a tag or note that cannot be one, or one to take away that is not there.
    """
    tags = list(label.tags)
    for tag in drop:
        if tag not in tags:
            raise unknown(f"{where}: --remove", "tag", clean(tag, TAG_LENGTH), map(clean, tags))
        tags.remove(tag)
    tags += [_text(tag, "--add", where, TAG_LENGTH) for tag in dict.fromkeys(add) if tag not in tags]
    text = label.note if note is None else _text(note, "--note", where, NOTE_LENGTH)
    return Label(tags=tuple(tags), note=text)


def _text(text: str, option: str, where: str, length: int) -> str:
    """The text, if it can be kept.

    Raises:
        UserError: it is too long, an empty tag, or no text (bytes of another encoding).
    """
    if len(text) > length:
        raise UserError(f"{where}: {option}: {len(text)} characters; allowed: up to {length}")
    if option == "--add" and not text.strip():
        raise UserError(f"{where}: {option}: {text!r} is empty; allowed: any text with a letter in it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {option}: {text!r} is no text; allowed: UTF-8") from None
    return text


def write_label(folder: Path, label: Label) -> None:
    """Keeps the label in the run's folder, whole or not at all; an empty one leaves no file.

    Raises:
        Busy: another process works on the run.
        UserError: the folder cannot be written.
    """
    with locked(folder):
        if label == Label():
            remove(folder, FILE)
        else:
            write_record(folder, FILE, label)
