"""The parts of a run, built from the config: mesh, data, network and first variables."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.data.sources import Location
from oass_jax.errors import UserError
from oass_jax.image import geometry
from oass_jax.method import mcar
from oass_jax.model import encoders, ssgrl
from oass_jax.model.network import Network
from oass_jax.run.workdir import Workdir

Batch = dict[str, jax.Array]
_MAX_THREADS = 32


def create_mesh() -> Mesh:
    """One axis, `data`, over every device; the state is replicated and batches are split.

    The devices of a process are adjacent, as its images are in the batch, because an image's
    augmentation depends on its place there. `jax.make_mesh` may order devices by their place in the
    network of a pod, so that those of two hosts alternate.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def require_even(mesh: Mesh, field: str, batch_size: int, *, num_parts: int = 1) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Args:
      mesh: one axis, `data`.
      field: of the config, for the message.
      batch_size: its value.
      num_parts: microbatches that a batch is computed in.

    Raises:
      UserError: names the nearest rule that fits.
    """
    unit = num_parts * mesh.size
    if batch_size % unit:
        parts = f"{num_parts} microbatches on " * (num_parts > 1)
        raise UserError(
            f"{field} is {batch_size}, which {parts}{mesh.size} device(s) cannot share evenly: "
            f"choose a multiple of {unit}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def open_split(
    config: ConfigDict,
    folder: Workdir | None,
    dataset: str,
    name: str,
    *,
    class_names: tuple[str, ...] | None = None,
) -> pipeline.Split:
    """Opens a split, preparing its data set the first time where that has to be.

    Args:
      config: where the data is, from `data`; '' stands for none.
      folder: the workdir, which may hold the choice of the validation images; None for none.
      dataset: name in `data.sources`.
      name: name of the split.
      class_names: those the network is made for; None for those of the split.

    Raises:
      UserError: no such split, or it has other classes.
    """
    location = Location.from_fields(config.data, split_list=folder.split_list if folder else None)
    split = pipeline.open_split(dataset, name, location, class_names=class_names)
    if class_names not in (None, split.class_names):
        raise UserError(
            f"{dataset} has the classes {', '.join(split.class_names)}; the network was made for "
            f"{', '.join(class_names)}: set eval.dataset"
        )
    return split


def read_options(config: ConfigDict) -> pipeline.ReadOptions:
    """How training reads images.

    Args:
      config: `data` is read.
    """
    return pipeline.ReadOptions(
        canvas_px=config.data.canvas_px,
        max_boxes=config.data.max_boxes,
        difficult=config.data.difficult,
        num_workers=config.data.num_workers,
        num_threads=_num_threads(config),
        cache=config.data.cache,
    )


def eval_read_options(config: ConfigDict) -> pipeline.ReadOptions:
    """How evaluation reads images: as training does, but for canvas and difficult objects.

    Args:
      config: `data`, `eval.image_px` and `eval.difficult` are read.
    """
    return dataclasses.replace(
        read_options(config),
        canvas_px=config.eval.image_px,
        difficult=config.eval.difficult,
        cache=False,  # one pass reads every image once
    )


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
      config: `augment.image_px`, `eval.image_px`, `keypoint.margin_cells`, `teacher` and `loss`
        are read.
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
    margin, max_margin = config.keypoint.margin_cells, config.augment.image_px // multiple
    if has_patches(config) and margin > max_margin:
        raise UserError(
            f"--config.keypoint.margin_cells={margin} leaves no cell to cut at: at most "
            f"{max_margin} fit into {config.augment.image_px} px"
        )


def margin_note(config: ConfigDict, stride: int) -> list[str]:
    """A line where the margin keeps every cut near the middle: the default is made for 512 px.

    Args:
      config: `augment.image_px`, `keypoint`, `teacher` and `loss` are read.
      stride: of the encoder.
    """
    margin, cells = config.keypoint.margin_cells, config.augment.image_px // stride
    if not has_patches(config) or config.keypoint.strategy == "center" or 4 * margin <= cells:
        return []
    return [
        f"keypoint.margin_cells={margin} keeps every cut of an image of {cells} cells in the "
        f"middle {cells - 2 * margin + 1}: --config.keypoint.margin_cells=1 follows the objects"
    ]


def dtype_note(config: ConfigDict, device: jax.Device) -> list[str]:
    """A line where the device has no arithmetic for the dtype of the network.

    Args:
      config: `model.dtype` is read.
      device: that computes.
    """
    generation = geometry.nvidia_generation(device)
    if config.model.dtype != "bfloat16" or generation is None or generation >= geometry.AMPERE:
        return []
    return [
        f"{device.device_kind} has no arithmetic for bfloat16 and converts: "
        "--config.model.dtype=float32 may be faster and rounds less, but takes more memory"
    ]


def create_network(
    config: ConfigDict, num_classes: int, *, vector_size: int | None = None
) -> Network:
    """Builds encoder and classifiers.

    Args:
      config: as `create_encoder`.
      num_classes: C.
      vector_size: V of SSGRL's label vectors, of which a checkpoint has saved them; None to find
        it in the file `model.label_vectors`, as a training does.

    Raises:
      UserError: as `create_encoder`; or `model.label_vectors` does not hold them.
    """
    encoder = create_encoder(config)
    graph_head = None
    if config.model.graph:
        learned = not config.model.label_vectors
        if vector_size is None and not learned:
            vector_size = label_vectors(config, num_classes).shape[1]
        size = {} if vector_size is None else {"vector_size": vector_size}
        graph_head = ssgrl.GraphHead(num_classes, learn_vectors=learned, **size)
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


def abstract(create_fn: Callable[[], Any], mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of what a function would create, for restoring it.

    Args:
      create_fn: returns a tree of arrays; it is traced, not run.
      mesh: one axis, `data`; every array is wanted whole on every device.
    """
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(create_fn),
    )


def has_patches(config: ConfigDict) -> bool:
    """Whether the method cuts images: there is a teacher, and a loss that hangs on the patches.

    Args:
      config: `teacher` and `loss` are read.
    """
    return config.teacher.mode != "none" and bool(config.loss.alpha_p or config.loss.alpha_re)


def _num_threads(config: ConfigDict) -> int:
    """The threads that decode in each process, if not set as many as there are cores for it.

    Each reads a batch ahead: those of a large node would fill its memory.
    """
    cores = min(_MAX_THREADS, num_cores() // max(1, config.data.num_workers))
    return config.data.num_threads or max(1, cores)


def num_cores() -> int:
    """The cores that this process may use, which a scheduler may have limited."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on a Mac
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
