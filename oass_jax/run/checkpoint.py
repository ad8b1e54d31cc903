"""Checkpoints: the only file that knows orbax.

A checkpoint has two items, each a tree of arrays: `model`, which is all that evaluation reads, and
`optimizer`, at least half of the bytes. Beside them it holds their `record`.
"""

import contextlib
import errno
import functools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from oass_jax.errors import DivergedError, UserError, first_line
from oass_jax.run import checkpoint_record, processes

Tree = Any
logger = logging.getLogger(__name__)
MODEL, OPTIMIZER = "model", "optimizer"
OLD_STATE = "state"  # the one item of version 0.1


# Errors of reading that say nothing of the files: memory, rights, network.
_TRANSIENT = (
    *(errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ETIMEDOUT, errno.EAGAIN),
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE),
)
_TRANSIENT_WORDS = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "DEADLINE_EXCEEDED")


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
            item_names=(MODEL, OPTIMIZER, checkpoint_record.ITEM),
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Keeps the last ones and the best; orbax' protocol of a preservation policy."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self._keep_last :], self._best(steps)}
        # One whose record cannot be read at the moment may be the best.
        kept.update(s for s in steps if checkpoint_record.why_unreadable(self._folder, s))
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
        if step in self.steps():
            record = self._record(step)
            if record and record.get("evaluation_due") and not evaluation_due:
                made_up_for = {"val_map": val_map if has_map else None, "evaluation_due": False}
                self._write_record(step, record | made_up_for)
            return
        # Once for the checks and for orbax, which of replicated arrays would cut and fetch a slice
        # of each leaf from each device.
        items = jax.device_get(items)
        if bad := processes.from_first(lambda: checkpoint_record.not_finite(items) or ""):
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
                    **{checkpoint_record.ITEM: ocp.args.JsonSave(checkpoint_record.sealed(record))},
                ),
                force=True,
            )

    def _write_record(self, step: int, record: dict[str, Any]) -> None:
        if jax.process_index() == 0:
            with self._reported():
                checkpoint_record.write(self._folder, step, record)

    @staticmethod
    def _checksums(items: dict[str, Tree]) -> dict[str, dict[str, list]]:
        """Of every leaf, in the process that writes the record alone."""
        if jax.process_index():
            return {}
        return {name: checkpoint_record.leaves(tree, checksum=True) for name, tree in items.items()}

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
        """That of a checkpoint as the first process reads it, see `checkpoint_record.read`."""
        text = processes.from_first(lambda: json.dumps(checkpoint_record.read(self._folder, step)))
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
        records = {step: checkpoint_record.read(self._folder, step) for step in steps}
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
                why_fn = functools.partial(checkpoint_record.why_unreadable, self._folder, step)
                self._refuse_transient(step, processes.from_first(why_fn))
                logger.warning("checkpoint %d is damaged: its record cannot be read", step)
                continue
            if fingerprint is not None:
                checkpoint_record.refuse_other_input(record, fingerprint)
            checkpoint_record.refuse_other_network(record, like)
            wanted = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
            bad = transient = ""
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(**wanted))
            except Exception as error:  # orbax raises whatever its storage raised
                bad = first_line(error)
                transient = bad if _is_transient(error) else ""
            self._refuse_transient(step, processes.first_of(transient))
            if bad := processes.first_of(bad):
                logger.warning("checkpoint %d cannot be read: %s", step, bad)
                continue
            items = {name: restored[name] for name in like}
            damage = functools.partial(checkpoint_record.damage, record, items)
            if bad := processes.from_first(damage):
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

    def _refuse_transient(self, step: int, why: str) -> None:
        if why:
            raise UserError(
                f"checkpoint {step} in {self._folder} cannot be read now ({why}): it is kept; "
                "start again when that is over"
            )

    def _refuse_old_version(self, step: int) -> None:
        if (self._folder / str(step) / OLD_STATE).exists():
            raise UserError(
                f"checkpoint {step} in {self._folder} was written by version 0.1, which "
                "this version does not read: train again in another workdir, or install 0.1"
            )


def _is_transient(error: BaseException) -> bool:
    """Whether reading may work another time."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in _TRANSIENT)
        or any(word in str(error) for word in _TRANSIENT_WORDS)
    )
