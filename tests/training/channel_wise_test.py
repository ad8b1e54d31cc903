"""Channel-wise training against a plain Python loop over (image, class) pairs."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax.image import geometry
from oass_jax.method import keypoint
from oass_jax.model.network import Network
from oass_jax.training import step
from oass_jax.training.method import Views
from tests.training.step_test import NUM_CLASSES, NUM_IMAGES, PX, Run, batch, placed_images, tiny

CHANNEL_WISE = [name for name, strategy in keypoint.KEYPOINTS.items() if strategy.channel_wise]


@functools.cache
def views(kind):
    """A batch whose labels are of a kind, placed."""
    data = batch()
    size = np.minimum(data["size"], PX)
    window = jnp.array(np.stack([np.zeros_like(size), size], -1))
    return Views(placed_images(), jnp.array(labels(kind)), window, data["boxes"], data["box_label"])


def labels(kind):
    """`[NUM_IMAGES, NUM_CLASSES]`, from nothing to everything."""
    label = np.zeros((NUM_IMAGES, NUM_CLASSES), np.int8)
    if kind == "some":
        label = batch()["label"].copy()
        label[0], label[1] = 0, 1  # an image without labels, one with all
        label[2, :2] = -1, 1
    elif kind == "all":
        label[:] = 1
    elif kind == "last":
        label[-1, -1] = 1
    return label


def run_of(strategy="cmax", num_devices=1, **changes):
    changes = {"keypoint.strategy": strategy, "keypoint.k": 3, "teacher.chunk_pairs": 3} | changes
    return Run(tiny("max", **changes), num_devices)


@functools.cache
def shared(*words, **changes):
    """One `run_of` for all tests that do not train it."""
    return run_of(*words, **changes)


inside_fn = jax.jit(geometry.pixels_inside, static_argnums=(1, 2))


class Cut(NamedTuple):
    """Pairs whose patches a loop has sliced out, up to `NUM_IMAGES * NUM_CLASSES`.

    Attributes:
      image: `[P]`.
      channel: `[P]`.
      weight: `[P]`, one over the labels of the image; 0 where there is no pair.
      patch: `[P, 4, PX / 2, PX / 2, 3]`.
      back_y: `[P, 4, h, h / 2]`, what brings a patch's map to its rows.
      back_x: `[P, 4, w, w / 2]`, and to its columns.
    """

    image: Any
    channel: Any
    weight: Any
    patch: Any
    back_y: Any
    back_x: Any


def resize_weights(size, out_size):
    """`[out_size, size]`: linear resizing of an axis, written out.

    A triangle around each output's centre, wider where the axis shrinks, without what lies outside.
    """
    scale = size / out_size
    centre = (np.arange(out_size) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(size)) / max(scale, 1))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@functools.partial(jax.jit, static_argnames="network")
def encode(params, batch_stats, image, *, network):
    """The student's class maps, and the statistics of its batch."""
    features, updated = network.apply(
        {"params": params, "batch_stats": batch_stats},
        image,
        train=True,
        method=Network.encode,
        mutable=["batch_stats"],
    )
    return features @ params["head"]["kernel"], updated["batch_stats"]


@functools.cache
def position_fn(run, shape):
    """Where the map of one pair is cut."""

    @jax.jit
    def position(*inputs):
        point = run.method.strategy.keypoint_fn(keypoint.KeypointInputs(*inputs))
        return keypoint.cut_position(point, shape, run.method.margin_cells)

    return position


