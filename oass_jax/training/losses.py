"""The three losses of a training step: classification, and the puzzle of images or of pairs.

The mathematics of each is in `method/`; here the network is run for it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oass_jax.image import geometry
from oass_jax.method import keypoint, loss, mcar, puzzle
from oass_jax.model.network import Network
from oass_jax.run.state import TrainState
from oass_jax.training import pairs
from oass_jax.training.method import Method, Views

Tree = Any


class Student(NamedTuple):
    """What the student says of a batch of full images.

    Attributes:
      cam: `A`, `[B, h, w, C]` float32, raw class maps.
      batch_stats: its running statistics after the batch.
      losses: `loss_cls`, and `loss_csi`, `loss_graph`, `loss_regions` where they are used.
    """

    cam: jax.Array
    batch_stats: Tree
    losses: dict[str, jax.Array]


class Puzzle(NamedTuple):
    """What the puzzle of patches adds.

    Attributes:
      total: alpha_p * L_p-cl + alpha_re * L_re.
      losses: `loss_pcl` and `loss_re`, without their weights.
      batch_stats: running statistics of the student after the patches.
    """

    total: jax.Array
    losses: dict[str, jax.Array]
    batch_stats: Tree


def classification_losses(
    params: Tree, batch_stats: Tree, views: Views, *, network: Network, method: Method
) -> Student:
    """L_cls of the full images, and a loss like it of whatever else classifies.

    CSI (Sec. 2.2), MCAR's regions, SSGRL's graph.

    Args:
      params: those of the student, with gradient.
      batch_stats: its running statistics.
      views: the augmented batch.
      network: encoder f and classifiers.
      method: `regions`, `pos_weight` and `precision` are read.
    """
    features, batch_stats = _encode(network, params, batch_stats, views.image)
    cam, logits = network.apply({"params": params}, features, method=Network.predict)
    if method.regions is not None:
        crops = mcar.crop(
            views.image, cam, logits["base"], method.regions, precision=method.precision
        )
        features, batch_stats = _encode(network, params, batch_stats, crops)
        _, local = network.apply({"params": params}, features, method=Network.predict)
        logits["regions"] = mcar.strongest(local["base"], views.label.shape[0])
    names = {"base": "loss_cls"}
    losses = {
        names.get(head, f"loss_{head}"): loss.classification(values, views.label, method.pos_weight)
        for head, values in logits.items()
    }
    return Student(cam, batch_stats, losses)


def image_puzzle_losses(
    params: Tree,
    student: Student,
    state: TrainState,
    views: Views,
    *,
    network: Network,
    method: Method,
) -> Puzzle:
    """L_p-cl and L_re where each image has one keypoint (Sec. 2.1).

    Args:
      params: those of the student, with gradient.
      student: what it says of the full images.
      state: `step` and `teacher` are read.
      views: the augmented batch.
      network: encoder f and classifiers.
      method: everything but `regions`.
    """
    inputs = keypoint_inputs(student.cam, views, method)
    cam_re, batch_stats = reconstruct(
        params,
        student.batch_stats,
        state.teacher,
        views.image,
        inputs,
        network=network,
        method=method,
    )
    target = _target(cam_re, method.teacher)
    loss_pcl = loss.classification(cam_re.mean((1, 2)), views.label, method.pos_weight)
    loss_re = loss.reconstruction(student.cam, target, views.label, method.re_reduction).mean()
    total = method.alpha_p(state.step) * loss_pcl + method.alpha_re(state.step) * loss_re
    return Puzzle(total, {"loss_pcl": loss_pcl, "loss_re": loss_re}, batch_stats)


def pair_puzzle_losses(
    params: Tree,
    student: Student,
    state: TrainState,
    views: Views,
    *,
    network: Network,
    method: Method,
) -> Puzzle:
    """L_p-cl and L_re where each labelled (image, class) pair has a keypoint (Sec. 2.1).

    Args:
      params: those of the student, with gradient.
      student: what it says of the full images.
      state: `step` and `teacher` are read.
      views: the augmented batch.
      network: encoder f and classifiers.
      method: everything but `regions`.
    """
    sums = pairs.sum_over_pairs(
        functools.partial(_pair_losses, network=network, method=method),
        # The head alone is trained through an EMA teacher: nothing else needs a gradient there.
        params={"head": params["head"]} if method.teacher == "ema" else params,
        cam=student.cam,
        shared=PairShared(
            state.teacher,
            student.batch_stats,
            method.alpha_p(state.step),
            method.alpha_re(state.step),
        ),
        per_image=(views.image, keypoint_inputs(student.cam, views, method)),
        label=views.label,
        chunk=method.chunk_pairs,
        mesh=method.mesh,
    )
    total, values = jax.tree.map(lambda x: x / views.label.shape[0], sums)
    return Puzzle(total, values, student.batch_stats)


class PairShared(NamedTuple):
    """What every pair needs whole: the teacher, the student's statistics, and the weights."""

    teacher: Tree
    batch_stats: Tree
    alpha_p: jax.Array
    alpha_re: jax.Array


