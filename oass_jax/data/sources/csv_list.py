"""`csv`: a table of images and their labels, as people and Kaggle write them.

One line an image, after a header. A column names the image, by one of `IMAGE_COLUMNS`, with or
without its suffix. Its labels are in one column, one of `LABEL_COLUMNS`, separated by `|`, `;`, a
comma (in quotes) or spaces; or each class has a column of 1 (present), 0 (absent) and -1 (not
known: ignored). A column of `SPLIT_COLUMNS` may say which split it is in.
"""

import csv
import functools
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from oass_jax.data.sources import file_list
from oass_jax.data.sources.image_list import (
    SPLIT_WORDS,
    TRAIN,
    VAL,
    ImageList,
    ListedImage,
    ListError,
    checksum,
    read_text,
    shorten,
)
from oass_jax.errors import UserError, nearest

IMAGE_COLUMNS = (
    *("image", "filename", "fname", "file_name", "path", "image_path", "image_name", "id"),
)
LABEL_COLUMNS = ("labels", "tags", "classes", "label")
SPLIT_COLUMNS = ("split", "subset", "is_valid")
_DELIMITERS = (",", ";", "\t", "|")
_SEPARATORS = ("|", ";", ",")  # of labels; where there is none of them, spaces are
_NUMBERS_LINES = re.compile(r"(Unnamed: \d+)?")  # the columns of pandas that do
_QUOTES = "'\""  # around the labels of a list as Python or JSON prints it
_IS_VALID = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), VAL),
    **dict.fromkeys(("false", "0", "0.0", "no"), TRAIN),
}
_VALUES = {
    **dict.fromkeys(("1", "1.0", "true"), 1),
    **dict.fromkeys(("0", "0.0", "false"), 0),
    **dict.fromkeys(("-1", "-1.0"), -1),
}


class _Line(NamedTuple):
    """A line of the table: where it is, and its cells without the spaces around them."""

    where: str
    cells: list[str]


class _Columns(NamedTuple):
    """The columns of a table by number; None where there is no such."""

    image: int
    labels: int | None
    split: int | None


def read(path: Path) -> ImageList:
    """Reads a table; its images are not looked for.

    Raises:
      UserError: it is no such table.
      ListError: lines of it are wrong.
    """
    text = read_text(path)
    header, lines = _read_lines(path, text)
    columns = _find_columns(path, header)
    if nameless := [line.where for line in lines if not line.cells[columns.image]]:
        raise ListError([f"{where}: the name of the image is empty" for where in nameless])
    others = [c for c in range(len(header)) if c not in columns]
    if columns.labels is None:
        labels, ignored, classes, how = _read_class_columns(path, header, lines, others)
        doubts = []
        unread = [header[c] for c in others if header[c] not in classes]
    else:
        labels, doubts, how = _read_label_column(lines, columns.labels)
        how = f"labels from {header[columns.labels]!r}, {how}"
        ignored = [()] * len(lines)
        classes = sorted({label for present in labels for label in present})
        unread = [header[c] for c in others]
    splits = _read_splits(header, lines, columns.split)
    notes = [f"{path}: images from {header[columns.image]!r}, {how}"]
    if columns.split is not None:
        notes[0] += f", splits from {header[columns.split]!r}"
    if unread := [name for name in unread if name]:
        notes[0] += f"; not read: {shorten(unread)}"
    return ImageList(
        path=path,
        image_dir=path.parent,
        checksum=checksum(text.encode()),
        images=[
            ListedImage(
                filename=line.cells[columns.image],
                where=line.where,
                labels=tuple(present),
                ignored=tuple(unknown),
                split=split,
            )
            for line, present, unknown, split in zip(lines, labels, ignored, splits, strict=True)
        ],
        class_names=tuple(classes),
        has_boxes=False,
        notes=(*notes, *doubts, *_case_notes(classes)),
    )


def _read_lines(path: Path, text: str) -> tuple[list[str], list[_Line]]:
    """Header and lines of a table; empty lines are skipped."""
    if "\0" in text:
        raise UserError(f"{path} is no text: save the table as CSV")
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text), strict=True)
    header, lines, problems = None, [], []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if header is None:
                header = cells
                continue
            where = f"{path.name}, line {reader.line_num}"
            if len(cells) != len(header):
                problems.append(
                    f"{where}: it has {len(cells)} columns, the first line has {len(header)}: put "
                    "a cell that holds the delimiter in quotes"
                )
            lines.append(_Line(where, cells))
    except csv.Error as error:
        raise UserError(f"{path.name}, line {reader.line_num}: {error}") from error
    if problems:
        raise ListError(problems)
    if header is None or not lines:
        raise UserError(f"{path} has no lines: it needs a header and one line an image")
    return header, lines


