"""Checkpoints: the only file that knows orbax.

A checkpoint has two items, each a tree of arrays: `model`, which is all that evaluation reads, and
`optimizer`, at least half of the bytes. Beside them it holds a record: a checksum of every leaf,
since a flipped bit restores silently; the shape and dtype of every leaf, since a changed dtype is
cast silently; and the fingerprint of the input, since a run that sees other batches is another run.
"""

import contextlib
import json
import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from oass_jax.errors import DivergedError, UserError, first_line
from oass_jax.run import processes
from oass_jax.run.files import write_bytes

Tree = Any
logger = logging.getLogger(__name__)
MODEL, OPTIMIZER, RECORD = "model", "optimizer", "record"
OLD_STATE = "state"  # the one item of version 0.1


class Restored(NamedTuple):
    """What was read of a checkpoint.

    Attributes:
      items: item -> tree.
      step: its number.
      unlogged: as it was saved.
      evaluation_due: likewise.
    """

    items: dict[str, Tree]
    step: int
    unlogged: dict[str, Any]
    evaluation_due: bool


class Checkpoints:
    """The checkpoints of one workdir: the last ones, and the best by validation mAP."""

    def __init__(self, folder: Path, *, keep_last: int, read_only: bool = False):
        """Opens the folder, which is created unless `read_only`.

        Args:
          folder: `WORKDIR/checkpoints`.
          keep_last: how many of the latest are kept.
          read_only: for evaluation; nothing is written or removed.

        Raises:
          UserError: read-only and there is no such folder; or it is a file or a broken link.
        """
        if read_only and not folder.is_dir():
            raise UserError(f"there are no checkpoints in {folder.parent}: train there first")
        if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
            raise UserError(f"{folder} is no folder: move it away, or choose another --workdir")
        self._folder, self._keep_last, self._read_only = folder, keep_last, read_only
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                # A save that was killed leaves a temporary folder.
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            item_names=(MODEL, OPTIMIZER, RECORD),
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Keeps the last ones and the best; orbax' protocol of a preservation policy."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self._keep_last :], self._best(steps)}
        return [step in kept for step in steps]

    def save(
        self,
        items: dict[str, Tree],
        *,
        step: int,
        fingerprint: dict,
        val_map: float | None,
        unlogged: dict[str, Any] | None = None,
        evaluation_due: bool = False,
    ) -> None:
        """Saves in the background; an earlier save is waited for, and its errors are raised.

        In a run of several processes all have to call this; the first one checks the numbers.

        Args:
          items: `MODEL` and `OPTIMIZER` -> any tree of arrays.
          step: its number. A checkpoint of this step is not written again; if its evaluation was
            due and now is not, its record is.
          fingerprint: JSON-able description of the input.
          val_map: validation mAP in percent; None or NaN where there is none.
          unlogged: `Monitor.unlogged` of this step.
          evaluation_due: whether the run was stopped before it had evaluated this step.

        Raises:
          DivergedError: a number is not finite; nothing is saved.
          UserError: it cannot be written.
        """
        has_map = val_map is not None and not math.isnan(val_map)
        if step in self._manager.all_steps():
            record = self._record(step)
            if record and record.get("evaluation_due") and not evaluation_due:
                made_up_for = {"val_map": val_map if has_map else None, "evaluation_due": False}
                self._write_record(step, record | made_up_for)
            return
        # Once for the checks and for orbax, which of replicated arrays would cut and fetch a slice
        # of each leaf from each device.
        items = jax.device_get(items)
        if bad := processes.from_first(lambda: _not_finite(items) or ""):
            raise DivergedError(
                f"the state of step {step} is not finite ({bad}) although its losses are: try "
                "smaller learning rates"
            )
        record = {
            "step": step,
            "leaves": self._checksums(items),
            "input": fingerprint,
            "val_map": val_map if has_map else None,
            "unlogged": unlogged or {},
            "evaluation_due": evaluation_due,
        }
        with self._reported():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                    **{RECORD: ocp.args.JsonSave(_sealed(record))},
                ),
                force=True,
            )

    def _write_record(self, step: int, record: dict[str, Any]) -> None:
        if jax.process_index() == 0:
            with self._reported():
                text = json.dumps(_sealed(record))
                write_bytes(_record_file(self._folder, step), text.encode())

    @staticmethod
    def _checksums(items: dict[str, Tree]) -> dict[str, dict[str, list]]:
        """Of every leaf, in the process that writes the record alone."""
        if jax.process_index():
            return {}
        return {name: _leaves(tree, checksum=True) for name, tree in items.items()}

    def wait(self) -> None:
        """Waits until every save has reached the disk, and reports what went wrong with it.

        Raises:
          UserError: as `save`.
        """
        with self._reported():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax raises whatever its storage raised
            raise UserError(
                f"a checkpoint could not be written to {self._folder}: {first_line(error)}; make "
                "room there: the same command continues from the last that is complete"
            ) from error

    def close(self) -> None:
        """Waits and releases the manager's threads.

        Raises:
          UserError: as `save`, of the last one.
        """
        with self._reported():
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps that were saved, or are being saved, ascending.

        They are those that the first process sees: a network file system may not yet show all of
        them to another host, and all have to try the same.
        """
        text = processes.from_first(lambda: json.dumps(sorted(self._manager.all_steps())))
        return json.loads(text)

    def _record(self, step: int) -> dict[str, Any] | None:
        """That of a checkpoint as the first process reads it, see `_read_record`."""
        text = processes.from_first(lambda: json.dumps(_read_record(self._folder, step)))
        return json.loads(text)

    def saved_shape(self, steps: Sequence[int], path: str) -> tuple[int, ...] | None:
        """The shape of a leaf of `MODEL`; None where it has none, or no record can be read.

        Args:
          steps: of the checkpoints to look in, most wanted first.
          path: of the leaf, as `jax.tree_util.keystr` writes it.
        """
        for step in steps:
            if record := self._record(step):
                leaf = record["leaves"][MODEL].get(path)
                return tuple(leaf[0]) if leaf else None
        return None

    def best_step(self) -> int | None:
        """The step with the highest validation mAP; None if there was no evaluation."""
        steps = self.steps()
        return json.loads(processes.from_first(lambda: json.dumps(self._best(steps))))

    def best_map(self) -> float | None:
        """The highest validation mAP in percent; None if there was no evaluation."""
        self.wait()  # the record of a save is read from the disk
        best = self.best_step()
        record = None if best is None else self._record(best)
        return record and record["val_map"]

    def _best(self, steps: Sequence[int]) -> int | None:
        records = {step: _read_record(self._folder, step) for step in steps}
        maps = {step: r["val_map"] for step, r in records.items() if r and r["val_map"] is not None}
        return max(maps, key=lambda step: (maps[step], step), default=None)

    def restore(
        self, like: dict[str, Tree], *, steps: list[int], fingerprint: dict | None
    ) -> Restored:
        """Restores the first of `steps` that is undamaged, and of it only the items asked for.

        Those before it in `steps`, which are damaged, are removed, unless this is read-only.

        Args:
          like: item (`MODEL`, `OPTIMIZER`) -> tree of `jax.ShapeDtypeStruct` with the shardings
            wanted.
          steps: steps to try, most wanted first; at least one.
          fingerprint: that of the input which will be continued; None where none will be.

        Raises:
          UserError: the checkpoint is of another network, input or version, or every one is
            damaged.
        """
        for position, step in enumerate(steps):
            record = self._record(step)
            if record is None:
                self._refuse_old_version(step)
                logger.warning("checkpoint %d is damaged: its record cannot be read", step)
                continue
            if fingerprint is not None:
                _refuse_other_input(record["input"], fingerprint, step)
            for name, tree in like.items():
                _refuse_other_network(record["leaves"][name], _leaves(tree), step)
            wanted = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
            bad = ""
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(**wanted))
            except Exception as error:  # orbax raises whatever its storage raised
                bad = first_line(error)
            if bad := processes.first_of(bad):
                logger.warning("checkpoint %d cannot be read: %s", step, bad)
                continue
            items = {name: restored[name] for name in like}
            if bad := processes.from_first(lambda: _damage(items, record["leaves"])):  # noqa: B023
                logger.warning("checkpoint %d is %s", step, bad)
                continue
            if not self._read_only:
                for damaged in steps[:position]:
                    self._manager.delete(damaged)
            return Restored(items, step, record["unlogged"], record.get("evaluation_due", False))
        advice = (
            "if a training writes there, try again"
            if self._read_only
            else "remove the folder to start again"
        )
        raise UserError(f"none of the checkpoints {steps} in {self._folder} can be read; {advice}")

    def _refuse_old_version(self, step: int) -> None:
        if (self._folder / str(step) / OLD_STATE).exists():
            raise UserError(
                f"checkpoint {step} in {self._folder} was written by version 0.1, which "
                "this version does not read: train again in another workdir, or install 0.1"
            )


def _read_record(folder: Path, step: int) -> dict[str, Any] | None:
    """The record of a checkpoint; None where it is not what was written for this step."""
    # Not by the manager: it asks for the best one in the middle of a save.
    try:
        record = json.loads(_record_file(folder, step).read_text(encoding="utf-8"))
        checksum = record.pop("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if (record.get("step"), checksum) == (step, _checksum(record)) else None


def _record_file(folder: Path, step: int) -> Path:
    return folder / str(step) / RECORD / "metadata"


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"checksum": _checksum(record)}


def _checksum(record: dict[str, Any]) -> int:
    # As JSON gives it back: tuples are lists.
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _leaves(tree: Tree, *, checksum: bool = False) -> dict[str, list]:
    """Path -> [shape, dtype] of every leaf, and the checksum of its bytes where asked for."""

    def describe(leaf: Any) -> list:
        entry = [list(leaf.shape), str(leaf.dtype)]
        return [*entry, zlib.crc32(np.ascontiguousarray(leaf))] if checksum else entry

    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): describe(leaf) for path, leaf in paths}


def _damage(items: dict[str, Tree], saved: dict[str, dict[str, list]]) -> str:
    """What is wrong with items that were restored; empty for nothing."""
    if any(_leaves(tree, checksum=True) != saved[name] for name, tree in items.items()):
        return "damaged: its checksums do not match"
    bad = _not_finite(items)
    return f"not finite: {bad}" if bad else ""


def _not_finite(tree: Tree) -> str | None:
    """Path of a leaf with a number that is not finite; None where there is none."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        # On the host, where the leaves are for their checksums; the sum costs no copy.
        if not np.isfinite(np.asarray(leaf).sum(dtype=np.float64)):
            return jax.tree_util.keystr(path)
    return None


def _refuse_other_network(saved: dict[str, list], wanted: dict[str, list], step: int) -> None:
    for path in sorted(saved.keys() | wanted.keys()):
        was, now = saved.get(path, ["nothing"])[:2], wanted.get(path, ["nothing"])
        if was != now:
            raise UserError(
                f"checkpoint {step} is not of this config: {path} is {was} there and {now} here; "
                "use the config it was trained with (WORKDIR/config.json) or another workdir"
            )


def _refuse_other_input(saved: dict, wanted: dict, step: int) -> None:
    # Slots for boxes were recorded once, and decide nothing.
    for name in sorted((saved.keys() | wanted.keys()) - {"max_boxes"}):
        if saved.get(name) != wanted.get(name):
            change = f"{name} was {saved.get(name)!r} and is now {wanted.get(name)!r}"
            if name == "sources":  # checksums say nothing to people
                change = "the files of the data set have changed"
            raise UserError(
                f"checkpoint {step} was trained on other input: {change}; restore what it was or "
                "use another workdir"
            )
