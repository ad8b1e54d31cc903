"""The record of a checkpoint: what was saved, so that nothing else is taken for it.

It holds a checksum of every leaf, since a flipped bit restores silently; the shape and dtype of
every leaf, since a changed dtype is cast silently; and the fingerprint of the input, since a run
that sees other batches is another run. A checksum of its own seals it.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from oass_jax.errors import UserError
from oass_jax.run.files import write_bytes

Tree = Any
ITEM = "record"  # of a checkpoint, beside its arrays


def read(folder: Path, step: int) -> dict[str, Any] | None:
    """The record of a checkpoint; None where it is not what was written for this step."""
    # Not by the manager: it asks for the best one in the middle of a save.
    try:
        record = json.loads(_path(folder, step).read_text(encoding="utf-8"))
        checksum = record.pop("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if (record.get("step"), checksum) == (step, _checksum(record)) else None


def why_unreadable(folder: Path, step: int) -> str:
    """Why the record of a checkpoint cannot be read though it is there; empty where it can be."""
    try:
        _path(folder, step).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def write(folder: Path, step: int, record: dict[str, Any]) -> None:
    """Replaces the record of a checkpoint, which orbax wrote with it."""
    write_bytes(_path(folder, step), json.dumps(sealed(record)).encode())


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record as it is written, with its checksum."""
    return record | {"checksum": _checksum(record)}


def _path(folder: Path, step: int) -> Path:
    return folder / str(step) / ITEM / "metadata"


def _checksum(record: dict[str, Any]) -> int:
    # As JSON gives it back: tuples are lists.
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def leaves(tree: Tree, *, checksum: bool = False) -> dict[str, list]:
    """Path -> [shape, dtype] of every leaf, and the checksum of its bytes where asked for."""

    def describe(leaf: Any) -> list:
        entry = [list(leaf.shape), str(leaf.dtype)]
        return [*entry, zlib.crc32(np.ascontiguousarray(leaf))] if checksum else entry

    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): describe(leaf) for path, leaf in paths}


def damage(record: dict[str, Any], items: dict[str, Tree]) -> str:
    """What is wrong with items that were restored; empty for nothing."""
    saved = record["leaves"]
    if any(leaves(tree, checksum=True) != saved[name] for name, tree in items.items()):
        return "damaged: its checksums do not match"
    bad = not_finite(items)
    return f"not finite: {bad}" if bad else ""


def not_finite(tree: Tree) -> str | None:
    """Path of a leaf with a number that is not finite; None where there is none."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        # On the host, where the leaves are for their checksums; the sum costs no copy.
        if not np.isfinite(np.asarray(leaf).sum(dtype=np.float64)):
            return jax.tree_util.keystr(path)
    return None


def refuse_other_network(record: dict[str, Any], like: dict[str, Tree]) -> None:
    """Raises UserError where a leaf of an item that is asked for was not saved like that."""
    for name, tree in like.items():
        saved, wanted = record["leaves"][name], leaves(tree)
        for path in sorted(saved.keys() | wanted.keys()):
            was, now = saved.get(path, ["nothing"])[:2], wanted.get(path, ["nothing"])
            if was != now:
                raise UserError(
                    f"checkpoint {record['step']} is not of this config: {path} is {was} there "
                    f"and {now} here; use the config it was trained with (WORKDIR/config.json) or "
                    "another workdir"
                )


def refuse_other_input(record: dict[str, Any], wanted: dict) -> None:
    """Raises UserError where the fingerprint of the input is not the one that is wanted."""
    saved = record["input"]
    # Slots for boxes were recorded once, and decide nothing.
    for name in sorted((saved.keys() | wanted.keys()) - {"max_boxes"}):
        if saved.get(name) != wanted.get(name):
            change = f"{name} was {saved.get(name)!r} and is now {wanted.get(name)!r}"
            if name == "sources":  # checksums say nothing to people
                change = "the files of the data set have changed"
            raise UserError(
                f"checkpoint {record['step']} was trained on other input: {change}; restore what "
                "it was or use another workdir"
            )
