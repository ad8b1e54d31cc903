"""Channel-wise training against a plain Python loop over (image, class) pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax.image import augment, geometry
from oass_jax.method import keypoint
from oass_jax.model.network import Network
from oass_jax.training import step
from oass_jax.training.method import Views
from tests.training.step_test import NUM_CLASSES, NUM_IMAGES, PX, Run, batch, tiny

CHANNEL_WISE = [name for name, strategy in keypoint.KEYPOINTS.items() if strategy.channel_wise]


def views(label):
    data = batch()
    size = np.minimum(data["size"], PX)
    image = augment.keep_images(data["image"][:, :PX, :PX], size)
    window = jnp.stack([jnp.zeros_like(size), size], -1)
    return Views(image, jnp.array(label), window, data["boxes"], data["box_label"])


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


def bce(logit, target):
    return optax.sigmoid_binary_cross_entropy(logit, target)


def loop_losses(run, params, views, *, pcl_classes="own"):
    """L_p-cl and L_re pair by pair, each patch sliced out and resized by itself."""
    apply = functools.partial(run.network.apply, train=False, method=Network.encode)
    siamese = run.method.teacher == "siamese"
    variables = {"params": params, "batch_stats": run.state.batch_stats}
    features, updated = run.network.apply(
        variables, views.image, train=True, method=Network.encode, mutable=["batch_stats"]
    )
    stats = jax.lax.stop_gradient(updated["batch_stats"])
    cams = features @ params["head"]["kernel"]
    shape, stride = cams.shape[1:3], PX // cams.shape[1]
    valid = geometry.pixels_inside(views.window, shape, stride)
    sum_pcl = sum_re = 0.0
    for i, c in np.argwhere(np.asarray(views.label) == 1):
        scene = keypoint.KeypointInputs(
            jax.lax.stop_gradient(cams[i, :, :, c])[None, :, :, None],
            jnp.ones((1, 1)),
            valid[i][None],
            views.boxes[i][None],
            np.where(views.box_label[i] == c, 0, -1)[None],
        )
        point = run.method.strategy.keypoint_fn(scene)
        row, column = keypoint.cut_position(point, shape, run.method.margin_cells)[0]
        lines = []
        for rows in (slice(0, int(row)), slice(int(row), shape[0])):
            line = []
            for columns in (slice(0, int(column)), slice(int(column), shape[1])):
                patch = views.image[i][
                    rows.start * stride : rows.stop * stride,
                    columns.start * stride : columns.stop * stride,
                ]
                patch = jax.image.resize(patch, (PX // 2, PX // 2, 3), "linear")[None]
                if siamese:
                    found = apply({"params": params, "batch_stats": stats}, patch)
                else:
                    teacher = {k: {"encoder": v} for k, v in run.state.teacher.items()}
                    found = jax.lax.stop_gradient(apply(teacher, patch))
                cam = (found @ params["head"]["kernel"])[0]
                size = (rows.stop - rows.start, columns.stop - columns.start, NUM_CLASSES)
                line.append(jax.image.resize(cam, size, "linear"))
            lines.append(jnp.concatenate(line, 1))
        cam_re = jnp.concatenate(lines, 0)
        logits, num = cam_re.mean((0, 1)), (np.asarray(views.label[i]) == 1).sum()
        if pcl_classes == "own":
            pcl = bce(logits[c], 1.0)
        else:
            counted = np.asarray(views.label[i]) >= 0
            pcl = bce(logits, views.label[i])[counted].mean()
        target = cam_re if siamese else jax.lax.stop_gradient(cam_re)
        sum_pcl += pcl / num
        sum_re += jnp.abs(cams[i] - target)[:, :, c].mean() / num
    return sum_pcl / NUM_IMAGES, sum_re / NUM_IMAGES


def packed_losses(run, params, views):
    _, (_, metrics) = step.total_loss(
        params, run.state, views, network=run.network, method=run.method
    )
    return metrics["loss_pcl"], metrics["loss_re"]


def run_of(strategy="cmax", num_devices=1, **changes):
    changes = {"keypoint.strategy": strategy, "keypoint.k": 3, "teacher.chunk_pairs": 3} | changes
    return Run(tiny("max", **changes), num_devices)


def grads(run, views):
    def total(params):
        return step.total_loss(params, run.state, views, network=run.network, method=run.method)[0]

    return jax.jit(jax.grad(total))(run.state.params)


@pytest.mark.parametrize(
    ("strategy", "teacher"), [(name, "ema") for name in CHANNEL_WISE] + [("ctopk", "siamese")]
)
def test_losses_are_those_of_a_loop_over_pairs(strategy, teacher):
    run, some = run_of(strategy, **{"teacher.mode": teacher}), views(labels("some"))
    found = jax.jit(functools.partial(packed_losses, run))(run.state.params, some)
    assert_allclose(found, loop_losses(run, run.state.params, some), rtol=1e-4)


@pytest.mark.parametrize(
    ("chunk", "kind"),
    [(3, "none"), (3, "last"), (1, "some"), (64, "some"), (3, "all"), (8, "all")],
)
def test_no_pair_is_dropped_whatever_the_batch_and_the_chunk(chunk, kind):
    run, some = run_of(**{"teacher.chunk_pairs": chunk}), views(labels(kind))
    found = jax.jit(functools.partial(packed_losses, run))(run.state.params, some)
    assert_allclose(found, loop_losses(run, run.state.params, some), rtol=1e-4)


def test_pcl_of_all_classes_is_that_of_the_loop():
    run, some = run_of(**{"loss.pcl_classes": "all"}), views(labels("some"))
    found = jax.jit(functools.partial(packed_losses, run))(run.state.params, some)
    expected = loop_losses(run, run.state.params, some, pcl_classes="all")
    assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("teacher", ["ema", "siamese"])
def test_gradients_are_those_of_the_loop(teacher):
    run, some = run_of(**{"teacher.mode": teacher}), views(labels("some"))

    def total(params):
        loss_pcl, loss_re = loop_losses(run, params, some)
        data = (run.state, some._replace(label=some.label))
        alone = run.method._replace(teacher="none")
        loss_cls, _ = step.total_loss(params, *data, network=run.network, method=alone)
        return loss_cls + (loss_pcl + loss_re) / 15

    expected = jax.grad(total)(run.state.params)
    found = grads(run, some)
    assert np.abs(found["head"]["kernel"]).max() > 0
    close = functools.partial(assert_allclose, rtol=2e-3, atol=2e-6)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("teacher", ["ema", "siamese"])
def test_eight_devices_give_the_gradients_of_one(teacher):
    some = views(labels("some"))
    one, eight = (run_of("ctopk_w", n, **{"teacher.mode": teacher}) for n in (1, 8))
    close = functools.partial(assert_allclose, rtol=2e-3, atol=2e-6)
    jax.tree.map(close, grads(one, some), jax.device_get(grads(eight, some)))


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
    run = run_of("cmax")
    _, (_, metrics) = step.total_loss(
        run.state.params, run.state, views(labels("none")), network=run.network, method=run.method
    )
    assert_array_equal([metrics["loss_pcl"], metrics["loss_re"]], 0)
    assert metrics["loss"] == metrics["loss_cls"]