def _pair_losses(
    params: Tree,
    cam: jax.Array,
    shared: PairShared,
    per_image: tuple[jax.Array, keypoint.KeypointInputs],
    pair: pairs.Pairs,
    *,
    network: Network,
    method: Method,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted L_p-cl^c and L_re^c of P (image, class) pairs, summed, and their weighted sum."""
    image, inputs = per_image
    is_own = inputs.box_label == pair.channel[:, None]
    alone = inputs._replace(
        cam=_own(inputs.cam, pair.channel),
        label=jnp.ones_like(inputs.label[:, :1]),
        box_label=jnp.where(is_own, 0, -1),
    )
    own = method.pcl_classes == "own"
    cam_re, _ = reconstruct(
        params,
        shared.batch_stats,
        shared.teacher,
        image,
        alone,
        network=network,
        method=method,
        channel=pair.channel if own else None,
    )
    label = alone.label if own else inputs.label
    pos_weight = method.pos_weight
    if own and pos_weight is not None:
        pos_weight = pos_weight[pair.channel][:, None]
    entropy = loss.cross_entropy(cam_re.mean((1, 2)), label, pos_weight)
    loss_pcl = loss.mean_over_classes(entropy, label)
    target = _target(cam_re if own else _own(cam_re, pair.channel), method.teacher)
    loss_re = loss.reconstruction(_own(cam, pair.channel), target, alone.label, "mean")
    values = {
        "loss_pcl": (pair.weight * loss_pcl).sum(),
        "loss_re": (pair.weight * loss_re).sum(),
    }
    return shared.alpha_p * values["loss_pcl"] + shared.alpha_re * values["loss_re"], values


def keypoint_inputs(cam: jax.Array, views: Views, method: Method) -> keypoint.KeypointInputs:
    """What keypoints of the full images are found from.

    Args:
      cam: `[B, h, w, C]` raw class maps; no gradient goes back through them.
      views: the augmented batch.
      method: `valid_only` is read.
    """
    shape = cam.shape[1:3]
    valid = geometry.pixels_inside(views.window, shape, views.image.shape[1] // shape[0])
    return keypoint.KeypointInputs(
        cam=jax.lax.stop_gradient(cam),
        label=views.label,
        valid=valid | (not method.valid_only),
        boxes=views.boxes,
        box_label=views.box_label,
        rng=views.rng,
    )


def reconstruct(
    params: Tree,
    batch_stats: Tree,
    teacher: Tree,
    image: jax.Array,
    inputs: keypoint.KeypointInputs,
    *,
    network: Network,
    method: Method,
    channel: jax.Array | None = None,
) -> tuple[jax.Array, Tree]:
    """Keypoint, four patches, teacher, and the maps tiled again: A_re (Sec. 2.1).

    Deviation: a siamese teacher of pairs normalises patches by the running statistics. Those of the
    batch would depend on how pairs are distributed over chunks and devices.

    Args:
      params: those of the student: all, or the head alone where the teacher is an EMA.
      batch_stats: running statistics of the student.
      teacher: `{'params', 'batch_stats'}` of the EMA encoder, or empty.
      image: `[N, H, W, 3]`.
      inputs: what the N keypoints are found from.
      network: encoder f and classifiers.
      method: the teacher and keypoint.
      channel: `[N]` int, the one class of each example whose map is wanted; None for all.

    Returns:
      `A_re`, `[N, h, w, C]`, or `[N, h, w, 1]`, float32; and the new running statistics.
    """
    shape = inputs.cam.shape[1:3]
    point = method.strategy.keypoint_fn(inputs)
    cut_yx = keypoint.cut_position(point, shape, method.margin_cells)
    stride = image.shape[1] // shape[0]
    patches = puzzle.cut(
        image, cut_yx * stride, resize=method.resize_patches, precision=method.precision
    )
    if method.teacher == "ema":
        variables = {name: {"encoder": tree} for name, tree in teacher.items()}
        features = network.apply(variables, patches, train=False, method=Network.encode)
        features = jax.lax.stop_gradient(features)
    elif method.strategy.channel_wise:
        variables = {"params": params, "batch_stats": jax.lax.stop_gradient(batch_stats)}
        features = network.apply(variables, patches, train=False, method=Network.encode)
    else:
        features, batch_stats = _encode(network, params, batch_stats, patches)
    # The student's head also on the teacher's features.
    channel = None if channel is None else jnp.repeat(channel, 4)
    maps = network.apply({"params": params}, features, channel, method=Network.classify)
    return puzzle.tile(maps, cut_yx, shape, precision=method.precision), batch_stats


def _encode(
    network: Network, params: Tree, batch_stats: Tree, images: jax.Array
) -> tuple[jax.Array, Tree]:
    """The student's features, with the statistics of the batch, and its new running statistics."""
    features, updated = network.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        method=Network.encode,
        mutable=["batch_stats"],
    )
    # An encoder without BatchNorm has none.
    return features, updated.get("batch_stats", {})


def _own(maps: jax.Array, channel: jax.Array) -> jax.Array:
    """The map of one class for each example: `[N, h, w, C]` and `[N]` -> `[N, h, w, 1]`."""
    return jnp.take_along_axis(maps, channel[:, None, None, None], axis=-1)


def _target(cam_re: jax.Array, teacher: str) -> jax.Array:
    # Only a siamese teacher is trained by L_re; the head would otherwise move the target.
    return cam_re if teacher == "siamese" else jax.lax.stop_gradient(cam_re)
