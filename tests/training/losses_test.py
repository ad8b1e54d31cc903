"""The losses of whole images against a plain NumPy loop; those of pairs: `channel_wise_test`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from oass_jax.model.network import Network
from oass_jax.training import step
from oass_jax.training.method import Views
from tests.training.step_test import PX, Run, tiny

ALPHA_P, ALPHA_RE = 0.5, 0.125
STRIDE, CELLS = 8, PX // 8
LABEL = np.array([[1, 0, 0, 1, -1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, -1, 0, 0]], np.int8)


def example():
    """Four images whose windows, where keypoints may lie, are smaller than what is on them."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(len(LABEL), PX, PX, 3)).astype(np.float32)
    window = np.array([[[20, 40], [0, 32]], [[0, PX]] * 2, [[-8, 40], [12, 80]], [[8, 9]] * 2])
    boxes = np.zeros((len(LABEL), 1, 4), np.float32)
    return Views(image, LABEL, window, boxes, np.full((len(LABEL), 1), -1))


def run_of(page, changes):
    changes = {"loss.alpha_p": ALPHA_P, "loss.alpha_re": ALPHA_RE} | changes
    run = Run(tiny(page, **changes))
    # Of a teacher that is the student one could take the other's place.
    teacher = jax.tree.map(lambda x: 1.25 * x + 0.01, run.state.teacher)
    run.state = run.state.replace(teacher=teacher)
    return run


