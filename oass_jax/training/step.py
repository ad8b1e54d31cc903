"""The training step: Fig. 3 of the paper as one pure function of state and batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from oass_jax.image import augment, geometry
from oass_jax.method import keypoint, loss, mcar, puzzle
from oass_jax.model.network import Network
from oass_jax.run.state import TrainState, ema_update
from oass_jax.training import pairs
from oass_jax.training.microbatch import mean_gradient

Tree = Any


class Views(NamedTuple):
    """A batch as the network sees it: images and boxes after augmentation.

    Attributes:
      image: `[B, H, W, 3]` float32, normalised, zero in the padding.
      label: `[B, C]` int, 1 present, 0 absent, -1 left out.
      window: `[B, 2, 2]`, where the image lies on the canvas, see `augment.Placement`.
      boxes: `[B, M, 4]` float32, ymin, xmin, ymax, xmax in [0, 1] of the canvas.
      box_label: `[B, M]` int, class of each box, -1 for an unused slot.
    """

    image: jax.Array
    label: jax.Array
    window: jax.Array
    boxes: jax.Array
    box_label: jax.Array


class Method(NamedTuple):
    """What makes a step supervised, PuzzleCAM or OASS.

    Attributes:
      teacher: 'none' (L_cls alone), 'siamese' (the student itself, with gradient: PuzzleCAM) or
        'ema' (the mean of past encoders: OASS).
      strategy: from `method.keypoint.KEYPOINTS`, with its options.
      margin_cells: least height and width of a patch.
      valid_only: choose keypoints on the image only, never on its padding.
      resize_patches: see `method.puzzle.cut`.
      alpha_p: step -> weight of L_p-cl.
      alpha_re: step -> weight of L_re.
      re_reduction: how L_re of an image is averaged, see `method.loss.reconstruction`.
      pcl_classes: channel-wise, the classes that L_p-cl of a pair is about: its 'own', or 'all'.
      ema_decay: largest decay of the EMA.
      chunk_pairs: channel-wise, the pairs a device computes together.
      regions: of MCAR's second stream; None for none.
      mesh: one axis, `data`, over which the batch is split.
    """

    teacher: str
    strategy: keypoint.Strategy
    margin_cells: int
    valid_only: bool
    resize_patches: bool
    alpha_p: Callable[[jax.Array], jax.Array]
    alpha_re: Callable[[jax.Array], jax.Array]
    re_reduction: str
    pcl_classes: str
    ema_decay: float
    chunk_pairs: int
    regions: mcar.Regions | None
    mesh: Mesh


def total_loss(
    params: Tree, state: TrainState, views: Views, *, network: Network, method: Method
) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
    """L = L_cls + alpha_p * L_p-cl + alpha_re * L_re (Sec. 2.1, Fig. 3).

    Whatever else classifies has a loss like L_cls: CSI (Sec. 2.2), MCAR's regions, SSGRL's graph.

    Args:
      params: those of the student, with gradient.
      state: everything else.
      views: the augmented batch.
      network: encoder f and classifiers.
      method: the teacher, keypoint and weights.

    Returns:
      The loss, the new running statistics, and the metrics as float32 scalars.
    """
    label = views.label
    features, batch_stats = _encode(network, params, state.batch_stats, views.image)
    cam, logits = network.apply({"params": params}, features, method=Network.predict)  # A
    if method.regions is not None:
        crops = mcar.crop(views.image, cam, logits["base"], method.regions)
        features, batch_stats = _encode(network, params, batch_stats, crops)
        _, local = network.apply({"params": params}, features, method=Network.predict)
        logits["regions"] = mcar.strongest(local["base"], label.shape[0])
    names = {"base": "loss_cls"}
    metrics = {
        names.get(kind, f"loss_{kind}"): loss.classification(values, label)
        for kind, values in logits.items()
    }
    total = sum(metrics.values())
    if method.teacher == "none":
        return total, (batch_stats, metrics | {"loss": total})

    shape = cam.shape[1:3]
    valid = geometry.pixels_inside(views.window, shape, views.image.shape[1] // shape[0])
    scene = keypoint.Scene(
        cam=jax.lax.stop_gradient(cam),
        label=label,
        valid=valid | (not method.valid_only),
        boxes=views.boxes,
        box_label=views.box_label,
    )
    alpha_p, alpha_re = method.alpha_p(state.step), method.alpha_re(state.step)
    if method.strategy.channel_wise:
        # The head alone is taught by an EMA teacher, so nothing else needs a gradient there.
        taught = {"head": params["head"]} if method.teacher == "ema" else params
        puzzle_loss, values = pairs.sum_over_pairs(
            functools.partial(_pair_losses, network=network, method=method),
            (taught, cam),
            ((state.teacher, batch_stats, alpha_p, alpha_re), (views.image, scene)),
            label,
            chunk=method.chunk_pairs,
            mesh=method.mesh,
        )
        puzzle_loss, values = jax.tree.map(lambda x: x / label.shape[0], (puzzle_loss, values))
    else:
        cam_re, batch_stats = reconstruct(
            params, batch_stats, state.teacher, views.image, scene, network=network, method=method
        )
        loss_pcl = loss.classification(cam_re.mean((1, 2)), label)
        target = _target(cam_re, method.teacher)
        loss_re = loss.reconstruction(cam, target, label, method.re_reduction).mean()
        puzzle_loss = alpha_p * loss_pcl + alpha_re * loss_re
        values = {"loss_pcl": loss_pcl, "loss_re": loss_re}
    total += puzzle_loss
    return total, (
        batch_stats,
        metrics | values | {"loss": total, "alpha_p": alpha_p, "alpha_re": alpha_re},
    )


def reconstruct(
    params: Tree,
    batch_stats: Tree,
    teacher: Tree,
    image: jax.Array,
    scene: keypoint.Scene,
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
      scene: what the keypoints are found from, N rows.
      network: encoder f and classifiers.
      method: the teacher and keypoint.
      channel: `[N]` int, the one class of each row whose map is wanted; None for all.

    Returns:
      `A_re`, `[N, h, w, C]`, or `[N, h, w, 1]`, float32; and the new running statistics.
    """
    shape = scene.cam.shape[1:3]
    point = method.strategy.keypoint_fn(scene)
    cut_yx = keypoint.cut_position(point, shape, method.margin_cells)
    stride = image.shape[1] // shape[0]
    patches = puzzle.cut(image, cut_yx * stride, resize=method.resize_patches)
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
    return puzzle.tile(maps, cut_yx, shape), batch_stats


