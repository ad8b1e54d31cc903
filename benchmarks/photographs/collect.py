"""Finished runs of the study -> `photographs.csv` and their scores, small enough to be committed.

    python -m benchmarks.photographs.collect RUNS_DIR --out=results
    python -m benchmarks.photographs.collect TUNING_DIR/* --out=results --tuning

`results/photographs/ROW_seedN.npz` holds every logit of a run on the 755 images in float16,
`labels.npz` their labels and names: whatever the tables say can be computed again. Runs that are
not finished are passed over, so the command can be repeated as they end; those that were collected
before stay, also where their folders are gone.
"""

import csv
import functools
import io
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oass_jax import command_line
from oass_jax.errors import UserError
from oass_jax.figures import runs
from oass_jax.run import workdir
from oass_jax.run.files import csv_text, read_json, write_bytes
from oass_jax.run.workdir import Workdir

EVALUATION = "voc-2012_val"
TUNING = "voc-2012_train_aug[2565:]"
# Columns of the table that are fields of the config.
FIELDS = {
    "epochs": "num_epochs",
    "encoder_learning_rate": "optimizer.encoder_learning_rate",
    "alpha_p": "loss.alpha_p",
    "alpha_re": "loss.alpha_re",
    "logits": "eval.logits",
}


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command."""
    args = _parse(argv)
    evaluation = TUNING if args.tuning else EVALUATION
    found, notes = runs.read_all(runs.find(args.runs_dirs))
    finished = [run for run in found if evaluation in run.evaluations]
    if not finished:
        raise UserError(
            f"{args.runs_dirs[0]} has no finished run that was evaluated on {evaluation}"
        )
    collect_fn = collect_tuning if args.tuning else functools.partial(collect, out=args.out)
    rows = [collect_fn(run) for run in finished]
    path = args.out / ("photographs_tuning.csv" if args.tuning else "photographs.csv")
    collected = {_key(row): row for row in [*_read_table(path), *rows]}
    ordered = [list(collected[key].values()) for key in sorted(collected)]
    write_bytes(path, csv_text(list(rows[0]), ordered).encode())
    notes += [
        f"{row['row']}, seed {row['seed']} has no class maps: --mode=cam --config.cam.split=val"
        for row in rows
        if row.get("miou", 0) is None
    ]
    for note in notes:
        print(note, file=sys.stderr)
    print(f"{len(rows)} runs written to {args.out}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command_line.Parser(
        prog="python -m benchmarks.photographs.collect", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "runs_dirs",
        nargs="+",
        type=command_line.path,
        metavar="RUNS_DIR",
        help="of `oass_jax.sweep`",
    )
    parser.add_argument("--out", type=command_line.path, required=True, metavar="DIR")
    parser.add_argument(
        "--tuning", action="store_true", help="runs on a part of the training images"
    )
    return parser.parse_args(argv)


def collect(run: runs.Run, out: Path) -> dict[str, Any]:
    """Writes the scores of a run.

    Args:
      run: finished, evaluated on `EVALUATION`; in `.../photographs-ROW/seedN`.
      out: the folder of the results.

    Returns:
      Its row of the table.

    Raises:
      UserError: its labels are not those of the other runs.
    """
    row = _row(run)
    folder, target = Workdir(run.folder), out / "photographs"
    with np.load(folder.evaluation_named(EVALUATION) / workdir.SCORES) as arrays:
        scores = {name: x.astype(np.float16) for name, x in arrays.items() if "/" in name}
        about = {name: arrays[name] for name in ("image", "class_name", "label")}
    _write_labels(target / "labels.npz", about, run.folder)
    write_bytes(target / f"{row}_seed{run.seed}.npz", _packed(scores))
    summary = run.evaluations[EVALUATION]
    cams = read_json(folder.root / "cams" / EVALUATION / workdir.SUMMARY)
    return (
        {"row": row, "seed": run.seed}
        | _fields(run)
        | {name: summary[name] for name in ("step", "num_images", "map", "map_voc")}
        | {name: cams.get(name) for name in ("miou", "pointing_game")}
        | {"hours": _hours(folder, run.fields["batch_size"])}
    )


def collect_tuning(run: runs.Run) -> dict[str, Any]:
    """The row of a tuning run in the table."""
    return {"row": _row(run)} | _fields(run) | {"map": run.evaluations[TUNING]["map"]}


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    """What tells a run from the others of its table; those of tuning have one seed."""
    names = ("row", "seed") if "seed" in row else ("row", "epochs", "encoder_learning_rate")
    return tuple(str(row[name]) for name in names)


def _read_table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _row(run: runs.Run) -> str:
    return run.folder.resolve().parent.name.removeprefix("photographs-")


def _fields(run: runs.Run) -> dict[str, Any]:
    values = {column: run.fields[field] for column, field in FIELDS.items()}
    # Four decimals, as of other numbers, are too few for a learning rate.
    return {k: f"{x:g}" if isinstance(x, float) else x for k, x in values.items()}


def _write_labels(path: Path, about: dict[str, np.ndarray], folder: Path) -> None:
    if path.exists():
        with np.load(path) as arrays:
            if not all(np.array_equal(arrays[name], about[name]) for name in about):
                raise UserError(f"{folder} was evaluated on other images or labels than {path}")
    write_bytes(path, _packed(about))


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return packed.getvalue()


def _hours(folder: Workdir, batch_size: int) -> float:
    """Hours of training steps at the median speed in `metrics.jsonl`: other work comes and goes."""
    lines = map(json.loads, folder.metrics.read_text(encoding="utf-8").splitlines())
    speeds = {line["step"]: speed for line in lines if (speed := line.get("perf/images_per_sec"))}
    return max(speeds) * batch_size / float(np.median(list(speeds.values()))) / 3600


if __name__ == "__main__":
    sys.exit(main())