def _delimiter(text: str) -> str:
    """What separates the columns: that by which the first line names an image column."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def rank(delimiter: str) -> tuple[bool, int]:
        cells = [cell.strip(' "').lower() for cell in first.split(delimiter)]
        return any(cell in IMAGE_COLUMNS for cell in cells), len(cells)

    return max(_DELIMITERS, key=rank)


def _find_columns(path: Path, header: Sequence[str]) -> _Columns:
    lower = [name.lower() for name in header]
    if twice := [name for name in lower if name and lower.count(name) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice: rename one")

    def find(names: Sequence[str]) -> int | None:
        return next((lower.index(name) for name in names if name in lower), None)

    image = find(IMAGE_COLUMNS)
    if image is None:
        raise UserError(
            f"{path} has no column of images: its first line is {shorten(header)!r}; "
            f"name the column one of {', '.join(IMAGE_COLUMNS)}"
        )
    return _Columns(image, find(LABEL_COLUMNS), find(SPLIT_COLUMNS))


def _read_label_column(
    lines: Sequence[_Line], column: int
) -> tuple[list[list[str]], list[str], str]:
    """The labels of every line, each once; notes on doubts; and how they are separated.

    Raises:
      ListError: two ways to separate them.
    """
    texts = [_without_brackets(line.cells[column]) for line in lines]
    separator = next((s for s in _SEPARATORS if any(s in text for text in texts)), None)
    others = [s for s in _SEPARATORS if s != separator]
    if separator:
        uses = next(line.where for line in lines if separator in line.cells[column])
        problems = [
            f"{line.where}: {line.cells[column]!r} has another separator than {separator!r}, as in "
            f"{uses.rpartition(', ')[2]}: if it is one label, end it with {separator}"
            for line in lines
            if separator not in line.cells[column]
            and any(other in line.cells[column] for other in others)
        ]
        if problems:
            raise ListError(problems)
    how = f"separated by {separator!r}" if separator else "separated by spaces"
    parts = [
        [part.strip().strip(_QUOTES) for part in text.split(separator)] if text else []
        for text in (text.removesuffix(separator or "") for text in texts)
    ]
    # Labels come again in other company; the words of a name do not.
    num_parts = len({part for labels in parts for part in labels})
    assumed = []
    if several := [text for text, labels in zip(texts, parts, strict=True) if len(labels) > 1]:
        if separator in (",", None) and num_parts > len({*texts} - {""}):
            parts, how = [[text] if text else [] for text in texts], "one an image"
            assumed = [f"{several[0]!r} was read as one label: separate labels by | if it is more"]
        elif separator is None:
            assumed = [
                f"{several[0]!r} was read as {len(several[0].split())} labels: separate labels by "
                "| if names have several words"
            ]
    if all(len(labels) < 2 for labels in parts):
        how = "one an image"
    empty = [line.where for line, labels in zip(lines, parts, strict=True) if "" in labels]
    notes = [f"warning: {len(empty)} lines have an empty label, such as {where}" for where in empty]
    labels = [list(dict.fromkeys(filter(None, labels))) for labels in parts]
    return labels, [*assumed, *notes[:1]], how


def _without_brackets(text: str) -> str:
    """`['cat', 'dog']` -> `'cat', 'dog'`."""
    return text[1:-1].strip() if text.startswith("[") and text.endswith("]") else text


def _read_class_columns(
    path: Path, header: Sequence[str], lines: Sequence[_Line], columns: Sequence[int]
) -> tuple[list[list[str]], list[list[str]], list[str], str]:
    """Present and unknown classes of every line, all classes, and how they were read.

    Raises:
      ListError: a class column holds something else than 1, 0 and -1.
      UserError: there is none.
    """
    # A column without any such value is about something else; one without a name numbers the lines.
    classes = [
        c
        for c in columns
        if not _NUMBERS_LINES.fullmatch(header[c])
        and header[c].lower() not in (*IMAGE_COLUMNS, *SPLIT_COLUMNS)
        and any(line.cells[c].lower() in _VALUES for line in lines)
    ]
    if not classes:
        hint = nearest(header[columns[0]], LABEL_COLUMNS) if columns else "add one"
        raise UserError(
            f"{path} has neither a column of labels ({', '.join(LABEL_COLUMNS)}) nor columns of 0, "
            f"1 and -1, one a class: {hint}"
        )
    problems = [
        f"{line.where}: {line.cells[c]!r} in the column {header[c]!r} is neither 1 (present), 0 "
        "(absent) nor -1 (not known): remove the column if it is no class"
        for line in lines
        for c in classes
        if line.cells[c].lower() not in _VALUES
    ]
    if problems:
        raise ListError(problems)
    values = [{header[c]: _VALUES[line.cells[c].lower()] for c in classes} for line in lines]
    present, unknown = (
        [[name for name, value in row.items() if value == wanted] for row in values]
        for wanted in (1, -1)
    )
    how = f"a column of 1, 0 and -1 for each of {len(classes)} classes"
    return present, unknown, [header[c] for c in classes], how


def _read_splits(
    header: Sequence[str], lines: Sequence[_Line], column: int | None
) -> list[str | None]:
    if column is None:
        return [None] * len(lines)
    known = _IS_VALID if header[column].lower() == "is_valid" else SPLIT_WORDS
    problems = [
        f"{line.where}: {line.cells[column]!r} in the column {header[column]!r} is no split: "
        f"{nearest(line.cells[column].lower(), known)}"
        for line in lines
        if line.cells[column].lower() not in known
    ]
    if problems:
        raise ListError(problems)
    return [known[line.cells[column].lower()] for line in lines]


def _case_notes(classes: Sequence[str]) -> list[str]:
    """A warning of classes that differ in upper and lower case only."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(name.lower(), name), name) for name in classes]
    return [
        f"warning: {one!r} and {other!r} are two classes: they differ in case only"
        for one, other in pairs
        if one != other
    ]


open_split = functools.partial(file_list.open_split, read)
