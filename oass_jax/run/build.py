"""The parts of a run, built from the config: mesh, data, network and first variables."""

import functools
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.method import mcar
from oass_jax.model import encoders, ssgrl
from oass_jax.model.network import Network
from oass_jax.run.state import TrainState, create_state

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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


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
        name: jax.make_array_from_process_local_data(batch_sharding(mesh), batch[name])
        for name in fields
    }


def create_encoder(config: ConfigDict) -> nn.Module:
    """Builds the encoder, and refuses sizes that do not go with it.

    Args:
      config: `model` is read, and what `check_sizes` reads.

    Raises:
      UserError: there is no such encoder, or `check_sizes` refuses.
    """
    model = config.model
    encoder = encoders.create(model.encoder, dtype=jnp.dtype(model.dtype), remat=model.remat)
    check_sizes(config, encoder)
    return encoder


def check_sizes(config: ConfigDict, encoder: nn.Module) -> None:
    """Refuses inputs whose halves are not whole cells, and margins that leave no cell to cut at.

    Args:
      config: `augment.image_px`, `eval.image_px`, `keypoint.margin_cells` and `teacher.mode` are
        read.
      encoder: f, of which the stride is read.

    Raises:
      UserError: names the field, its value and one that fits.
    """
    multiple = 2 * encoder.stride
    for field, value in (
        ("augment.image_px", config.augment.image_px),
        ("eval.image_px", config.eval.image_px),
    ):
        if value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise UserError(f"--config.{field}={value} is not a multiple of {multiple}: try {near}")
    margin, most = config.keypoint.margin_cells, config.augment.image_px // multiple
    if config.teacher.mode != "none" and margin > most:
        raise UserError(
            f"--config.keypoint.margin_cells={margin} leaves no cell to cut at: at most {most} fit "
            f"into {config.augment.image_px} px"
        )


def create_network(config: ConfigDict, num_classes: int) -> Network:
    """Builds encoder and classifiers.

    Args:
      config: as `create_encoder`.
      num_classes: C.

    Raises:
      UserError: as `create_encoder`; or `model.label_vectors` does not hold them.
    """
    encoder = create_encoder(config)
    graph_head = None
    if config.model.graph:
        vectors = label_vectors(config, num_classes)
        fixed = {} if vectors is None else {"vector_size": vectors.shape[1], "learn_vectors": False}
        graph_head = ssgrl.GraphHead(num_classes, **fixed)
    return Network(encoder, num_classes, csi=config.model.csi, graph_head=graph_head)


def label_vectors(config: ConfigDict, num_classes: int) -> np.ndarray | None:
    """The `[C, V]` label vectors of SSGRL's graph; None where they are learned.

    Args:
      config: `model.label_vectors` is read.
      num_classes: C.
    """
    path = config.model.label_vectors
    return ssgrl.read_vectors(path, num_classes) if path else None


def create_regions(config: ConfigDict) -> mcar.Regions | None:
    """Builds the settings of MCAR's second stream, None where it is off.

    Args:
      config: `regions` is read.
    """
    count = config.regions.count
    return mcar.Regions(count, config.regions.threshold) if count else None


def init_variables(network: Network, seed: int) -> dict[str, Any]:
    """Untrained variables of the network.

    Args:
      network: encoder and classifier.
      seed: of the initialisers.
    """
    init_fn = functools.partial(network.init, train=False)
    side = 4 * network.encoder.stride  # any that the encoder takes
    return jax.jit(init_fn)(jax.random.PRNGKey(seed), jnp.zeros((1, side, side, 3)))


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
