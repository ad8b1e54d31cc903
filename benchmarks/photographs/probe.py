"""What the losses do to a network of the study: gradients, maps and cuts at several moments.

    python -m benchmarks.photographs.probe RUNS/photographs-max/seed0 --out=results/photographs

Of every checkpoint that the run has, over the same training images for every run: the norm of each
loss's gradient in the encoder and in the classifier, without its weight, and the cosine of its
angle to that of L_cls; the size of the labelled class maps and, as L_re, their distance from the
teacher's; and the share of cuts that lie in a box of a labelled object, for keypoints by `max`, at
random and in the middle of the view. Each is measured on a training batch and averaged over the
batches. Strategies with one keypoint an image only.
"""

import functools
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oass_jax import command_line, config_file
from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.method import keypoint
from oass_jax.run import build, libraries
from oass_jax.run.checkpoint import Checkpoints
from oass_jax.run.files import csv_text, write_bytes
from oass_jax.run.restore import Run, open_run
from oass_jax.run.state import TrainState
from oass_jax.run.workdir import Workdir
from oass_jax.training import losses, start
from oass_jax.training.build import create_augment_fn, create_method, create_schedule
from oass_jax.training.method import Method, Views

LOSSES = ("cls", "pcl", "re")
STRATEGIES = ("max", "random", "center")


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command."""
    args = _parse(argv)
    libraries.quieten()
    libraries.keep_compiled_programs()
    folder = Workdir(args.workdir, writes=False)
    rows = probe(folder, num_batches=args.num_batches)
    row = folder.root.resolve().parent.name.removeprefix("photographs-")
    path = args.out / f"probe_{row}_{folder.root.resolve().name}.csv"
    write_bytes(path, csv_text(list(rows[0]), [list(row.values()) for row in rows]).encode())
    print(f"written to {path}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command_line.Parser(
        prog="python -m benchmarks.photographs.probe", description=__doc__.splitlines()[0]
    )
    parser.add_argument("workdir", type=command_line.path, metavar="WORKDIR", help="of a run")
    parser.add_argument("--out", type=command_line.path, required=True, metavar="DIR")
    parser.add_argument("--num_batches", type=int, default=16, help="of training images")
    return parser.parse_args(argv)


def probe(folder: Workdir, *, num_batches: int) -> list[dict[str, Any]]:
    """Measures every checkpoint of a run.

    Args:
      folder: the workdir.
      num_batches: training batches each is measured on.

    Returns:
      Column -> value for each checkpoint, means over the batches.

    Raises:
      UserError: there is no run, no checkpoint, or a strategy of (image, class) pairs.
    """
    steps = _steps(folder)
    config = config_file.from_json(folder.config)
    if keypoint.KEYPOINTS[config.keypoint.strategy].channel_wise:
        raise UserError(f"{folder.root} cuts for each class: choose a run that cuts once an image")
    seed = config.seed
    config.seed = 0  # the images, their order and augmentation are the same for every run
    # Losses are measured without their weights; without any there would be no patches.
    config.loss.alpha_p = config.loss.alpha_re = 1.0
    split = build.open_split(config, folder, config.data.dataset, config.data.split)
    schedule = create_schedule(config, len(split))
    rows = []
    for step in steps:
        run = open_run(folder, config=config, step=step)
        method = create_method(config, schedule, run.mesh)
        measure_fn = jax.jit(
            functools.partial(
                measure,
                network=run.network,
                method=method,
                strategies={name: keypoint.bind(name, config.keypoint) for name in STRATEGIES},
            )
        )
        augment_fn = jax.jit(create_augment_fn(config, run.mesh))
        state = _state(run)
        batches = start.host_batches(config, split, 0)
        measured = []
        for number in range(num_batches):
            batch = build.to_device(next(batches), pipeline.TRAIN_FIELDS, run.mesh)
            rng = jax.random.split(jax.random.PRNGKey(number), config.batch_size)
            measured.append(jax.device_get(measure_fn(state, augment_fn(rng, batch))))
        batches.close()
        means = {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}
        rows.append({"seed": seed, "step": step, "epoch": step / schedule.steps_per_epoch} | means)
    return rows


def measure(
    state: TrainState,
    views: Views,
    *,
    network: Any,
    method: Method,
    strategies: dict[str, keypoint.Strategy],
) -> dict[str, jax.Array]:
    """Measures one batch.

    Args:
      state: the network, and the teacher if there is one.
      views: the augmented batch.
      network: encoder f and classifier g.
      method: with patches.
      strategies: name -> strategy with one keypoint an image.

    Returns:
      Float32 scalars: `loss_NAME`, `encoder_NAME`, `head_NAME` (norms) and, but for L_cls,
      `encoder_cos_NAME` and `head_cos_NAME` for each of `LOSSES`; `map_size`, the labelled maps as
      L_re measures their distance; and `inside_NAME` for each strategy.
    """

    def losses_fn(params: Any) -> tuple[jax.Array, jax.Array]:
        student = losses.classification_losses(
            params, state.batch_stats, views, network=network, method=method
        )
        puzzle = losses.image_puzzle_losses(
            params, student, state, views, network=network, method=method
        )
        found = student.losses | puzzle.losses
        return jnp.stack([found[f"loss_{name}"] for name in LOSSES]), student.cam

    values, pull_back, cam = jax.vjp(losses_fn, state.params, has_aux=True)
    gradients = [pull_back(row)[0] for row in jnp.eye(len(LOSSES))]
    found = {}
    for name, value, gradient in zip(LOSSES, values, gradients, strict=True):
        found[f"loss_{name}"] = value
        for part in ("encoder", "head"):
            norm = optax.tree.norm(gradient[part])
            found[f"{part}_{name}"] = norm
            if name != "cls":
                product = optax.tree.vdot(gradient[part], gradients[0][part])
                norms = norm * found[f"{part}_cls"]
                found[f"{part}_cos_{name}"] = product / jnp.maximum(norms, 1e-20)
    labelled = (views.label == 1)[:, None, None, :]
    found["map_size"] = (jnp.abs(cam) * labelled).mean()
    inputs = losses.keypoint_inputs(cam, views, method)
    for name, strategy in strategies.items():
        cut = keypoint.cut_position(
            strategy.keypoint_fn(inputs), cam.shape[1:3], method.margin_cells
        )
        found[f"inside_{name}"] = _share_inside(cut / jnp.array(cam.shape[1:3]), views)
    return found


def _share_inside(point_yx: jax.Array, views: Views) -> jax.Array:
    """The share of points `[B, 2]` in [0, 1] in a box of their image, of images that have one."""
    low, high = views.boxes[..., :2], views.boxes[..., 2:]
    point = point_yx[:, None, :]
    used = views.box_label >= 0
    inside = ((low <= point) & (point <= high)).all(axis=-1) & used
    has_box = used.any(axis=-1)
    return inside.any(axis=-1).sum() / jnp.maximum(has_box.sum(), 1)


def _steps(folder: Workdir) -> list[int]:
    checkpoints = Checkpoints(folder.checkpoints, keep_last=1, read_only=True)
    try:
        steps = checkpoints.steps()
    finally:
        checkpoints.close()
    if not steps:
        raise UserError(f"there is no checkpoint in {folder.root}: train first")
    return steps


def _state(run: Run) -> TrainState:
    """The state of a run without its optimiser; `step` matters to weights only, which are 1."""
    step = jnp.array(run.step, jnp.int32)
    return TrainState(**run.model, opt_state=(), rng=jax.random.PRNGKey(0), step=step)


if __name__ == "__main__":
    sys.exit(main())
