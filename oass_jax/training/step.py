"""The training step: Fig. 3 of the paper as one pure function of state and batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from oass_jax.image import augment, geometry
from oass_jax.method import keypoint, loss, puzzle
from oass_jax.model.network import Network

Tree = Any


@flax.struct.dataclass
class TrainState:
    """All that a run is, beside its input.

    Attributes:
      step: int32 scalar, steps done.
      params: `{'encoder': theta, 'head': phi}`, float32.
      batch_stats: running statistics of the student's BatchNorm.
      teacher: `{'params', 'batch_stats'}` of the EMA encoder; empty without such a teacher.
      opt_state: of optax.
      rng: key of the run; never advanced, each step folds its number in.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    teacher: Tree
    opt_state: optax.OptState
    rng: jax.Array


class Method(NamedTuple):
    """What makes a step supervised, PuzzleCAM or OASS.

    Attributes:
      teacher: 'none' (L_cls alone), 'siamese' (the student itself, with gradient: PuzzleCAM) or
        'ema' (the mean of past encoders: OASS).
      keypoint_fn: `Scene` -> `[B, 2]` points in cells, from `method.keypoint.KEYPOINTS`.
      margin_cells: least height and width of a patch.
      valid_only: choose keypoints on the image only, never on its padding.
      alpha_p: step -> weight of L_p-cl.
      alpha_re: step -> weight of L_re.
      re_reduction: how L_re is averaged, see `method.loss.reconstruction`.
      ema_decay: largest decay of the EMA.
    """

    teacher: str
    keypoint_fn: Callable[[keypoint.Scene], jax.Array]
    margin_cells: int
    valid_only: bool
    alpha_p: Callable[[jax.Array], jax.Array]
    alpha_re: Callable[[jax.Array], jax.Array]
    re_reduction: str
    ema_decay: float


def create_state(
    variables: Tree, *, tx: optax.GradientTransformation, rng: jax.Array, teacher: str
) -> TrainState:
    """The state before the first step; an EMA teacher starts as the student.

    Args:
      variables: `{'params', 'batch_stats'}` of the network.
      tx: the optimiser.
      rng: key of the run.
      teacher: as in `Method`.
    """
    encoder = {name: variables[name]["encoder"] for name in ("params", "batch_stats")}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        # A copy: donated buffers must not be shared.
        teacher=jax.tree.map(jnp.copy, encoder) if teacher == "ema" else {},
        opt_state=tx.init(variables["params"]),
        rng=rng,
    )


def total_loss(
    params: Tree,
    state: TrainState,
    image: jax.Array,
    label: jax.Array,
    window: jax.Array,
    *,
    network: Network,
    method: Method,
) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
    """L = L_cls + alpha_p * L_p-cl + alpha_re * L_re (Sec. 2.1, Fig. 3).

    Args:
      params: those of the student, with gradient.
      state: everything else.
      image: `[B, H, W, 3]` float32, normalised, zero in the padding.
      label: `[B, C]` int, 1 present, 0 absent, -1 left out.
      window: `[B, 2, 2]`, where the image lies on the canvas, see `augment.Placement`.
      network: encoder f and classifier g.
      method: the teacher, keypoint and weights.

    Returns:
      The loss, the new running statistics, and the metrics as float32 scalars.
    """

    def encode(images: jax.Array, batch_stats: Tree) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": batch_stats}
        features, updated = network.apply(
            variables, images, train=True, method=Network.encode, mutable=["batch_stats"]
        )
        return features, updated["batch_stats"]

    def classify(features: jax.Array) -> jax.Array:
        return network.apply({"params": params}, features, method=Network.classify)

    features, batch_stats = encode(image, state.batch_stats)
    cam = classify(features)  # A
    loss_cls = loss.classification(cam.mean((1, 2)), label)
    metrics = {"loss": loss_cls, "loss_cls": loss_cls}
    if method.teacher == "none":
        return loss_cls, (batch_stats, metrics)

    num_images, height, width, _ = image.shape
    shape = cam.shape[1:3]
    stride = height // shape[0]
    valid = geometry.pixels_inside(window, shape, stride) | (not method.valid_only)
    scene = keypoint.Scene(jax.lax.stop_gradient(cam), label, valid)
    cut_yx = keypoint.cut_position(method.keypoint_fn(scene), shape, method.margin_cells)
    patches = puzzle.cut(image, cut_yx * stride, (height // 2, width // 2))
    patches = patches.reshape(num_images * 4, height // 2, width // 2, 3)

    if method.teacher == "ema":
        teacher = {name: {"encoder": tree} for name, tree in state.teacher.items()}
        patch_features = network.apply(teacher, patches, train=False, method=Network.encode)
        patch_features = jax.lax.stop_gradient(patch_features)
    else:
        patch_features, batch_stats = encode(patches, batch_stats)

    patch_cam = classify(patch_features)  # the student's head also on the teacher's features
    patch_cam = patch_cam.reshape(num_images, 2, 2, *patch_cam.shape[1:])
    cam_re = puzzle.tile(patch_cam, cut_yx, shape)  # A_re
    loss_pcl = loss.classification(cam_re.mean((1, 2)), label)
    # Only a siamese teacher is taught by L_re; the head would otherwise move the target.
    target = cam_re if method.teacher == "siamese" else jax.lax.stop_gradient(cam_re)
    loss_re = loss.reconstruction(cam, target, label, method.re_reduction)

    alpha_p, alpha_re = method.alpha_p(state.step), method.alpha_re(state.step)
    total = loss_cls + alpha_p * loss_pcl + alpha_re * loss_re
    metrics |= {"loss": total, "loss_pcl": loss_pcl, "loss_re": loss_re}
    metrics |= {"alpha_p": alpha_p, "alpha_re": alpha_re}
    return total, (batch_stats, metrics)


def ema_update(teacher: Tree, state: TrainState, step: jax.Array, max_decay: float) -> Tree:
    """Moves the teacher towards the student: decay * teacher + (1 - decay) * student.

    The decay warms up as min(max_decay, (1 + step) / (10 + step)), so that the first, untrained
    encoders are soon forgotten. Parameters and BatchNorm statistics are averaged alike.

    Args:
      teacher: `{'params', 'batch_stats'}` of the EMA encoder.
      state: holds the student after the step.
      step: int scalar, steps done before this one.
      max_decay: decay after the warm-up.
    """
    decay = jnp.minimum(max_decay, (1.0 + step) / (10.0 + step))
    student = {"params": state.params["encoder"], "batch_stats": state.batch_stats["encoder"]}
    return optax.incremental_update(student, teacher, 1.0 - decay)


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
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: augment, losses, gradient, optimiser, EMA.

    Under `jax.jit` with a batch sharded over devices it computes what one device would:
    BatchNorm's statistics are those of the whole batch, and each image draws from its own key.

    Args:
      state: donated by the caller.
      batch: `image` `[B, h, w, 3]` uint8, `size` `[B, 2]` and `label` `[B, C]`, as `data.pipeline`
        makes them.
      network: encoder f and classifier g.
      tx: the optimiser.
      method: supervised, PuzzleCAM or OASS.
      image_px: side of the canvas, H = W.
      min_px: smallest long side of an image on it.
      max_px: largest long side.
      flip_probability: of exchanging left and right.

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

    loss_fn = jax.value_and_grad(total_loss, has_aux=True)
    (_, (batch_stats, metrics)), grads = loss_fn(
        state.params, state, image, batch["label"], placement.window, network=network, method=method
    )
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
