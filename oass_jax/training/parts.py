"""The parts of a run, built from the config: what `loop` puts to work."""

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.data.errors import UserError
from oass_jax.evaluation.evaluate import predict_step
from oass_jax.method import keypoint, loss, region
from oass_jax.model import graph, resnet
from oass_jax.model.network import Network
from oass_jax.training import optimizer
from oass_jax.training.state import TrainState, create_state
from oass_jax.training.step import Method, train_step

Batch = dict[str, jax.Array]


def create_mesh(config: ConfigDict) -> Mesh:
    """One axis, `data`, over every device; the state is replicated and batches are split.

    Args:
      config: the batch sizes are read.

    Raises:
      UserError: a batch cannot be split evenly.
    """
    devices = jax.devices()
    for field, size, num_parts in (
        ("batch_size", config.batch_size, config.num_microbatches),
        ("eval.batch_size", config.eval.batch_size, 1),
    ):
        if size % (num_parts * len(devices)):
            parts = f"{num_parts} microbatches on " * (num_parts > 1)
            raise UserError(
                f"{field} is {size}, which {parts}{len(devices)} device(s) cannot share evenly: "
                f"choose a multiple of {num_parts * len(devices)}"
            )
    return Mesh(np.array(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


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


def open_split(config: ConfigDict, dataset: str, name: str) -> pipeline.Split:
    """Opens a split, preparing the data set the first time.

    Args:
      config: `data.data_dir` and `data.manual_dir` are read; '' stands for none.
      dataset: name of a tfds builder.
      name: name of the split.
    """
    return pipeline.open_split(
        dataset,
        name,
        data_dir=config.data.data_dir or None,
        manual_dir=config.data.manual_dir or None,
    )


def num_threads(config: ConfigDict) -> int:
    """The threads that decode in each process: as many as there are cores for it, if not set.

    Args:
      config: `data.num_threads` and `data.num_workers` are read.
    """
    cores = os.cpu_count() or 1
    return config.data.num_threads or max(1, cores // max(1, config.data.num_workers))


def to_device(batch: dict[str, np.ndarray], fields: tuple[str, ...], mesh: Mesh) -> Batch:
    """Puts this process's part of a batch on its devices.

    Args:
      batch: as `data.pipeline` makes it.
      fields: what is needed there.
      mesh: one axis, `data`.

    Returns:
      Global arrays, split over the devices of all processes.
    """
    return {
        name: jax.make_array_from_process_local_data(split(mesh), batch[name]) for name in fields
    }


def create_schedule(config: ConfigDict, num_examples: int) -> Schedule:
    """Turns the epochs of the config into steps.

    Args:
      config: `num_epochs`, `batch_size`, `eval` and `checkpoint` are read.
      num_examples: records of the training split.
    """
    steps_per_epoch = num_examples / config.batch_size
    total = max(1, round(config.num_epochs * steps_per_epoch))
    count = math.ceil(config.num_epochs / config.eval.every_epochs)
    every = config.eval.every_epochs * steps_per_epoch
    eval_steps = {min(total, max(1, round(k * every))) for k in range(1, count)} | {total}
    return Schedule(steps_per_epoch, total, frozenset(eval_steps), config.checkpoint.every_steps)


def create_network(config: ConfigDict, num_classes: int) -> Network:
    """Builds encoder and classifiers.

    Args:
      config: `model` is read.
      num_classes: C.

    Raises:
      UserError: `model.label_vectors` does not hold them.
    """
    encoder = resnet.ENCODERS[config.model.encoder](
        dtype=jnp.dtype(config.model.dtype), remat=config.model.remat
    )
    graph_head = None
    if config.model.graph:
        vectors = label_vectors(config, num_classes)
        fixed = {} if vectors is None else {"vector_size": vectors.shape[1], "learn_vectors": False}
        graph_head = graph.GraphHead(num_classes, **fixed)
    return Network(encoder, num_classes, csi=config.model.csi, graph_head=graph_head)


def label_vectors(config: ConfigDict, num_classes: int) -> np.ndarray | None:
    """The `[C, V]` label vectors of SSGRL's graph; None where they are learned.

    Args:
      config: `model.label_vectors` is read.
      num_classes: C.
    """
    path = config.model.label_vectors
    return graph.read_vectors(path, num_classes) if path else None


def create_optimizer(
    config: ConfigDict, schedule: Schedule
) -> tuple[optax.GradientTransformation, dict[str, Callable]]:
    """Builds the optimiser and names its learning rates.

    Args:
      config: `optimizer` is read.
      schedule: the run in steps.

    Returns:
      The transformation, and the schedules `learning_rate` (encoder) and `learning_rate_head`.
    """
    warmup = round(config.optimizer.warmup_epochs * schedule.steps_per_epoch)
    encoder_rate, head_rate = (
        optimizer.learning_rate(
            peak,
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


def create_regions(config: ConfigDict) -> region.Regions | None:
    """Builds the settings of MCAR's second stream, None where it is off.

    Args:
      config: `regions` is read.
    """
    count = config.regions.count
    return region.Regions(count, config.regions.threshold) if count else None


def create_method(config: ConfigDict, schedule: Schedule, mesh: Mesh) -> Method:
    """Builds what makes the run supervised, PuzzleCAM or OASS.

    Args:
      config: `keypoint`, `teacher`, `regions` and `loss` are read.
      schedule: the run in steps.
      mesh: one axis, `data`.
    """

    def ramp(alpha: float, ramp_epochs: float) -> Callable[[jax.Array], jax.Array]:
        return functools.partial(
            loss.ramp,
            alpha=alpha,
            start_step=config.loss.start_epochs * schedule.steps_per_epoch,
            ramp_steps=ramp_epochs * schedule.steps_per_epoch,
        )

    return Method(
        teacher=config.teacher.mode,
        strategy=keypoint.bind(config.keypoint.strategy, config.keypoint),
        margin_cells=config.keypoint.margin_cells,
        valid_only=config.keypoint.valid_only,
        resize_patches=config.teacher.resize_patches,
        alpha_p=ramp(config.loss.alpha_p, config.loss.alpha_p_ramp_epochs),
        alpha_re=ramp(config.loss.alpha_re, config.loss.alpha_re_ramp_epochs),
        re_reduction=config.loss.re_reduction,
        pcl_classes=config.loss.pcl_classes,
        ema_decay=config.teacher.ema_decay,
        chunk_pairs=config.teacher.chunk_pairs,
        regions=create_regions(config),
        mesh=mesh,
    )


def create_train_fn(
    config: ConfigDict,
    network: Network,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles the train step for a mesh: state replicated and donated, batch split.

    Args:
      config: `num_microbatches`, `augment` and the fields of `create_method` are read.
      network: encoder and classifier.
      tx: the optimiser.
      schedule: the run in steps.
      mesh: one axis, `data`.
    """
    min_px, max_px = config.augment.long_side_px
    step_fn = functools.partial(
        train_step,
        network=network,
        tx=tx,
        method=create_method(config, schedule, mesh),
        image_px=config.augment.image_px,
        min_px=min_px,
        max_px=max_px,
        flip_probability=config.augment.flip_probability,
        num_microbatches=config.num_microbatches,
    )
    return jax.jit(
        step_fn,
        in_shardings=(replicated(mesh), split(mesh)),
        out_shardings=replicated(mesh),
        donate_argnums=0,
    )


def create_predict_fn(
    config: ConfigDict, network: Network, mesh: Mesh
) -> Callable[[dict, Batch], dict[str, Any]]:
    """Compiles `evaluate.predict_step` for a mesh; every device gets every result.

    Args:
      config: `eval.scales`, `eval.flip` and `regions` are read.
      network: encoder and classifiers.
      mesh: one axis, `data`.
    """
    predict_fn = functools.partial(
        predict_step,
        network=network,
        regions=create_regions(config),
        scales=config.eval.scales,
        flip=config.eval.flip,
    )
    return jax.jit(
        predict_fn,
        in_shardings=(replicated(mesh), split(mesh)),
        out_shardings=replicated(mesh),
    )


def init_variables(network: Network, seed: int) -> dict[str, Any]:
    """Untrained variables of the network.

    Args:
      network: encoder and classifier.
      seed: of the initialisers.
    """
    init_fn = functools.partial(network.init, train=False)
    return jax.jit(init_fn)(jax.random.PRNGKey(seed), jnp.zeros((1, 64, 64, 3)))


def abstract_state(
    network: Network, tx: optax.GradientTransformation, teacher: str, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, for restoring.

    Args:
      network: encoder and classifier.
      tx: the optimiser.
      teacher: as in `Method`.
      mesh: one axis, `data`.
    """

    def create() -> TrainState:
        rng = jax.random.PRNGKey(0)
        return create_state(init_variables(network, 0), tx=tx, rng=rng, teacher=teacher)

    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)),
        jax.eval_shape(create),
    )