def _pair_losses(
    inputs: tuple[Tree, jax.Array],
    constants: tuple[Tree, Tree],
    pair: pairs.Pairs,
    *,
    network: Network,
    method: Method,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted L_p-cl^c and L_re^c of P (image, class) pairs, summed, and their weighted sum."""
    (params, cam), (shared, (image, scene)) = inputs, constants
    teacher, batch_stats, alpha_p, alpha_re = shared
    is_own = scene.box_label == pair.channel[:, None]
    alone = scene._replace(
        cam=_own(scene.cam, pair.channel),
        label=jnp.ones_like(scene.label[:, :1]),
        box_label=jnp.where(is_own, 0, -1),
    )
    own = method.pcl_classes == "own"
    cam_re, _ = reconstruct(
        params,
        batch_stats,
        teacher,
        image,
        alone,
        network=network,
        method=method,
        channel=pair.channel if own else None,
    )
    label = alone.label if own else scene.label
    loss_pcl = loss.mean_over_classes(loss.cross_entropy(cam_re.mean((1, 2)), label), label)
    target = _target(cam_re if own else _own(cam_re, pair.channel), method.teacher)
    loss_re = loss.reconstruction(_own(cam, pair.channel), target, alone.label, "mean")
    values = {
        "loss_pcl": (pair.weight * loss_pcl).sum(),
        "loss_re": (pair.weight * loss_re).sum(),
    }
    return alpha_p * values["loss_pcl"] + alpha_re * values["loss_re"], values


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
    return features, updated["batch_stats"]


def _own(maps: jax.Array, channel: jax.Array) -> jax.Array:
    """The map of one class for each row: `[N, h, w, C]` and `[N]` -> `[N, h, w, 1]`."""
    return jnp.take_along_axis(maps, channel[:, None, None, None], axis=-1)


def _target(cam_re: jax.Array, teacher: str) -> jax.Array:
    # Only a siamese teacher is taught by L_re; the head would otherwise move the target.
    return cam_re if teacher == "siamese" else jax.lax.stop_gradient(cam_re)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    network: Network,
    tx: optax.GradientTransformation,
    method: Method,
    image_px: int,
    min_px: int,
    max_px: int,
    flip_probability: float,
    num_microbatches: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: augment, losses, gradient, optimiser, EMA.

    Under `jax.jit` with a batch sharded over devices it computes what one device would:
    BatchNorm's statistics are those of the whole batch, and each image draws from its own key.

    Args:
      state: donated by the caller.
      batch: `image` `[B, h, w, 3]` uint8, `size` `[B, 2]`, `label` `[B, C]`, `boxes` and
        `box_label`, as `data.pipeline` makes them.
      network: encoder f and classifier g.
      tx: the optimiser.
      method: supervised, PuzzleCAM or OASS.
      image_px: side of the canvas, H = W.
      min_px: smallest long side of an image on it.
      max_px: largest long side.
      flip_probability: of exchanging left and right.
      num_microbatches: see `microbatch.mean_gradient`.

    Returns:
      The next state and float32 scalars: the losses, their weights and the gradient's norm.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    rng = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(batch["image"].shape[0]))
    placement = augment.random_placement(
        rng,
        batch["size"],
        out_px=image_px,
        min_px=min_px,
        max_px=max_px,
        flip_probability=flip_probability,
    )
    image = augment.place_images(batch["image"], placement, image_px)
    boxes, box_label = augment.place_boxes(batch["boxes"], batch["box_label"], placement, image_px)
    views = Views(image, batch["label"], placement.window, boxes, box_label)

    loss_fn = functools.partial(total_loss, network=network, method=method)
    batch_stats, metrics, grads = mean_gradient(loss_fn, state, views, num_microbatches)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics["grad_norm"] = optax.tree.norm(grads)
    new_state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    if method.teacher == "ema":
        teacher = ema_update(state.teacher, new_state, state.step, method.ema_decay)
        new_state = new_state.replace(teacher=teacher)
    return new_state, metrics
