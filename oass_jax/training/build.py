"""The parts of a training, built from the config: schedule, optimiser, method and step."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from scipy.special import xlogy

from oass_jax.data.example import Split
from oass_jax.image import geometry
from oass_jax.method import keypoint, loss
from oass_jax.model.network import Network
from oass_jax.run import build
from oass_jax.run.build import Batch
from oass_jax.run.state import TrainState
from oass_jax.training import optimizer
from oass_jax.training.method import Method, Views
from oass_jax.training.step import augment_batch, train_step


class Schedule(NamedTuple):
    """A run in steps.

    Attributes:
      steps_per_epoch: records / batch size; need not be whole, as epochs run on into each other.
      total_steps: steps of the whole run.
      eval_steps: steps after which the network is evaluated; the last one is among them.
      save_every: a checkpoint at least every so many steps.
    """

    steps_per_epoch: float
    total_steps: int
    eval_steps: frozenset[int]
    save_every: int


def num_epochs(num_images: int) -> float:
    """The epochs of a training that its config leaves to the number of images.

    150,000 images in all, as PuzzleCAM's 15 epochs of VOC; but no more than 60 epochs, by which a
    pretrained network has learned a small set by heart, and no fewer than 10.

    Args:
      num_images: of the training split.
    """
    return float(np.clip(150_000 / num_images, 10, 60))


def positive_weight(config: ConfigDict, split: Split) -> np.ndarray | None:
    """What a class that is present counts in the cross-entropy, where one that is absent counts 1.

    Args:
      config: `loss.pos_weight` and `data.difficult` are read.
      split: to train on; its labels are read only if they matter.

    Returns:
      float32 `[C]`: the number of images without the class by that of those with it, at most 20,
      so that a handful of images does not rule the gradient; None where every class counts 1.
    """
    if config.loss.pos_weight == "none":
        return None
    label = split.labels(config.data.difficult)
    present, absent = ((label == value).sum(axis=0) for value in (1, 0))
    return np.clip(absent / np.maximum(present, 1), 1 / 20, 20).astype(np.float32)


_CHANCE_IMAGES = 20_000


def chance_loss(config: ConfigDict, split: Split) -> float:
    """The lowest L_cls of a network that gives every image the same probabilities.

    Without weights that is the mean entropy of the classes' frequencies, among the first, the last
    and those between of a large split: prepared data is read with its images.

    Args:
      config: as for `positive_weight`.
      split: to train on.
    """
    label = split.labels(config.data.difficult, count=_CHANCE_IMAGES)
    weight = positive_weight(config, split)
    absent = (label == 0).mean(axis=0)
    present = (label == 1).mean(axis=0) * (1.0 if weight is None else weight)
    probability = present / np.maximum(present + absent, 1e-9)
    losses = xlogy(present, probability) + xlogy(absent, 1 - probability)
    return float(-(losses / np.maximum((label >= 0).mean(axis=0), 1e-9)).mean())


def create_schedule(config: ConfigDict, num_examples: int) -> Schedule:
    """Turns the epochs of the config into steps.

    Args:
      config: `num_epochs`, `batch_size`, `eval` and `checkpoint` are read.
      num_examples: records of the training split.
    """
    steps_per_epoch = num_examples / config.batch_size
    total = max(1, round(config.num_epochs * steps_per_epoch))
    between = config.eval.every_epochs or config.num_epochs
    count, every = math.ceil(config.num_epochs / between), between * steps_per_epoch
    eval_steps = {min(total, max(1, round(k * every))) for k in range(1, count)} | {total}
    return Schedule(steps_per_epoch, total, frozenset(eval_steps), config.checkpoint.every_steps)


def create_optimizer(
    config: ConfigDict, schedule: Schedule
) -> tuple[optax.GradientTransformation, dict[str, Callable]]:
    """Builds the optimiser and names its learning rates.

    Args:
      config: `optimizer` and `batch_size` are read.
      schedule: the run in steps.

    Returns:
      The transformation, and the schedules `learning_rate` (encoder) and `learning_rate_head`.
    """
    reference = config.optimizer.scale_with_batch or config.batch_size
    # In proportion to the batch, as for plain SGD, Adam's steps grow too large (docs/runs.md).
    scale = math.sqrt(config.batch_size / reference)
    warmup = round(config.optimizer.warmup_epochs * schedule.steps_per_epoch)
    encoder_rate, head_rate = (
        optimizer.learning_rate(
            peak * scale,
            total_steps=schedule.total_steps,
            warmup_steps=min(warmup, schedule.total_steps - 1),
        )
        for peak in (config.optimizer.encoder_learning_rate, config.optimizer.head_learning_rate)
    )
    tx = optimizer.create_optimizer(
        encoder_schedule=encoder_rate,
        head_schedule=head_rate,
        weight_decay=config.optimizer.weight_decay,
    )
    return tx, {"learning_rate": encoder_rate, "learning_rate_head": head_rate}


def create_method(
    config: ConfigDict, schedule: Schedule, mesh: Mesh, *, pos_weight: np.ndarray | None = None
) -> Method:
    """Builds what makes the run supervised, PuzzleCAM or OASS.

    Args:
      config: `keypoint`, `teacher`, `regions` and `loss` are read.
      schedule: the run in steps.
      mesh: one axis, `data`.
      pos_weight: see `positive_weight`.
    """

    def ramp(alpha: float, ramp_epochs: float) -> optax.Schedule:
        return loss.ramp(
            alpha,
            start_step=config.loss.start_epochs * schedule.steps_per_epoch,
            ramp_steps=ramp_epochs * schedule.steps_per_epoch,
        )

    strategy = keypoint.bind(config.keypoint.strategy, config.keypoint)
    return Method(
        teacher=config.teacher.mode,
        strategy=strategy if build.has_patches(config) else None,
        margin_cells=config.keypoint.margin_cells,
        valid_only=config.keypoint.valid_only,
        resize_patches=config.teacher.resize_patches,
        alpha_p=ramp(config.loss.alpha_p, config.loss.alpha_p_ramp_epochs),
        alpha_re=ramp(config.loss.alpha_re, config.loss.alpha_re_ramp_epochs),
        pos_weight=None if pos_weight is None else jnp.asarray(pos_weight),
        re_reduction=config.loss.re_reduction,
        pcl_classes=config.loss.pcl_classes,
        ema_decay=config.teacher.ema_decay,
        chunk_pairs=config.teacher.chunk_pairs,
        regions=build.create_regions(config),
        precision=geometry.float32_precision(mesh.devices.flat[0]),
        mesh=mesh,
    )


def create_augment_fn(
    config: ConfigDict, mesh: Mesh
) -> Callable[[jax.Array, dict[str, jax.Array]], Views]:
    """Builds what places the images of a batch, see `step.augment_batch`.

    Args:
      config: `augment` is read.
      mesh: one axis, `data`.
    """
    min_px, max_px = config.augment.long_side_px
    return functools.partial(
        augment_batch,
        image_px=config.augment.image_px,
        min_px=min_px,
        max_px=max_px,
        flip_probability=config.augment.flip_probability,
        precision=geometry.float32_precision(mesh.devices.flat[0]),
    )


def create_train_fn(
    config: ConfigDict,
    network: Network,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    *,
    pos_weight: np.ndarray | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles the train step for a mesh: state replicated and donated, batch split.

    Deviation: in bfloat16, GPUs also add up the gradients of convolution kernels in bfloat16. For a
    tiny ResNet on 8 devices that changes these gradients by 0.4 % (relative L2), a hundredth of
    what computing in bfloat16 does (15 %), and in float32 it would be twice the traffic.

    Args:
      config: `num_microbatches`, `augment` and the fields of `create_method` are read.
      network: encoder and classifier.
      tx: the optimiser.
      schedule: the run in steps.
      mesh: one axis, `data`.
      pos_weight: see `positive_weight`.
    """
    method = create_method(config, schedule, mesh, pos_weight=pos_weight)
    step_fn = functools.partial(
        train_step,
        network=network,
        tx=tx,
        method=method,
        augment_fn=create_augment_fn(config, mesh),
        num_microbatches=config.num_microbatches,
    )
    return jax.jit(
        step_fn,
        in_shardings=(build.replicated(mesh), build.batch_sharding(mesh)),
        out_shardings=build.replicated(mesh),
        donate_argnums=0,
    )