def cut_pairs(run, views):
    """Pair by pair, each patch sliced out and resized by itself."""
    cams, _ = encode(run.state.params, run.state.batch_stats, views.image, network=run.network)
    shape, stride = cams.shape[1:3], PX // cams.shape[1]
    valid = np.asarray(inside_fn(views.window, shape, stride))
    label, image, cams = (np.asarray(x) for x in (views.label, views.image, cams))
    num_pairs = NUM_IMAGES * NUM_CLASSES
    cut = Cut(
        *(np.zeros(num_pairs, dtype) for dtype in (int, int, np.float32)),
        np.zeros((num_pairs, 4, PX // 2, PX // 2, 3), np.float32),
        *(np.zeros((num_pairs, 4, side, side // 2), np.float32) for side in shape),
    )
    for num, (i, c) in enumerate(np.argwhere(label == 1)):
        row, column = np.asarray(
            position_fn(run, shape)(
                cams[i, :, :, c][None, :, :, None],
                np.ones((1, 1)),
                valid[i][None],
                views.boxes[i][None],
                np.where(views.box_label[i] == c, 0, -1)[None],
            )
        )[0]
        cut.image[num], cut.channel[num] = i, c
        cut.weight[num] = 1 / (label[i] == 1).sum()
        quarters = [
            (slice(*rows), slice(*columns))
            for rows in ((0, int(row)), (int(row), shape[0]))
            for columns in ((0, int(column)), (int(column), shape[1]))
        ]
        for quarter, (rows, columns) in enumerate(quarters):
            patch = image[i][
                rows.start * stride : rows.stop * stride,
                columns.start * stride : columns.stop * stride,
            ]
            height, width = (resize_weights(side, PX // 2) for side in patch.shape[:2])
            patch = np.tensordot(height, patch, 1).swapaxes(0, 1)  # [w, p, 3]
            cut.patch[num, quarter] = np.tensordot(width, patch, 1).swapaxes(0, 1)
            for back, cells, side in zip(cut[-2:], (rows, columns), shape, strict=True):
                size = cells.stop - cells.start
                back[num, quarter, cells] = resize_weights(side // 2, size)
    return cut


@functools.partial(jax.jit, static_argnames=("network", "siamese", "all_classes"))
def loop_losses(params, state, views, cut, *, network, siamese, all_classes=False):
    """L_p-cl and L_re of the pairs of a loop."""
    cams, batch_stats = encode(params, state.batch_stats, views.image, network=network)
    teacher = {name: {"encoder": tree} for name, tree in state.teacher.items()}
    if siamese:
        teacher = {"params": params, "batch_stats": jax.lax.stop_gradient(batch_stats)}
    patch = cut.patch.reshape(-1, *cut.patch.shape[2:])
    features = network.apply(teacher, patch, train=False, method=Network.encode)
    cam = features @ params["head"]["kernel"]
    if not siamese:
        cam = jax.lax.stop_gradient(features) @ params["head"]["kernel"]
    cam = cam.reshape(-1, 4, *cam.shape[1:])
    cam_re = jnp.einsum("pvhy,pvyxc,pvwx->phwc", cut.back_y, cam, cut.back_x, precision="highest")
    logits, pair = cam_re.mean((1, 2)), jnp.arange(len(cut.image))
    pcl = optax.sigmoid_binary_cross_entropy(logits[pair, cut.channel], 1.0)
    if all_classes:
        label = views.label[cut.image]
        each = optax.sigmoid_binary_cross_entropy(logits, label)
        pcl = (each * (label >= 0)).sum(1) / (label >= 0).sum(1)
    target = cam_re if siamese else jax.lax.stop_gradient(cam_re)
    difference = jnp.abs(cams[cut.image] - target)[pair, :, :, cut.channel].mean((1, 2))
    return (pcl * cut.weight).sum() / NUM_IMAGES, (difference * cut.weight).sum() / NUM_IMAGES


def loop_of(run, views, **options):
    cut = cut_pairs(run, views)
    siamese = run.method.teacher == "siamese"
    words = (run.state.params, run.state, views, cut)
    return loop_losses(*words, network=run.network, siamese=siamese, **options)


@functools.cache
def losses_fn(run):
    """The metrics of a batch."""
    return jax.jit(functools.partial(run_loss, run))


@functools.cache
def grads_fn(run):
    """Gradients of the loss, and the metrics."""
    return jax.jit(jax.grad(lambda *data: ((m := run_loss(run, *data))["loss"], m), has_aux=True))


def run_loss(run, params, views):
    _, (_, metrics) = step.total_loss(
        params, run.state, views, network=run.network, method=run.method
    )
    return metrics


def losses_of(run, views):
    metrics = losses_fn(run)(run.state.params, views)
    return metrics["loss_pcl"], metrics["loss_re"]


# The losses of ctopk_w are compared with its gradients.
@pytest.mark.parametrize("strategy", [name for name in CHANNEL_WISE if name != "ctopk_w"])
def test_losses_are_those_of_a_loop_over_pairs(strategy):
    run, some = shared(strategy), views("some")
    assert_allclose(losses_of(run, some), loop_of(run, some), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", CHANNEL_WISE)
def test_losses_with_a_siamese_teacher_are_those_of_a_loop_over_pairs(strategy):
    run, some = shared(strategy, **{"teacher.mode": "siamese"}), views("some")
    assert_allclose(losses_of(run, some), loop_of(run, some), rtol=1e-4)


@pytest.mark.parametrize(
    ("chunk", "kind"),
    [(3, "none"), (3, "last"), (1, "some"), (64, "some"), (3, "all"), (8, "all")],
)
def test_no_pair_is_dropped_whatever_the_batch_and_the_chunk(chunk, kind):
    run = shared() if chunk == 3 else shared(**{"teacher.chunk_pairs": chunk})
    assert_allclose(losses_of(run, views(kind)), loop_of(run, views(kind)), rtol=1e-4)


def test_pcl_of_all_classes_is_that_of_the_loop():
    run, some = shared(**{"loss.pcl_classes": "all"}), views("some")
    assert_allclose(losses_of(run, some), loop_of(run, some, all_classes=True), rtol=1e-4)


@pytest.mark.parametrize("teacher", ["ema", "siamese"])
def test_losses_and_gradients_are_those_of_the_loop(teacher):
    run, some = shared("ctopk_w", **{"teacher.mode": teacher}), views("some")
    cut, alone = cut_pairs(run, some), run.method._replace(strategy=None)

    def total(params):
        options = {"network": run.network, "siamese": teacher == "siamese"}
        loss_pcl, loss_re = loop_losses(params, run.state, some, cut, **options)
        data = (run.state, some)
        loss_cls, _ = step.total_loss(params, *data, network=run.network, method=alone)
        return loss_cls + (loss_pcl + loss_re) / 15, (loss_pcl, loss_re)

    expected, losses = jax.jit(jax.grad(total, has_aux=True))(run.state.params)
    found, metrics = grads_fn(run)(run.state.params, some)
    assert_allclose([metrics["loss_pcl"], metrics["loss_re"]], losses, rtol=1e-4)
    assert np.abs(found["head"]["kernel"]).max() > 0
    close = functools.partial(assert_allclose, rtol=2e-3, atol=2e-6)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("teacher", ["ema", "siamese"])
def test_eight_devices_give_the_gradients_of_one(teacher):
    found = []
    for number in (1, 8):
        # As the call in the test above, so that one device has its program already.
        words = ("ctopk_w",) if number == 1 else ("ctopk_w", number)
        run = shared(*words, **{"teacher.mode": teacher})
        found.append(jax.device_get(grads_fn(run)(run.state.params, views("some"))))
    jax.tree.map(functools.partial(assert_allclose, rtol=2e-3, atol=2e-6), *found)


def test_only_sums_cross_between_devices():
    run = run_of("ctopk", 8)
    text = run.train_fn.lower(run.state, batch()).compile().as_text()
    kinds = {"all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"}
    # Gathered images or maps would show as anything but a sum.
    assert {kind for kind in kinds if f" {kind}(" in text} == {"all-reduce"}


def test_steps_with_few_and_many_pairs_run_one_program():
    run = run_of("cmax")
    for kind in ("none", "some", "all"):
        data = batch() | {"label": labels(kind)}
        run.state, metrics = run.train_fn(run.state, data)
        assert np.isfinite(metrics["loss"])
    assert run.train_fn._cache_size() == 1


def test_without_labels_only_the_classification_counts():
    run = shared()
    metrics = losses_fn(run)(run.state.params, views("none"))
    assert_array_equal([metrics["loss_pcl"], metrics["loss_re"]], 0)
    assert metrics["loss"] == metrics["loss_cls"]
