"""Checkpoints: the only file that knows orbax.

A checkpoint has two items, each a tree of arrays: `model`, which is all that evaluation reads, and
`optimizer`, at least half of the bytes. Beside them it holds a record: a checksum of every leaf,
since a flipped bit restores silently; the shape and dtype of every leaf, since a changed dtype is
cast silently; and the fingerprint of the input, since a run that sees other batches is another run.
"""

import logging
import math
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from oass_jax.errors import UserError

Tree = Any
logger = logging.getLogger(__name__)
MODEL, OPTIMIZER, RECORD = "model", "optimizer", "record"
OLD_STATE = "state"  # the one item of version 0.1
BEST_METRIC = "map"
NOT_EVALUATED = -1.0


class Checkpoints:
    """The checkpoints of one workdir: the last ones, and the best by validation mAP."""

    def __init__(self, folder: Path, *, keep_last: int, read_only: bool = False):
        """Opens the folder, which is created unless `read_only`.

        Args:
          folder: `WORKDIR/checkpoints`.
          keep_last: how many of the latest are kept.
          read_only: for evaluation; nothing is written or removed.

        Raises:
          UserError: read-only and there is no such folder.
        """
        if read_only and not folder.is_dir():
            raise UserError(f"there are no checkpoints in {folder.parent}: train there first")
        policies = checkpoint_managers.preservation_policy
        best = policies.BestN(get_metric_fn=_score, n=1)
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(keep_last), best]
                ),
                best_fn=_score,  # without it metrics are not written
                # A save that was killed leaves a temporary folder.
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            item_names=(MODEL, OPTIMIZER, RECORD),
        )
        self._damaged: set[int] = set()

    def save(
        self, items: dict[str, Tree], *, step: int, fingerprint: dict, val_map: float | None
    ) -> None:
        """Saves in the background; an earlier save is waited for, and its errors are raised.

        Args:
          items: `MODEL` and `OPTIMIZER` -> any tree of arrays.
          step: its number. A checkpoint of this step is left as it is, unless `restore` found it
            damaged: then it is replaced.
          fingerprint: JSON-able description of the input.
          val_map: validation mAP in percent; None or NaN where there is none.
        """
        if step in self._damaged:
            self._manager.delete(step)
            self._damaged.remove(step)
        elif step in self._manager.all_steps():
            return
        has_map = val_map is not None and not math.isnan(val_map)
        leaves = {name: _leaves(tree, checksum=True) for name, tree in items.items()}
        record = {"leaves": leaves, "input": fingerprint}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                **{RECORD: ocp.args.JsonSave(record)},
            ),
            metrics={BEST_METRIC: val_map if has_map else NOT_EVALUATED},
            force=True,
        )

    def wait(self) -> None:
        """Waits until every save has reached the disk, and raises what went wrong with it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the manager's threads."""
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that were saved completely, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the highest validation mAP; None if there was no evaluation."""
        step = self._manager.best_step()
        if step is None or _score(self._manager.metrics(step)) == NOT_EVALUATED:
            return None
        return step

    def restore(
        self, like: dict[str, Tree], *, steps: list[int], fingerprint: dict | None
    ) -> tuple[dict[str, Tree], int]:
        """Restores the first of `steps` that is undamaged, and of it only the items asked for.

        Args:
          like: item (`MODEL`, `OPTIMIZER`) -> tree of `jax.ShapeDtypeStruct` with the shardings
            wanted.
          steps: steps to try, most wanted first; at least one.
          fingerprint: that of the input which will be continued; None where none will be.

        Returns:
          Item -> tree, and the step.

        Raises:
          UserError: the checkpoint is of another network, input or version, or every one is
            damaged.
        """
        for step in steps:
            try:
                record = self._read(step, {RECORD: ocp.args.JsonRestore()})[RECORD]
                for name, tree in like.items():
                    _refuse_other_network(record["leaves"][name], _leaves(tree), step)
                if fingerprint is not None:
                    _refuse_other_input(record["input"], fingerprint, step)
                wanted = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
                items = self._read(step, wanted)
            except UserError:
                raise
            except Exception as error:  # orbax raises whatever its storage raised
                self._refuse_old_version(step)
                logger.warning("checkpoint %d cannot be read: %s", step, error)
            else:
                found = {name: _leaves(tree, checksum=True) for name, tree in items.items()}
                if all(found[name] == record["leaves"][name] for name in like):
                    return items, step
                logger.warning("checkpoint %d is damaged: its checksums do not match", step)
            self._damaged.add(step)
        raise UserError(
            f"none of the checkpoints {steps} in {self._manager.directory} can be read; "
            "remove the folder to start again"
        )

    def _read(self, step: int, args: dict[str, Any]) -> dict[str, Any]:
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in args}

    def _refuse_old_version(self, step: int) -> None:
        if (self._manager.directory / str(step) / OLD_STATE).exists():
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} was written by version 0.1, which "
                "this version does not read: train again in another workdir, or install 0.1"
            )


def _score(metrics: dict[str, float]) -> float:
    return metrics[BEST_METRIC]


def _leaves(tree: Tree, *, checksum: bool = False) -> dict[str, list]:
    """Path -> [shape, dtype] of every leaf, and the checksum of its bytes where asked for."""

    def describe(leaf: Any) -> list:
        entry = [list(leaf.shape), str(leaf.dtype)]
        return [*entry, zlib.crc32(np.ascontiguousarray(leaf))] if checksum else entry

    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): describe(leaf) for path, leaf in paths}


def _refuse_other_network(saved: dict[str, list], wanted: dict[str, list], step: int) -> None:
    for path in sorted(saved.keys() | wanted.keys()):
        was, now = saved.get(path, ["nothing"])[:2], wanted.get(path, ["nothing"])
        if was != now:
            raise UserError(
                f"checkpoint {step} is not of this config: {path} is {was} there and {now} here; "
                "use the config it was trained with (WORKDIR/config.json) or another workdir"
            )


def _refuse_other_input(saved: dict, wanted: dict, step: int) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise UserError(
                f"checkpoint {step} was trained on other input: {name} was {saved.get(name)!r} and "
                f"is now {wanted.get(name)!r}; restore the old value or use another workdir"
            )