def resized(pixels, height, width):
    """Bilinear, antialiased."""
    for axis, num_out in ((0, height), (1, width)):
        num_in = pixels.shape[axis]
        centre = (np.arange(num_out)[:, None] + 0.5) * num_in / num_out
        distance = np.abs(np.arange(num_in) + 0.5 - centre) / max(num_in / num_out, 1)
        weights = np.maximum(1 - distance, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
    return pixels


def cut(cam, label, window, *, keypoint="peak", valid_only=True, classes="labelled"):
    """Row and column of the cells at which an image is cut."""
    centre = STRIDE * (np.arange(CELLS) + 0.5)
    rows, columns = ((start <= centre) & (centre < start + length) for start, length in window)
    allowed = (rows[:, None] & columns) | (not valid_only)
    merged = cam[..., (label == 1) | (classes == "all")].max(axis=-1, initial=-np.inf)
    values = np.where(allowed, merged, -np.inf)
    if keypoint == "center" or np.isinf(values).all():
        return CELLS // 2, CELLS // 2
    return tuple(np.clip(np.unravel_index(values.argmax(), values.shape), 1, CELLS - 1))


def loop(run, views, *, reduction="masked", **options):
    """L_cls, L_p-cl, L_re and the cuts: each patch sliced out, resized and brought back alone."""
    params, kernel = run.state.params, np.asarray(run.state.params["head"]["kernel"])
    encode = functools.partial(run.network.apply, method=Network.encode)
    train = jax.jit(functools.partial(encode, train=True, mutable=["batch_stats"]))
    features, stats = train({"params": params, "batch_stats": run.state.batch_stats}, views.image)
    cams = np.asarray(features) @ kernel
    cuts = [cut(*each, **options) for each in zip(cams, LABEL, views.window, strict=True)]
    places, patches = [], []
    for image, (row, column) in zip(views.image, cuts, strict=True):
        for rows in (slice(0, row), slice(row, CELLS)):
            for columns in (slice(0, column), slice(column, CELLS)):
                y, x = (slice(s.start * STRIDE, s.stop * STRIDE) for s in (rows, columns))
                patches.append(resized(image[y, x], PX // 2, PX // 2))
                places.append((len(patches[:-1]) // 4, rows, columns))
    patches = jnp.array(patches, jnp.float32)
    if run.state.teacher:
        teacher = {name: {"encoder": tree} for name, tree in run.state.teacher.items()}
        features = jax.jit(functools.partial(encode, train=False))(teacher, patches)
    else:
        features, _ = train({"params": params, **stats}, patches)
    cam_re = np.zeros_like(cams)
    for cam, place in zip(np.asarray(features) @ kernel, places, strict=True):
        cam_re[place] = resized(cam, *cam_re[place].shape[:2])

    def classification(maps):
        logits = maps.mean((1, 2))
        each = np.logaddexp(0, np.where(LABEL == 1, -logits, logits))
        return np.mean([loss[label >= 0].mean() for loss, label in zip(each, LABEL, strict=True)])

    counted = (LABEL == 1)[:, None, None, :] | (reduction == "mean")
    loss_re = (np.abs(cams - cam_re) * counted).mean()
    return (classification(cams), classification(cam_re), loss_re), cuts


CASES = {
    "max": ("max", {}, {}),
    "padding": ("max", {"keypoint.valid_only": False}, {"valid_only": False}),
    "all classes": (
        "max",
        {"keypoint.classes": "all", "loss.re_reduction": "mean"},
        {"classes": "all", "reduction": "mean"},
    ),
    "puzzlecam": ("puzzlecam", {}, {"keypoint": "center"}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_of_images_are_those_of_a_loop_over_patches(case):
    page, changes, options = CASES[case]
    run, views = run_of(page, changes), example()

    @jax.jit
    def losses(params):
        return step.total_loss(params, run.state, views, network=run.network, method=run.method)

    total, (_, metrics) = losses(run.state.params)
    (loss_cls, loss_pcl, loss_re), _ = loop(run, views, **options)
    assert_allclose(metrics["loss_cls"], loss_cls, rtol=1e-4)
    assert_allclose(metrics["loss_pcl"], loss_pcl, rtol=1e-4)
    assert_allclose(metrics["loss_re"], loss_re, rtol=1e-4)
    assert_allclose(total, loss_cls + ALPHA_P * loss_pcl + ALPHA_RE * loss_re, rtol=1e-4)
    assert_allclose(metrics["loss"], total, rtol=1e-6)
    assert_allclose([metrics["alpha_p"], metrics["alpha_re"]], [ALPHA_P, ALPHA_RE], rtol=1e-6)


def test_the_cases_of_the_loop_cut_the_images_at_different_places():
    run = run_of("max", {})
    cuts = [str(loop(run, example(), **options)[1]) for _, _, options in CASES.values()]
    assert len(set(cuts)) == len(CASES)


def test_the_losses_of_pairs_have_each_its_own_weight():
    run, views = run_of("cmax", {}), example()
    total, (_, metrics) = jax.jit(
        lambda params: step.total_loss(
            params, run.state, views, network=run.network, method=run.method
        )
    )(run.state.params)
    weighted = ALPHA_P * metrics["loss_pcl"] + ALPHA_RE * metrics["loss_re"]
    assert_allclose(total, metrics["loss_cls"] + weighted, rtol=1e-5)
    assert metrics["loss_pcl"] > 0.1
    assert metrics["loss_re"] > 0.01


@pytest.mark.parametrize(
    ("page", "changes"), [("max", {}), ("cmax", {}), ("cmax", {"loss.pcl_classes": "all"})]
)
def test_a_class_that_is_present_counts_by_its_weight(page, changes):
    run, views = run_of(page, changes), example()
    views = views._replace(label=np.tile(np.array([0, 1, -1, 0, 0], np.int8), [len(LABEL), 1]))

    @jax.jit
    def losses(pos_weight):
        method = run.method._replace(pos_weight=pos_weight)
        params = run.state.params
        return step.total_loss(params, run.state, views, network=run.network, method=method)[1][1]

    one, other, double = (
        losses(jnp.array(weight, jnp.float32))
        for weight in ([1, 1, 1, 1, 1], [9, 1, 9, 9, 9], [1, 2, 1, 1, 1])
    )
    plain = jax.jit(
        lambda params: step.total_loss(
            params, run.state, views, network=run.network, method=run.method
        )[1][1]
    )(run.state.params)
    own_alone = page == "cmax" and not changes
    for name in ("loss_cls", "loss_pcl"):
        assert_allclose(one[name], plain[name], rtol=1e-6)
        assert_allclose(other[name], plain[name], rtol=1e-6)  # of classes that are absent
        assert double[name] > 1.01 * plain[name]
    if own_alone:
        assert_allclose(double["loss_pcl"], 2 * plain["loss_pcl"], rtol=1e-5)
    assert_allclose(double["loss_re"], plain["loss_re"], rtol=1e-6)
